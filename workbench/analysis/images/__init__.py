"""Analyses of single images and their reconstructions."""

# Modules in the order in which hosts list their analyses.
ORDER = ("reconstruction", "published")
