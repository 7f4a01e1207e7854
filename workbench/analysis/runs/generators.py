"""Pairs of tokenizers and the generators trained on them, with the generation distance of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from workbench.analysis.generation.fidelity import fidelity
from workbench.analysis.inputs import require_array
from workbench.analysis.result_cache import composed_result
from workbench.analysis.runs.settings import run_names
from workbench.storage.evidence import Evidence

NUM_HALF_SAMPLES = 20  # behind the interval of a generation distance
# Settings that a generator takes from its tokenizer; all others should be equal for all generators.
TOKENIZER_SETTINGS = {
    "num_tokens",
    "dim",
    "mean",
    "std",
    "classes",
    "codebook_size",
    "num_codebooks",
}
# Entries of a tokenizer's provenance that identify the images it was measured on.
IMAGE_ENTRIES = ("fingerprint", "split", "n")


@dataclass(frozen=True, eq=False)
class GeneratorPair:
    """A tokenizer and a generator that was trained on its latents."""

    tokenizer: Evidence
    generator: Evidence

    @property
    def train_features(self) -> np.ndarray | None:
        """Features of training images, from the evidence of the generator or of the tokenizer."""
        if self.generator.train_features is not None:
            return self.generator.train_features
        return self.tokenizer.train_features


@dataclass(frozen=True)
class GenerationDistance:
    """Distance of the samples of a tokenizer's generators to training images, as a mean."""

    run: str  # the tokenizer, or a single generator
    value: float  # gFD
    low: float  # 95 % interval of its variation over images
    high: float
    generators: int
    # Distance of draws from one Gaussian per class, without training; NaN if there are fewer draws.
    class_gaussians: float = float("nan")


def pair_generators(
    evidences: Sequence[Evidence],
) -> tuple[list[GeneratorPair], tuple[str, ...]]:
    """Pair each generator with the tokenizer that its provenance names.

    Parameters
    ----------
    evidences : sequence of Evidence
        Evidence of tokenizers and generators, in any order. The first pair determines the held-out
        images and the feature extractor that the other pairs must share.

    Returns
    -------
    pairs : list of GeneratorPair
        Generators with features of their samples, and their tokenizers.
    excluded : tuple of str
        Name and reason of each run without a pair.
    """
    tokenizers: dict[str, list[Evidence]] = {}
    for evidence in evidences:
        if evidence.latents is not None:
            tokenizers.setdefault(evidence.run_name, []).append(evidence)
    pairs: list[GeneratorPair] = []
    excluded: list[str] = []
    for generator in evidences:
        if generator.latents is not None or "tokenizer" not in generator.provenance:
            continue
        source = generator.provenance["tokenizer"]
        tokenizer_name = Path(source["run"]).name
        if tokenizer_name not in tokenizers:
            excluded.append(f"{generator.run_name}: its tokenizer {tokenizer_name} is not selected")
            continue
        tokenizer = checkpoint_of(tokenizers[tokenizer_name], source.get("step"))
        pair = GeneratorPair(tokenizer=tokenizer, generator=generator)
        reason = _incompatibility(pair, pairs[0] if pairs else pair, source.get("step"))
        if reason:
            excluded.append(f"{generator.run_name}: {reason}")
        else:
            pairs.append(pair)
    paired = {pair.tokenizer.run_name for pair in pairs}
    excluded += [
        f"{name}: no generator of it can be compared" for name in tokenizers if name not in paired
    ]
    return pairs, tuple(excluded)


def checkpoint_of(evidences: Sequence[Evidence], step: int | None) -> Evidence:
    """Return the evidence of a step; the first one if there is none."""
    return next((evidence for evidence in evidences if evidence.step == step), evidences[0])


def tokenizer_family(tokenizer: Evidence) -> str:
    """Return the class of a tokenizer and the shape of its latents.

    Tokenizers of one family can be exchanged for each other: those of several architectures or
    sizes differ in many properties at once.

    Examples
    --------
    >>> latents = np.zeros((5, 16, 4), np.float32)
    >>> tokenizer_family(Evidence({"run": "a", "class": "package:AE"}, latents=latents))
    'AE with 16 × 4 latents'
    """
    latents = require_array(tokenizer.latents, "latents", tokenizer.run_name)
    shape = " × ".join(map(str, latents.shape[1:]))
    name = tokenizer.provenance.get("class", "unnamed class").rpartition(":")[2]
    return f"{name} with {shape} latents"


