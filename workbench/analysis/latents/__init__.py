"""What a latent space looks like inside."""

# Of modules, as hosts list their analyses.
ORDER = ("modes", "modes_compared", "projection", "geometry", "probes", "alignment")
