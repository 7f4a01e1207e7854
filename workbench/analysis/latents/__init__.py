"""What a latent space looks like inside."""

# Of modules, as hosts list their analyses.
ORDER = ("modes", "mode_comparison", "projection", "geometry", "probes", "alignment")
