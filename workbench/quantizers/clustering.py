"""Build codebooks by clustering features, as UniCode2 (arXiv:2506.20214) builds its 500,000 codes.

K-means with optional shrinkage minimizes the sum of |e - c|^2 over tokens plus lambda |c - mean of
the codes|^2 over codes.

Differences from the paper: the paper does not state which K-means it used, so there are several
builders.

- ``two-level``: sqrt(K) coarse cells share the codes between them, and each cell is clustered
  separately. The search in the finished codebook is still exact.
- ``flat``: Lloyd's algorithm, on any device.
- ``faiss``: Lloyd's algorithm of the faiss library, on the CPU and without shrinkage.
- ``sample``: random tokens, as a control.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from workbench.core.errors import UserError, missing_extra, unknown
from workbench.core.progress import report_progress
from workbench.quantizers.nearest import nearest_code

Builder = Literal["sample", "flat", "two-level", "faiss"]
Listener = Callable[[int, int], None]  # called with the finished and the total number of parts

ROWS_PER_CHUNK = 65536
TOKENS_PER_COARSE_CELL = 256  # tokens that determine one coarse cell
RELATIVE_NUDGE = 1e-3  # of a cell's radius: the distance by which its halves are moved apart
MIN_ERROR_FRACTION = 1e-12  # of the total error; a cell below it is one point, repeated and rounded


@dataclass(frozen=True)
class LloydStep:
    """Result of one round of Lloyd's algorithm."""

    codebook: Float[Tensor, "k d"]  # after the round
    counts: Int[Tensor, " k"]  # tokens per code, before the codes moved
    errors: Float[Tensor, " k"]  # their summed squared distances to the code, before it moved

    @property
    def error(self) -> float:
        """Return the mean squared distance of a token to its code, before the codes moved."""
        return (self.errors.sum() / self.counts.sum()).item()


@torch.no_grad()
def cluster(
    features: Float[Tensor, "t d"],
    codebook_size: int,
    *,
    builder: Builder = "two-level",
    shrinkage: float = 0.0,
    unit: bool = False,
    rounds: int = 10,
    passes: int = 1,
    labels: Int[Tensor, " t"] | None = None,
    seed: int = 0,
) -> Float[Tensor, "k d"]:
    """Cluster features into a codebook of distinct codewords.

    Reports its progress through `workbench.core.progress`.

    Parameters
    ----------
    features : Tensor, shape (tokens, dim)
        Features to cluster.
    codebook_size : int
        K, number of codewords.
    builder : {"sample", "flat", "two-level", "faiss"}
        Algorithm; see the module's docstring.
    shrinkage : float
        lambda, in tokens per code (tokens / K).
    unit : bool
        Spherical K-means: features are unit vectors, and means are scaled to unit norm.
    rounds : int
        Rounds of Lloyd's algorithm; with two levels, at each level.
    passes : int
        Rounds over the whole codebook after two levels. They take most of the time if K is large.
    labels : Tensor of int, shape (tokens,), optional
        Class of each token. Each class gets equally many codes, from its own tokens.
    seed : int
        Seed; on a CPU, the same seed gives the same codebook.

    Returns
    -------
    Tensor, shape (codebook_size, dim)
        The codewords; class by class if there are labels.

    Raises
    ------
    UserError
        If there are fewer distinct tokens than codes, if a feature is not finite, or if the builder
        does not support the options.
    """
    if builder not in get_args(Builder):
        raise unknown("builder", builder, get_args(Builder))
    if not torch.isfinite(features).all():
        raise UserError(
            "Features must be finite for clustering. Correct or drop those that are not."
        )
    generator = torch.Generator().manual_seed(seed)

    def build(tokens: Tensor, count: int, listener: Listener) -> Tensor:
        if builder == "two-level":
            return _two_level(
                tokens,
                count,
                rounds=rounds,
                passes=passes,
                generator=generator,
                listener=listener,
                shrinkage=shrinkage,
                unit=unit,
            )
        start = _distinct_sample(tokens, count, generator)
        if builder == "faiss":
            return _faiss(tokens, start, rounds, shrinkage=shrinkage, unit=unit)
        if builder == "sample":
            return start
        return run_lloyd(tokens, start, rounds, generator, listener, shrinkage=shrinkage, unit=unit)

    if labels is None:
        codebook = build(features, codebook_size, report_progress)
    else:
        codebook = _by_class(features, codebook_size, labels, build)
    return _replace_duplicates(codebook, features, generator)


