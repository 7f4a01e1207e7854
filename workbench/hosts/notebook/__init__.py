"""The notebook host: the explorer, the widgets of other objects and the live view of a run."""
