"""How many clusters a latent space holds: mixtures of Gaussians judged by images they were not fitted to.

After MAETok (arXiv 2502.03444, section 2), which compares tokenizers by the likelihood of mixtures on flattened,
reduced, standardised latents. Here: held-out likelihood, exact EM, a range instead of a number, and a Gaussian null.
A likelihood says how clusterable latents are, which is a proxy for how many modes they have.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.inputs import one_row_an_image
from workbench.analysis.result import Range, Result
from workbench.analysis.style import COLOURS, themed

FOLDS, STARTS, RESAMPLES = 5, 10, 200
FLOOR = 1e-3  # least variance of a component, where the latents' own is 1
Covariance = Literal["diag", "full", "tied"]


@dataclass(frozen=True, eq=False)
class MixtureModes(Result):
    """How many modes: a best number, a range, the curve they are read off, and the null that must answer 1."""

    best: int  # the fewest modes within one paired standard error of the highest held-out likelihood
    low: int  # 5th and 95th percentile of that rule over images drawn again with replacement
    high: int
    null_best: int  # the same rule on a Gaussian with the same n, mean and covariance
    n: int
    components: int  # principal components kept
    explained: float  # share of the variance they hold
    covariance: Covariance
    seed: int
    modes: np.ndarray = field(repr=False)  # (m,) numbers of modes that were tried
    loglikelihood: np.ndarray = field(repr=False)  # (n, m) held-out, nats an image
    gain: np.ndarray = field(repr=False)  # (m,) nats an image over one mode, held out
    gain_error: np.ndarray = field(repr=False)  # (m,) its paired standard error
    null_gain: np.ndarray = field(repr=False)  # (m,) the same for the null
    bic: np.ndarray = field(repr=False)  # (m,) of a fit to all images; lower is better
    assignment: np.ndarray = field(repr=False)  # int (n,): each image's mode, the largest mode first
    warnings: tuple[str, ...]

    def figure(self) -> go.Figure:
        """The gain of each number of modes, with the null below it, and how many images each mode holds."""
        figure = make_subplots(rows=1, cols=2, column_widths=[0.62, 0.38], horizontal_spacing=0.12)
        band = {"x": [*self.modes, *self.modes[::-1]], "fill": "toself", "mode": "lines", "line": {"width": 0}}
        edges = [*(self.gain + self.gain_error), *(self.gain - self.gain_error)[::-1]]
        figure.add_scatter(**band, y=edges, fillcolor="rgba(0,114,178,0.25)", hoverinfo="skip", name="± 1 s.e.")
        latents = {"mode": "lines+markers", "line_color": COLOURS[0], "name": "latents"}
        figure.add_scatter(x=self.modes, y=self.gain, **latents)
        null = {"mode": "lines", "line": {"color": COLOURS[6], "dash": "dash"}, "name": "Gaussian null"}
        figure.add_scatter(x=self.modes, y=self.null_gain, **null)
        chosen = {"mode": "markers", "marker": {"symbol": "star", "size": 15, "color": COLOURS[5]}}
        at_best = self.gain[self.modes == self.best]
        figure.add_scatter(x=[self.best], y=at_best, name=f"best, {self.best}", **chosen)
        shade = {"fillcolor": COLOURS[1], "opacity": 0.25, "line_width": 0, "layer": "below"}
        figure.add_vrect(x0=self.low - 0.4, x1=self.high + 0.4, row=1, col=1, **shade)
        sizes = np.bincount(self.assignment)
        figure.add_bar(x=np.arange(len(sizes)), y=sizes, marker_color=COLOURS[0], showlegend=False, row=1, col=2)
        figure.update_xaxes(title="number of modes", row=1, col=1)
        figure.update_yaxes(title="held-out gain, nats an image", row=1, col=1)
        figure.update_xaxes(title=f"mode, largest first (of {self.best})", row=1, col=2)
        figure.update_yaxes(title="images", row=1, col=2)
        title = f"{self._range()} (90 % range, shaded; best {self.best})"
        figure.update_layout(title={"text": title, "subtitle": {"text": self._caption()}}, height=440)
        figure.update_layout(legend={"orientation": "h", "y": -0.2, "yanchor": "top"})
        return themed(figure)

    def table(self) -> pd.DataFrame:
        """One row for each number of modes: held-out log-likelihood, gain and BIC, and whether the range holds it."""
        columns = {"modes": self.modes, "loglikelihood": self.loglikelihood.mean(axis=0), "gain": self.gain}
        columns |= {"gain_error": self.gain_error, "null_gain": self.null_gain, "bic": self.bic}
        inside = (self.low <= self.modes) & (self.modes <= self.high)
        return pd.DataFrame({**columns, "in_range": inside, "best": self.modes == self.best})

    def summary(self) -> str:
        """The range, what it was read off, what the null says, and what to beware of."""
        lead = f"{self._range()} (90 % range, best {self.best}) by held-out likelihood on {self.components} principal"
        basis = f"components ({self.explained:.0%} of the variance) of {self.n:,} images"
        null = f"a Gaussian with the same covariance gives {self.null_best}"
        return " ".join([f"{lead} {basis}; {null}.".replace("%", " %").replace("  %", " %"), *self.warnings])

    def _range(self) -> str:
        numbers = f"{self.low}" if self.low == self.high else f"{self.low}-{self.high}"
        return f"{numbers} mode{'' if numbers == '1' else 's'}"

    def _caption(self) -> str:
        kept = f"{self.components} components, {100 * self.explained:.0f} % of the variance"
        return f"n = {self.n:,} images · {kept} · {self.covariance} covariance · seed {self.seed}"


def mixture_modes(
    latents: np.ndarray,
    *,
    components: Annotated[int, Range(2, 64)] = 16,
    most: Annotated[int, Range(2, 64)] = 24,
    covariance: Covariance = "diag",
    seed: Annotated[int, Range(0, 999)] = 0,
) -> MixtureModes:
    """Count the modes of latents (n, tokens, d), an image a point: PCA, whitening, EM, 5-fold cross-validation.

    `components` and `most` (the most modes tried) are lowered to what n and the latents' rank allow, with a warning.
    Raises NotApplicable for under 50 images or constant latents, UserError for NaN.
    """
    rows = one_row_an_image(latents, 50, "Counting modes")
    points, explained = _whitened(rows, components)
    (n, kept), allowed = points.shape, min(most, len(rows) // 10)
    modes = _grid(allowed)
    gaussian, _ = _whitened(np.random.default_rng(seed).standard_normal(points.shape), kept)
    with _one_thread():
        likelihood, null = (_held_out(x, modes, covariance, seed) for x in (points, gaussian))
        fits = [_fit(points, k, covariance, seed) for k in modes]
    best = int(modes[_fewest(likelihood)])
    low, high = _resampled(likelihood, modes, seed)
    gain = likelihood - likelihood[:, :1]
    return MixtureModes(
        *(best, low, high, int(modes[_fewest(null)])),
        *(n, kept, explained, covariance, seed),
        modes=modes,
        loglikelihood=likelihood,
        gain=gain.mean(axis=0),
        gain_error=gain.std(axis=0, ddof=1) / np.sqrt(n),
        null_gain=(null - null[:, :1]).mean(axis=0),
        bic=np.array([fit.bic(points) for fit in fits]),
        assignment=_largest_first(fits[list(modes).index(best)].predict(points)),
        warnings=_warnings(n, best, high, (components, kept), (most, allowed), explained),
    )


def _whitened(rows: np.ndarray, components: int) -> tuple[np.ndarray, float]:
    """Principal components with mean 0 and variance 1, and the share of the variance they hold."""
    from sklearn.decomposition import PCA

    most = min(components, rows.shape[1], len(rows) // FOLDS)
    pca = PCA(most, whiten=True, svd_solver="full").fit(rows)
    # A direction without variance would be noise, blown up to variance 1.
    kept = int((pca.explained_variance_ > 1e-9 * pca.explained_variance_[0]).sum())
    return pca.transform(rows)[:, :kept], float(pca.explained_variance_ratio_[:kept].sum())


def _one_thread() -> AbstractContextManager:
    """Thousands of tiny matrix products: threads that wait for each other on a busy machine cost far more."""
    import sklearn.cluster  # noqa: F401  only libraries that are loaded already can be limited
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def _grid(most: int) -> np.ndarray:
    sparse = (18, 20, 24, 28, 32, 40, 48, 56, 64)
    return np.unique([k for k in (*range(1, 17), *sparse, most) if k <= most])


def _fit(points: np.ndarray, modes: int, covariance: Covariance, seed: int) -> "GaussianMixture":  # noqa: F821
    """A mixture by EM from the best of several k-means++ starts: of well separated modes, EM alone merges some."""
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    start = KMeans(modes, n_init=STARTS, random_state=seed).fit(points)
    d = points.shape[1]
    precision = 1 / max(start.inertia_ / points.size, FLOOR)
    shapes = {"diag": np.ones((modes, d)), "tied": np.eye(d), "full": np.tile(np.eye(d), (modes, 1, 1))}
    mixture = GaussianMixture(
        modes, covariance_type=covariance, reg_covar=FLOOR, max_iter=1000, random_state=seed,
        init_params="random_from_data", means_init=start.cluster_centers_,
        weights_init=np.bincount(start.labels_, minlength=modes) / len(points),
        precisions_init=shapes[covariance] * precision,
    )  # fmt: skip
    return mixture.fit(points)


def _held_out(points: np.ndarray, modes: np.ndarray, covariance: Covariance, seed: int) -> np.ndarray:
    """The log-density (n, m), in nats, of each image under mixtures fitted to the other folds."""
    from sklearn.model_selection import KFold

    scores = np.empty((len(points), len(modes)))
    for rest, out in KFold(FOLDS, shuffle=True, random_state=seed).split(points):
        for j, k in enumerate(modes):
            scores[out, j] = _fit(points[rest], k, covariance, seed).score_samples(points[out])
    return scores


def _fewest(scores: np.ndarray) -> int:
    """The first column whose mean is within one standard error, paired over images, of the highest mean."""
    lost = scores[:, [scores.mean(axis=0).argmax()]] - scores
    error = lost.std(axis=0, ddof=1) / np.sqrt(len(lost))
    return int(np.flatnonzero(lost.mean(axis=0) <= error)[0])


def _resampled(scores: np.ndarray, modes: np.ndarray, seed: int) -> tuple[int, int]:
    random, n = np.random.default_rng(seed), len(scores)
    answers = [modes[_fewest(scores[random.integers(0, n, n)])] for _ in range(RESAMPLES)]
    low, high = np.percentile(answers, [5, 95], method="nearest")
    return int(low), int(high)


def _largest_first(assignment: np.ndarray) -> np.ndarray:
    order = np.argsort(-np.bincount(assignment), kind="stable")
    return np.argsort(order)[assignment]


def _warnings(
    n: int, best: int, high: int, components: tuple[int, int], most: tuple[int, int], explained: float
) -> tuple[str, ...]:
    asked, kept = components
    tried = most[1]
    said = {
        f"Only {kept} of {asked} components: n and the latents' rank allow no more.": kept < asked,
        f"No more than {tried} modes were tried, with {n} images.": tried < most[0],
        f"The range touches {tried}, the most that was tried: there may be more.": max(best, high) >= tried,
        f"{n:,} images are fewer than 10 for each mode and component ({10 * best * kept:,}).": n < 10 * best * kept,
        f"The components hold only {100 * explained:.0f} % of the variance.": explained < 0.9,
    }
    return tuple(sentence for sentence, true in said.items() if true)
