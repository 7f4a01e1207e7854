"""Launching a training: recipes, the data and settings of a run, and the process that trains it."""
