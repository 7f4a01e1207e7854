"""Analyses of generators: their samples, and the fidelity of these to real images."""

# Names of modules, in the order in which hosts list their analyses.
ORDER = ("samples", "fidelity", "denoising", "class_prediction")
