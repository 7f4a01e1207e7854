"""Analyses of single images and their reconstructions."""

# Modules in the order in which hosts list their analyses.
ORDER = ("image_comparison", "similar_images", "reconstruction", "published")
