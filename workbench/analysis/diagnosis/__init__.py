"""Checks of runs: what is probably wrong, by which rule, and what to do."""

# Names of modules, in the order in which hosts list their analyses.
ORDER = ("checks",)
