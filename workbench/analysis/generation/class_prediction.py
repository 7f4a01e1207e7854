"""Class prediction from codes by a generator of codes, and its bits per code.

The transformer that generates codes from a class also scores each class given codes (UniCode^2).
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Result
from workbench.analysis.inputs import class_names
from workbench.analysis.plotting.style import MAGNITUDE_SCALE, apply_theme
from workbench.analysis.stats.intervals import mean_interval
from workbench.core.errors import NotApplicable, UserError

MAX_LABELED_CLASSES = 20  # more classes are numbered on the axes


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassPrediction(Result):
    """Accuracy on held-out images, and the confusion matrix."""

    accuracy: float
    low: float  # 95 % bootstrap interval over images
    high: float
    chance: float  # accuracy of always predicting the most frequent class
    bits: float | None  # cost of a held-out code to the generator, in bits
    n: int
    classes: tuple[str, ...]
    confusion: np.ndarray = field(repr=False)  # int64 (c, c): true class by predicted class

    def figure(self) -> go.Figure:
        """Draw the confusion matrix, normalized by row."""
        totals = self.confusion.sum(axis=1, keepdims=True)
        is_labeled = len(self.classes) <= MAX_LABELED_CLASSES
        axis = list(self.classes) if is_labeled else list(range(len(self.classes)))
        figure = go.Figure(
            go.Heatmap(
                z=self.confusion / np.maximum(totals, 1),
                x=axis,
                y=axis,
                zmin=0,
                zmax=1,
                colorscale=MAGNITUDE_SCALE,
                text=self.confusion if is_labeled else None,
                texttemplate="%{text}" if is_labeled else None,
                colorbar={"title": "fraction of the<br>true class", "tickformat": ".0%"},
                hovertemplate="true %{y}, predicted %{x}: %{z:.1%}<extra></extra>",
            )
        )
        kind = "category" if is_labeled else "linear"
        figure.update_xaxes(title="predicted class", type=kind, constrain="domain")
        figure.update_yaxes(
            title="true class", type=kind, autorange="reversed", scaleanchor="x", constrain="domain"
        )
        subtitle = (
            f"n = {self.n:,} held-out images · accuracy {self.accuracy:.1%}"
            f" (95 % interval {self.low:.1%} to {self.high:.1%}) · chance {self.chance:.1%}"
        )
        figure.update_layout(
            title={"text": "Class prediction from codes", "subtitle": {"text": subtitle}},
            height=520,
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per class: its images, accuracy and most frequent wrong prediction."""
        errors = self.confusion.copy()
        np.fill_diagonal(errors, 0)
        total = self.confusion.sum(axis=1)
        correct = self.confusion.diagonal()
        confused_with = [self.classes[int(row.argmax())] if row.any() else "" for row in errors]
        return pd.DataFrame(
            {
                "class": self.classes,
                "images": total,
                "correct": correct,
                "accuracy": correct / np.maximum(total, 1),
                "most confused with": confused_with,
            }
        )

    def summary(self) -> str:
        """State the accuracy with its interval, chance, and the bits per code."""
        bits = "" if self.bits is None else f" A held-out code costs {self.bits:.2f} bits."
        return (
            f"The generator predicts the class of {self.accuracy:.1%} of {self.n:,} held-out images"
            f" from their codes (95 % interval {self.low:.1%} to {self.high:.1%};"
            f" most frequent class: {self.chance:.1%}).{bits}"
        )


def class_prediction(
    predicted: np.ndarray,
    labels: np.ndarray,
    code_bits: np.ndarray | None = None,
    names: tuple[str, ...] = (),
) -> ClassPrediction:
    """Compare the classes that a generator predicts from codes with the true classes.

    Parameters
    ----------
    predicted : ndarray of int, shape (n_images,)
        Predicted class of each held-out image.
    labels : ndarray of int, shape (n_images,)
        True classes.
    code_bits : ndarray of float, shape (1,), optional
        Mean cost of a held-out code to the generator, in bits.
    names : tuple of str, optional
        Names of the classes, by label.

    Returns
    -------
    ClassPrediction
        Accuracy with a 95 % interval, chance, and the confusion matrix.

    Raises
    ------
    NotApplicable
        If there are no images.
    UserError
        If the arrays differ in length.

    Examples
    --------
    >>> import numpy as np
    >>> result = class_prediction(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]))
    >>> result.accuracy, result.chance, result.confusion.tolist()
    (0.75, 0.5, [[1, 1], [0, 2]])
    """
    predicted = np.asarray(predicted, np.int64)
    labels = np.asarray(labels, np.int64)
    if len(predicted) != len(labels):
        raise UserError(
            f"There are {len(labels)} labels for {len(predicted)} predictions."
            " Do both come from the same run?"
        )
    if not len(labels):
        raise NotApplicable(
            "Class prediction needs at least one held-out image with a label;"
            " this evidence has none."
        )
    num_classes = int(max(predicted.max(), labels.max(), len(names) - 1)) + 1
    pairs = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    accuracy, low, high = mean_interval((predicted == labels).astype(np.float64))
    return ClassPrediction(
        accuracy=accuracy,
        low=low,
        high=high,
        chance=float(np.bincount(labels).max() / len(labels)),
        bits=None if code_bits is None else float(np.asarray(code_bits)[0]),
        n=len(labels),
        classes=class_names(np.arange(num_classes), names, num_classes),
        confusion=pairs.reshape(num_classes, num_classes),
    )
