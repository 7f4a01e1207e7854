"""Analyses beside scikit-learn, faiss and umap-learn, on the processor.

Where both sides end in an approximation, theirs is the cheapest of several ways to call the package that comes out at
least as good as ours (the last one, where none does); both qualities are told.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.analysis.latents.cross_validation import (
    NUM_FOLDS,
    cross_validate_mixtures,
    mode_grid,
)
from workbench.analysis.latents.embeddings import embed, embedding_quality, standardize
from workbench.analysis.latents.probes import INVERSE_PENALTIES, logistic_probe
from workbench.analysis.stats.mixtures import VARIANCE_FLOOR
from workbench.quantizers.clustering import cluster, run_lloyd
from workbench.quantizers.nearest import nearest_code

from .measure import Pair
from .sizes import Size

NATS, ACCURACY, ERROR, TRUST = 0.01, 0.01, 0.02, 0.02  # what counts as equal; ERROR as a share
FUSED = "faiss keeps the least distance as it computes them; torch writes them all, in parts that fit a cache."
Way = tuple[str, Callable[[], Any]]  # a name, and work


def pairs(size: Size, device: str) -> Iterator[Callable[[], Pair]]:
    """Every comparison, each made when it is its turn; none has anything to do on a GPU."""
    if device == "cpu":
        for public in ("scikit-learn", "faiss"):
            yield partial(looking_up, public, size)
        for public in ("scikit-learn", "faiss"):
            yield partial(k_means, public, size)
        yield partial(two_level, size)
        for cloud in (known_modes, digits):
            yield partial(mixtures, cloud, size)
        for chosen in (False, True):
            yield partial(probing, chosen, size)
        yield partial(mapping, size)


def looking_up(public: str, size: Size) -> Pair:
    """The nearest codes, exactly."""
    count, codes = size.looked_up
    tokens, words = features(count, size.channels, 1), features(codes, size.channels, 0)
    rows, book = tokens.numpy(), words.numpy()
    if public == "faiss":
        import faiss

        index = faiss.IndexFlatL2(size.channels)
        index.add(book)
        theirs = lambda: index.search(rows, 1)[1][:, 0]  # noqa: E731
    else:
        from sklearn.metrics import pairwise_distances_argmin

        theirs = partial(pairwise_distances_argmin, rows, book)

    def check(mine: Tensor, its: np.ndarray) -> tuple[bool, str]:
        equal = float((mine.numpy() == its).mean())
        return equal > 0.999, f"{equal:.2%} of codes"

    sizes = f"{count:,} tokens of {size.channels}"
    return Pair(
        f"nearest codes, K={codes}",
        sizes,
        public,
        partial(nearest_code, tokens, words),
        theirs,
        check,
        FUSED,
    )


def k_means(public: str, size: Size) -> Pair:
    """Lloyd's algorithm from one start, for as many rounds."""
    count, codes, rounds = size.clustered
    rows = features(count, size.channels, 0)
    start = rows[torch.randperm(count, generator=torch.Generator().manual_seed(0))[:codes]]

    def ours() -> Tensor:
        return run_lloyd(rows, start, rounds, torch.Generator().manual_seed(0))

    theirs = partial(faiss_kmeans if public == "faiss" else sklearn_kmeans, rows, start, rounds)
    sizes = f"{count:,} x {size.channels}, {rounds} rounds from one start"
    return Pair(
        f"k-means, K={codes}",
        sizes,
        public,
        ours,
        theirs,
        partial(_errors, rows),
        f"{FUSED} Ours takes it too, as builder=faiss.",
    )


def two_level(size: Size) -> Pair:
    """Many codes in two levels, as recipes build them, beside the flat algorithm from random tokens."""
    count, codes, rounds = size.two_level
    rows = features(count, size.channels, 0)
    start = rows[torch.randperm(count, generator=torch.Generator().manual_seed(0))[:codes]]
    ours = partial(cluster, rows, codes, rounds=rounds)
    sizes = f"{count:,} x {size.channels}, {rounds} rounds"
    return Pair(
        f"two-level codes, K={codes}",
        sizes,
        "faiss, flat",
        ours,
        partial(faiss_kmeans, rows, start, rounds),
        partial(_errors, rows),
    )


def faiss_kmeans(rows: Tensor, start: Tensor, rounds: int) -> Tensor:
    """faiss on all tokens; by default it would leave most of them out."""
    import faiss

    all_of_them = {"min_points_per_centroid": 1, "max_points_per_centroid": len(rows)}
    kmeans = faiss.Kmeans(rows.shape[1], len(start), niter=rounds, **all_of_them)
    kmeans.train(rows.numpy(), init_centroids=start.numpy())
    return torch.from_numpy(kmeans.centroids)


def sklearn_kmeans(rows: Tensor, start: Tensor, rounds: int) -> Tensor:
    """scikit-learn for exactly so many rounds."""
    from sklearn.cluster import KMeans

    made = KMeans(len(start), init=start.numpy(), n_init=1, max_iter=rounds, tol=0)
    return torch.from_numpy(made.fit(rows.numpy()).cluster_centers_)


def _errors(rows: Tensor, mine: Tensor, its: Tensor) -> tuple[bool, str]:
    a, b = ((rows - book[nearest_code(rows, book)]).square().sum().item() for book in (mine, its))
    return a <= (1 + ERROR) * b, f"error {a / b:.3f} of theirs"


