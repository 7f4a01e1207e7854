"""Comparisons between runs."""

# Names of modules, in the order in which hosts list their analyses.
ORDER = (
    "decision",
    "settings",
    "metrics",
    "training_curves",
    "generation_predictors",
    "generation_prediction",
)
