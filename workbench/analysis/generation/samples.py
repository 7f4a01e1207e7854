"""What a generator draws, class by class. No score is given: a handful of samples supports none."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Range, Result
from workbench.analysis.inputs import class_names
from workbench.analysis.plotting import image_grid
from workbench.analysis.plotting.style import apply_theme
from workbench.core.errors import NotApplicable

MOST_ROWS = 20  # classes drawn; the table counts them all


@dataclass(frozen=True, eq=False)
class Samples(Result):
    """Generated images by class: how many there are, and a mosaic of the first of each."""

    counts: dict[str, int]  # by class; one entry `any` where the generator knows no class
    labelled: bool
    sampling: str  # how they were drawn, in words; "" where the evidence does not say
    row_names: tuple[str, ...] = field(repr=False)
    per_row: int  # images in the mosaic's fullest row
    mosaic: np.ndarray = field(repr=False)  # uint8 (height, width, 4)

    @property
    def n(self) -> int:
        """How many images were drawn."""
        return sum(self.counts.values())

    def figure(self) -> go.Figure:
        """A row of samples for each class."""
        rows = len(self.row_names)
        figure = image_grid.draw(
            self.mosaic,
            self.row_names,
            (rows, self.per_row),
            row_height=64 if self.per_row < 9 else 36,
        )
        figure.update_yaxes(title="class" if self.labelled else "")
        figure.update_xaxes(title=f"the first {self.per_row} of each row")
        hidden = len(self.counts) - rows if self.labelled else 0
        note = f"; {hidden} more classes are not drawn" if hidden > 0 else ""
        said = self.summary().rstrip(".") + note
        figure.update_layout(title={"text": "Samples", "subtitle": {"text": said}})
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """One row a class: its name and how many samples it has."""
        return pd.DataFrame({"class": list(self.counts), "count": list(self.counts.values())})

    def summary(self) -> str:
        """How many samples, of how many classes."""
        images = f"{self.n:,} generated image{'' if self.n == 1 else 's'}"
        classes = (
            f" of {len(self.counts)} class{'es' if len(self.counts) > 1 else ''}"
            if self.labelled
            else ""
        )
        return f"{images}{classes or ', without classes'}{': ' if self.sampling else ''}{self.sampling}."


def samples(
    samples: np.ndarray,
    sample_labels: np.ndarray | None = None,
    names: tuple[str, ...] = (),
    sampling: Mapping[str, Any] | None = None,
    *,
    per_class: Annotated[int, Range(1, 16)] = 8,
) -> Samples:
    """Group generated uint8 images (s, h, w, c) by the class they were asked for.

    Raises NotApplicable where there is no sample, UserError where the labels are not as many as the samples.
    """
    n = len(samples)
    if not n:
        raise NotApplicable("Samples need at least one generated image; this evidence has none.")
    if sample_labels is None:
        rows = [
            list(range(i, min(i + per_class, n)))
            for i in range(0, min(n, 4 * per_class), per_class)
        ]
        counts, row_names = {"any": n}, ("",) * len(rows)
    else:
        texts = np.array(class_names(sample_labels, names, n))
        order = [str(texts[i]) for i in np.unique(np.asarray(sample_labels), return_index=True)[1]]
        counts = {name: Counter(texts.tolist())[name] for name in order}
        rows = [np.flatnonzero(texts == name)[:per_class].tolist() for name in order[:MOST_ROWS]]
        row_names = tuple(order[:MOST_ROWS])
    picture = image_grid.compose([np.asarray(samples[row]) for row in rows])
    how = (
        "{solver}, {steps} steps, guidance {guidance:g}, seed {seed}".format(**sampling)
        if sampling
        else ""
    )
    return Samples(counts, sample_labels is not None, how, row_names, max(map(len, rows)), picture)