@torch.no_grad()
def lloyd_step(
    features: Float[Tensor, "t d"],
    codebook: Float[Tensor, "k d"],
    *,
    shrinkage: float = 0.0,
    unit: bool = False,
    center: Float[Tensor, " d"] | None = None,
) -> LloydStep:
    """Move each code to (sum of its tokens + lambda center) / (count + lambda); codes without
    tokens stay.

    Parameters
    ----------
    features : Tensor, shape (tokens, dim)
        Features to cluster.
    codebook : Tensor, shape (codes, dim)
        Codes before the step.
    shrinkage : float
        lambda in tokens per code: lambda = shrinkage tokens / codes.
    unit : bool
        Scale the means to unit norm.
    center : Tensor, shape (dim,), optional
        Target of the shrinkage; by default the mean code before the step.

    Returns
    -------
    LloydStep
        The new codebook, and counts and errors of the old one.
    """
    codes = nearest_code(features, codebook)
    counts = torch.bincount(codes, minlength=len(codebook))
    sums = torch.zeros_like(codebook).index_add_(0, codes, features)
    chunks = zip(features.split(ROWS_PER_CHUNK), codes.split(ROWS_PER_CHUNK), strict=True)
    distances = torch.cat(
        [(chunk - codebook[chunk_codes]).square().sum(dim=-1) for chunk, chunk_codes in chunks]
    )
    errors = torch.zeros_like(codebook[:, 0]).index_add_(0, codes, distances)
    weight = shrinkage * len(features) / len(codebook)
    target = codebook.mean(dim=0) if center is None else center
    means = (sums + weight * target) / (counts[:, None] + weight)
    if unit:
        means = F.normalize(means, dim=-1)
    moved = torch.where(counts[:, None] > 0, means, codebook)
    return LloydStep(codebook=moved, counts=counts, errors=errors)


@torch.no_grad()
def refill_empty_codes(
    step: LloydStep, generator: torch.Generator, *, unit: bool = False
) -> Float[Tensor, "k d"]:
    """Move each code without tokens next to a code with a large error, at a small distance.

    Cells are split by their error and not by their size: the largest cell may be one feature,
    repeated.

    Parameters
    ----------
    step : LloydStep
        A round of Lloyd's algorithm.
    generator : torch.Generator
        Source of the directions in which the pairs are moved apart.
    unit : bool
        Scale the codes to unit norm.

    Returns
    -------
    Tensor, shape (codes, dim)
        The codebook after the step, with the empty codes moved.
    """
    empty = (step.counts == 0).nonzero()[:, 0]
    num_divisible = int((step.errors > MIN_ERROR_FRACTION * step.errors.sum()).sum().item())
    divided = step.errors.topk(min(len(empty), num_divisible)).indices
    directions = torch.randn(len(divided), step.codebook.shape[1], generator=generator)
    directions = directions.to(step.codebook)
    radius = (step.errors[divided] / step.counts[divided]).sqrt()
    nudge = RELATIVE_NUDGE * radius[:, None] * F.normalize(directions, dim=-1)
    codebook = step.codebook.clone()
    codebook[empty[: len(divided)]] = codebook[divided] + nudge
    codebook[divided] -= nudge
    return F.normalize(codebook, dim=-1) if unit else codebook


