"""Show a codebook as a grid: one cell per code, and the images that contain it.

Clicking selects codes: `.selected` has their rows and `.images` the images. `.state`, `.table`,
`.figure` and `.code()` give the rest of what is on the screen.
"""

import json
from collections.abc import Mapping, Sequence
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
from workbench.core.coerce import coerce
from workbench.core.counted import counted
from workbench.core.errors import NotApplicable, UserError, unknown
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run
from workbench.workspace import display
from workbench.workspace.encoding import MAX_THUMBNAILS, base64_array, thumbnail_sheet
from workbench.workspace.image_selection import SelectedImages, require_images, select

Sort = Literal["number", "use"]
EXAMPLES_PER_CODE = 6
MAX_CELLS = 16_384  # of a larger codebook, the most frequent codes are shown
# A page without a kernel contains the codes of this many tokens; of more images, a random sample.
MAX_PAGE_TOKENS = 250_000


@dataclass(frozen=True)
class CodebookState:
    """The evidence, the selected codes and their order.

    Attributes
    ----------
    step : int or None
        Step of the evidence; None is the last one.
    selected : tuple of int
        Selected codes; code k of codebook g is number g * codebook_size + k.
    sort : str
        Order of the cells: by number, or by use.
    """

    step: int | None = None
    selected: tuple[int, ...] = ()
    sort: Sort = "number"

    def __post_init__(self) -> None:
        if self.sort not in get_args(Sort):
            raise unknown("sort", self.sort, get_args(Sort))

    @classmethod
    def create(cls, step: int | None, selected: Sequence[int], sort: str) -> "CodebookState":
        """Return a state from values that a person or a page supplied."""
        codes = tuple(int(code) for code in selected)
        return cls(step=step, selected=codes, sort=coerce(Sort, "sort", sort))

    def to_json(self) -> str:
        """Return the state as JSON."""
        return json.dumps(asdict(self))


def codebook(
    run: Run | str | Path,
    *,
    step: int | None = None,
    selected: Sequence[int] = (),
    sort: Sort = "number",
) -> "Codebook":
    """Show the codebook of a run.

    Parameters
    ----------
    run : Run, str or Path
        The run or its folder.
    step : int, optional
        Step of the evidence; None is the last one.
    selected : sequence of int
        Codes to select; code k of codebook g is number g * codebook_size + k.
    sort : {"number", "use"}
        Order of the cells.

    Returns
    -------
    Codebook
        The codebook, which a notebook shows as a grid of codes.

    Raises
    ------
    UserError
        If a code or the order does not exist.
    """
    run = run if isinstance(run, Run) else Run(run)
    return Codebook(run, CodebookState.create(step, selected, sort))


