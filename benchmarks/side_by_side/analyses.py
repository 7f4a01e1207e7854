"""Analyses, compared with scikit-learn, faiss and umap-learn on the CPU.

If both sides approximate, their side is the cheapest of several ways to call the package that is
at least as good as ours, or the last one if none is. The table shows the quality of both.
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

from .measure import Comparison
from .sizes import Size

# Differences that count as equal.
LIKELIHOOD_TOLERANCE = 0.01  # nats
ACCURACY_TOLERANCE = 0.01
ERROR_TOLERANCE = 0.02  # as a fraction of theirs
TRUST_TOLERANCE = 0.02
MIN_EQUAL_CODES = 0.999
FUSED_DISTANCES = (
    "faiss keeps only the smallest distance; torch writes all of them, in parts that fit a cache."
)
Method = tuple[str, Callable[[], Any]]  # name and work


def comparisons(size: Size, device: str) -> Iterator[Callable[[], Comparison]]:
    """Yield functions that create the comparisons; there is none for a GPU."""
    if device != "cpu":
        return
    for reference in ("scikit-learn", "faiss"):
        yield partial(nearest_codes, reference, size)
    for reference in ("scikit-learn", "faiss"):
        yield partial(k_means, reference, size)
    yield partial(two_level_k_means, size)
    for point_set in (known_modes, digits):
        yield partial(mixtures, point_set, size)
    for select_penalty in (False, True):
        yield partial(linear_probe, select_penalty, size)
    yield partial(umap_map, size)


def nearest_codes(reference: str, size: Size) -> Comparison:
    """Compare an exact search of the nearest codewords."""
    num_tokens, codebook_size = size.nearest
    tokens = features(num_tokens, size.channels, 1)
    codewords = features(codebook_size, size.channels, 0)
    token_array, codeword_array = tokens.numpy(), codewords.numpy()
    if reference == "faiss":
        import faiss

        index = faiss.IndexFlatL2(size.channels)
        index.add(codeword_array)

        def theirs() -> np.ndarray:
            return index.search(token_array, 1)[1][:, 0]
    else:
        from sklearn.metrics import pairwise_distances_argmin

        theirs = partial(pairwise_distances_argmin, token_array, codeword_array)

    def check(ours: Tensor, theirs: np.ndarray) -> tuple[bool, str]:
        equal_codes = float((ours.numpy() == theirs).mean())
        return equal_codes > MIN_EQUAL_CODES, f"{equal_codes:.2%} of codes"

    return Comparison(
        work=f"nearest codes, K={codebook_size}",
        sizes=f"{num_tokens:,} tokens of {size.channels}",
        reference=reference,
        ours=partial(nearest_code, tokens, codewords),
        theirs=theirs,
        check=check,
        slowdown_reason=FUSED_DISTANCES,
    )


def k_means(reference: str, size: Size) -> Comparison:
    """Compare Lloyd's algorithm with the same initial centroids and number of rounds."""
    num_points, num_centroids, rounds = size.kmeans
    points = features(num_points, size.channels, 0)
    initial = random_rows(points, num_centroids)

    def ours() -> Tensor:
        return run_lloyd(points, initial, rounds, torch.Generator().manual_seed(0))

    their_kmeans = faiss_kmeans if reference == "faiss" else sklearn_kmeans
    return Comparison(
        work=f"k-means, K={num_centroids}",
        sizes=f"{num_points:,} x {size.channels}, {rounds} rounds, equal initialization",
        reference=reference,
        ours=ours,
        theirs=partial(their_kmeans, points, initial, rounds),
        check=partial(_compare_errors, points),
        slowdown_reason=f"{FUSED_DISTANCES} builder=faiss uses faiss here too.",
    )


def two_level_k_means(size: Size) -> Comparison:
    """Compare the two-level clustering of recipes with flat k-means from random points."""
    num_points, num_centroids, rounds = size.two_level_kmeans
    points = features(num_points, size.channels, 0)
    initial = random_rows(points, num_centroids)
    return Comparison(
        work=f"two-level codes, K={num_centroids}",
        sizes=f"{num_points:,} x {size.channels}, {rounds} rounds",
        reference="faiss, flat",
        ours=partial(cluster, points, num_centroids, rounds=rounds),
        theirs=partial(faiss_kmeans, points, initial, rounds),
        check=partial(_compare_errors, points),
    )


