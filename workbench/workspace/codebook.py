"""`workbench.codebook(run)`: every code a cell, and behind each the images that hold it.

Clicking picks codes: `.selected` has their rows, `.images` the images; `.state`, `.table`, `.figure` and `.code()`
have the rest of what is seen.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.codebook.codes import Codes, parse_codes
from workbench.analysis.codebook.usage import CodebookUsage, codebook_usage
from workbench.analysis.stats.sampling import subsample
from workbench.core.errors import NotApplicable, UserError, unknown
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run
from workbench.workspace import display
from workbench.workspace.encoding import MAX_THUMBNAILS, base64_array, thumbnail_sheet
from workbench.workspace.image_selection import SelectedImages, select

Sort = Literal["number", "use"]
EACH = 6  # images that show a code
MOST_CELLS = 16_384  # codes on one screen: of more, those chosen most
MOST_TOKENS = 250_000  # whose codes a page without a kernel holds: of more images, some at random


@dataclass(frozen=True)
class CodebookState:
    """Which evidence, which codes were picked, and how they are sorted; JSON by `to_json`."""

    step: int | None = None  # of the evidence; None: the last
    selected: tuple[int, ...] = ()  # of several books, code k of book g is g * codes + k
    sort: Sort = "number"

    def __post_init__(self) -> None:
        if self.sort not in get_args(Sort):
            raise unknown("sort", self.sort, get_args(Sort))

    def to_json(self) -> str:
        """The state as JSON."""
        return json.dumps(asdict(self))


def codebook(
    run: Run | str | Path,
    *,
    step: int | None = None,
    selected: Sequence[int] = (),
    sort: Sort = "number",
) -> "Codebook":
    """The codebook of a run at a step (None: the last), with some codes picked. Raises UserError."""
    run = run if isinstance(run, Run) else Run(run)
    return Codebook(run, CodebookState(step, tuple(map(int, selected)), sort))


class Codebook:
    """A run's codes, how often each was chosen, and what was picked."""

    def __init__(self, run: Run, state: CodebookState) -> None:
        self.run, self.state = run, state
        for code in state.selected:
            if not 0 <= code < len(self._counts):
                raise UserError(
                    f"There is no code {code}; {run.name} has 0 to {len(self._counts) - 1}."
                )

    @cached_property
    def evidence(self) -> Evidence:
        """The arrays it is made of."""
        return self.run.evidence(self.state.step)

    @cached_property
    def result(self) -> CodebookUsage:
        """How much of it is used, and how evenly. Raises NotApplicable without codes."""
        return codebook_usage(**self.evidence.kwargs_for(codebook_usage))

    @property
    def table(self) -> pd.DataFrame:
        """One row a code: its book, its number there, how often it was chosen, and its share of all tokens."""
        counts, size = self._counts, self._size
        place = np.arange(len(counts))
        shares = {"tokens": counts, "share": counts / max(1, counts.sum())}
        return pd.DataFrame(
            {"code": place, "book": place // size, "in book": place % size, **shares}
        )

    @property
    def selected(self) -> pd.DataFrame:
        """The rows of the codes that were picked, in the order of picking."""
        return self.table.iloc[list(self.state.selected)].reset_index(drop=True)

    @property
    def selection(self) -> np.ndarray:
        """The places, among the evidence's images, of those that hold a picked code."""
        return np.unique(self._pairs[np.isin(self._pairs[:, 0], self.state.selected), 1])

    @property
    def images(self) -> np.ndarray:
        """Those images, uint8 (m, h, w, c)."""
        return np.asarray(self.evidence.images[self.selection])

    @property
    def selected_images(self) -> SelectedImages:
        """Those images beside all: errors, classes, codes. Raises UserError where no image holds a picked code."""
        if not len(self.selection):
            picked = ", ".join(map(str, self.state.selected))
            raise UserError(
                f"No image holds code {picked}; pick others." if picked else "No code is picked."
            )
        return select(self.run, step=self.state.step, ids=self.selection.tolist())

    @property
    def figure(self) -> go.Figure:
        """Usage as the analysis draws it."""
        return self.result.figure()

    def code(self) -> str:
        """The Python that makes what is on the screen."""
        plain = asdict(CodebookState())
        told = [
            f"{name}={value!r}"
            for name, value in asdict(self.state).items()
            if value != plain[name]
        ]
        arguments = ", ".join([repr(str(self.run.folder)), *told])
        return f"import workbench as wb\n\ncodebook = wb.codebook({arguments})\ncodebook.selected"

    def data(self) -> dict[str, Any]:
        """What the JavaScript module shows."""
        counts, evidence = self._counts, self.evidence
        shown = self._shown
        left_out = (
            f" The {len(shown):,} codes chosen most of {len(counts):,}."
            if len(shown) < len(counts)
            else ""
        )
        pairs = self._pairs[np.random.default_rng(0).permutation(len(self._pairs))]
        holding = np.unique(pairs[:, 1])
        places = holding[:MAX_THUMBNAILS]
        some = f"{EACH} images at most, drawn at random (seed 0)"
        some += (
            f" from the first {MAX_THUMBNAILS:,} of {len(holding):,}"
            if len(holding) > MAX_THUMBNAILS
            else ""
        )
        examples, marks = _examples(pairs[np.isin(pairs[:, 1], places)], shown, places)
        arrays = {"codes": shown, "counts": counts[shown], "examples": examples, "marks": marks}
        caption = f"{self.run.name} at step {evidence.step:,}. {self.result.summary()}{left_out} A code shows {some}."
        return {
            **{name: base64_array(array.astype(np.int32)) for name, array in arrays.items()},
            "n": len(shown),
            "total": int(counts.sum()),
            "each": EACH,
            "size": self._size,
            "grid": evidence.grid,
            "thumbs": thumbnail_sheet(evidence.images, places),
            "caption": caption,
        }

    def view(self) -> dict[str, Any]:
        """What was picked, as the module has it."""
        return {"selected": self.state.selected, "sort": self.state.sort}

    def __repr__(self) -> str:
        return f"Codebook of {self.run.name}: {len(self._counts):,} codes, {len(self.state.selected)} picked"

    def _repr_html_(self) -> str | None:
        return display.to_html(self)

    def _ipython_display_(self) -> None:
        display.show(self)

    @cached_property
    def _codes(self) -> Codes:
        evidence = self.evidence
        if evidence.codes is None or evidence.codebook is None:
            raise NotApplicable(f"A codebook needs codes; {self.run.name} has none.")
        return parse_codes(evidence.codes, evidence.codebook, evidence.active, "A codebook")

    def page_data(self) -> dict[str, Any]:
        """Which images hold which codes, for a page where nobody can be asked."""
        n, tokens = self._codes.codes.shape
        images = subsample(n, max(1, MOST_TOKENS // tokens), np.random.default_rng(0))
        ids = self._codes.ids(images)
        codes = np.where(
            np.isin(ids, self._shown), np.searchsorted(self._shown, ids), np.iinfo(np.uint16).max
        )
        return {
            "tokens": tokens,
            "images": base64_array(images.astype(np.int32)),
            "codes": base64_array(codes.astype(np.uint16)),
        }

    @cached_property
    def _shown(self) -> np.ndarray:
        """The codes that have a cell, ascending."""
        return np.sort(np.argsort(-self._counts, kind="stable")[:MOST_CELLS])

    @property
    def _size(self) -> int:
        return self._codes.codebook_size

    @property
    def _counts(self) -> np.ndarray:
        """How often each code of each book was chosen, int (g * k,)."""
        return self._codes.counts.ravel()

    @cached_property
    def _pairs(self) -> np.ndarray:
        """A row (code, image, token) for each code in each image: the first token that chose it."""
        ids = self._codes.ids(slice(None))
        image, token = np.nonzero(ids >= 0)
        rows = np.stack([ids[image, token], image, token], axis=1)
        _, first = np.unique(rows[:, :2], axis=0, return_index=True)
        return rows[first]


def _examples(
    pairs: np.ndarray, shown: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The thumbs and the tokens of EACH images for each shown code, int (n, EACH); -1 where there are fewer."""
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    starts, ends = (np.searchsorted(pairs[:, 0], shown, side) for side in ("left", "right"))
    at = starts[:, None] + np.arange(EACH)
    there = at < ends[:, None]
    found = pairs[np.minimum(at, max(0, len(pairs) - 1))]
    thumbs = np.searchsorted(places, found[..., 1])
    return np.where(there, thumbs, -1), np.where(there, found[..., 2], -1)
