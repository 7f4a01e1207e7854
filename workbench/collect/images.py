"""The images of a run, and their features."""

from collections.abc import Collection, Iterator
from itertools import chain, pairwise

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from workbench.core.errors import NotApplicable, RunError, UserError
from workbench.data import ImageSet, Pixels, load
from workbench.features import FeatureExtractor
from workbench.storage.run import Run

ENCODE_BATCH = 256  # images per batch
MAX_BATCH_PIXELS = 2**20  # per batch of images, which are 16 images of 256 x 256
GOLDEN_RATIO = 0x9E3779B1  # less 1, in units of 2**-32
MAX_ARRAY_BYTES = 2**26  # of an array that only interactive views need


def load_images(
    run: Run,
    split: str = "test",
    max_images: int | None = None,
    *,
    sample: int | None = None,
    seed: int = 0,
) -> ImageSet:
    """Load the images of a tokenizer's run.

    A dataset without splits that a tokenizer was imported with has the same held-out images as if
    the tokenizer had been trained on it.

    Parameters
    ----------
    run : Run
        The run of a tokenizer.
    split : {"test", "train", "all"}
        Held-out or training images; see `workbench.data.load`.
    max_images : int, optional
        Load at most this many images.
    sample : int, optional
        Draw at most this many of the images, in random order; of a stream, the first ones. Only
        these are decoded, and damaged ones are left out. Whether other training images have changed
        is not checked then.
    seed : int
        Seed of `sample`.

    Raises
    ------
    RunError
        If config.json does not name the images, or the training images have changed since.
    UserError
        If the training images are a stream, which cannot be indexed.
    """
    data = run.config.data
    if data is None or data.source is None:
        raise RunError(f"{run.folder} has no images in its config.json; a tokenizer must have.")
    source = data.source
    if split == "train" and source.startswith("stream:"):
        raise UserError(f"{source} can only be read in order; use images that can be indexed.")
    limit = min((n for n in (max_images, data.limit) if n is not None), default=None)
    images = load(
        source,
        split=split,
        side=data.side,
        channels=data.channels,
        limit=limit,
        resize=data.resize,
        sample=sample,
        seed=seed,
        value_range=data.value_range,
    )
    if sample is not None:
        images = images.readable()
    # The training images of an imported tokenizer are not among those of its run.
    if split != "train" or max_images is not None or data.fingerprint is None:
        return images
    if sample is None:
        is_same = images.has_fingerprint(data.fingerprint)
    else:
        is_same = bool(data.skipped) or data.n in (None, images.total)
    if not is_same:
        raise RunError(
            f"The images in {source} have changed since {run.folder} was trained on them; train a"
            " new run."
        )
    return images


def is_stream(run: Run) -> bool:
    """Return True if the images of a tokenizer's run are a stream, which cannot be indexed."""
    data = run.config.data
    return data is not None and str(data.source).startswith("stream:")


def class_labels(images: ImageSet, classes: int) -> np.ndarray:
    """Return the class that a generator is conditioned on for each image.

    Parameters
    ----------
    images : ImageSet
        Images with or without labels.
    classes : int
        The number of classes of the generator. A generator of one class is unconditional.

    Returns
    -------
    ndarray of int64, shape (n,)
        The labels; all 0 for an unconditional generator of images without labels.

    Raises
    ------
    NotApplicable
        If the images have no labels, or labels of other classes.
    """
    if images.labels is None:
        if classes > 1:
            raise NotApplicable(
                f"The generator has {classes} classes, and {images.source} has no labels."
            )
        return np.zeros(len(images), np.int64)
    labels = np.asarray(images.labels)
    if len(labels) and labels.max() >= classes:
        raise NotApplicable(
            f"The generator has {classes} classes, and {images.source} has labels up to"
            f" {labels.max()}."
        )
    return labels


