"""Mutual information of codes with their position and with the class of their image.

Chance is measured by shuffling. Classes are shuffled among images, never among tokens, because the
tokens of one image are dependent. Positions are shuffled within each image.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.base import Range, Result
from workbench.analysis.codebook.codes import Codes, parse_codes
from workbench.analysis.codebook.mutual_information import (
    entropy,
    mutual_information,
    pair_counts,
    within_groups,
)
from workbench.analysis.inputs import class_names
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.stats.sampling import Subset, describe_subset, subsample
from workbench.core.errors import NotApplicable

MIN_IMAGES = 2
MAX_TOKENS = 2_000_000  # larger evidence is reduced to random images
MIN_SUPPORT = 10  # tokens per code: the purity of rarer codes is mostly noise
MAX_POINTS = 3000


@dataclass(frozen=True)
class CodeInformationRow:
    """Mutual information of the codes of one codebook with one attribute, in bits per token."""

    codebook: int
    attribute: str  # "position" or "class"
    plug_in: float  # plug-in estimate, biased upward
    shuffled: float  # mean over shuffles: the part due to chance
    deviation: float  # standard deviation over shuffles; NaN for one shuffle
    attribute_entropy: float  # upper bound of the mutual information

    @property
    def corrected(self) -> float:
        """Plug-in estimate minus its chance value."""
        return self.plug_in - self.shuffled


@dataclass(frozen=True, eq=False, kw_only=True)
class CodeInformation(Result):
    """Information of codes about position and class, and class purity of frequent codes."""

    rows: tuple[CodeInformationRow, ...]
    # int (m,): tokens of some codes with at least MIN_SUPPORT tokens.
    support: np.ndarray = field(repr=False)
    # (m,): fraction of the tokens of a code in its most frequent class.
    purity: np.ndarray = field(repr=False)
    # (m,): the same with classes shuffled among images.
    purity_shuffled: np.ndarray = field(repr=False)
    coverage: float  # fraction of the tokens whose codes have enough support
    supported_codes: int  # number of codes with enough support
    bits: float  # entropy of the code of a token, mean over codebooks
    images: int
    images_total: int  # images in the evidence
    tokens: int
    shuffles: int
    seed: int

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes, in the order of the rows."""
        return tuple(dict.fromkeys(row.attribute for row in self.rows))

    def mean(self, attribute: str, name: str) -> float:
        """Return the mean of a field over codebooks; NaN if the attribute was not measured."""
        values = [getattr(row, name) for row in self.rows if row.attribute == attribute]
        return float(np.mean(values)) if values else float("nan")

    def figure(self) -> go.Figure:
        """Draw the information about each attribute, and the purity of codes if it is known."""
        has_purity = len(self.support) > 0  # not without classes
        figure = make_subplots(
            rows=1,
            cols=1 + has_purity,
            column_widths=[0.4, 0.6] if has_purity else None,
            horizontal_spacing=0.14,
        )
        self._add_information(figure)
        if has_purity:
            self._add_purity(figure)
        images = describe_subset(self.images, self.images_total)
        subtitle = (
            f"n = {images}, {self.tokens:,} tokens · {self.shuffles} shuffles, seed {self.seed}"
        )
        figure.update_layout(
            title={
                "text": "Information of codes about position and class",
                "subtitle": {"text": subtitle},
            },
            height=440,
            barmode="stack",
            bargap=0.5,
            legend={
                "orientation": "h",
                "y": -0.2,
                "yanchor": "top",
                "traceorder": "normal",
                "itemsizing": "constant",
            },
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per codebook and attribute, in bits per token."""
        rows = [
            {
                "codebook": row.codebook,
                "attribute": row.attribute,
                "plug_in": row.plug_in,
                "shuffled": row.shuffled,
                "deviation": row.deviation,
                "corrected": row.corrected,
                "attribute_entropy": row.attribute_entropy,
            }
            for row in self.rows
        ]
        return pd.DataFrame(rows)

    @property
    def subset(self) -> Subset | None:
        """The images that were measured, if they are not all."""
        return Subset.if_partial(self.images, self.images_total)

    def summary(self) -> str:
        """State the information beyond chance of the possible information, and the purity."""
        parts = []
        for attribute in self.attributes:
            # Adding 0.0 turns a rounded -0.0 into 0.0.
            corrected = round(self.mean(attribute, "corrected"), 2) + 0.0
            parts.append(
                f"{corrected:.2f} of {self.mean(attribute, 'attribute_entropy'):.2f} bits about"
                f" the {attribute} (beyond {self.mean(attribute, 'shuffled'):.2f} by chance)"
            )
        sentence = f"The code of a token ({self.bits:.2f} bits) contains {' and '.join(parts)}."
        if not len(self.support):
            return sentence + self.subset_note()
        purity = float(np.average(self.purity, weights=self.support))
        purity_shuffled = float(np.average(self.purity_shuffled, weights=self.support))
        return (
            f"{sentence} On average, {100 * purity:.0f} % of the tokens of a code belong to its"
            f" most frequent class, versus {100 * purity_shuffled:.0f} % by chance (codes with"
            f" at least {MIN_SUPPORT} tokens, {100 * self.coverage:.0f} % of all tokens)."
            f"{self.subset_note()}"
        )

    def _add_information(self, figure: go.Figure) -> None:
        for label, name, color, pattern in (
            ("beyond chance", "corrected", COLORS[0], ""),
            ("chance (shuffled)", "shuffled", COLORS[6], "/"),
        ):
            figure.add_bar(
                x=list(self.attributes),
                y=[max(self.mean(attribute, name), 0) for attribute in self.attributes],
                name=label,
                marker={"color": color, "pattern": {"shape": pattern}},
                hovertemplate=f"{label}: %{{y:.3f}} bits<extra></extra>",
                row=1,
                col=1,
            )
        figure.update_xaxes(title="attribute", row=1, col=1)
        figure.update_yaxes(title="mutual information, bits per token", row=1, col=1)

    def _add_purity(self, figure: go.Figure) -> None:
        for label, purity, color, symbol in (
            ("classes shuffled among images", self.purity_shuffled, COLORS[6], "x"),
            ("codes", self.purity, COLORS[0], "circle"),
        ):
            figure.add_scatter(
                x=self.support,
                y=purity,
                mode="markers",
                marker={"color": color, "symbol": symbol, "size": 5, "opacity": 0.75},
                name=label,
                row=1,
                col=2,
            )
        figure.update_xaxes(
            title=f"tokens per code (at least {MIN_SUPPORT})",
            type="log",
            row=1,
            col=2,
            **_log_ticks(self.support),
        )
        figure.update_yaxes(
            title="fraction in the most frequent class", range=[0, 1.03], row=1, col=2
        )


@dataclass(frozen=True, eq=False)
class _Purity:
    """Tokens of each code of a codebook in its most frequent class, int (codebook_size,)."""

    support: np.ndarray  # tokens of each code
    in_class: np.ndarray
    in_shuffled_class: np.ndarray


def code_information(
    codes: np.ndarray,
    codebook: np.ndarray | int,
    labels: np.ndarray | None = None,
    active: np.ndarray | None = None,
    *,
    shuffles: Annotated[int, Range(1, 20)] = 5,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> CodeInformation:
    """Measure the mutual information of codes with their position and the class of their image.

    Parameters
    ----------
    codes : ndarray of int, shape (n_images, n_tokens)
        Index of the codeword that each token selected; -1 marks padding, which is left out. Of
        more than two million tokens, random images are used.
    codebook : ndarray of float, shape (n_codebooks, codebook_size, dim), or int
        The codewords, or only their number if the vectors are not at hand.
    labels : ndarray of int, shape (n_images,), optional
        Classes of the images.
    active : ndarray of bool, shape (n_images, n_tokens), optional
        Tokens in use; the others are left out.
    shuffles : int, default 5
        Number of shuffles that estimate the chance value.
    seed : int, default 0
        Seed of the shuffles and subsets.

    Returns
    -------
    CodeInformation
        Information per codebook and attribute, in bits per token, and class purity of codes.

    Raises
    ------
    NotApplicable
        If there are under two images, or neither a second position nor a second class.
    UserError
        If the labels do not match the images, or the codes the codebook.

    Examples
    --------
    >>> import numpy as np
    >>> codes = np.repeat([[0], [1]], 50, axis=0)
    >>> result = code_information(codes, np.eye(2)[None], labels=codes[:, 0])
    >>> result.rows[0].attribute, result.rows[0].plug_in
    ('class', 1.0)
    """
    parsed = parse_codes(codes, codebook, active, "Code information")
    n = len(codes)
    if n < MIN_IMAGES:
        raise NotApplicable(
            f"Code information needs at least {MIN_IMAGES} images; this evidence has {n}."
        )
    class_names(labels, (), n)  # checks the number of labels
    random = np.random.default_rng(seed)
    images = subsample(n, max(MIN_IMAGES, MAX_TOKENS // codes.shape[1]), random)
    classes = None
    if labels is not None:
        classes = np.unique(np.asarray(labels)[images], return_inverse=True)[1]
    if classes is not None and not classes.any():
        classes = None  # there is only one class
    rows: list[CodeInformationRow] = []
    purities: list[_Purity] = []
    bits = []
    for index in range(parsed.num_codebooks):
        code, image, position = parsed.of_codebook(index, images)
        bits.append(entropy(np.bincount(code)))
        if len(np.unique(position)) > 1:
            rows.append(_position_row(index, code, image, position, shuffles, random))
        if classes is not None:
            shuffled_classes = [random.permutation(classes)[image] for _ in range(shuffles)]
            rows.append(_class_row(index, code, classes[image], shuffled_classes))
            purities.append(_purity(code, classes[image], shuffled_classes[0]))
    if not rows:
        raise NotApplicable(
            "Code information needs at least two tokens per codebook or images of two classes."
        )
    rows.sort(key=lambda row: (row.attribute, row.codebook))
    pooled = _pooled(purities)
    is_supported = np.flatnonzero(pooled.support >= MIN_SUPPORT)
    points = is_supported[subsample(len(is_supported), MAX_POINTS, random)]
    support = pooled.support[points]
    coverage = float("nan")
    if purities:
        coverage = float(pooled.support[is_supported].sum() / pooled.support.sum())
    return CodeInformation(
        rows=tuple(rows),
        support=support,
        purity=pooled.in_class[points] / support,
        purity_shuffled=pooled.in_shuffled_class[points] / support,
        coverage=coverage,
        supported_codes=len(is_supported),
        bits=float(np.mean(bits)),
        images=len(images),
        images_total=n,
        tokens=_num_tokens(parsed, images),
        shuffles=shuffles,
        seed=seed,
    )


def _position_row(
    codebook: int,
    code: np.ndarray,
    image: np.ndarray,
    position: np.ndarray,
    shuffles: int,
    random: np.random.Generator,
) -> CodeInformationRow:
    """Compare codes with their position, and with positions shuffled within each image."""
    shuffled = [
        mutual_information(code, within_groups(position, image, random)) for _ in range(shuffles)
    ]
    return _row(codebook, "position", code, position, shuffled)


def _class_row(
    codebook: int, code: np.ndarray, classes: np.ndarray, shuffled_classes: list[np.ndarray]
) -> CodeInformationRow:
    """Compare codes with the class of their image, and with classes shuffled among images."""
    shuffled = [mutual_information(code, shuffle) for shuffle in shuffled_classes]
    return _row(codebook, "class", code, classes, shuffled)


def _row(
    codebook: int, attribute: str, code: np.ndarray, values: np.ndarray, shuffled: list[float]
) -> CodeInformationRow:
    deviation = float(np.std(shuffled, ddof=1)) if len(shuffled) > 1 else float("nan")
    return CodeInformationRow(
        codebook=codebook,
        attribute=attribute,
        plug_in=mutual_information(code, values),
        shuffled=float(np.mean(shuffled)),
        deviation=deviation,
        attribute_entropy=entropy(np.bincount(values)),
    )


def _purity(code: np.ndarray, classes: np.ndarray, shuffled_classes: np.ndarray) -> _Purity:
    return _Purity(
        support=np.bincount(code),
        in_class=_tokens_in_class(code, classes),
        in_shuffled_class=_tokens_in_class(code, shuffled_classes),
    )


def _tokens_in_class(code: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Count the tokens of each code in its most frequent class, int (k,)."""
    codes, _, counts = pair_counts(code, classes)
    tokens = np.zeros(int(code.max()) + 1, np.int64)
    np.maximum.at(tokens, codes, counts)
    return tokens


def _pooled(purities: list[_Purity]) -> _Purity:
    """Concatenate the codes of all codebooks."""
    empty = np.zeros(0, np.int64)
    return _Purity(
        support=np.concatenate([empty, *(p.support for p in purities)]),
        in_class=np.concatenate([empty, *(p.in_class for p in purities)]),
        in_shuffled_class=np.concatenate([empty, *(p.in_shuffled_class for p in purities)]),
    )


def _num_tokens(codes: Codes, images: np.ndarray) -> int:
    return int((codes.ids(images) >= 0).sum())


def _log_ticks(support: np.ndarray) -> dict[str, Any]:
    """Return ticks at 1, 2 and 5 times powers of ten, or at powers of ten if those are many."""
    top = max(int(support.max(initial=1)), 2 * MIN_SUPPORT)
    values = [
        digit * 10**power
        for power in range(9)
        for digit in (1, 2, 5)
        if MIN_SUPPORT <= digit * 10**power <= 2 * top
    ]
    if len(values) > 6:
        values = [value for value in values if str(value)[0] == "1"]
    return {"tickvals": values, "ticktext": [f"{value:,}" for value in values]}
