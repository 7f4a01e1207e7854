"""What a trained model does when somebody moves one thing: pictures along an axis, as arrays.

`frames` needs no torch and no model; `tokens`, `modes` and `samples` ask the model itself.
"""

MODES = 8  # of the mixture whose means are walked between, at most
