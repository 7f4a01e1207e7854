"""Similarity of each reconstruction to its image: SSIM, MS-SSIM and LPIPS."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import batch_slices
from workbench.collect.ssim import GAUSSIAN_WINDOW, MS_SSIM_MIN_SIDE, gaussian_ssim, ms_ssim
from workbench.core.errors import NotApplicable
from workbench.data import ImageSet
from workbench.features.lpips import LPIPS, NETWORKS, is_present
from workbench.tokenizers.base import Tokenizer

BATCH_IMAGES = 32  # VGG-16 needs about 50 MB of activations per image of 256 x 256 pixels
Metric = Callable[[Tensor, Tensor], Tensor]


@collector("tokenizer", provides=["ssim", "ms_ssim"], requires=["encoding"])
def structural_similarity(model: Tokenizer, images: ImageSet, context: CollectContext) -> Arrays:
    """Compute SSIM with a Gaussian window, and MS-SSIM if the images are large enough."""
    side = min(images.pixels.shape[1:3])
    metrics: dict[str, Metric] = {}
    if side >= GAUSSIAN_WINDOW:
        metrics["ssim"] = gaussian_ssim
    if side >= MS_SSIM_MIN_SIDE:
        metrics["ms_ssim"] = ms_ssim
    if not metrics:
        raise NotApplicable(
            f"SSIM needs images of at least {GAUSSIAN_WINDOW} pixels; these have {side}."
        )
    return _compare(metrics, images, context)


@collector("tokenizer", provides=["lpips_vgg", "lpips_alex"], requires=["encoding"])
def perceptual_distance(model: Tokenizer, images: ImageSet, context: CollectContext) -> Arrays:
    """Compute LPIPS on the networks whose weights are on this machine."""
    side = min(images.pixels.shape[1:3])
    metrics: dict[str, Metric] = {
        f"lpips_{name}": LPIPS(name).distances
        for name, network in NETWORKS.items()
        if is_present(name) and side >= network.min_side
    }
    if not metrics:
        raise NotApplicable(
            "LPIPS needs the weights of VGG-16 or AlexNet and its linear heads (see `workbench "
            f"doctor`), and images of at least {NETWORKS['vgg'].min_side} pixels; these have"
            f" {side}."
        )
    return _compare(metrics, images, context)


def _compare(metrics: dict[str, Metric], images: ImageSet, context: CollectContext) -> Arrays:
    """Compute metrics of every pair of an image and its reconstruction, both in bytes."""
    reconstructions = context.arrays["reconstructions"]
    values: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    parts = list(batch_slices(len(reconstructions), limit=BATCH_IMAGES))
    for part in context.track(parts):
        originals = _to_images(images.pixels[part], context)
        decoded = _to_images(reconstructions[part], context)
        for name, metric in metrics.items():
            values[name].append(metric(decoded, originals).float().cpu().numpy())
    return {name: np.concatenate(arrays) for name, arrays in values.items()}


def _to_images(pixels: np.ndarray, context: CollectContext) -> Tensor:
    channels_first = torch.tensor(np.moveaxis(pixels, -1, 1)).to(context.device)
    return channels_first.float() / 127.5 - 1
