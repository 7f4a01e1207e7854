"""Several runs held against each other."""

# Of modules, as hosts list their analyses.
ORDER = ("settings", "metrics", "generation_predictors")
