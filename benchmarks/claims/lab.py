"""Measurements of every run: diagnostics of tokenizers, and distances of samples.

Each measurement is stored in the folder of its run.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from workbench.analysis.generation.feature_distances import frechet_distance, precision_recall
from workbench.analysis.latents.probes import logistic_probe
from workbench.analysis.runs.diagnostics import diagnostics_of
from workbench.collect import collect, draw_samples, load_images
from workbench.collect.class_gaussians import fit_class_gaussians
from workbench.collect.images import pooled_features
from workbench.collect.sampling import decode_samples
from workbench.core.types import Tokens
from workbench.data.images import ImageSet
from workbench.features import FeatureExtractor, get_feature_extractor
from workbench.storage.atomic import atomic_path, write_text
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run

from .arms import Scale
from .claim import Numbers

Pair = tuple[np.ndarray, np.ndarray]
# A worker process measures many runs of one seed.
_REAL: dict[tuple[str, int, int, str], tuple[ImageSet, dict[str, Pair]]] = {}
FREE = "random"  # an untrained network, which is no teacher
STEPS = 12  # steps of Heun's method
BATCH = 250
# What no claim reads of the evidence of tokenizers.
UNUSED = (
    "prefixes",
    "equivariance",
    "gaussian_reference",
    "interpolation",
    "perturbed_codes",
)
DRAW_SEED_STEP = 100  # between the seeds of two draws; more than a draw has batches
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PROBE_FIT_IMAGES = 2000
PROBE_TEST_IMAGES = 5000


@dataclass(frozen=True)
class Lab:
    """Measures the runs of one scale, always with the same number of images."""

    scale: Scale
    out: Path

    def evidence(self, run: Run) -> Evidence:
        """Return the evidence of a tokenizer on held-out images; collect it once."""
        step = run.steps[-1]
        with _alone(run.folder / "claims" / "evidence"):
            if not (run.folder / "evidence" / f"step-{step:06d}").exists():
                collect(
                    run,
                    limit=self.scale.num_samples,
                    feature_extractor=self.scale.feature_extractor,
                    skip=UNUSED,
                )
        return run.evidence(step)

    def diagnostics(self, run: Run) -> Numbers:
        """Return the diagnostics of a tokenizer, and rFD in both feature extractors."""
        return self.cached(run, "diagnostics.json", self._diagnose)

    def generation(
        self, run: Run, step: int | None = None, *, shift: float | None = None
    ) -> Numbers:
        """Return distances of samples, without guidance, in both feature extractors.

        `gFD` is the distance from training images to samples, `floor` that from training to
        held-out images, and `gap` that from reconstructions of training images to samples, which
        the generator alone causes. `class Gaussians` is the distance of decoded draws from one
        Gaussian per class, which no generator was trained for. `gFD free` and so on use the
        untrained network. `shift` is that of the sampling times; None is the model's own.
        """
        step = run.steps[-1] if step is None else step
        name = f"generation-{step}" + ("" if shift is None else f"-shift-{shift:g}")
        return self.cached(run, f"{name}.json", lambda run: self._generate(run, step, shift))

    def draws(self, run: Run, count: int) -> Numbers:
        """Return the mean distances over several draws of samples of a generator.

        The first draw is that of `generation`.
        """
        first = self.generation(run)
        more = [
            self.cached(run, f"draw-{draw}.json", partial(self._draw, draw))
            for draw in range(1, count)
        ]
        return {
            name: float(np.mean([numbers[name] for numbers in (first, *more)]))
            for name in ("gFD", "gFD free")
        }

    def gaussian_reference(self, run: Run, count: int) -> Numbers:
        """Return the mean distances of several draws from one Gaussian per class of a tokenizer.

        It is fitted to all training images; that of `generation` to as many as there are samples.
        """
        return self.cached(run, "gaussian-reference.json", partial(self._reference, count))

    def probe(self, run: Run) -> Numbers:
        """Return the accuracy of a linear probe, fitted to training images.

        It is tested on up to 5,000 held-out images. The diagnostic of that name uses only the
        images of the evidence, which are too few for a claim.
        """
        return self.cached(run, "probe.json", self._probe_accuracy)

    def measure(self, run: Run) -> Numbers:
        """Return the measurements of a tokenizer, or of a generator and its tokenizer."""
        if run.tokenizer is None:
            return self.diagnostics(run) | self.cached(run, "floor.json", self._floor)
        return self.diagnostics(run.tokenizer) | self.generation(run)

    def feature_extractors(self, channels: int) -> dict[str, FeatureExtractor]:
        """Return the two networks that compare sets of images, by the suffix of a distance."""
        return {
            "": _teacher(self.scale.feature_extractor, channels),
            " free": _teacher(FREE, channels),
        }

    def cached(self, run: Run, name: str, measure: Callable[[Run], Numbers]) -> Numbers:
        """Return what was measured of a run under a name, or measure it once."""
        path = run.folder / "claims" / name
        with _alone(path):
            if not path.exists():
                write_text(path, json.dumps(measure(run), indent=1))
        return json.loads(path.read_text(encoding="utf-8"))

    def cached_array(self, run: Run, name: str, measure: Callable[[Run], np.ndarray]) -> np.ndarray:
        """Return the array that was measured of a run under a name, or measure it once."""
        path = run.folder / "claims" / f"{name}.npy"
        with _alone(path):
            if not path.exists():
                with atomic_path(path) as aside, aside.open("wb") as file:
                    np.save(file, measure(run))
        return np.load(path, allow_pickle=False)

    def _diagnose(self, run: Run) -> Numbers:
        evidence = self.evidence(run)
        numbers = diagnostics_of(evidence) | {
            "rFD": _distance(evidence.features, evidence.reconstruction_features)
        }
        free = _teacher(FREE, evidence.images.shape[-1])
        image_sets = (evidence.images, evidence.reconstructions)
        return numbers | {
            "rFD free": _distance(
                *(pooled_features(free, np.asarray(x), DEVICE) for x in image_sets)
            )
        }

    def _floor(self, run: Run) -> Numbers:
        features = self._real(run, run.config.training["seed"])[1]
        return {f"floor{name}": _distance(*features[name]) for name in features}

    def _probe_accuracy(self, run: Run) -> Numbers:
        tokenizer = run.load()
        fit, test = (
            load_images(run, split).take(limit)
            for split, limit in (("train", PROBE_FIT_IMAGES), ("test", PROBE_TEST_IMAGES))
        )
        a, b = (_latents(tokenizer, images) for images in (fit, test))
        deviation = a.std(axis=0)
        a, b = ((x - a.mean(axis=0)) / np.where(deviation > 0, deviation, 1) for x in (a, b))
        return {"probe accuracy": float((logistic_probe(a, fit.labels, b) == test.labels).mean())}

    def _generate(self, run: Run, step: int, shift: float | None) -> Numbers:
        model, tokenizer = (
            run.load(step).to(DEVICE),
            run.tokenizer.load(run.tokenizer_step).to(DEVICE),
        )
        labels = torch.arange(self.scale.num_samples) % model.config.classes
        seed = run.config.training["seed"]
        with torch.no_grad():
            samples = _samples(model, tokenizer, labels, 1000 * seed, shift)
            train, features = self._real(run.tokenizer, seed)
            encoded = _encoded(tokenizer, train)
            decoded = decode_samples(tokenizer, encoded)
            gaussian = _class_gaussian_images(tokenizer, encoded, train, labels, seed)
            numbers: Numbers = {}
            for name, feature_extractor in self.feature_extractors(train.pixels.shape[-1]).items():
                real, held = features[name]
                made, rebuilt, drawn = (
                    pooled_features(feature_extractor, x, DEVICE)
                    for x in (samples, decoded, gaussian)
                )
                numbers |= {
                    f"gFD{name}": _distance(real, made),
                    f"floor{name}": _distance(real, held),
                }
                numbers[f"gap{name}"] = _distance(rebuilt, made)
                numbers[f"class Gaussians{name}"] = _distance(real, drawn)
                if not name:
                    numbers["precision"], numbers["recall"] = precision_recall(real, made)
        return numbers

    @torch.no_grad()
    def _draw(self, draw: int, run: Run) -> Numbers:
        assert run.tokenizer is not None
        model = run.load(run.steps[-1]).to(DEVICE)
        tokenizer = run.tokenizer.load(run.tokenizer_step).to(DEVICE)
        labels = torch.arange(self.scale.num_samples) % model.config.classes
        seed = run.config.training["seed"]
        samples = _samples(model, tokenizer, labels, 1000 * seed + DRAW_SEED_STEP * draw, None)
        train, features = self._real(run.tokenizer, seed)
        extractors = self.feature_extractors(train.pixels.shape[-1]).items()
        return {
            f"gFD{name}": _distance(features[name][0], pooled_features(extractor, samples, DEVICE))
            for name, extractor in extractors
        }

    @torch.no_grad()
    def _reference(self, count: int, run: Run) -> Numbers:
        tokenizer = run.load().to(DEVICE)
        seed = run.config.training["seed"]
        training = load_images(run, "train")
        tokens = _encoded(tokenizer, training)
        gaussians = fit_class_gaussians(tokens.latents.cpu().numpy(), training.labels)
        labels = np.resize(gaussians.classes, self.scale.num_samples)
        draws = [
            decode_samples(
                tokenizer,
                Tokens(torch.from_numpy(gaussians.sample(labels, draw)), grid=tokens.grid),
            )
            for draw in range(count)
        ]
        _, features = self._real(run, seed)
        return {
            f"class Gaussians{name}": float(
                np.mean(
                    [
                        _distance(features[name][0], pooled_features(extractor, x, DEVICE))
                        for x in draws
                    ]
                )
            )
            for name, extractor in self.feature_extractors(training.pixels.shape[-1]).items()
        }

    def _real(self, tokenizer: Run, seed: int) -> tuple[ImageSet, dict[str, Pair]]:
        """Return training images, and features of training and of held-out images."""
        key = (
            tokenizer.config.data.fingerprint,
            self.scale.num_samples,
            seed,
            self.scale.feature_extractor,
        )
        if key not in _REAL:
            train, test = (
                load_images(tokenizer, split).take(self.scale.num_samples, seed)
                for split in ("train", "test")
            )
            feature_extractors = self.feature_extractors(train.pixels.shape[-1]).items()
            features = {
                name: tuple(
                    pooled_features(feature_extractor, x.pixels, DEVICE) for x in (train, test)
                )
                for name, feature_extractor in feature_extractors
            }
            _REAL[key] = train, features
        return _REAL[key]


def _alone(path: Path) -> FileLock:
    """Return a lock on a measurement: two workers may measure generators of one tokenizer."""
    path.parent.mkdir(exist_ok=True)
    return FileLock(f"{path}.lock")


def probed(run: Run, lab: Lab) -> Numbers:
    """Measure a linear probe, on more images than the diagnostic of that name."""
    return lab.probe(run)


@torch.no_grad()
def _latents(tokenizer: torch.nn.Module, images: ImageSet) -> np.ndarray:
    """Encode images as float64 rows, (n_images, num_tokens * dim)."""
    parts = torch.arange(len(images)).split(BATCH)
    return np.concatenate(
        [tokenizer.encode(images.images(p)).latents.flatten(1).double().numpy() for p in parts]
    )


def _samples(
    model: torch.nn.Module,
    tokenizer: torch.nn.Module,
    labels: torch.Tensor,
    seed: int,
    shift: float | None,
) -> np.ndarray:
    """Draw samples of classes in batches; `shift` None is the model's own."""
    options = {} if shift is None else {"shift": shift}
    return np.concatenate(
        [
            draw_samples(
                model, tokenizer, part.to(DEVICE), steps=STEPS, seed=seed + number, **options
            )
            for number, part in enumerate(labels.split(BATCH))
        ]
    )


