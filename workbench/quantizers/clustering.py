"""Codebooks by clustering features, as UniCode2 (arXiv:2506.20214) makes its 500,000 codes: K-means that may shrink.

Minimised is the sum of |e - c|^2 over tokens plus lambda |c - mean of the codes|^2 over codes. Here: which K-means the
paper ran is not known to us, so several builders are offered. In two levels, sqrt(K) coarse cells share the codes out
and each is clustered alone; what is built so is still searched exactly. "flat" is Lloyd's algorithm as it stands here,
on any device; "faiss" is that library's, on the CPU and without shrinkage; "sample" takes random tokens, a control.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from workbench.core.errors import UserError, unknown
from workbench.quantizers.nearest import nearest_code

Builder = Literal["sample", "flat", "two-level", "faiss"]
Tick = Callable[[int, int], None]  # hears done and total

ROWS = 65536  # tokens at a time
SAMPLE = 256  # tokens that place one coarse cell
NUDGE = 1e-3  # of a cell's radius: how far its halves are moved apart
FAINT = 1e-12  # share of the error; a cell below it is one point, repeated and rounded


@dataclass(frozen=True)
class Step:
    """One round of Lloyd's algorithm: where the codes go, and who had chosen them where they were."""

    codebook: Float[Tensor, "k d"]
    counts: Int[Tensor, " k"]  # tokens
    errors: Float[Tensor, " k"]  # their squared distances to the code as it was, summed

    @property
    def error(self) -> float:
        """Mean squared distance of a token to its code, before the codes moved."""
        return (self.errors.sum() / self.counts.sum()).item()


@torch.no_grad()
def cluster(
    features: Float[Tensor, "t d"],
    codes: int,
    *,
    builder: Builder = "two-level",
    shrinkage: float = 0.0,  # lambda, in tokens a code (t / K)
    unit: bool = False,  # spherical: of unit vectors, with means made unit vectors again
    rounds: int = 10,  # of Lloyd's algorithm; in two levels at each level
    passes: int = 1,  # of them over the whole codebook, after two levels; at large K most of the time
    labels: Int[Tensor, " t"]
    | None = None,  # one a token: each class gets as many codes, from its own tokens
    seed: int = 0,
    tick: Tick | None = None,
) -> Float[Tensor, "k d"]:
    """`codes` different codewords, class by class where there are labels. The same seed gives the same on a CPU.

    Raises UserError where there are fewer different tokens than codes, and for what a builder cannot do.
    """
    if builder not in get_args(Builder):
        raise unknown("builder", builder, get_args(Builder))
    if not torch.isfinite(features).all():
        raise UserError("Some features are not finite; mend or drop them before clustering.")
    generator, tick = torch.Generator().manual_seed(seed), tick or (lambda done, total: None)

    def build(tokens: Tensor, count: int, tick: Tick) -> Tensor:
        how = {"shrinkage": shrinkage, "unit": unit}
        if builder == "two-level":
            return _two_level(tokens, count, rounds, passes, generator, tick, **how)
        start = _seeds(tokens, count, generator)
        if builder == "faiss":
            return _faiss(tokens, start, rounds, **how)
        return (
            start if builder == "sample" else refine(tokens, start, rounds, generator, tick, **how)
        )

    codebook = (
        build(features, codes, tick)
        if labels is None
        else _by_class(features, codes, labels, build, tick)
    )
    return _different(codebook, features, generator)


@torch.no_grad()
def lloyd_step(
    features: Float[Tensor, "t d"],
    codebook: Float[Tensor, "k d"],
    *,
    shrinkage: float = 0.0,
    unit: bool = False,
    centre: Float[Tensor, " d"] | None = None,
) -> Step:
    """Move each code to (sum of its tokens + lambda centre) / (count + lambda); one without tokens stays.

    lambda is `shrinkage` t / K; the centre is the mean code unless given, and is held while the codes move.
    """
    chosen = nearest_code(features, codebook)
    counts = torch.bincount(chosen, minlength=len(codebook))
    sums = torch.zeros_like(codebook).index_add_(0, chosen, features)
    pieces = zip(features.split(ROWS), chosen.split(ROWS), strict=True)
    distances = torch.cat([(piece - codebook[own]).square().sum(dim=-1) for piece, own in pieces])
    errors = torch.zeros_like(codebook[:, 0]).index_add_(0, chosen, distances)
    weight = shrinkage * len(features) / len(codebook)
    moved = (sums + weight * (codebook.mean(dim=0) if centre is None else centre)) / (
        counts[:, None] + weight
    )
    moved = torch.where(
        counts[:, None] > 0, F.normalize(moved, dim=-1) if unit else moved, codebook
    )
    return Step(moved, counts, errors)