def run_lloyd(
    features: Float[Tensor, "t d"],
    codebook: Float[Tensor, "k d"],
    rounds: int,
    generator: torch.Generator,
    listener: Listener | None = None,
    *,
    shrinkage: float = 0.0,
    unit: bool = False,
    center: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, "k d"]:
    """Run rounds of `lloyd_step`, each followed by `refill_empty_codes`.

    Parameters
    ----------
    features : Tensor, shape (tokens, dim)
        Features to cluster.
    codebook : Tensor, shape (codes, dim)
        Initial codes.
    rounds : int
        Number of rounds.
    generator : torch.Generator
        Source of random directions.
    listener : callable, optional
        Called with the number of finished rounds and of all rounds after each round.
    shrinkage, unit, center
        Options of `lloyd_step`.

    Returns
    -------
    Tensor, shape (codes, dim)
        The refined codebook.
    """
    for done in range(1, rounds + 1):
        step = lloyd_step(features, codebook, shrinkage=shrinkage, unit=unit, center=center)
        codebook = refill_empty_codes(step, generator, unit=unit)
        if listener is not None:
            listener(done, rounds)
    return codebook


def allocate_codes(sizes: Int[Tensor, " c"], codebook_size: int) -> Int[Tensor, " c"]:
    """Distribute codes over cells in proportion to their sizes.

    Parameters
    ----------
    sizes : Tensor of int, shape (cells,)
        Distinct tokens per cell.
    codebook_size : int
        Number of codes; at least the number of cells, at most the sum of the sizes.

    Returns
    -------
    Tensor of int, shape (cells,)
        Codes per cell: at least one, at most the cell's size.
    """
    share = sizes.double() * codebook_size / sizes.sum()
    # A rounded share never exceeds the size of its cell as long as there are enough tokens for all
    # codes.
    allocation = share.round().long().clamp(min=1)
    while True:
        remaining = codebook_size - int(allocation.sum().item())
        if not remaining:
            return allocation
        step = 1 if remaining > 0 else -1
        adjustable = (allocation < sizes) if remaining > 0 else (allocation > 1)
        deviation = ((share - allocation) * step).masked_fill(~adjustable, -math.inf)
        count = min(abs(remaining), int(adjustable.sum().item()))
        allocation[deviation.topk(count).indices] += step


def first_occurrences(rows: Float[Tensor, "t d"]) -> Int[Tensor, " u"]:
    """Return the index of the first occurrence of each distinct row, in ascending order."""
    # By a 64-bit hash of each row's bits: sorting the rows themselves takes gigabytes. Among 5
    # million distinct rows, two collide once in a million times, and then a codebook lacks one of
    # them as a seed. Adding 0 turns -0 into 0.
    random = np.random.default_rng(0).integers(0, 2**63, rows.shape[1], np.uint64)
    weights = random * np.uint64(2) + np.uint64(1)
    hashes = []
    for chunk in rows.split(ROWS_PER_CHUNK):
        bits = (chunk.float() + 0).cpu().contiguous().numpy().view(np.uint32)
        hashes.append((bits.astype(np.uint64) * weights).sum(axis=1, dtype=np.uint64))
    first = np.sort(np.unique(np.concatenate(hashes), return_index=True)[1])
    return torch.from_numpy(first).to(rows.device)


def _by_class(
    features: Tensor,
    codebook_size: int,
    labels: Tensor,
    build: Callable[[Tensor, int, Listener], Tensor],
) -> Tensor:
    """Build one codebook per class, and concatenate them."""
    classes = labels.unique().tolist()
    codes_per_class, rest = divmod(codebook_size, len(classes))
    if rest:
        raise UserError(
            f"codebook_size must be a multiple of the {len(classes)} classes, got {codebook_size}."
        )
    parts = []
    for done, label in enumerate(classes, 1):
        class_features = features[labels == label]
        num_distinct = len(first_occurrences(class_features))
        if num_distinct < codes_per_class:
            raise UserError(
                f"Class {label} has {num_distinct} distinct tokens for {codes_per_class} codes. "
                "Use fewer codes or more images."
            )
        parts.append(build(class_features, codes_per_class, lambda done, total: None))
        report_progress(done, len(classes))
    return torch.cat(parts)


