"""One image at a time: how well it comes back."""

# Of modules, as hosts list their analyses.
ORDER = ("reconstruction",)