def to_tensor(pixels: np.ndarray, device: torch.device) -> Tensor:
    """Convert uint8 (n, h, w, c) to float32 (n, c, h, w) in [-1, 1], on a device."""
    channels_first = torch.tensor(np.moveaxis(pixels, -1, 1)).to(device)
    return channels_first.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> np.ndarray:
    """Convert images in [-1, 1] to uint8 (n, h, w, c); values outside are clamped.

    Raises
    ------
    UserError
        If a value is NaN or infinite.
    """
    check_finite(images, "decoded images")
    scaled = ((images.clamp(-1, 1) + 1) * 127.5).round().byte()
    return rearrange(scaled, "n c h w -> n h w c").cpu().numpy()


def check_finite(values: Tensor, name: str) -> None:
    """Raise UserError if a value that a model has computed is NaN or infinite."""
    if not torch.isfinite(values).all():
        raise UserError(
            f"The {name} are not finite: the weights are damaged, or training has diverged. "
            "Use an earlier checkpoint."
        )


def pooled_features(
    feature_extractor: FeatureExtractor, pixels: Pixels, device: torch.device
) -> np.ndarray:
    """Compute one feature vector per image.

    Parameters
    ----------
    feature_extractor : FeatureExtractor
        The network.
    pixels : ndarray or LazyImages of uint8, shape (n, h, w, c)
        The images.
    device : torch.device
        Device of the computation.

    Returns
    -------
    ndarray of float32, shape (n, dim)
        Features of whole images.
    """
    return extractor_outputs(feature_extractor, pixels, device)["features"]


def extractor_outputs(
    feature_extractor: FeatureExtractor,
    pixels: Pixels,
    device: torch.device,
    prefix: str = "",
    skip: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Compute everything that a feature extractor gives for comparing sets of images.

    Parameters
    ----------
    feature_extractor : FeatureExtractor
        The network.
    pixels : ndarray or LazyImages of uint8, shape (n, h, w, c)
        The images.
    device : torch.device
        Device of the computation.
    prefix : str
        Beginning of the names of the arrays, such as `sample_`.
    skip : collection of str
        Names of outputs that are not needed.

    Returns
    -------
    dict of ndarray of float32, shapes (n, dim)
        `features`, and whatever else the network has; see `FeatureExtractor.outputs`.
    """
    parts: dict[str, list[np.ndarray]] = {}
    image_pixels = pixels.shape[1] * pixels.shape[2]
    for part in batch_slices(len(pixels), image_pixels, limit=feature_extractor.batch_size):
        outputs = feature_extractor.outputs(to_tensor(pixels[part], device))
        for name, values in outputs.items():
            if name not in skip:
                parts.setdefault(prefix + name, []).append(values.float().cpu().numpy())
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def image_generator(seed: int, index: int) -> torch.Generator:
    """Return the random numbers of one image, which do not depend on the size of a batch.

    Parameters
    ----------
    seed : int
        Seed of the collection.
    index : int
        The row of the image in the evidence.
    """
    return torch.Generator().manual_seed(indexed_seed(seed, index))


def indexed_seed(seed: int, index: int) -> int:
    """Return the seed of an image or a batch, which other seeds below 10,000 do not share.

    Multiples of the golden ratio are far apart. Generators of the CPU read 32 bits only.
    """
    return (seed * GOLDEN_RATIO + index) % 2**32


def model_device(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters and buffers; the CPU if it has none."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def batch_slices(count: int, pixels: int = 0, *, limit: int | None = None) -> Iterator[slice]:
    """Yield slices of at most `limit` rows, or fewer for images with many pixels.

    Parameters
    ----------
    count : int
        Number of rows.
    pixels : int
        Pixels of the image that belongs to each row; 0 if rows are not images.
    limit : int, optional
        Largest number of rows; by default `ENCODE_BATCH`.
    """
    size = ENCODE_BATCH if limit is None else limit
    if pixels:
        size = max(1, min(size, MAX_BATCH_PIXELS // pixels))
    edges = [*range(0, count, size), count]
    return (slice(start, stop) for start, stop in pairwise(edges))