def generation_distances(
    pairs: Sequence[GeneratorPair],
    seed: int = 0,
    *,
    by: Literal["tokenizer", "generator"] = "tokenizer",
) -> tuple[tuple[GenerationDistance, ...], int]:
    """Compute the Fréchet distance of the samples of each tokenizer's generators.

    Parameters
    ----------
    pairs : sequence of GeneratorPair
        Pairs with features of samples and training images.
    seed : int, default 0
        Seed of the subsets of samples.
    by : {"tokenizer", "generator"}, default "tokenizer"
        Average over the generators of a tokenizer, or keep each generator.

    Returns
    -------
    distances : tuple of GenerationDistance
        One entry per tokenizer: the mean of its generators; or one entry per generator. They are
        in the order of the pairs.
    n : int
        Number of images of every distance. It is equal for all, because a distance depends on it.
    """
    n = min(min(len(_sample_features(pair)), len(_train_features(pair))) for pair in pairs)
    sources: dict[int, Evidence] = {}  # by identity: checkpoints of a run have one name
    estimates: dict[int, list[tuple[float, float, float, float]]] = {}
    for pair in pairs:
        sample_features = _sample_features(pair)
        rows = np.random.default_rng(seed + 1).permutation(len(sample_features))[:n]
        inputs = {
            "train_features": _train_features(pair),
            "sample_features": np.asarray(sample_features)[rows],
            "gaussian_features": pair.generator.gaussian_features,
        }
        result = composed_result(fidelity, inputs, splits=NUM_HALF_SAMPLES, seed=seed)
        distance = result.distances[0]
        reference = np.nan
        if result.class_gaussians is not None and result.class_gaussians.n == distance.n:
            reference = result.class_gaussians.value
        estimate = (distance.value, distance.low, distance.high, reference)
        source = pair.tokenizer if by == "tokenizer" else pair.generator
        sources[id(source)] = source
        estimates.setdefault(id(source), []).append(estimate)
    distances = []
    for run, values in zip(run_names(list(sources.values())), estimates.values(), strict=True):
        value, low, high, reference = np.mean(values, axis=0).tolist()
        distances.append(
            GenerationDistance(
                run=run,
                value=value,
                low=low,
                high=high,
                generators=len(values),
                class_gaussians=reference,
            )
        )
    return tuple(distances), n


def generator_differences(pairs: Sequence[GeneratorPair]) -> tuple[str, ...]:
    """Return the names of settings in which generators differ, except those of their tokenizers."""
    settings = [_generator_settings(pair.generator) for pair in pairs]
    names = dict.fromkeys(name for values in settings for name in values)
    return tuple(name for name in names if len({str(values.get(name)) for values in settings}) > 1)


def _generator_settings(generator: Evidence) -> dict[str, Any]:
    settings: Mapping[str, Any] = generator.provenance.get("settings", {})
    sampling = generator.sampling or {}
    return {
        **{name: value for name, value in settings.items() if name not in TOKENIZER_SETTINGS},
        **{name: value for name, value in sampling.items() if name != "seed"},
        "class": generator.provenance.get("class"),
        "step": generator.step,
    }


def _sample_features(pair: GeneratorPair) -> np.ndarray:
    generator = pair.generator
    return require_array(generator.sample_features, "features of samples", generator.run_name)


def _train_features(pair: GeneratorPair) -> np.ndarray:
    return require_array(
        pair.train_features, "features of training images", pair.generator.run_name
    )


def _incompatibility(pair: GeneratorPair, first: GeneratorPair, step: int | None) -> str:
    """Return the reason why a pair is not comparable with the first, or an empty text.

    `step` is the checkpoint of the tokenizer that the generator was trained on, if it is known.
    """
    tokenizer, generator = pair.tokenizer, pair.generator
    if generator.sample_features is None:
        return "there are no features of its samples"
    if pair.train_features is None:
        return "there are no features of training images"
    if generator.feature_extractor != first.generator.feature_extractor:
        return f"another feature extractor, {generator.feature_extractor}"
    if step not in (None, tokenizer.step):
        return (
            f"it was trained on {tokenizer.run_name} at step {step}, but the evidence is of step"
            f" {tokenizer.step}"
        )
    for entry in IMAGE_ENTRIES:
        if first.tokenizer.provenance.get(entry) != tokenizer.provenance.get(entry):
            return f"{tokenizer.run_name} was measured on other images"
    return ""
