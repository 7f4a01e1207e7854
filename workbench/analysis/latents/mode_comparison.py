"""Number of Gaussians that the latents of each run need for the same likelihood.

The analysis follows figure 2a of MAETok. With equal numbers of principal components of variance 1,
a single Gaussian is about equally likely for every tokenizer. Differences from the paper: mixtures
are fitted by EM, and the likelihood is that of images to which neither the mixtures nor the
components were fitted.

References
----------
Chen et al. (2025), MAETok, arXiv 2502.03444, section 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.base import Range, Result
from workbench.analysis.inputs import class_names, distinct_names, flatten_latents, image_set
from workbench.analysis.latents.cross_validation import NUM_FOLDS, mode_grid
from workbench.analysis.latents.mode_nulls import MIN_IMAGES
from workbench.analysis.latents.modes import MAX_IMAGES
from workbench.analysis.plotting.run_colors import colors_of_runs
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.stats.mixtures import fit_sweeps
from workbench.analysis.stats.reductions import MIN_EXPLAINED_VARIANCE
from workbench.analysis.stats.sampling import Subset, affordable_images, describe_subset, subsample
from workbench.core.errors import NotApplicable
from workbench.storage.evidence import Evidence

MAX_COMPONENTS = 64
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")


@dataclass(frozen=True, eq=False, kw_only=True)
class ModeComparison(Result):
    """Held-out likelihood of each run by number of Gaussians, and the number needed for a target.

    Attributes
    ----------
    runs : tuple of str
        Name of each run, with the step if the name occurs twice.
    needed : tuple of int
        Fewest Gaussians that reach the target, by the mean over splits.
    needed_by_split : ndarray of int, shape (runs, splits)
        The same for each split, with the target of the split.
    target : float
        Negative log-likelihood of the worst run at its best, in nats per image.
    modes : ndarray of int, shape (m,)
        Numbers of Gaussians that were tried.
    likelihood : ndarray of float, shape (runs, splits, m)
        Mean negative log-likelihood, in nats per image.
    components : int
        Number of principal components, equal for all runs.
    explained : tuple of float
        Share of the variance of each run that these components explain.
    n, of : int
        Number of images that were measured, and in the evidence.
    is_stratified : bool
        Whether a sample of the images was stratified by class.
    seed : int
        Seed of the random draws.
    excluded : tuple of str
        Runs with other images than the first.
    """

    runs: tuple[str, ...]
    needed: tuple[int, ...]
    needed_by_split: np.ndarray = field(repr=False)
    target: float
    modes: np.ndarray = field(repr=False)
    likelihood: np.ndarray = field(repr=False)
    components: int
    explained: tuple[float, ...]
    n: int
    of: int
    is_stratified: bool
    seed: int
    excluded: tuple[str, ...]

    def figure(self) -> go.Figure:
        """Draw the likelihood by number of Gaussians, the target, and the number each run needs."""
        figure = make_subplots(1, 2, column_widths=[0.62, 0.38], horizontal_spacing=0.16)
        for i in range(len(self.runs)):
            self._draw_run(figure, i)
        line = {"color": COLORS[6], "dash": "dash"}
        figure.add_hline(y=self.target, line=line, row=1, col=1)
        figure.update_xaxes(title="number of Gaussians", row=1, col=1)
        figure.update_yaxes(title="negative log-likelihood, nats", row=1, col=1)
        figure.update_xaxes(
            title="Gaussians needed (bars: all splits)", rangemode="tozero", row=1, col=2
        )
        figure.update_yaxes(
            tickmode="array",
            tickvals=list(self.runs),
            ticktext=list(self.runs),
            automargin=True,
            ticklabelstandoff=6,
            range=[len(self.runs) - 0.5, -0.5],
            row=1,
            col=2,
        )
        subtitle = (
            f"n = {self._sample} · {self.components} principal components per run"
            f" · {NUM_FOLDS} splits · seed {self.seed}"
        )
        figure.update_layout(
            title={
                "text": f"Gaussians needed for {self.target:.1f} nats per image (dashed)",
                "subtitle": {"text": subtitle},
            },
            height=max(440, 300 + 30 * len(self.runs)),
            showlegend=True,
            legend={"orientation": "h", "y": -0.2, "yanchor": "top"},
        )
        return apply_theme(figure)

    @property
    def subset(self) -> Subset | None:
        """The images that were measured, if they are not all."""
        return Subset.if_partial(self.n, self.of, stratified=self.is_stratified)

    def table(self) -> pd.DataFrame:
        """Return one row per run and number of Gaussians."""
        means = self.likelihood.mean(axis=1)
        rows = [
            {
                "run": run,
                "modes": k,
                "nll": means[i, j],
                "reached": means[i, j] <= self.target,
                "needed": self.needed[i],
                "fewest": self.needed_by_split[i].min(),
                "most": self.needed_by_split[i].max(),
                "explained": self.explained[i],
            }
            for i, run in enumerate(self.runs)
            for j, k in enumerate(self.modes)
        ]
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """Return the number of Gaussians that each run needs, its basis, and its limits."""
        low, high = self.needed_by_split.min(axis=1), self.needed_by_split.max(axis=1)
        counts = []
        for i, run in enumerate(self.runs):
            text = f"{run} {self.needed[i]}"
            if low[i] < high[i]:
                text += f" ({low[i]} to {high[i]} over {NUM_FOLDS} splits)"
            counts.append(text)
        sentences = [
            f"Gaussians needed for {self.target:.1f} nats per image (the best value of the worst"
            f" run): {', '.join(counts)}.",
            f"Measured on held-out images ({self._sample}) in {self.components} principal"
            f" components, which explain at least {100 * min(self.explained):.0f} % of the variance"
            " of each run.",
            "Fewer Gaussians mean more clustered latents at this sample size, which only suggests"
            " fewer modes.",
        ]
        if max(self.needed) == self.modes[-1]:
            sentences.append(
                f"The worst run still improves at {self.modes[-1]}, the largest number tried."
            )
        if min(self.explained) <= MIN_EXPLAINED_VARIANCE:
            sentences.append(
                "That is below the 90 % of the paper: n or the smallest latents allow no more"
                " components."
            )
        if self.excluded:
            sentences.append(f"Excluded (other images): {', '.join(self.excluded)}.")
        return " ".join(sentences)

    @property
    def _sample(self) -> str:
        return describe_subset(self.n, self.of, stratified=self.is_stratified)

    def _draw_run(self, figure: go.Figure, index: int) -> None:
        run, needed = self.runs[index], self.needed[index]
        color = colors_of_runs(self.runs, self.run_colors)[run]
        marker = {"color": color, "symbol": SYMBOLS[index % 7]}
        figure.add_scatter(
            x=self.modes,
            y=self.likelihood[index].mean(axis=0),
            mode="lines+markers",
            line_color=color,
            marker={**marker, "size": 7},
            name=run,
            legendgroup=run,
            hovertemplate=f"{run}, %{{x}} Gaussians: %{{y:.4~g}} nats<extra></extra>",
            row=1,
            col=1,
        )
        splits = self.needed_by_split[index]
        bars: dict[str, Any] = {
            "type": "data",
            "symmetric": False,
            "thickness": 1.5,
            "array": [splits.max() - needed],
            "arrayminus": [needed - splits.min()],
        }
        figure.add_scatter(
            x=[needed],
            y=[run],
            error_x=bars,
            mode="markers",
            marker={**marker, "size": 11},
            name=run,
            legendgroup=run,
            showlegend=False,
            hovertemplate=f"{run}: %{{x}} Gaussians<extra></extra>",
            row=1,
            col=2,
        )


def mode_comparison(
    evidences: Sequence[Evidence],
    *,
    max_modes: Annotated[int, Range(2, 64)] = 24,
    components: Annotated[int, Range(0, MAX_COMPONENTS)] = 0,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> ModeComparison:
    """Count the Gaussians that the latents of each run need to be as likely as the worst run.

    The mixtures have diagonal covariances. Components and mixtures are fitted to four fifths of
    the images and evaluated on the others.

    Parameters
    ----------
    evidences : sequence of Evidence
        Evidence of the selected runs. Runs without latents are ignored. Runs with other images
        than the first are excluded and named in the result.
    max_modes : int
        Largest number of Gaussians to try. It is reduced to a tenth of the number of images.
    components : int
        Number of principal components. 0 means as many as explain more than 90 % of the variance
        of every run, up to 64.
    seed : int
        Seed of all random draws.

    Returns
    -------
    ModeComparison
        Held-out likelihood of mixtures of 1 to `max_modes` Gaussians for every run.

    Raises
    ------
    NotApplicable
        If no run has latents, or a run has constant latents or fewer than 50 images.
    UserError
        If a latent is NaN or infinite.
    """
    with_latents = [(e, e.latents) for e in evidences if e.latents is not None]
    if not with_latents:
        raise NotApplicable("Comparing modes needs latents; no selected run has any.")
    first, first_latents = with_latents[0]
    images = image_set(first, first_latents)
    comparable = [(e, x) for e, x in with_latents if image_set(e, x) == images]
    class_names(first.labels, (), len(first_latents))
    random = np.random.default_rng(seed)
    widest = max(int(np.prod(x.shape[1:])) for _, x in comparable)
    max_images = affordable_images(widest, MAX_IMAGES)
    indices = subsample(len(first_latents), max_images, random, first.labels)
    rows = [flatten_latents(x[indices], MIN_IMAGES, "Comparing modes") for _, x in comparable]
    num_components, explained = _select_components(rows, components)
    modes = mode_grid(min(max_modes, len(indices) // 10))
    likelihood = _negative_log_likelihood(rows, num_components, modes, seed)
    needed, target = _needed_modes(likelihood.mean(axis=1), modes)
    needed_by_split = [_needed_modes(split, modes)[0] for split in likelihood.transpose(1, 0, 2)]
    return ModeComparison(
        runs=distinct_names([e for e, _ in comparable]),
        needed=tuple(needed.tolist()),
        needed_by_split=np.stack(needed_by_split, axis=1),
        target=target,
        modes=modes,
        likelihood=likelihood,
        components=num_components,
        explained=explained,
        n=len(indices),
        of=len(first_latents),
        is_stratified=first.labels is not None,
        seed=seed,
        excluded=tuple(e.run_name for e, x in with_latents if image_set(e, x) != images),
    )


def _select_components(rows: Sequence[np.ndarray], requested: int) -> tuple[int, tuple[float, ...]]:
    """Return the number of components, and the share of the variance of each run they explain."""
    spectra = []
    for x in rows:
        values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
        spectra.append(values / values.sum())
    if not requested:
        requested = max(
            int(np.searchsorted(s.cumsum(), MIN_EXPLAINED_VARIANCE)) + 1 for s in spectra
        )
    ranks = [int((s > 1e-9 * s[0]).sum()) for s in spectra]
    num_components = min(requested, MAX_COMPONENTS, len(rows[0]) // NUM_FOLDS, *ranks)
    return num_components, tuple(float(s[:num_components].sum()) for s in spectra)


def _negative_log_likelihood(
    rows: Sequence[np.ndarray], components: int, modes: np.ndarray, seed: int
) -> np.ndarray:
    """Compute the mean over held-out images, in nats, shape (runs, splits, m)."""
    from sklearn.decomposition import PCA
    from sklearn.model_selection import KFold

    training_sets, test_sets = [], []
    for x in rows:
        for train, test in KFold(NUM_FOLDS, shuffle=True, random_state=seed).split(x):
            pca = PCA(components, whiten=True, random_state=seed).fit(x[train])
            training_sets.append(pca.transform(x[train]))
            test_sets.append(pca.transform(x[test]))
    fits = fit_sweeps(training_sets, modes.tolist(), "diag", seed)
    means = [
        [-mixture.density(points).mean() for mixture in mixtures]
        for mixtures, points in zip(fits, test_sets, strict=True)
    ]
    return np.array(means).reshape(len(rows), NUM_FOLDS, len(modes))


def _needed_modes(likelihood: np.ndarray, modes: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the fewest modes (runs,) that reach the target, and the target.

    The target is the best value of the worst run, for negative log-likelihoods (runs, m).
    """
    target = float(likelihood.min(axis=1).max())
    return modes[(likelihood <= target).argmax(axis=1)], target
