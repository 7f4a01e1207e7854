"""Numbered findings: what is wrong, by which rule, and what to do."""

# Of modules, as hosts list their analyses.
ORDER = ("checks",)