@torch.no_grad()
def split(step: Step, generator: torch.Generator, *, unit: bool = False) -> Float[Tensor, "k d"]:
    """The codebook with every code that had no tokens beside one that errs much, the two a little apart.

    Of cells the most erring are split, not the most populous: those may be one feature many times over.
    """
    empty = (step.counts == 0).nonzero()[:, 0]
    wide = (step.errors > FAINT * step.errors.sum()).sum().item()
    halved = step.errors.topk(min(len(empty), wide)).indices
    drawn = torch.randn(len(halved), step.codebook.shape[1], generator=generator).to(step.codebook)
    radius = (step.errors[halved] / step.counts[halved]).sqrt()
    nudge = NUDGE * radius[:, None] * F.normalize(drawn, dim=-1)
    codebook = step.codebook.clone()
    codebook[empty[: len(halved)]] = codebook[halved] + nudge
    codebook[halved] -= nudge
    return F.normalize(codebook, dim=-1) if unit else codebook


def refine(
    features: Float[Tensor, "t d"],
    codebook: Float[Tensor, "k d"],
    rounds: int,
    generator: torch.Generator,
    tick: Tick | None = None,
    **how: Any,
) -> Float[Tensor, "k d"]:
    """Rounds of `lloyd_step`, each followed by `split`; `how` are the step's settings."""
    for done in range(1, rounds + 1):
        codebook = split(
            lloyd_step(features, codebook, **how), generator, unit=how.get("unit", False)
        )
        if tick:
            tick(done, rounds)
    return codebook


def budgets(sizes: Int[Tensor, " c"], codes: int) -> Int[Tensor, " c"]:
    """Codes for each cell: in proportion to its size, at least one, at most its size, `codes` together.

    There must be at least as many codes as cells, and at most as many as all sizes together.
    """
    share = sizes.double() * codes / sizes.sum()
    given = (
        share.round().long().clamp(min=1)
    )  # never more than its size, as long as there are enough for all
    while left := codes - given.sum().item():
        step = 1 if left > 0 else -1
        free = (given < sizes) if left > 0 else (given > 1)
        furthest = ((share - given) * step).masked_fill(~free, -math.inf)
        given[furthest.topk(min(abs(left), free.sum().item())).indices] += step
    return given


