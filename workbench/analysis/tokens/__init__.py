"""Analyses of the number of tokens: how many an image needs, and the value of each."""

# Names of modules, in the order in which hosts list their analyses.
ORDER = ("budget", "error_target", "complexity", "marginal_value")
