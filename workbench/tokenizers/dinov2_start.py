"""The weights of a pretrained DINOv2 as the start of an encoder, as in SoftVQ-VAE.

All weights of the transformer are taken. Positions are resampled to the grid of the encoder, and
the embedding of patches to their size, as in FlexiViT (arXiv:2212.08013): an enlarged patch has the
embedding of the original one. The learned tokens and the map to latents are not among them.

As in the released code, images are not normalized to the mean and standard deviation that DINOv2
was trained with.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from workbench.core.errors import UserError
from workbench.nn.vit import Encoder
from workbench.storage.published import Address
from workbench.tokenizers.pretrained.checkpoint import Checkpoint

Weights = Mapping[str, Tensor]
# Names of a block's layers here, and in the files of the hub.
LAYERS = {
    "norm_1": "norm1",
    "attention.project_out": "attention.output.dense",
    "norm_2": "norm2",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
}
# The last layer of each branch, and the published gains of the branch.
BRANCHES = {
    "attention.project_out": ("scale_1", "layer_scale1"),
    "mlp.2": ("scale_2", "layer_scale2"),
}
PROJECTION = "embeddings.patch_embeddings.projection.weight"
POSITIONS = "embeddings.position_embeddings"


def load_dinov2(encoder: Encoder, location: str) -> None:
    """Load the weights of a DINOv2 into an encoder.

    Parameters
    ----------
    encoder : Encoder
        The encoder, of the width, depth and heads of the DINOv2.
    location : str
        Its name on the hub, such as facebook/dinov2-base, or a local folder.

    Raises
    ------
    UserError
        If the weights are not found, or the sizes differ.
    """
    checkpoint = Checkpoint.read(Address("dinov2", location))
    _check_sizes(encoder, checkpoint)
    weights = checkpoint.weights
    sizes = encoder.sizes
    kernel = resample_patches(weights[PROJECTION], sizes.patch)
    if sizes.channels == 1:  # gray, as three equal channels
        kernel = kernel.sum(dim=1, keepdim=True)
    positions = weights[POSITIONS][0]
    converted = {
        "embed.weight": rearrange(kernel, "width c i j -> width (i j c)"),
        "embed.bias": weights["embeddings.patch_embeddings.projection.bias"],
        "patch_positions": resample_positions(positions[1:], sizes.patch_grid),
        "norm.weight": weights["layernorm.weight"],
        "norm.bias": weights["layernorm.bias"],
    }
    if encoder.class_token is not None:
        converted["class_token"] = weights["embeddings.cls_token"][0] + positions[:1]
    expected = encoder.state_dict()
    for index in range(sizes.depth):
        block = _convert_block(weights, f"encoder.layer.{index}")
        if f"blocks.{index}.scale_1.gain" not in expected:
            block = _fold_gains(block)
        converted |= {f"blocks.{index}.{name}": tensor for name, tensor in block.items()}
    encoder.load_state_dict(expected | converted)


def resample_patches(
    kernel: Float[Tensor, "width c p p"], size: int
) -> Float[Tensor, "width c size size"]:
    """Return the embedding of larger or smaller patches, by the pseudo-inverse of their resizing.

    Parameters
    ----------
    kernel : Tensor, shape (width, channels, patch, patch)
        The embedding of patches.
    size : int
        Side of the other patches, in pixels.

    Returns
    -------
    Tensor, shape (width, channels, size, size)
        The embedding. If patches are enlarged to this size, their embeddings are unchanged.
    """
    side = kernel.shape[-1]
    if side == size:
        return kernel
    basis = rearrange(torch.eye(side**2, dtype=torch.float64), "n (i j) -> n 1 i j", i=side)
    resized = F.interpolate(basis, (size, size), mode="bicubic", antialias=True)
    inverse = torch.linalg.pinv(rearrange(resized, "n 1 i j -> n (i j)"))
    rows = rearrange(kernel.double(), "width c i j -> (i j) (width c)")
    return rearrange(
        inverse @ rows, "(i j) (width c) -> width c i j", i=size, c=kernel.shape[1]
    ).to(kernel.dtype)


def resample_positions(
    positions: Float[Tensor, "p width"], grid: tuple[int, int]
) -> Float[Tensor, "other_p width"]:
    """Resample positions on a square grid to another grid: bicubic, with anti-aliasing."""
    side = round(len(positions) ** 0.5)
    if grid == (side, side):
        return positions
    maps = rearrange(positions, "(h w) width -> 1 width h w", h=side)
    resized = F.interpolate(maps, grid, mode="bicubic", antialias=True)
    return rearrange(resized, "1 width h w -> (h w) width")


def _check_sizes(encoder: Encoder, checkpoint: Checkpoint) -> None:
    width, _, _, _ = checkpoint.shape(PROJECTION, "width channels patch patch")
    checkpoint.shape(POSITIONS, "1 rows width")
    if "encoder.layer.0.mlp.fc1.weight" not in checkpoint.weights:
        raise checkpoint.refuse("it is not a DINOv2 with plain MLPs (small, base or large).")
    published = {
        "width": width,
        "depth": checkpoint.depth("encoder.layer"),
        "heads": checkpoint.config.get("num_attention_heads", encoder.sizes.heads),
    }
    for name, value in published.items():
        if value != getattr(encoder.sizes, name):
            raise UserError(
                f"The encoder starts from {checkpoint.path}, whose {name} is {value}; "
                f"{name} must be the same, got {getattr(encoder.sizes, name)}."
            )


def _convert_block(weights: Weights, block: str) -> dict[str, Tensor]:
    converted = {
        f"{name}.{part}": weights[f"{block}.{published}.{part}"]
        for name, published in LAYERS.items()
        for part in ("weight", "bias")
    }
    for part in ("weight", "bias"):
        converted[f"attention.project_in.{part}"] = torch.cat(
            [
                weights[f"{block}.attention.attention.{name}.{part}"]
                for name in ("query", "key", "value")
            ]
        )
    for scale, published in BRANCHES.values():
        converted[f"{scale}.gain"] = weights[f"{block}.{published}.lambda1"]
    return converted


def _fold_gains(block: dict[str, Tensor]) -> dict[str, Tensor]:
    """Multiply the last layer of each branch by the gains of the branch."""
    folded = dict(block)
    for layer, (scale, _) in BRANCHES.items():
        gain = folded.pop(f"{scale}.gain")
        folded[f"{layer}.weight"] = gain[:, None] * folded[f"{layer}.weight"]
        folded[f"{layer}.bias"] = gain * folded[f"{layer}.bias"]
    return folded
