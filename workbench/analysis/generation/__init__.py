"""What a generator draws, and how near it comes to real images."""

# Of modules, as hosts list their analyses.
ORDER = ("samples", "fidelity", "denoising", "class_prediction")
