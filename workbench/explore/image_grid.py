"""Pictures along an axis, held against a reference: what a lens shows, and what every exploration returns."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from workbench.analysis.images.reconstruction import psnr_db
from workbench.core.errors import NotApplicable, UserError
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run


@dataclass(frozen=True, eq=False)
class ImageGrid:
    """A row for each image, a column for each stop on the axis."""

    axis: str  # what changes from column to column: tokens, step, guidance, ...
    stops: tuple[str, ...]  # (m,) what each column is
    rows: tuple[str, ...]  # (n,) what each row is
    reference: np.ndarray = field(
        repr=False
    )  # uint8 (n, h, w, c): what the pictures are held against
    shown: np.ndarray = field(repr=False)  # uint8 (n, m, h, w, c)
    active: np.ndarray | None = field(
        default=None, repr=False
    )  # bool (n, m, tokens): those the decoder saw
    against: str = "original"  # what the reference is
    note: str = ""  # what one must know to read it

    def __post_init__(self) -> None:
        n, m = len(self.rows), len(self.stops)
        if self.shown.shape[:2] != (n, m) or self.reference.shape != (n, *self.shown.shape[2:]):
            told = f"{self.shown.shape} pictures and {self.reference.shape} references"
            raise UserError(f"{n} rows and {m} stops do not fit {told}.")

    @property
    def error(self) -> np.ndarray:
        """Mean absolute difference from the reference, pixels in [0, 1], float64 (n, m)."""
        return np.abs(self._difference).mean(axis=(2, 3, 4))

    @property
    def psnr(self) -> np.ndarray:
        """The same as a peak signal-to-noise ratio in dB, at most 100, float64 (n, m)."""
        return psnr_db(np.square(self._difference).mean(axis=(2, 3, 4)))

    @property
    def tokens(self) -> np.ndarray | None:
        """How many tokens the decoder saw, int (n, m); None where nobody counted."""
        return None if self.active is None else self.active.sum(axis=2)

    def error_map(self, row: int, stop: int) -> np.ndarray:
        """Where a picture differs from its reference: float64 (h, w), the mean over channels, pixels in [0, 1]."""
        return np.abs(self.shown[row, stop] / 255 - self.reference[row] / 255).mean(axis=2)

    def table(self) -> pd.DataFrame:
        """One row a picture: its row, its stop, tokens, mean absolute error and PSNR in dB."""
        columns = {
            "row": np.repeat(self.rows, len(self.stops)),
            self.axis: np.tile(self.stops, len(self.rows)),
            "l1": self.error.ravel(),
            "psnr": self.psnr.ravel(),
        }
        return pd.DataFrame(
            columns if self.tokens is None else columns | {"tokens used": self.tokens.ravel()}
        )

    @property
    def _difference(self) -> np.ndarray:
        return self.shown / 255 - self.reference[:, None] / 255


def compared(evidences: Sequence[Evidence], places: Sequence[int]) -> ImageGrid:
    """What each run makes of the same images, at some places of their evidence; no model is needed.

    Runs on other images than the first are left out. Raises NotApplicable where the first has no reconstructions.
    """
    first = evidences[0]
    if first.images is None or first.reconstructions is None:
        raise NotApplicable(f"A lens needs images and reconstructions; {first.run_name} has none.")
    told = first.provenance.get("fingerprint")
    same = [
        e
        for e in evidences
        if e.reconstructions is not None and e.provenance.get("fingerprint") == told
    ]
    same = [e for e in same if len(e.images) == len(first.images)]
    places = list(places)
    shown = np.stack([np.asarray(e.reconstructions[places]) for e in same], axis=1)
    left_out = [e.run_name for e in evidences if e not in same]
    note = f"Left out, being of other images: {', '.join(left_out)}." if left_out else ""
    stops = tuple(f"{e.run_name} · step {e.step:,}" for e in same)
    return ImageGrid(
        "run", stops, captions(first, places), np.asarray(first.images[places]), shown, note=note
    )


def captions(evidence: Evidence, places: Sequence[int]) -> tuple[str, ...]:
    """What images of the evidence are called: their place, and their class."""
    if evidence.labels is None:
        return tuple(f"#{place}" for place in places)
    labels, names = np.asarray(evidence.labels)[list(places)].tolist(), evidence.names
    classes = [names[label] if label < len(names) else str(label) for label in labels]
    return tuple(f"#{place} · {name}" for place, name in zip(places, classes, strict=True))


def classes(run: Run) -> tuple[str, ...]:
    """What each class is called that a generator draws, none like another; none of a tokenizer."""
    if run.tokenizer is None:
        return ()
    names = run.tokenizer.config.get("data", {}).get("names", [])
    told = [
        names[i] if i < len(names) else f"class {i}"
        for i in range(run.config["settings"]["classes"])
    ]
    return tuple(name if told.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(told))
