"""How many Gaussians each tokenizer's latents need for the same likelihood: figure 2a of MAETok, read across.

At equal numbers of principal components, of variance 1, one Gaussian is about equally likely everywhere (arXiv
2502.03444, section 2). Here: EM, and likelihood of images that neither it nor the components were fitted to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.base import Range, Result
from workbench.analysis.inputs import class_names, flatten_latents
from workbench.analysis.latents.cross_validation import NUM_FOLDS, mode_grid
from workbench.analysis.latents.mode_nulls import MIN_IMAGES
from workbench.analysis.latents.modes import MAX_IMAGES
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.stats.mixtures import fit_sweeps
from workbench.analysis.stats.reductions import MIN_EXPLAINED_VARIANCE
from workbench.analysis.stats.sampling import describe_subset, subsample
from workbench.core.errors import NotApplicable
from workbench.storage.evidence import Evidence

MOST_COMPONENTS = 64
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")


@dataclass(frozen=True, eq=False)
class ModeComparison(Result):
    """Held-out likelihood of each run by number of Gaussians, and how many reach what the worst run ever reaches."""

    runs: tuple[str, ...]
    needed: tuple[int, ...]  # the fewest Gaussians that reach the target, by the mean over splits
    needed_by_split: np.ndarray = field(
        repr=False
    )  # int (runs, splits): the same in each split, with its own target
    target: float  # nats an image: the worst run's best mean negative log-likelihood
    modes: np.ndarray = field(repr=False)  # (m,) numbers of Gaussians that were tried
    likelihood: np.ndarray = field(
        repr=False
    )  # (runs, splits, m): mean negative log-likelihood, nats an image
    components: int  # principal components, the same for all
    explained: tuple[float, ...]  # share of each run's variance they hold
    n: int
    of: int  # images in the evidence
    is_stratified: bool  # whether those n were drawn by class
    seed: int
    left_out: tuple[str, ...]  # runs on other images

    def figure(self) -> go.Figure:
        """The likelihood of each run by number of Gaussians, the target, and how many each needs."""
        figure = make_subplots(1, 2, column_widths=[0.62, 0.38], horizontal_spacing=0.16)
        fewest, fullest = self.needed_by_split.min(axis=1), self.needed_by_split.max(axis=1)
        for i, (run, mean) in enumerate(zip(self.runs, self.likelihood.mean(axis=1), strict=True)):
            marker = {"color": COLORS[i % 7], "symbol": SYMBOLS[i % 7], "size": 7}
            hover = f"{run}, %{{x}} Gaussians: %{{y:.4g}} nats<extra></extra>"
            look = {"marker": marker, "name": run, "legendgroup": run, "hovertemplate": hover}
            figure.add_scatter(
                x=self.modes,
                y=mean,
                mode="lines+markers",
                line_color=COLORS[i % 7],
                **look,
                row=1,
                col=1,
            )
            spread = {
                "array": [fullest[i] - self.needed[i]],
                "arrayminus": [self.needed[i] - fewest[i]],
            }
            look |= {
                "marker": marker | {"size": 11},
                "hovertemplate": f"{run}: %{{x}} Gaussians<extra></extra>",
            }
            bars = {"type": "data", "symmetric": False, "thickness": 1.5, **spread}
            figure.add_scatter(
                x=[self.needed[i]],
                y=[run],
                error_x=bars,
                mode="markers",
                showlegend=False,
                **look,
                row=1,
                col=2,
            )
        figure.add_hline(y=self.target, line={"color": COLORS[6], "dash": "dash"}, row=1, col=1)
        figure.update_xaxes(title="number of Gaussians", row=1, col=1)
        figure.update_yaxes(title="nats an image, lower is likelier", row=1, col=1)
        figure.update_xaxes(
            title="Gaussians needed (bars: all splits)", rangemode="tozero", row=1, col=2
        )
        names = {
            "tickmode": "array",
            "tickvals": list(self.runs),
            "ticktext": list(self.runs),
            "automargin": True,
            "ticklabelstandoff": 6,
        }
        figure.update_yaxes(**names, range=[len(self.runs) - 0.5, -0.5], row=1, col=2)
        some = describe_subset(self.n, self.of, stratified=self.is_stratified)
        said = f"n = {some} · {self.components} principal components each · {NUM_FOLDS} splits · seed {self.seed}"
        title = {
            "text": f"Gaussians needed for {self.target:.1f} nats an image (dashed)",
            "subtitle": {"text": said},
        }
        figure.update_layout(
            title=title, height=max(440, 300 + 30 * len(self.runs)), showlegend=True
        )
        return apply_theme(
            figure.update_layout(legend={"orientation": "h", "y": -0.2, "yanchor": "top"})
        )

    def table(self) -> pd.DataFrame:
        """One row a run and number of Gaussians: mean negative log-likelihood, and whether it reaches the target."""
        rows = [
            {"run": run, "modes": k, "nll": value, "reached": value <= self.target, "needed": needed,
             "fewest": splits.min(), "most": splits.max(), "explained": held}
            for run, means, needed, splits, held in zip(
                self.runs, self.likelihood.mean(axis=1), self.needed, self.needed_by_split, self.explained, strict=True)
            for k, value in zip(self.modes, means, strict=True)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """How many Gaussians each run needs, where that comes from, and what to beware of."""
        each = [
            f"{run} {k} ({low}-{high} over {NUM_FOLDS} splits)" if low < high else f"{run} {k}"
            for run, k, low, high in zip(
                self.runs,
                self.needed,
                self.needed_by_split.min(axis=1),
                self.needed_by_split.max(axis=1),
                strict=True,
            )
        ]
        least = 100 * min(self.explained)
        said = [
            f"For {self.target:.1f} nats an image, the best of the worst run, Gaussians needed: {', '.join(each)}.",
            f"All in {self.components} principal components, which hold at least {least:.0f} % of each run's variance,"
            f" on held-out images of {describe_subset(self.n, self.of, stratified=self.is_stratified)}.",
            "Fewer means more clustered at this size, which is only a sign of fewer modes.",
        ]
        if max(self.needed) == self.modes[-1]:
            said.append(
                f"The worst run is still gaining at {self.modes[-1]}, the most that was tried."
            )
        if min(self.explained) <= MIN_EXPLAINED_VARIANCE:
            said.append(
                "That is under the paper's 90 %: n or the smallest latents allow no more components."
            )
        if self.left_out:
            said.append(f"Left out, being measured on other images: {', '.join(self.left_out)}.")
        return " ".join(said)


def mode_comparison(
    evidences: Sequence[Evidence],
    *,
    max_modes: Annotated[int, Range(2, 64)] = 24,
    components: Annotated[int, Range(0, MOST_COMPONENTS)] = 0,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> ModeComparison:
    """Count the Gaussians (diagonal) each run's latents need to be as likely as the worst run's at its best.

    In `components` principal components (0: as many as hold over 90 % of every run's variance, 64 at most), fitted with
    the mixtures to four fifths of the images. Runs on other images than the first are left out and named. Raises
    NotApplicable where no run has latents, or they are constant or of under 50 images, UserError for NaN.
    """
    with_latents = [e for e in evidences if e.latents is not None]
    if not with_latents:
        raise NotApplicable("Comparing modes needs latents; no selected run has any.")
    first = with_latents[0]
    same = [e for e in with_latents if _images(e) == _images(first)]
    of = len(first.latents)
    class_names(first.labels, (), of)
    places = subsample(of, MAX_IMAGES, np.random.default_rng(seed), first.labels)
    rows = [flatten_latents(e.latents[places], MIN_IMAGES, "Comparing modes") for e in same]
    components, explained = _components(rows, components)
    modes = mode_grid(min(max_modes, len(places) // 10))
    likelihood = _likelihood(rows, components, modes, seed)
    mean = likelihood.mean(axis=1)
    return ModeComparison(
        runs=_names(same),
        needed=tuple(int(k) for k in modes[_first(mean, mean.min(axis=1).max())]),
        needed_by_split=modes[
            np.stack(
                [_first(s, s.min(axis=1).max()) for s in likelihood.transpose(1, 0, 2)], axis=1
            )
        ],
        target=float(mean.min(axis=1).max()),
        modes=modes,
        likelihood=likelihood,
        components=components,
        explained=explained,
        n=len(places),
        of=of,
        is_stratified=first.labels is not None,
        seed=seed,
        left_out=tuple(e.run_name for e in with_latents if _images(e) != _images(first)),
    )


def _images(evidence: Evidence) -> tuple[object, int]:
    return evidence.provenance.get("fingerprint"), len(evidence.latents)


def _names(evidences: Sequence[Evidence]) -> tuple[str, ...]:
    runs = [e.run_name for e in evidences]
    return tuple(
        e.run_name if runs.count(e.run_name) == 1 else f"{e.run_name}, step {e.step:,}" for e in evidences
    )


def _components(rows: Sequence[np.ndarray], asked: int) -> tuple[int, tuple[float, ...]]:
    """As many components as are asked for (0: as every run needs) and every run allows, and the variance they hold."""
    spectra = []
    for x in rows:
        values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
        spectra.append(values / values.sum())
    asked = asked or max(
        int(np.searchsorted(s.cumsum(), MIN_EXPLAINED_VARIANCE)) + 1 for s in spectra
    )
    allowed = min(
        MOST_COMPONENTS, len(rows[0]) // NUM_FOLDS, *(int((s > 1e-9 * s[0]).sum()) for s in spectra)
    )
    kept = min(asked, allowed)
    return kept, tuple(float(s[:kept].sum()) for s in spectra)


def _likelihood(
    rows: Sequence[np.ndarray], components: int, modes: np.ndarray, seed: int
) -> np.ndarray:
    """The mean negative log-likelihood (runs, splits, m) of held-out images, whitened by the others."""
    from sklearn.decomposition import PCA
    from sklearn.model_selection import KFold

    parts, out = [], []
    for x in rows:
        for rest, kept in KFold(NUM_FOLDS, shuffle=True, random_state=seed).split(x):
            pca = PCA(components, whiten=True, random_state=seed).fit(x[rest])
            parts.append(pca.transform(x[rest]))
            out.append(pca.transform(x[kept]))
    fits = fit_sweeps(parts, modes, "diag", seed)
    means = [
        [-m.density(points).mean() for m in mixtures]
        for mixtures, points in zip(fits, out, strict=True)
    ]
    return np.array(means).reshape(len(rows), NUM_FOLDS, len(modes))


def _first(likelihood: np.ndarray, target: float) -> np.ndarray:
    """The first column of each row (runs, m) that is at most the target."""
    return (likelihood <= target).argmax(axis=1)