def _encoded(tokenizer: torch.nn.Module, images: ImageSet) -> Tokens:
    """Encode all images, in batches."""
    device = next(tokenizer.parameters()).device
    parts = [
        tokenizer.encode(images.images(part).to(device))
        for part in torch.arange(len(images)).split(BATCH)
    ]
    actives = [part.active for part in parts if part.active is not None]
    codes = [part.codes for part in parts if part.codes is not None]
    return Tokens(
        latents=torch.cat([part.latents for part in parts]),
        codes=torch.cat(codes) if codes else None,
        active=torch.cat(actives) if actives else None,
        grid=parts[0].grid,
    )


def _class_gaussian_images(
    tokenizer: torch.nn.Module,
    tokens: Tokens,
    images: ImageSet,
    labels: torch.Tensor,
    seed: int,
) -> np.ndarray:
    """Decode draws of these classes from one Gaussian per class, fitted to the images' latents."""
    gaussians = fit_class_gaussians(tokens.latents.cpu().numpy(), images.labels)
    draws = torch.from_numpy(gaussians.sample(labels.numpy(), seed))
    return decode_samples(tokenizer, Tokens(draws, grid=tokens.grid))


def _distance(real: np.ndarray, made: np.ndarray) -> float:
    n = min(len(real), len(made))
    return frechet_distance(real[:n], made[:n])


@cache
def _teacher(name: str, channels: int) -> FeatureExtractor:
    return get_feature_extractor(name, channels=channels)
