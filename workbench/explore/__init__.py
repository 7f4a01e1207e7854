"""Exploring a trained model: images along an axis, as arrays.

`image_grid` needs neither torch nor a model; `tokens`, `modes` and `samples` run the model.
"""

MAX_MODES = 8  # of the mixture between whose means the axis "modes" walks
