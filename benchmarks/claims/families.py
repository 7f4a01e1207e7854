"""Prediction of generation within families of tokenizers; docs/concepts/prediction-protocol.md.

A family has one architecture and one shape of latents; its arms differ in one setting each, grouped
in clusters. The rules were written before any run of this module.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from workbench.analysis.learnability.decoder_noise import decoder_noise
from workbench.analysis.learnability.neighbor_consistency import neighbor_consistency
from workbench.analysis.learnability.spatial_structure import spatial_structure
from workbench.analysis.learnability.velocity_variance import velocity_variance
from workbench.analysis.perspectives import PerspectiveResult
from workbench.analysis.stats.rank_correlation import spearman
from workbench.collect import load_images
from workbench.core.errors import NotApplicable
from workbench.storage.run import Run

from .arms import Arm, Scale
from .claim import Claim, Numbers
from .family_scores import LEVEL, NUMBERS, RECONSTRUCTION, SHORT, Family, Score, Scores, score

NUM_FLOWS = 2  # trainings of the generator per tokenizer
NUM_DRAWS = 4  # of samples of each generator
# Trainings as multiples of the scale's: those of A have four times the dimensions to learn.
TIMES_LONGER = {"A": 7, "B": 4, "C": 4, "D": 4}
SHORT_SHARE = 5  # a short training has a fifth of the steps
LATENT_IMAGES = 5000  # held-out images of the numbers of latents
BATCH = 250
JUDGES = ("", " free")  # suffixes of both feature extractors
Settings = dict[str, Any]
# Cluster and changes of each arm of a convolutional family, so that the first ones are spread.
GRID_ARMS: tuple[tuple[str, Settings], ...] = (
    ("plain", {}),
    ("aligned", {"align_weight": 0.5, "teacher": "teacher"}),
    ("noise", {"noise": 0.5}),
    ("KL", {"kl_weight": 1e-2}),
    ("equivariance", {"equivariance_weight": 0.5}),
    ("masking", {"latent_mask": 0.3}),
    ("half size", {"half_size_weight": 0.25}),
    ("local correlation", {"local_correlation_weight": 0.05}),
    ("interpolative noise", {"interpolative_noise": 1.0}),
    ("other targets", {"align_weight": 0.5, "teacher": "shuffled"}),
    ("aligned", {"align_weight": 0.1, "teacher": "teacher"}),
    ("noise", {"noise": 0.2}),
    ("KL", {"kl_weight": 1e-1}),
    ("equivariance", {"equivariance_weight": 2.0}),
    ("masking", {"latent_mask": 0.7}),
    ("other targets", {"align_weight": 0.5, "teacher": "untrained"}),
)
# The same for one-dimensional tokens, which have neither a grid nor an alignment.
TOKEN_ARMS: tuple[tuple[str, Settings], ...] = (
    ("plain", {}),
    ("KL", {"beta": 1e-4}),
    ("masking", {"latent_mask": 0.5}),
    ("interpolative noise", {"interpolative_noise": 1.0}),
    ("both", {"latent_mask": 0.3, "interpolative_noise": 0.5}),
    ("KL", {"beta": 1e-3}),
    ("masking", {"latent_mask": 0.2}),
    ("interpolative noise", {"interpolative_noise": 0.3}),
    ("masking", {"latent_mask": 0.8}),
    ("interpolative noise", {"interpolative_noise": 3.0}),
    ("KL", {"beta": 1e-6}),
    ("both", {"latent_mask": 0.5, "interpolative_noise": 1.0}),
    ("KL", {"beta": 3e-4}),
    ("masking", {"latent_mask": 0.3}),
    ("interpolative noise", {"interpolative_noise": 0.1}),
    ("both", {"latent_mask": 0.2, "interpolative_noise": 0.1}),
)


def families(scale: Scale) -> dict[str, dict[str, tuple[str, Arm]]]:
    """Return the tokenizers by family and label, each with its cluster.

    C, whose generators cost four times those of the others, is trained at the GPU scale only, or
    with every arm.
    """
    few, many = scale.channels
    sizes: dict[str, Settings] = {"A": {"dim": many}, "B": {"dim": few}}
    if scale.full:
        sizes["C"] = {"multipliers": scale.grid["multipliers"][:-1], "dim": max(few // 4, 1)}
    arms = {
        name: _family(scale, GRID_ARMS, partial(_grid_tokenizer, scale, size))
        for name, size in sizes.items()
    }
    return arms | {"D": _family(scale, TOKEN_ARMS, partial(scale.tokenizer, "klvae"))}


def arms(scale: Scale) -> dict[str, Arm]:
    """Return the generators: two long trainings and a short one per tokenizer."""
    generators = {}
    for family, tokenizers in families(scale).items():
        long = TIMES_LONGER[family] * scale.generator_plan["steps"]
        short = long // SHORT_SHARE
        for label, (_, tokenizer) in tokenizers.items():
            plan = {"steps": long, "save_every": long}
            for flow in range(NUM_FLOWS):
                generators[f"{family}: {label}, flow {flow}"] = scale.flow(tokenizer, flow, **plan)
            plan = {"steps": short, "save_every": short}
            generators[f"{family}: {label}, short"] = scale.flow(tokenizer, 0, **plan)
    return generators


def measure(run: Run, lab: Any) -> Numbers:
    """Measure the fixed numbers of the tokenizer's latents, and more draws of samples."""
    assert run.tokenizer is not None
    numbers = lab.cached(run.tokenizer, "families.json", partial(_latent_numbers, lab))
    reference = lab.gaussian_reference(run.tokenizer, NUM_DRAWS)
    return numbers | reference | lab.draws(run, NUM_DRAWS)


