"""Images along an axis next to a reference: the result of every exploration."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from workbench.analysis.images.reconstruction import psnr_db
from workbench.core.errors import NotApplicable, UserError
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run

UNCONDITIONAL = "any image"  # the only class of a generator whose training images have no labels


@dataclass(frozen=True, eq=False)
class ImageGrid:
    """Images in rows and columns: a row per image or class, a column per value on the axis.

    Attributes
    ----------
    axis : str
        The quantity that changes from column to column: tokens, step, guidance, ...
    axis_values : tuple of str
        Its value in each of m columns.
    rows : tuple of str
        The names of n rows.
    reference : ndarray of uint8, shape (n, h, w, c)
        The image that each row is compared with.
    images : ndarray of uint8, shape (n, m, h, w, c)
        One image per row and value of the axis.
    active : ndarray of bool, shape (n, m, n_tokens), optional
        The tokens that the decoder reads.
    reference_label : str
        The name of the reference.
    note : str
        Remarks that a reader needs.
    """

    axis: str
    axis_values: tuple[str, ...]
    rows: tuple[str, ...]
    reference: np.ndarray = field(repr=False)
    images: np.ndarray = field(repr=False)
    active: np.ndarray | None = field(default=None, repr=False)
    reference_label: str = "original"
    note: str = ""

    def __post_init__(self) -> None:
        n, m = len(self.rows), len(self.axis_values)
        if self.images.shape[:2] != (n, m) or self.reference.shape != (n, *self.images.shape[2:]):
            raise UserError(
                f"{n} rows and {m} columns need {n} x {m} images and {n} references, got shapes"
                f" {self.images.shape} and {self.reference.shape}."
            )

    @property
    def error(self) -> np.ndarray:
        """Mean absolute difference from the reference, pixels in [0, 1], float64 (n, m)."""
        return np.abs(self._difference).mean(axis=(2, 3, 4))

    @property
    def psnr(self) -> np.ndarray:
        """Peak signal-to-noise ratio to the reference in dB, at most 100, float64 (n, m)."""
        return psnr_db(np.square(self._difference).mean(axis=(2, 3, 4)))

    @property
    def tokens(self) -> np.ndarray | None:
        """Number of tokens that the decoder reads, int (n, m); None if unknown."""
        return None if self.active is None else self.active.sum(axis=2)

    def error_map(self, row: int, stop: int) -> np.ndarray:
        """Return the absolute difference of an image from its reference.

        Parameters
        ----------
        row, stop : int
            Row and column of the image.

        Returns
        -------
        ndarray of float64, shape (h, w)
            The mean over channels, pixels in [0, 1].
        """
        return np.abs(self.images[row, stop] / 255 - self.reference[row] / 255).mean(axis=2)

    def table(self) -> pd.DataFrame:
        """Return one row per image: row, column, mean absolute error, PSNR in dB and tokens."""
        columns = {
            "row": np.repeat(self.rows, len(self.axis_values)),
            self.axis: np.tile(self.axis_values, len(self.rows)),
            "l1": self.error.ravel(),
            "psnr": self.psnr.ravel(),
        }
        if self.tokens is not None:
            columns["tokens used"] = self.tokens.ravel()
        return pd.DataFrame(columns)

    @property
    def _difference(self) -> np.ndarray:
        return self.images / 255 - self.reference[:, None] / 255


def compare_reconstructions(evidences: Sequence[Evidence], indices: Sequence[int]) -> ImageGrid:
    """Compare the reconstructions of the same images by several runs; no model is needed.

    Parameters
    ----------
    evidences : sequence of Evidence
        Evidence of the runs, one per column. Runs on other images than the first are left out.
    indices : sequence of int
        Indices of the images, one per row.

    Raises
    ------
    NotApplicable
        If the first run has no reconstructions.
    """
    first = evidences[0]
    if first.images is None or first.reconstructions is None:
        raise NotApplicable(
            f"A lens needs images and reconstructions; {first.run_name} does not have both."
        )
    indices = list(indices)
    check_pictures(first, indices)
    columns, axis_values, excluded = [], [], []
    for evidence in evidences:
        if evidence.reconstructions is None or not _same_images(evidence, first):
            excluded.append(evidence.run_name)
            continue
        columns.append(evidence.reconstructions[indices])
        axis_values.append(f"{evidence.run_name} · step {evidence.step:,}")
    note = f"Excluded (evidence of other images): {', '.join(excluded)}." if excluded else ""
    return ImageGrid(
        axis="run",
        axis_values=tuple(axis_values),
        rows=captions(first, indices),
        reference=np.asarray(first.images[indices]),
        images=np.stack(columns, axis=1),
        note=note,
    )


def check_pictures(evidence: Evidence, indices: Sequence[int]) -> None:
    """Raise UserError if one of some images has no picture."""
    count = evidence.num_pictures
    if indices and max(indices) >= count:
        raise UserError(
            f"Only images 0 to {count - 1:,} of {evidence.run_name} have pictures, got "
            f"{max(indices):,}. Collect more of them with --pictures."
        )


def captions(evidence: Evidence, indices: Sequence[int]) -> tuple[str, ...]:
    """Return the captions of images of the evidence: index and, if labeled, class."""
    if evidence.labels is None:
        return tuple(f"#{index}" for index in indices)
    labels = np.asarray(evidence.labels)
    names = evidence.names
    texts = []
    for index in indices:
        label = int(labels[index])
        name = names[label] if label < len(names) else str(label)
        texts.append(f"#{index} · {name}")
    return tuple(texts)


def classes(run: Run) -> tuple[str, ...]:
    """Return a unique name of each class of a generator's run; empty for a tokenizer's run."""
    if run.tokenizer is None:
        return ()
    data = run.tokenizer.config.data
    class_names = () if data is None else data.names
    count = run.config.settings["classes"]
    if count == 1 and not class_names:
        return (UNCONDITIONAL,)
    names = [class_names[i] if i < len(class_names) else f"class {i}" for i in range(count)]
    return tuple(
        name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)
    )


def _same_images(evidence: Evidence, first: Evidence) -> bool:
    if evidence.images is None or first.images is None:
        return False
    same_data = evidence.provenance.get("fingerprint") == first.provenance.get("fingerprint")
    return same_data and len(evidence.images) == len(first.images)
