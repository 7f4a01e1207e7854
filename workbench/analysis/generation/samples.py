"""Samples of a generator by class. There is no score, which a handful of samples cannot support."""

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
from workbench.core.counted import counted
from workbench.core.errors import NotApplicable
from workbench.core.glossary import choice_label

MAX_ROWS = 20  # classes in the figure; the table counts all of them
MAX_UNCONDITIONAL_ROWS = 4
ROW_HEIGHT_PX = 64
NARROW_ROW_HEIGHT_PX = 36  # for rows of 9 images or more
NARROW_ROW_IMAGES = 9
ALL_CLASSES = "any"  # the class of an unconditional generator


@dataclass(frozen=True, eq=False, kw_only=True)
class Samples(Result):
    """Generated images by class."""

    counts: dict[str, int]  # by class; one entry ALL_CLASSES for an unconditional generator
    labeled: bool
    sampling: str  # sampler settings as text; empty if the evidence does not record them
    row_names: tuple[str, ...] = field(repr=False)
    per_row: int  # images in the longest row of the mosaic
    mosaic: np.ndarray = field(repr=False)  # uint8 (height, width, 4)

    @property
    def n(self) -> int:
        """Total number of samples."""
        return sum(self.counts.values())

    def figure(self) -> go.Figure:
        """Draw one row of samples per class."""
        num_rows = len(self.row_names)
        is_narrow = self.per_row >= NARROW_ROW_IMAGES
        figure = image_grid.draw(
            self.mosaic,
            self.row_names,
            (num_rows, self.per_row),
            row_height=NARROW_ROW_HEIGHT_PX if is_narrow else ROW_HEIGHT_PX,
        )
        figure.update_yaxes(title="class" if self.labeled else "")
        figure.update_xaxes(title=f"the first {self.per_row} of each row")
        subtitle = self.summary().rstrip(".")
        num_hidden = len(self.counts) - num_rows if self.labeled else 0
        if num_hidden > 0:
            subtitle += f"; {num_hidden} more classes in the table"
        figure.update_layout(title={"text": "Samples", "subtitle": {"text": subtitle}})
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per class: its name and number of samples."""
        return pd.DataFrame({"class": list(self.counts), "count": list(self.counts.values())})

    def summary(self) -> str:
        """State the number of samples and classes, and the settings of the sampler."""
        text = counted(self.n, "generated image")
        if not self.labeled:
            text += ", without classes"
        elif len(self.counts) == 1:
            text += " of 1 class"
        else:
            text += f" of {len(self.counts)} classes"
        if self.sampling:
            text += f": {self.sampling}"
        return f"{text}."


def samples(
    samples: np.ndarray,
    sample_labels: np.ndarray | None = None,
    names: tuple[str, ...] = (),
    sampling: Mapping[str, Any] | None = None,
    *,
    per_class: Annotated[int, Range(1, 16)] = 8,
) -> Samples:
    """Group generated images by the class that they were conditioned on.

    Parameters
    ----------
    samples : ndarray of uint8, shape (n_samples, height, width, channels)
        The generated images.
    sample_labels : ndarray of int, shape (n_samples,), optional
        Class of each sample.
    names : tuple of str, optional
        Names of the classes, by label. Without names, samples of class 0 alone are those of an
        unconditional generator.
    sampling : mapping, optional
        Settings of the sampler: solver, steps, guidance and seed.
    per_class : int, default 8
        Number of images per row.

    Returns
    -------
    Samples
        The number of samples by class, and a mosaic of the first of each.

    Raises
    ------
    NotApplicable
        If there are no samples.
    UserError
        If the labels do not match the samples.

    Examples
    --------
    >>> import numpy as np
    >>> samples(np.zeros((3, 8, 8, 1), np.uint8), np.array([1, 0, 1]), ("cat", "dog")).counts
    {'cat': 1, 'dog': 2}
    """
    n = len(samples)
    if not n:
        raise NotApplicable("Samples need at least one generated image; this evidence has none.")
    if sample_labels is not None and not names and not np.any(sample_labels):
        sample_labels = None  # one class without a name: the training images had no labels
    if sample_labels is None:
        starts = range(0, min(n, MAX_UNCONDITIONAL_ROWS * per_class), per_class)
        rows = [list(range(start, min(start + per_class, n))) for start in starts]
        row_names = ("",) * len(rows)
        counts = {ALL_CLASSES: n}
    else:
        classes = np.array(class_names(sample_labels, names, n))
        first = np.unique(np.asarray(sample_labels), return_index=True)[1]
        order = [str(classes[i]) for i in first]
        total = Counter(classes.tolist())
        counts = {name: total[name] for name in order}
        row_names = tuple(order[:MAX_ROWS])
        rows = [np.flatnonzero(classes == name)[:per_class].tolist() for name in row_names]
    return Samples(
        counts=counts,
        labeled=sample_labels is not None,
        sampling=_sampling_text(sampling),
        row_names=row_names,
        per_row=max(map(len, rows)),
        mosaic=image_grid.compose([np.asarray(samples[row]) for row in rows]),
    )


def _sampling_text(sampling: Mapping[str, Any] | None) -> str:
    if not sampling:
        return ""
    solver = choice_label(str(sampling["solver"]))
    text = "{steps} steps, guidance {guidance:g}, seed {seed}".format(**sampling)
    return f"{solver}, {text}"
