"""Generators beside the tokenizers they were trained on: how well each tokenizer's generates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workbench.analysis.generation.fidelity import fidelity
from workbench.storage.evidence import Evidence

SPLITS = 20  # half samples of a generation distance
# What a generator's settings take from its tokenizer; all else should be the same for all.
OF_TOKENIZER = {"num_tokens", "dim", "mean", "std", "classes", "codebook_size", "num_codebooks"}


@dataclass(frozen=True, eq=False)
class Pair:
    """A tokenizer and a generator that was trained on its latents."""

    tokenizer: Evidence
    generator: Evidence


@dataclass(frozen=True)
class Generation:
    """How far a tokenizer's generated images are from training images, the mean of its generators."""

    run: str  # the tokenizer's
    value: float  # gFD
    low: float  # 95 % interval of its scatter over images
    high: float
    generators: int


def pairs_of(evidences: Sequence[Evidence]) -> tuple[list[Pair], tuple[str, ...]]:
    """Each generator with features of its samples, beside its tokenizer, and a reason for each run that is left out.

    The first pair says which held-out images and which feature extractor the others must share.
    """
    tokenizers = {e.run_name: e for e in reversed(evidences) if e.latents is not None}
    drawn = [e for e in evidences if e.latents is None and "tokenizer" in e.provenance]
    pairs, left_out = [], []
    for generator in drawn:
        told = generator.provenance["tokenizer"]
        name = Path(told["run"]).name
        pair = Pair(tokenizers[name], generator) if name in tokenizers else None
        reason = (
            _reason(pair, pairs[0] if pairs else pair, told)
            if pair
            else f"its tokenizer {name} is not selected"
        )
        if pair is None or reason:
            left_out.append(f"{generator.run_name}: {reason}")
        else:
            pairs.append(pair)
    paired = {pair.tokenizer.run_name for pair in pairs}
    left_out += [
        f"{name}: no generator of it can be compared"
        for name in reversed(tokenizers)
        if name not in paired
    ]
    return pairs, tuple(left_out)


def generations(pairs: Sequence[Pair], seed: int = 0) -> tuple[tuple[Generation, ...], int]:
    """The gFD of each tokenizer, all at one number of images, which is told too: the distance depends on it."""
    n = min(min(len(pair.generator.sample_features), len(_training(pair))) for pair in pairs)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for pair in pairs:
        rows = np.random.default_rng(seed + 1).permutation(len(pair.generator.sample_features))[:n]
        samples = np.asarray(pair.generator.sample_features)[rows]
        result = fidelity(
            train_features=_training(pair), sample_features=samples, splits=SPLITS, seed=seed
        )
        distance = result.distances[0]
        found.setdefault(pair.tokenizer.run_name, []).append(
            (distance.value, distance.low, distance.high)
        )
    told = tuple(
        Generation(run, *map(float, np.mean(rows, axis=0)), len(rows))
        for run, rows in found.items()
    )
    return told, n


def differing(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """The names of what generators differ in, besides what their tokenizers prescribe."""
    told = []
    for pair in pairs:
        provenance = pair.generator.provenance
        settings = {
            k: v for k, v in provenance.get("settings", {}).items() if k not in OF_TOKENIZER
        }
        sampling = {k: v for k, v in (pair.generator.sampling or {}).items() if k != "seed"}
        told.append(
            settings | sampling | {"class": provenance.get("class"), "step": pair.generator.step}
        )
    names = dict.fromkeys(name for settings in told for name in settings)
    return tuple(name for name in names if len({str(settings.get(name)) for settings in told}) > 1)


def _training(pair: Pair) -> np.ndarray:
    own = pair.generator.train_features
    return pair.tokenizer.train_features if own is None else own


def _reason(pair: Pair, first: Pair, told: dict) -> str:
    """Why a pair cannot stand beside the first; "" where it can."""
    tokenizer, generator = pair.tokenizer, pair.generator
    same = [
        (first.tokenizer.provenance.get(x), tokenizer.provenance.get(x))
        for x in ("fingerprint", "split", "n")
    ]
    reasons = {
        "there are no features of its samples": generator.sample_features is None,
        "there are no features of training images": _training(pair) is None,
        f"another feature extractor, {generator.feature_extractor}": generator.feature_extractor
        != first.generator.feature_extractor,
        f"it learned {tokenizer.run_name} at step {told.get('step')}, and the evidence is of {tokenizer.step}": (
            told.get("step") not in (None, tokenizer.step)
        ),
        f"{tokenizer.run_name} was measured on other images": any(a != b for a, b in same),
    }
    return next((reason for reason, true in reasons.items() if true), "")