class Codebook:
    """The codes of a run, their frequencies, and the selected codes.

    Parameters
    ----------
    run : Run
        Run whose codes are shown.
    state : CodebookState
        Step, selected codes and order.

    Raises
    ------
    UserError
        If a selected code does not exist.
    NotApplicable
        If codes are selected and the run has none.
    """

    def __init__(self, run: Run, state: CodebookState) -> None:
        self.run = run
        self.state = state
        self.within: tuple[int, ...] = ()  # indices of images that were selected in another view
        for code in state.selected:
            if not 0 <= code < len(self._counts):
                last = len(self._counts) - 1
                raise UserError(f"code must be between 0 and {last} for {run.name}, got {code}.")

    @cached_property
    def evidence(self) -> Evidence:
        """The evidence that the codes are read from."""
        return self.run.evidence(self.state.step)

    @cached_property
    def result(self) -> CodebookUsage:
        """The usage of the codebook; raises NotApplicable without codes."""
        return codebook_usage(**self.evidence.kwargs_for(codebook_usage))

    @property
    def table(self) -> pd.DataFrame:
        """One row per code: its codebook, index there, number and fraction of all tokens."""
        counts = self._counts
        size = self._codes.codebook_size
        codes = np.arange(len(counts))
        return pd.DataFrame(
            {
                "code": codes,
                "codebook": codes // size,
                "index": codes % size,
                "tokens": counts,
                "fraction": counts / max(1, counts.sum()),
            }
        )

    @property
    def selected(self) -> pd.DataFrame:
        """The rows of the selected codes, in the order of selection."""
        return self.table.iloc[list(self.state.selected)].reset_index(drop=True)

    @property
    def selected_indices(self) -> np.ndarray:
        """Indices of the evidence's images that contain a selected code."""
        return np.unique(self._pairs[np.isin(self._pairs[:, 0], self.state.selected), 1])

    @property
    def images(self) -> np.ndarray:
        """The images that contain a selected code, uint8 (m, h, w, c)."""
        return np.asarray(require_images(self.evidence)[self.selected_indices])

    @property
    def selected_images(self) -> SelectedImages:
        """These images compared with all images: errors, classes and codes.

        Raises
        ------
        UserError
            If no image contains a selected code.
        """
        if not self.state.selected:
            raise UserError("No code is selected.")
        if not len(self.selected_indices):
            codes = ", ".join(map(str, self.state.selected))
            raise UserError(f"No image contains code {codes}. Select other codes.")
        return select(self.run, step=self.state.step, ids=self.selected_indices)

    @property
    def figure(self) -> go.Figure:
        """The usage as the analysis draws it."""
        return self.result.figure()

    def code(self) -> str:
        """Return the Python code that shows the same codebook."""
        defaults = asdict(CodebookState())
        keywords = [
            f"{name}={value!r}"
            for name, value in asdict(self.state).items()
            if value != defaults[name]
        ]
        arguments = ", ".join([repr(str(self.run.folder)), *keywords])
        return f"import workbench as wb\n\ncodebook = wb.codebook({arguments})\ncodebook.selected"

    def data(self) -> dict[str, Any]:
        """Return the data that the JavaScript module shows."""
        counts = self._counts
        cells = self._cells
        pairs = self._pairs[np.random.default_rng(0).permutation(len(self._pairs))]
        with_codes = np.unique(pairs[:, 1])
        images = require_images(self.evidence)
        pictured = with_codes[with_codes < len(images)][:MAX_THUMBNAILS]
        thumbnails, tokens = _examples(pairs[np.isin(pairs[:, 1], pictured)], cells, pictured)
        return {
            "codes": _int32(cells),
            "counts": _int32(counts[cells]),
            "examples": _int32(thumbnails),
            "marks": _int32(tokens),
            "n": len(cells),
            "total": int(counts.sum()),
            "each": EXAMPLES_PER_CODE,
            "size": self._codes.codebook_size,
            "grid": self.evidence.grid,
            "thumbs": thumbnail_sheet(images, pictured),
            "caption": self._caption(len(with_codes)),
        }

    def page_data(self) -> dict[str, Any]:
        """Return the codes of images, for a page without a kernel."""
        n, tokens = self._codes.codes.shape
        random = np.random.default_rng(0)
        images = subsample(n, max(1, MAX_PAGE_TOKENS // tokens), random)
        ids = self._codes.ids(images)
        has_cell = np.isin(ids, self._cells)
        cells = np.where(has_cell, np.searchsorted(self._cells, ids), np.iinfo(np.uint16).max)
        return {
            "tokens": tokens,
            "images": _int32(images),
            "codes": base64_array(cells.astype(np.uint16)),
        }

    def view(self) -> dict[str, Any]:
        """Return the selection as the JavaScript module represents it."""
        within = None
        if self.within:
            counts = np.bincount(self.codes_within(self.within), minlength=len(self._counts))
            images = counted(len(self.within), "selected image")
            within = {"counts": _int32(counts[self._cells]), "label": images}
        return {"selected": self.state.selected, "sort": self.state.sort, "within": within}

    def differs(self, module_view: Mapping[str, Any]) -> bool:
        """Return True if a person has selected other codes, or no longer the selected images."""
        is_cleared = bool(self.within) and not module_view.get("within")
        return is_cleared or list(self.state.selected) != module_view["selected"]

    def codes_within(self, indices: Sequence[int]) -> np.ndarray:
        """Return the codes of all tokens of some images, int of shape (tokens,)."""
        codes = self._codes.ids(np.asarray(indices))
        return codes[codes >= 0]

    def __repr__(self) -> str:
        counts = f"{len(self._counts):,} codes, {len(self.state.selected)} selected"
        return f"Codebook of {self.run.name}: {counts}"

    def _repr_html_(self) -> str | None:
        return display.to_html(self)

    def _ipython_display_(self) -> None:
        display.show(self)

    def _caption(self, num_images: int) -> str:
        sentences = [
            f"{self.run.name} at step {self.evidence.step:,}.",
            self.result.summary(),
        ]
        if len(self._cells) < len(self._counts):
            sentences.append(
                f"Shown are the {len(self._cells):,} most frequent of {len(self._counts):,} codes."
            )
        examples = f"Each code shows at most {EXAMPLES_PER_CODE} images, drawn at random (seed 0)"
        if num_images > MAX_THUMBNAILS:
            examples += f" from the first {MAX_THUMBNAILS:,} of {num_images:,}"
        sentences.append(f"{examples}.")
        return " ".join(sentences)

    @cached_property
    def _codes(self) -> Codes:
        evidence = self.evidence
        if evidence.codes is None or evidence.codebook is None:
            raise NotApplicable(f"A codebook needs codes; {self.run.name} has none.")
        return parse_codes(evidence.codes, evidence.codebook, evidence.active, "A codebook")

    @cached_property
    def _cells(self) -> np.ndarray:
        """The codes that have a cell, ascending."""
        return np.sort(np.argsort(-self._counts, kind="stable")[:MAX_CELLS])

    @property
    def _counts(self) -> np.ndarray:
        """Number of tokens of each code, int (num_codebooks * codebook_size,)."""
        return self._codes.counts.ravel()

    @cached_property
    def _pairs(self) -> np.ndarray:
        """Rows (code, image, token) of each code in each image, with the first such token."""
        ids = self._codes.ids(slice(None))
        image, token = np.nonzero(ids >= 0)
        rows = np.stack([ids[image, token], image, token], axis=1)
        _, first = np.unique(rows[:, :2], axis=0, return_index=True)
        return rows[first]


def _examples(
    pairs: np.ndarray, codes: np.ndarray, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Choose images that contain each code.

    Parameters
    ----------
    pairs : ndarray of int, shape (p, 3)
        Rows (code, image, token) in random order.
    codes : ndarray of int, shape (n,)
        Codes that need examples.
    images : ndarray of int, shape (m,)
        Images that have a thumbnail, ascending.

    Returns
    -------
    (ndarray, ndarray) of int, shape (n, EXAMPLES_PER_CODE)
        Thumbnails and tokens; -1 where a code has fewer images.
    """
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    starts = np.searchsorted(pairs[:, 0], codes, "left")
    ends = np.searchsorted(pairs[:, 0], codes, "right")
    positions = starts[:, None] + np.arange(EXAMPLES_PER_CODE)
    exists = positions < ends[:, None]
    rows = pairs[np.minimum(positions, max(0, len(pairs) - 1))]
    thumbnails = np.searchsorted(images, rows[..., 1])
    return np.where(exists, thumbnails, -1), np.where(exists, rows[..., 2], -1)


def _int32(array: np.ndarray) -> str:
    return base64_array(array.astype(np.int32))
