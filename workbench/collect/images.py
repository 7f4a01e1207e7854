"""The images of a run, and their features."""

import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

import workbench
from workbench.core.errors import RunError, UserError
from workbench.data import ImageSet, load
from workbench.features import FeatureExtractor
from workbench.storage.run import Run

ENCODE_BATCH = 256
MAX_ARRAY_BYTES = 2**26  # bytes of one array that is only there for a closer look


def load_images(run: Run, split: str = "test", most: int | None = None) -> ImageSet:
    """The images of a tokenizer's run, or `most` of them. Raises RunError if they are no longer those it was trained
    beside.
    """
    told = run.config.get("data")
    if told is None:
        raise RunError(
            f"{run.folder} does not say which images it was trained on; its config.json should."
        )
    if split == "train" and told["source"].startswith("stream:"):
        raise UserError(
            f"{told['source']} is only ever read in order; a generator needs images that can be indexed."
        )
    limit = min((n for n in (most, told["limit"]) if n is not None), default=None)
    images = load(
        told["source"], split=split, side=told["side"], channels=told["channels"], limit=limit
    )
    if split == "train" and most is None and images.fingerprint != told["fingerprint"]:
        raise RunError(
            f"The images in {told['source']} changed since {run.folder} was trained on them; train a new run."
        )
    return images


def tokenizer_run(run: Run) -> Run:
    """The tokenizer's run of a generator's. Raises RunError where nobody told which it is."""
    if run.tokenizer is None:
        raise RunError(
            f"{run.folder} does not say which tokenizer it was trained on; its config.json should."
        )
    return run.tokenizer


def to_uint8(images: Tensor) -> np.ndarray:
    """Images in [-1, 1] as uint8 (n, h, w, c), clamped."""
    return (
        rearrange(((images.clamp(-1, 1) + 1) * 127.5).round().byte(), "n c h w -> n h w c")
        .cpu()
        .numpy()
    )


def pooled_features(
    feature_extractor: FeatureExtractor, shown: np.ndarray, device: torch.device
) -> np.ndarray:
    """Compute the features of whole pictures, uint8 (n, h, w, c) to float32 (n, e)."""
    rows = []
    for part in batch_slices(len(shown)):
        images = torch.tensor(np.moveaxis(shown[part], -1, 1)).to(device).float() / 127.5 - 1
        rows.append(feature_extractor.features(images, (1, 1))[:, 0].float().cpu().numpy())
    return np.concatenate(rows)


def training_image_arrays(
    run: Run, feature_extractor: FeatureExtractor, device: torch.device, limit: int, seed: int
) -> dict[str, Any]:
    """Training images to compare with, and their features; nothing where they cannot be indexed."""
    if run.config["data"]["source"].startswith("stream:"):
        return {}
    images = load_images(run, "train")
    images = images.take(min(limit, max(1, MAX_ARRAY_BYTES // images.pixels[0].size)), seed)
    return {
        "train_images": images.pixels,
        "train_features": pooled_features(feature_extractor, images.pixels, device),
    }


@cache
def versions() -> dict[str, str]:
    """The versions a result depends on; `code` is a fingerprint of all of this package that trains and encodes."""
    package, code = Path(workbench.__file__).parent, hashlib.sha256()
    for room in (
        "core",
        "training",
        "nn",
        "quantizers",
        "features",
        "tokenizers",
        "generators",
        "data",
    ):
        for path in sorted(
            [package / room] if room.endswith(".py") else (package / room).glob("*.py")
        ):
            code.update(path.read_bytes())
    libraries = {
        "workbench": workbench.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    return libraries | {"code": code.hexdigest()[:12]}


def model_device(model: nn.Module) -> torch.device:
    """Where a model is."""
    return next(model.parameters()).device


def batch_slices(count: int) -> Iterator[slice]:
    """Slices of at most BATCH rows."""
    return (slice(a, b) for a, b in pairwise([*range(0, count, ENCODE_BATCH), count]))


def ticker(tick: Callable[[int, int], None] | None, total: int) -> Callable[[int], None]:
    """What hears how many are done."""
    return (lambda done: tick(min(done, total), total)) if tick else (lambda done: None)
