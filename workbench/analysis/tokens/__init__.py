"""How many tokens an image needs, and what each is worth."""

# Of modules, as hosts list their analyses.
ORDER = ("budget", "error_target", "complexity", "marginal_value")
