"""Similarity of each reconstruction to its image: SSIM, MS-SSIM and LPIPS."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from workbench.collect.batches import ImageBatch
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.collect.images import batch_slices, to_tensor
from workbench.collect.ssim import GAUSSIAN_WINDOW, MS_SSIM_MIN_SIDE, gaussian_ssim, ms_ssim
from workbench.core.errors import NotApplicable
from workbench.features.lpips import LPIPS, NETWORKS, is_present
from workbench.tokenizers.base import Tokenizer

BATCH_IMAGES = 32  # VGG-16 needs about 50 MB of activations per image of 256 x 256 pixels
Metric = Callable[[Tensor, Tensor], Tensor]


@collector("tokenizer", provides=["ssim", "ms_ssim"], over="images")
def structural_similarity(model: Tokenizer, batch: ImageBatch, context: CollectContext) -> Arrays:
    """Compute SSIM with a Gaussian window, and MS-SSIM if the images are large enough."""
    side = min(batch.pixels.shape[1:3])
    metrics: dict[str, Metric] = {}
    if side >= GAUSSIAN_WINDOW:
        metrics["ssim"] = gaussian_ssim
    if side >= MS_SSIM_MIN_SIDE:
        metrics["ms_ssim"] = ms_ssim
    if not metrics:
        raise NotApplicable(
            f"SSIM needs images of at least {GAUSSIAN_WINDOW} pixels; these have {side}."
        )
    return _compare(metrics, batch)


@collector("tokenizer", provides=["lpips_vgg", "lpips_alex"], over="images")
def perceptual_distance(model: Tokenizer, batch: ImageBatch, context: CollectContext) -> Arrays:
    """Compute LPIPS on the networks whose weights are on this machine."""
    side = min(batch.pixels.shape[1:3])
    networks = context.resource(_lpips_networks)
    metrics: dict[str, Metric] = {
        f"lpips_{name}": network.distances
        for name, network in networks.items()
        if side >= NETWORKS[name].min_side
    }
    if not metrics:
        raise NotApplicable(
            "LPIPS needs the weights of VGG-16 or AlexNet and its linear heads (see `workbench "
            f"doctor`), and images of at least {NETWORKS['vgg'].min_side} pixels; these have"
            f" {side}."
        )
    return _compare(metrics, batch)


def _lpips_networks(context: CollectContext) -> dict[str, LPIPS]:
    return {name: LPIPS(name) for name in NETWORKS if is_present(name)}


def _compare(metrics: dict[str, Metric], batch: ImageBatch) -> Arrays:
    """Compute metrics of every pair of an image and its reconstruction, both in bytes."""
    values: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    for part in batch_slices(len(batch), limit=BATCH_IMAGES):
        decoded = to_tensor(batch.reconstructions[part], batch.device)
        for name, metric in metrics.items():
            values[name].append(metric(decoded, batch.images[part]).float().cpu().numpy())
    return {name: np.concatenate(arrays) for name, arrays in values.items()}
