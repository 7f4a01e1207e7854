"""How many tokens an image needs, and what each is worth."""

# Of modules, as hosts list their analyses.
ORDER = ("budget", "request", "complexity", "value")
