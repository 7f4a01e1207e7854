"""What a generator of codes understands of them: which class it tells from an image's codes, and how well it foresees.

One vocabulary serves both (UniCode2): the transformer that draws codes from a class tells the class from codes.
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

MOST_CLASSES = 20  # whose names are written on the axes


@dataclass(frozen=True, eq=False)
class Understanding(Result):
    """Accuracy on held-out images, and which classes are taken for which."""

    accuracy: float
    low: float  # 95 % interval over images
    high: float
    chance: float  # of always telling the commonest class
    bits: float | None  # a code of held-out images, to the generator
    n: int
    classes: tuple[str, ...]
    confusion: np.ndarray = field(repr=False)  # int64 (c, c): rows true, columns told

    def figure(self) -> go.Figure:
        """The confusion matrix, each row as shares."""
        rows = self.confusion.sum(axis=1, keepdims=True)
        shares = self.confusion / np.maximum(rows, 1)
        named = len(self.classes) <= MOST_CLASSES
        axis = list(self.classes) if named else list(range(len(self.classes)))
        figure = go.Figure(
            go.Heatmap(
                z=shares,
                x=axis,
                y=axis,
                zmin=0,
                zmax=1,
                colorscale=MAGNITUDE_SCALE,
                text=self.confusion if named else None,
                texttemplate="%{text}" if named else None,
                colorbar={"title": "share of the<br>true class", "tickformat": ".0%"},
                hovertemplate="true %{y}, told %{x}: %{z:.1%}<extra></extra>",
            )
        )
        kind = "category" if named else "linear"
        figure.update_xaxes(title="class told from the codes", type=kind, constrain="domain")
        figure.update_yaxes(
            title="true class", type=kind, autorange="reversed", scaleanchor="x", constrain="domain"
        )
        said = f"n = {self.n:,} held-out images · {self.accuracy:.1%} right (95 %: {self.low:.1%} to {self.high:.1%})"
        said += f" · commonest class: {self.chance:.1%}"
        figure.update_layout(
            title={"text": "Understanding", "subtitle": {"text": said}}, height=520
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """One row a class: its images, how many were told right, and what it was most often taken for instead."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        total, right = self.confusion.sum(axis=1), self.confusion.diagonal()
        taken = [
            self.classes[i] if row.any() else ""
            for i, row in zip(wrong.argmax(axis=1), wrong, strict=True)
        ]
        share = right / np.maximum(total, 1)
        return pd.DataFrame(
            {
                "class": self.classes,
                "images": total,
                "right": right,
                "accuracy": share,
                "most often taken for": taken,
            }
        )

    def summary(self) -> str:
        """Accuracy with its interval, chance, and bits a code where they are known."""
        foresees = "" if self.bits is None else f" A held-out code costs it {self.bits:.2f} bits."
        return (
            f"It tells the class of {self.accuracy:.1%} of {self.n:,} held-out images from their codes"
            f" (95 % interval {self.low:.1%} to {self.high:.1%}; always the commonest: {self.chance:.1%}).{foresees}"
        )


def class_prediction(
    predicted: np.ndarray,
    labels: np.ndarray,
    code_bits: np.ndarray | None = None,
    names: tuple[str, ...] = (),
) -> Understanding:
    """Compare the classes told from images' codes (n,) with the true ones (n,).

    Raises NotApplicable without images, UserError where the two are not equally many.
    """
    predicted, labels = np.asarray(predicted, np.int64), np.asarray(labels, np.int64)
    if len(predicted) != len(labels):
        raise UserError(
            f"There are {len(labels)} labels for {len(predicted)} images. Do both come from the same run?"
        )
    if not len(labels):
        raise NotApplicable(
            "Understanding needs at least one held-out image with a label; this evidence has none."
        )
    count = int(max(predicted.max(), labels.max(), len(names) - 1)) + 1
    confusion = np.bincount(labels * count + predicted, minlength=count**2).reshape(count, count)
    accuracy, low, high = mean_interval((predicted == labels).astype(np.float64))
    chance = float(np.bincount(labels).max() / len(labels))
    classes = class_names(np.arange(count), names, count)
    bits = None if code_bits is None else float(np.asarray(code_bits)[0])
    return Understanding(accuracy, low, high, chance, bits, len(labels), classes, confusion)
