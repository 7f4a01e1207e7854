"""Analyses of the latent space: modes, maps, geometry, probes and alignment with a teacher."""

# Modules in the order in which hosts list their analyses.
ORDER = (
    "modes",
    "mode_comparison",
    "projection",
    "projection_comparison",
    "geometry",
    "probes",
    "alignment",
)