def _two_level(
    features: Tensor,
    codebook_size: int,
    *,
    rounds: int,
    passes: int,
    generator: torch.Generator,
    listener: Listener,
    shrinkage: float,
    unit: bool,
) -> Tensor:
    num_cells = math.isqrt(codebook_size)
    total = num_cells + passes
    seeds = _distinct_sample(features, num_cells, generator)
    sample = features[_random_order(features, generator)[: TOKENS_PER_COARSE_CELL * num_cells]]
    coarse = run_lloyd(sample, seeds, rounds, generator, unit=unit)
    cell = nearest_code(features, coarse)
    cell_sizes = torch.bincount(cell, minlength=num_cells).tolist()
    members = [rows for rows in cell.argsort(stable=True).split(cell_sizes) if len(rows)]
    # A repeated token needs no second code.
    num_distinct = torch.tensor([len(first_occurrences(features[rows])) for rows in members])
    if num_distinct.sum() < codebook_size:
        raise _too_few_tokens(codebook_size, int(num_distinct.sum().item()))
    allocation = allocate_codes(num_distinct, codebook_size).tolist()
    shares = torch.tensor(allocation, device=features.device)[:, None] / codebook_size
    center = (shares * torch.stack([features[rows].mean(dim=0) for rows in members])).sum(dim=0)
    parts = []
    for done, (rows, count) in enumerate(zip(members, allocation, strict=True), 1):
        tokens = features[rows]
        start = _distinct_sample(tokens, count, generator)
        parts.append(
            run_lloyd(
                tokens, start, rounds, generator, shrinkage=shrinkage, unit=unit, center=center
            )
        )
        listener(done, total)
    return run_lloyd(
        features,
        torch.cat(parts),
        passes,
        generator,
        lambda done, _: listener(num_cells + done, total),
        shrinkage=shrinkage,
        unit=unit,
    )


def _faiss(features: Tensor, start: Tensor, rounds: int, *, shrinkage: float, unit: bool) -> Tensor:
    """Run faiss's K-means, with its own treatment of empty cells, from given codes."""
    try:
        import faiss
    except ModuleNotFoundError:
        raise missing_extra("faiss", "faiss", "The builder faiss") from None
    if shrinkage:
        raise UserError(
            f"The builder faiss needs shrinkage 0, got {shrinkage:g}. "
            "The builders flat and two-level support shrinkage."
        )
    kmeans = faiss.Kmeans(
        features.shape[1],
        len(start),
        niter=rounds,
        spherical=unit,
        min_points_per_centroid=1,
        # By default, faiss would ignore most of the tokens.
        max_points_per_centroid=len(features) // len(start) + 1,
    )
    kmeans.train(features.float().cpu().numpy(), init_centroids=start.float().cpu().numpy())
    return torch.from_numpy(kmeans.centroids).to(features)


def _distinct_sample(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return random rows, no two of them equal."""
    order = _random_order(features, generator)
    num_drawn = count
    while True:
        rows = features[order[:num_drawn]]
        first = first_occurrences(rows)
        if len(first) >= count:
            return rows[first[:count]]
        if num_drawn >= len(features):
            raise _too_few_tokens(count, len(first))
        num_drawn *= 2


def _replace_duplicates(codebook: Tensor, features: Tensor, generator: torch.Generator) -> Tensor:
    """Replace repeated codes by random tokens: of equal codes, only the first is ever selected."""
    if len(first_occurrences(codebook)) == len(codebook):
        return codebook
    rows = torch.cat([codebook, features[_random_order(features, generator)]])
    first = first_occurrences(rows)
    if len(first) < len(codebook):
        raise _too_few_tokens(len(codebook), len(first))
    return rows[first[: len(codebook)]]


def _random_order(features: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randperm(len(features), generator=generator).to(features.device)


def _too_few_tokens(codebook_size: int, num_tokens: int) -> UserError:
    return UserError(
        f"{codebook_size} codes need as many distinct tokens, got {num_tokens}. Use more images."
    )