def random_rows(points: Tensor, count: int) -> Tensor:
    """Return random rows, always the same ones."""
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    return points[order[:count]]


def faiss_kmeans(points: Tensor, initial: Tensor, rounds: int) -> Tensor:
    """Run faiss on all points; by default it uses only a sample of them."""
    import faiss

    kmeans = faiss.Kmeans(
        points.shape[1],
        len(initial),
        niter=rounds,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    kmeans.train(points.numpy(), init_centroids=initial.numpy())
    return torch.from_numpy(kmeans.centroids)


def sklearn_kmeans(points: Tensor, initial: Tensor, rounds: int) -> Tensor:
    """Run scikit-learn for exactly this many rounds."""
    from sklearn.cluster import KMeans

    kmeans = KMeans(len(initial), init=initial.numpy(), n_init=1, max_iter=rounds, tol=0)
    return torch.from_numpy(kmeans.fit(points.numpy()).cluster_centers_)


def _compare_errors(points: Tensor, ours: Tensor, theirs: Tensor) -> tuple[bool, str]:
    """Compare the quantization errors of two sets of centroids."""
    our_error, their_error = (
        (points - centroids[nearest_code(points, centroids)]).square().sum().item()
        for centroids in (ours, theirs)
    )
    agrees = our_error <= (1 + ERROR_TOLERANCE) * their_error
    return agrees, f"error {our_error / their_error:.3f} of theirs"


def mixtures(point_set: Callable[[int], np.ndarray], size: Size) -> Comparison:
    """Compare cross-validated Gaussian mixtures of many sizes with a plain loop over them.

    Both have the same lower bound on variances.
    """
    points = point_set(size.mixture_points)
    modes = mode_grid(size.max_modes)

    def ours() -> float:
        return float(cross_validate_mixtures([points], modes, "diag", 0)[0][0].likelihood.mean())

    methods = [(f"{n} starts", partial(fit_mixtures, points, modes, n)) for n in (1, 3, 10)]
    method, theirs = first_as_good(methods, ours() - LIKELIHOOD_TOLERANCE)
    name = point_set.__name__.replace("_", " ")
    return Comparison(
        work=f"mixtures of 1 to {modes[-1]}",
        sizes=f"{name}, {len(points):,} x {points.shape[1]}, {NUM_FOLDS} folds and all points",
        reference=f"GaussianMixture, {method}",
        ours=ours,
        theirs=theirs,
        check=partial(_at_least_as_good, "nats", LIKELIHOOD_TOLERANCE),
    )


def fit_mixtures(points: np.ndarray, modes: Sequence[int], starts: int) -> float:
    """Return the mean held-out likelihood of scikit-learn's mixtures.

    The mixtures are fitted to all points as well, because ours are.
    """
    from sklearn.mixture import GaussianMixture
    from sklearn.model_selection import KFold

    likelihoods = np.empty((len(points), len(modes)))
    folds = list(KFold(NUM_FOLDS, shuffle=True, random_state=0).split(points))
    all_points = (np.arange(len(points)), np.arange(0))
    for training, held_out in (*folds, all_points):
        for column, num_modes in enumerate(modes):
            mixture = GaussianMixture(
                num_modes,
                covariance_type="diag",
                n_init=starts,
                reg_covar=VARIANCE_FLOOR,
                random_state=0,
            )
            mixture.fit(points[training])
            if len(held_out):
                likelihoods[held_out, column] = mixture.score_samples(points[held_out])
    return float(likelihoods.mean())


def linear_probe(select_penalty: bool, size: Size) -> Comparison:
    """Compare logistic regression on 70 % of the digits.

    Their side either uses its default penalty, or selects one of our penalties.
    """
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

    order = np.random.default_rng(0).permutation(1797)[: size.probe_images]
    rows, labels = (array[order] for array in load_digits(return_X_y=True))
    rows = standardize(rows).astype(float)
    num_training = int(0.7 * len(rows))
    training, test = slice(0, num_training), slice(num_training, None)
    num_validation = num_training // 5  # our probe validates penalties on the same fifth
    fold = (np.arange(num_validation, num_training), np.arange(num_validation))

    def ours() -> float:
        predicted = logistic_probe(rows[training], labels[training], rows[test])
        return float((predicted == labels[test]).mean())

    def theirs() -> float:
        if select_penalty:
            regression = LogisticRegressionCV(
                Cs=INVERSE_PENALTIES, cv=[fold], max_iter=1000, tol=1e-3, scoring="accuracy"
            )
        else:
            regression = LogisticRegression()
        regression.fit(rows[training], labels[training])
        return float(regression.score(rows[test], labels[test]))

    reason = "Ours needs seven fits to select one of six penalties; theirs is a single fit."
    if select_penalty:
        reason = (
            "Theirs starts each fit from the previous penalty's solution, so that it needs fewer "
            "iterations, and it stops earlier."
        )
    return Comparison(
        work="linear probe",
        sizes=f"{len(rows):,} digits x {rows.shape[1]}",
        reference="LogisticRegressionCV" if select_penalty else "LogisticRegression()",
        ours=ours,
        theirs=theirs,
        check=partial(_at_least_as_good, "accuracy", ACCURACY_TOLERANCE),
        slowdown_reason=reason,
    )


def umap_map(size: Size) -> Comparison:
    """Compare UMAP: ours is reproducible and of 50 principal components, theirs has defaults."""
    from umap import UMAP

    random, width = np.random.default_rng(0), 512
    centers = random.standard_normal((50, width), np.float32)
    noise = random.standard_normal((size.map_points, width), np.float32)
    rows = standardize(centers[np.arange(size.map_points) % 50] + noise)

    def check(ours: np.ndarray, theirs: np.ndarray) -> tuple[bool, str]:
        our_trust, their_trust = (
            embedding_quality(rows, points, 15, 0)[0] for points in (ours, theirs)
        )
        return _at_least_as_good("trust", TRUST_TOLERANCE, our_trust, their_trust)

    return Comparison(
        work="map by UMAP",
        sizes=f"{len(rows):,} x {width}",
        reference="umap.UMAP()",
        ours=partial(embed, rows, "umap", 15, 0),
        theirs=lambda: UMAP().fit_transform(rows),
        check=check,
        slowdown_reason="Ours uses one thread, which makes it reproducible; theirs uses all.",
    )


def first_as_good(methods: Sequence[Method], min_quality: float) -> Method:
    """Return the first method of at least this quality; the last one if there is none."""
    for method in methods[:-1]:
        if method[1]() >= min_quality:
            return method
    return methods[-1]


def _at_least_as_good(
    quality: str, tolerance: float, ours: float, theirs: float
) -> tuple[bool, str]:
    return ours >= theirs - tolerance, f"{quality} {ours:.3f} and {theirs:.3f}"


def features(count: int, dim: int, seed: int) -> Tensor:
    """Return draws from a mixture of 500 Gaussians, the k-th of weight proportional to 1 / k."""
    generator = torch.Generator().manual_seed(seed)
    means = 3 * torch.randn(500, dim, generator=torch.Generator().manual_seed(0))
    weights = 1 / torch.arange(1, 501).float()
    components = torch.multinomial(weights, count, replacement=True, generator=generator)
    return means[components] + torch.randn(count, dim, generator=generator)


def known_modes(count: int) -> np.ndarray:
    """Return points of twelve equal spherical modes in 16 dimensions, about 8 deviations apart."""
    random, dim = np.random.default_rng(0), 16
    means = random.normal(size=(12, dim)) * 8 / np.sqrt(2 * dim)
    points = means[random.integers(0, 12, count)] + random.normal(size=(count, dim))
    return standardize(points).astype(float)


def digits(count: int) -> np.ndarray:
    """Return scanned digits in their first 16 principal components."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    return standardize(PCA(16, random_state=0).fit_transform(load_digits().data[:count])).astype(
        float
    )
