"""What a codebook holds, how it is used, and what its codes mean."""

# Of modules, as hosts list their analyses.
ORDER = ("usage", "distances", "dropping", "gallery", "information", "prediction", "cooccurrence")
ORDER += ("churn", "cascade", "softness", "levels")