def tables(rows: Mapping[str, Numbers]) -> list[Family]:
    """Return one table per family from the numbers of its generators."""
    by_tokenizer: dict[str, dict[str, dict[str, Numbers]]] = {}
    for label, numbers in rows.items():
        family, _, rest = label.partition(": ")
        tokenizer, _, flow = rest.rpartition(", ")
        by_tokenizer.setdefault(family, {}).setdefault(tokenizer, {})[flow] = numbers
    return [_table(family, tokenizers) for family, tokenizers in by_tokenizer.items()]


def effects(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare the model of two factors with reconstruction, and the best number with chance."""
    scores = score(tables(rows))
    margin = significance = signs = math.nan
    if scores.numbers:
        rivals = [s.q2 for s in scores.baselines if s.name in RECONSTRUCTION]
        margin = scores.two_factor_q2 - max(0.0, *rivals, scores.reconstruction_q2)
        significance = LEVEL - min(s.adjusted for s in scores.numbers)
        signs = _common_sign(scores.best)
    return {
        "Q2 of two factors for left-out families, minus the best of 0, PSNR, rFD and both": margin,
        f"{LEVEL} minus the adjusted p of the best of six numbers": significance,
        "|rho| of the best number in its weakest family, negative for another sign": signs,
    }


def details(rows: Mapping[str, Numbers]) -> Numbers:
    """Return every correlation and prediction error, and the state of each family."""
    table = tables(rows)
    scores = score(table)
    numbers: Numbers = {}
    for family in table:
        numbers[f"agreement of the feature extractors, {family.name}"] = family.agreement
        numbers[f"reliability of the distances, {family.name}"] = family.reliability
        for judge, ratio in zip(JUDGES, np.median(family.gaussians, axis=0), strict=True):
            numbers[f"median gFD{judge} over class Gaussians, {family.name}"] = float(ratio)
        short = family.numbers[SHORT][:, None]
        numbers[f"rho of short trainings, {family.name}"] = float(spearman(short, family.target)[0])
    for item in (*scores.numbers, *scores.baselines):
        numbers |= _details_of(item)
    return numbers | _model_details(scores)


def _details_of(item: Score) -> Numbers:
    named = {
        "rho": item.spearman,
        "low": item.low,
        "high": item.high,
        "r": item.pearson,
        "partial rho given PSNR and rFD": item.partial,
        "adjusted p": item.adjusted,
        "Q2": item.q2,
    }
    return {f"{item.name}: {name}": value for name, value in named.items()}


def _model_details(scores: Scores) -> Numbers:
    numbers = {
        "two factors: Q2": scores.two_factor_q2,
        "PSNR and rFD together: Q2": scores.reconstruction_q2,
        "detectable rho": scores.detectable,
    }
    return numbers | {
        f"two factors: Q2 for left-out clusters, {name}": value
        for name, value in scores.cluster_q2.items()
    }


def _common_sign(best: Score) -> float:
    """Return the smallest correlation in the direction of the whole; NaN in a single family."""
    if len(best.by_family) < 2:
        return math.nan
    sign = math.copysign(1, best.spearman)
    return min(sign * value for value in best.by_family.values())


def _family(
    scale: Scale,
    settings: tuple[tuple[str, Settings], ...],
    build: Callable[..., Arm],
) -> dict[str, tuple[str, Arm]]:
    chosen = settings[: scale.max_arms]
    return {_label(cluster, changes): (cluster, build(**changes)) for cluster, changes in chosen}


def _label(cluster: str, changes: Settings) -> str:
    values = [f"{value:g}" for value in changes.values() if isinstance(value, float)]
    if cluster == "other targets":
        values.append(str(changes["teacher"]))
    return " ".join([cluster, *values])


def _grid_tokenizer(scale: Scale, size: Settings, **changes: Any) -> Arm:
    teachers = {
        "teacher": scale.teacher,
        "shuffled": f"shuffled:{scale.teacher}",
        "untrained": scale.untrained,
    }
    if "teacher" in changes:
        changes["teacher"] = teachers[changes["teacher"]]
    return scale.tokenizer("vavae", **({"align_weight": 0.0} | size | changes))


def _table(family: str, tokenizers: Mapping[str, Mapping[str, Numbers]]) -> Family:
    rows = []
    distances = []
    gaussians = []
    for by_flow in tokenizers.values():
        long = [numbers for flow, numbers in by_flow.items() if flow != "short"]
        mean = {name: float(np.mean([n[name] for n in long])) for name in long[0]}
        # Distances of baselines are over the floor and of both feature extractors, as the target.
        mean |= {name: _over_floor(mean, name) for name in ("rFD", "class Gaussians")}
        rows.append(mean | {SHORT: _over_floor(by_flow["short"], "gFD")})
        distances.append([[n[f"gFD{j}"] / n[f"floor{j}"] for j in JUDGES] for n in long])
        gaussians.append(
            [np.mean([n[f"gFD{j}"] / n[f"class Gaussians{j}"] for n in long]) for j in JUDGES]
        )
    names = dict.fromkeys(name for row in rows for name in row)
    return Family(
        name=family,
        arms=tuple(tokenizers),
        clusters=tuple(_cluster(label) for label in tokenizers),
        numbers=_Missing({n: np.array([row.get(n, math.nan) for row in rows]) for n in names}),
        distances=np.array(distances),
        gaussians=np.array(gaussians),
    )


def _over_floor(numbers: Numbers, name: str) -> float:
    return float(
        np.mean([numbers[f"{name}{judge}"] / numbers[f"floor{judge}"] for judge in JUDGES])
    )


class _Missing(dict[str, np.ndarray]):
    """Numbers of a family; one that no tokenizer has is NaN."""

    def __missing__(self, name: str) -> np.ndarray:
        return np.full(len(next(iter(self.values()))), math.nan)


def _cluster(label: str) -> str:
    names = {cluster for cluster, _ in (*GRID_ARMS, *TOKEN_ARMS)}
    return max((name for name in names if label.startswith(name)), key=len)


@torch.no_grad()
def _latent_numbers(lab: Any, run: Run) -> Numbers:
    """Measure the fixed numbers on held-out images; those that do not apply are left out."""
    model = run.load()
    images = load_images(run, "test").take(LATENT_IMAGES)
    parts = torch.arange(len(images)).split(BATCH)
    latents = np.concatenate([model.encode(images.images(part)).latents.numpy() for part in parts])
    labels = np.asarray(images.labels)
    evidence = lab.evidence(run)
    measures: tuple[Callable[[], PerspectiveResult], ...] = (
        lambda: velocity_variance(latents, labels),
        lambda: neighbor_consistency(latents, labels),
        lambda: spatial_structure(latents, model.grid),
        lambda: decoder_noise(**evidence.kwargs_for(decoder_noise)),
    )
    # Diagnostics of the same names, of fewer images, must not take the place of a missing number.
    numbers: Numbers = dict.fromkeys(NUMBERS, math.nan)
    for measure_one in measures:
        try:
            perspectives = measure_one().perspectives()
        except NotApplicable:
            continue
        numbers |= {p.name: p.value for p in perspectives if math.isfinite(p.value)}
    for name in ("LDS, position-centered", "RMSC, position-centered"):
        if name in numbers:
            numbers["spatial structure"] = numbers[name]
            break
    return numbers


CLAIMS = (
    Claim(
        key="families-prediction",
        system="the workbench",
        statement="Two numbers of latents, one semantic and one spatial, predict generation in"
        " families of tokenizers that were left out; reconstruction does not.",
        source="ours; numbers of arXiv:2606.03578 and arXiv:2512.10794",
        rule="docs/concepts/prediction-protocol.md: over families whose feature extractors agree"
        " and whose generators beat half of the distance of class Gaussians, the model of LNC and"
        " spatial structure saves more squared error of a left-out family than the mean, PSNR, rFD"
        " and both; the best of six fixed numbers has an adjusted p below 0.05; and it has one"
        " sign in all families, at least two.",
        arms=arms,
        effects=effects,
        measure=measure,
        details=details,
        columns=("gFD", "gFD free", "class Gaussians", "PSNR", "rFD", *("VIV total", "LNC")),
        caveat="With fewer than two scored families nothing is predicted out of a family, and the"
        " claim is not shown. It was run with two seeds.",
        on_request=True,
    ),
)