def distinct(rows: Float[Tensor, "t d"]) -> Int[Tensor, " u"]:
    """Where each different row stands first, in the order of rows."""
    # By a 64-bit hash of each row's bits: sorting the rows themselves takes gigabytes. Among 5 million different rows
    # two fall together once in a million times, and then a codebook misses one of them as a seed. + 0 makes -0 a 0.
    weights = np.random.default_rng(0).integers(0, 2**63, rows.shape[1], np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    pieces = (
        (piece.float() + 0).cpu().contiguous().numpy().view(np.uint32) for piece in rows.split(ROWS)
    )
    hashes = np.concatenate(
        [(piece.astype(np.uint64) * weights).sum(axis=1, dtype=np.uint64) for piece in pieces]
    )
    first = np.sort(np.unique(hashes, return_index=True)[1])
    return torch.from_numpy(first).to(rows.device)


def _by_class(
    features: Tensor,
    codes: int,
    labels: Tensor,
    build: Callable[[Tensor, int, Tick], Tensor],
    tick: Tick,
) -> Tensor:
    classes = labels.unique().tolist()
    share, rest = divmod(codes, len(classes))
    if rest:
        raise UserError(
            f"{codes} codes do not divide into {len(classes)} classes; take a multiple."
        )
    parts = []
    for done, label in enumerate(classes, 1):
        own = features[labels == label]
        if (different := len(distinct(own))) < share:
            some = f"{different} different tokens for its {share} codes"
            raise UserError(f"Class {label} has {some}; take fewer codes or more images.")
        parts.append(build(own, share, lambda done, total: None))
        tick(done, len(classes))
    return torch.cat(parts)


def _two_level(
    features: Tensor,
    codes: int,
    rounds: int,
    passes: int,
    generator: torch.Generator,
    tick: Tick,
    **how: Any,
) -> Tensor:
    cells, unit = math.isqrt(codes), how["unit"]
    total = cells + passes
    seeds = _seeds(features, cells, generator)
    sample = features[_order(features, generator)[: SAMPLE * cells]]
    coarse = refine(sample, seeds, rounds, generator, unit=unit)
    cell = nearest_code(features, coarse)
    places = cell.argsort(stable=True).split(torch.bincount(cell, minlength=cells).tolist())
    places = [place for place in places if len(place)]
    sizes = torch.tensor(
        [len(distinct(features[place])) for place in places]
    )  # a repeated token needs no second code
    if sizes.sum() < codes:
        raise _too_few(codes, sizes.sum().item())
    given = budgets(sizes, codes).tolist()
    shares = torch.tensor(given, device=features.device)[:, None] / codes
    centre = (shares * torch.stack([features[place].mean(dim=0) for place in places])).sum(dim=0)
    parts = []
    for done, (place, budget) in enumerate(zip(places, given, strict=True), 1):
        tokens = features[place]
        parts.append(
            refine(
                tokens, _seeds(tokens, budget, generator), rounds, generator, centre=centre, **how
            )
        )
        tick(done, total)
    return refine(
        features,
        torch.cat(parts),
        passes,
        generator,
        lambda done, _: tick(cells + done, total),
        **how,
    )


def _faiss(features: Tensor, start: Tensor, rounds: int, *, shrinkage: float, unit: bool) -> Tensor:
    """Lloyd's algorithm as faiss has it, with its own splitting of empty cells, from a start."""
    try:
        import faiss
    except ModuleNotFoundError:
        raise UserError(
            "The builder faiss needs faiss: pip install 'workbench[faiss]'; or take flat."
        ) from None
    if shrinkage:
        raise UserError(
            f"The builder faiss does not shrink (shrinkage={shrinkage:g}); take flat or two-level."
        )
    every = (
        len(features) // len(start) + 1
    )  # tokens a code; by default it would leave most of them out
    how = {
        "niter": rounds,
        "spherical": unit,
        "min_points_per_centroid": 1,
        "max_points_per_centroid": every,
    }
    kmeans = faiss.Kmeans(features.shape[1], len(start), **how)
    kmeans.train(features.float().cpu().numpy(), init_centroids=start.float().cpu().numpy())
    return torch.from_numpy(kmeans.centroids).to(features)


def _seeds(features: Tensor, codes: int, generator: torch.Generator) -> Tensor:
    """Random rows, no two equal."""
    order, drawn = _order(features, generator), codes
    while True:
        rows = features[order[:drawn]]
        first = distinct(rows)
        if len(first) >= codes:
            return rows[first[:codes]]
        if drawn >= len(features):
            raise _too_few(codes, len(first))
        drawn *= 2


def _different(codebook: Tensor, features: Tensor, generator: torch.Generator) -> Tensor:
    """The codebook with random tokens for codes that repeat another: of equal codes only the first is ever chosen."""
    if len(distinct(codebook)) == len(codebook):
        return codebook
    rows = torch.cat([codebook, features[_order(features, generator)]])
    first = distinct(rows)
    if len(first) < len(codebook):
        raise _too_few(len(codebook), len(first))
    return rows[first[: len(codebook)]]


def _order(features: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randperm(len(features), generator=generator).to(features.device)


def _too_few(codes: int, tokens: int) -> UserError:
    return UserError(
        f"{codes} codes need as many different tokens, and there are {tokens}; take more images."
    )
