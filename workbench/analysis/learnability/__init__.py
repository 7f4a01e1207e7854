"""Analyses of the properties of a latent space that decide how well a generator can learn it.

Every result of this group is a `PerspectiveResult` of `workbench.analysis.perspectives`: its
perspectives are the columns of the comparison `diffusability`. Each `Perspective` states its null
value, its direction if evidence supports one, and the conditions under which it is comparable.
"""

# Modules in the order in which hosts list their analyses.
ORDER = (
    "comparison",
    "velocity_variance",
    "neighbor_consistency",
    "spatial_structure",
    "spectral_energy",
    "latent_pictures",
    "decoder_noise",
    "decoded_neighborhoods",
    "equivariance",
)
