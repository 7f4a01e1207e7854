"""Analyses of a codebook: its usage, its geometry and the meaning of its codes."""

# Names of modules, in the order in which hosts list their analyses.
ORDER = (
    "usage",
    "distances",
    "dropping",
    "gallery",
    "information",
    "prediction",
    "cooccurrence",
    "churn",
    "cascade",
    "softness",
    "levels",
)