def mixtures(cloud: Callable[[int], np.ndarray], size: Size) -> Pair:
    """A cross-validated sweep over numbers of Gaussians, beside a plain loop; both have one floor under variances."""
    points, modes = cloud(size.mixed), mode_grid(size.modes)

    def ours() -> float:
        return float(cross_validate_mixtures([points], modes, "diag", 0)[0][0].likelihood.mean())

    ways = [(f"{n} starts", partial(loop, points, modes, n)) for n in (1, 3, 10)]
    theirs = as_good(ways, ours() - NATS)
    sizes = f"{cloud.__name__.replace('_', ' ')}, {len(points):,} x {points.shape[1]}, five folds and all"
    return Pair(
        f"mixtures of 1 to {modes[-1]}",
        sizes,
        f"GaussianMixture, {theirs[0]}",
        ours,
        theirs[1],
        partial(_as_good, "nats", NATS),
    )


def loop(points: np.ndarray, modes: Sequence[int], starts: int) -> float:
    """The mean held-out likelihood by scikit-learn, one fit after the other; with one of all points, as ours."""
    from sklearn.mixture import GaussianMixture
    from sklearn.model_selection import KFold

    scores, whole = np.empty((len(points), len(modes))), (np.arange(len(points)), np.arange(0))
    for rest, out in (*KFold(NUM_FOLDS, shuffle=True, random_state=0).split(points), whole):
        for j, k in enumerate(modes):
            made = GaussianMixture(
                k, covariance_type="diag", n_init=starts, reg_covar=VARIANCE_FLOOR, random_state=0
            )
            made.fit(points[rest])
            if len(out):
                scores[out, j] = made.score_samples(points[out])
    return float(scores.mean())


def probing(chosen: bool, size: Size) -> Pair:
    """Classes of digits by logistic regression on seven tenths, theirs as it comes or `chosen` among our penalties."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

    order = np.random.default_rng(0).permutation(1797)[: size.probed]
    rows, labels = (array[order] for array in load_digits(return_X_y=True))
    rows, cut = standardize(rows).astype(float), int(0.7 * len(rows))
    fit, test = slice(0, cut), slice(cut, None)
    fold = [(np.arange(cut // 5, cut), np.arange(cut // 5))]  # the fifth that ours chooses by

    def ours() -> float:
        return float((logistic_probe(rows[fit], labels[fit], rows[test]) == labels[test]).mean())

    def theirs() -> float:
        how = {
            "Cs": INVERSE_PENALTIES,
            "cv": fold,
            "max_iter": 1000,
            "tol": 1e-3,
            "scoring": "accuracy",
        }
        made = LogisticRegressionCV(**how) if chosen else LogisticRegression()
        return float(made.fit(rows[fit], labels[fit]).score(rows[test], labels[test]))

    agrees = partial(_as_good, "right", ACCURACY)
    public = "LogisticRegressionCV" if chosen else "LogisticRegression()"
    why = "Ours is seven fits, to choose one of six penalties; where any does, one fit is enough."
    if chosen:
        why = "Theirs begins each penalty's fit where the last one ended: fewer rounds, and it stops earlier."
    return Pair(
        "linear probe", f"{len(rows):,} digits x {rows.shape[1]}", public, ours, theirs, agrees, why
    )


def mapping(size: Size) -> Pair:
    """A map by UMAP: ours always the same for a seed and of 50 principal components, theirs as it comes."""
    from umap import UMAP

    random, width = np.random.default_rng(0), 512
    centres = random.standard_normal((50, width), np.float32)
    rows = centres[np.arange(size.mapped) % 50] + random.standard_normal(
        (size.mapped, width), np.float32
    )
    rows = standardize(rows)

    def check(mine: np.ndarray, its: np.ndarray) -> tuple[bool, str]:
        trust = [embedding_quality(rows, points, 15, 0)[0] for points in (mine, its)]
        return _as_good("trust", TRUST, *trust)

    ours = partial(embed, rows, "umap", 15, 0)
    why = "Ours is one thread, as only one repeats itself, though it has fewer components; theirs takes every core."
    sizes = f"{len(rows):,} x {width}"
    return Pair(
        "map by UMAP", sizes, "umap.UMAP()", ours, lambda: UMAP().fit_transform(rows), check, why
    )


def as_good(ways: Sequence[Way], least: float) -> Way:
    """The first way whose outcome is at least that; where there is none, the last."""
    return next((way for way in ways[:-1] if way[1]() >= least), ways[-1])


def _as_good(what: str, near: float, mine: float, its: float) -> tuple[bool, str]:
    return mine >= its - near, f"{what} {mine:.3f} and {its:.3f}"


def features(count: int, dim: int, seed: int) -> Tensor:
    """`count` draws from 500 Gaussians, the k-th as probable as 1 / k."""
    generator = torch.Generator().manual_seed(seed)
    means = 3 * torch.randn(500, dim, generator=torch.Generator().manual_seed(0))
    which = torch.multinomial(
        1 / torch.arange(1, 501).float(), count, replacement=True, generator=generator
    )
    return means[which] + torch.randn(count, dim, generator=generator)


def known_modes(n: int) -> np.ndarray:
    """Twelve equal spherical modes in 16 dimensions, about eight standard deviations apart."""
    random, dim = np.random.default_rng(0), 16
    means = random.normal(size=(12, dim)) * 8 / np.sqrt(2 * dim)
    return standardize(means[random.integers(0, 12, n)] + random.normal(size=(n, dim))).astype(
        float
    )


def digits(n: int) -> np.ndarray:
    """Scanned digits in their first 16 principal components."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    return standardize(PCA(16, random_state=0).fit_transform(load_digits().data[:n])).astype(float)
