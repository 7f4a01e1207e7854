"""Training steps of tokenizers, compared with the same networks built from public parts.

The ViT tokenizers are compared with torch.nn's transformer, which receives our weights, so that
both compute the same function; its quantizer is vector-quantize-pytorch's. The convolutional
tokenizer is compared with diffusers' AutoencoderKL.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from workbench.nn.vit import Decoder, Encoder
from workbench.tokenizers.ae import AE
from workbench.tokenizers.softvq import SoftVQ
from workbench.tokenizers.vavae import VAVAE
from workbench.tokenizers.vqvae import VQVAE

from .measure import (
    Check,
    Comparison,
    checked_before,
    max_difference,
    parameter_ratio,
    training_step,
)
from .quantizers import MIN_EQUAL_CODES
from .sizes import Size

CODEBOOK_SIZE = 256
MAX_IMAGE_DIFFERENCE = 1e-4
# Like the papers; the public parts have no linear path.
NO_LINEAR_PATH = {"linear_init": False}
TORCH_NAMES = {  # parts of a block: our name and torch's
    "attention.project_in.": "self_attn.in_proj_",
    "attention.project_out": "self_attn.out_proj",
    "mlp.0": "linear1",
    "mlp.2": "linear2",
    "norm_1": "norm1",
    "norm_2": "norm2",
}


def comparisons(size: Size, device: str) -> Iterator[Callable[[], Comparison]]:
    """Yield functions that create the comparisons."""
    for make in (autoencoder, vqvae, softvq, convolutional):
        yield partial(make, size, device)


def autoencoder(size: Size, device: str) -> Comparison:
    """Compare autoencoders without a quantizer: the transformers alone."""
    ours = AE(AE.Config(**NO_LINEAR_PATH, **size.vit))
    return _compare_vit("AE", ours, None, size, device)


def vqvae(size: Size, device: str) -> Comparison:
    """Compare VQ-VAEs with codewords on the unit sphere, learned by EMA, without revival."""
    config = VQVAE.Config(codebook_size=CODEBOOK_SIZE, revive=0.0, **NO_LINEAR_PATH, **size.vit)
    ours = VQVAE(config)
    name = f"VQ-VAE of {CODEBOOK_SIZE} codes"
    return _compare_vit(name, ours, vector_quantize(ours), size, device)


def softvq(size: Size, device: str) -> Comparison:
    """Compare SoftVQ with hard codes, because no public package has soft ones."""
    config = SoftVQ.Config(
        codebook_size=CODEBOOK_SIZE, align_weight=0.0, **NO_LINEAR_PATH, **size.vit
    )
    ours = SoftVQ(config)
    name = f"SoftVQ of {CODEBOOK_SIZE} codes"
    return _compare_vit(name, ours, vector_quantize(ours), size, device)


def vector_quantize(ours: VQVAE | SoftVQ) -> nn.Module:
    """Return vector-quantize-pytorch's quantizer with our settings and initial codewords."""
    from vector_quantize_pytorch import VectorQuantize

    quantizer = VectorQuantize(
        dim=ours.config.dim,
        codebook_size=CODEBOOK_SIZE,
        decay=0.95,
        commitment_weight=0.25,
        rotation_trick=False,
        use_cosine_sim=True,
    )
    quantizer._codebook.embed.data.copy_(ours.codebook[:1].detach())
    return quantizer


def _compare_vit(
    name: str, ours: AE | VQVAE | SoftVQ, quantizer: nn.Module | None, size: Size, device: str
) -> Comparison:
    config = ours.config
    theirs = TorchAutoencoder(ours, quantizer).to(device)
    ours = ours.to(device)
    images = (
        torch.rand(size.images, config.channels, config.side, config.side, device=device) * 2 - 1
    )

    def their_loss() -> Tensor:
        reconstructions, quantizer_loss, _ = theirs(images)
        return F.mse_loss(reconstructions, images) + quantizer_loss

    check: Check
    if isinstance(ours, SoftVQ):
        check = checked_before(True, parameter_ratio(ours, theirs))
        slowdown_reason = (
            "Soft assignments and their entropy read all similarities several times; "
            "hard codes need only the maximum."
        )
    else:
        check = checked_before(*_same_function(ours, theirs, images))
        slowdown_reason = ""
    layers = f"{config.depth} + {config.depth} layers of {config.width}"
    return Comparison(
        work=f"{name}, step",
        sizes=f"{size.images} images of {config.side} px, {config.num_tokens} tokens, {layers}",
        reference="torch.nn" if quantizer is None else "torch.nn, vector-quantize",
        ours=training_step(ours, lambda: ours.objective(images).total),
        theirs=training_step(theirs, their_loss),
        check=check,
        slowdown_reason=slowdown_reason,
    )


@torch.no_grad()
def _same_function(
    ours: AE | VQVAE, theirs: "TorchAutoencoder", images: Tensor
) -> tuple[bool, str]:
    """Return whether both compute the same function before training, and how closely."""
    ours.eval()
    theirs.eval()
    tokens = ours.encode(images)
    reconstructions, _, codes = theirs(images)
    difference = max_difference(ours.decode(tokens), reconstructions)
    ours.train()
    theirs.train()
    if codes is None:
        return difference < MAX_IMAGE_DIFFERENCE, f"images within {difference:.0e}"
    equal_codes = (tokens.codes == codes).float().mean().item()
    return equal_codes > MIN_EQUAL_CODES, f"{equal_codes:.1%} of codes"


def convolutional(size: Size, device: str) -> Comparison:
    """Compare convolutional KL autoencoders: encode, sample, decode, reconstruction and KL loss."""
    from diffusers import AutoencoderKL

    config = VAVAE.Config(
        side=32,
        channels=3,
        dim=size.channels,
        blocks=1,
        align_weight=0.0,
        **NO_LINEAR_PATH,
        **size.conv,
    )
    ours = VAVAE(config).to(device)
    levels = len(config.multipliers)
    theirs = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(config.width * multiplier for multiplier in config.multipliers),
        layers_per_block=1,
        latent_channels=config.dim,
        sample_size=32,
    ).to(device)
    images = torch.rand(size.conv_images, 3, 32, 32, device=device) * 2 - 1

    def their_loss() -> Tensor:
        posterior = theirs.encode(images).latent_dist
        reconstructions = theirs.decode(posterior.sample()).sample
        return F.l1_loss(reconstructions, images) + 1e-6 * posterior.kl().mean()

    return Comparison(
        work="convolutional KL-VAE, step",
        sizes=f"{size.conv_images} images of 32 px, {levels} levels from width {config.width}",
        reference="diffusers' AutoencoderKL",
        ours=training_step(ours, lambda: ours.objective(images).total),
        theirs=training_step(theirs, their_loss),
        check=checked_before(True, parameter_ratio(ours, theirs)),
    )


class TorchAutoencoder(nn.Module):
    """A one-dimensional ViT autoencoder of torch's parts, with the weights of one of ours."""

    def __init__(self, ours: AE | VQVAE | SoftVQ, quantizer: nn.Module | None = None) -> None:
        super().__init__()
        self.config = ours.config
        self.quantizer = quantizer
        encoder, decoder = ours.encoder, ours.decoder.decoder
        self.patches = nn.Conv2d(
            ours.config.channels, ours.config.width, ours.config.patch, ours.config.patch
        )
        kernel = rearrange(
            encoder.embed.weight, "w (i j c) -> w c i j", i=ours.config.patch, j=ours.config.patch
        )
        self.patches.load_state_dict({"weight": kernel, "bias": encoder.embed.bias})
        self.encoder, self.decoder = _blocks(encoder), _blocks(decoder)
        self.to_latents = _copy_linear(encoder.to_latents)
        self.from_latents = _copy_linear(decoder.embed)
        self.to_patches = _copy_linear(decoder.to_patches)
        self.patch_positions = _copy(encoder.patch_positions)
        self.latent_queries = _copy(encoder.tokens)
        self.mask_token = _copy(decoder.patch)
        self.mask_positions = _copy(decoder.patch_positions)
        self.token_positions = _copy(decoder.token_positions)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return reconstructions, the loss of the quantizer, and the codes."""
        batch_size, patch = len(images), self.config.patch
        patches = self.patches(images).flatten(2).transpose(1, 2) + self.patch_positions
        x = torch.cat([patches, self.latent_queries.expand(batch_size, -1, -1)], dim=1)
        latents = self.to_latents(self.encoder(x)[:, -self.config.num_tokens :])
        quantizer_loss = images.new_zeros(())
        codes = None
        if self.quantizer is not None:
            latents, codes, quantizer_loss = self.quantizer(latents)
        masks = (self.mask_token + self.mask_positions).expand(batch_size, -1, -1)
        x = torch.cat([masks, self.from_latents(latents) + self.token_positions], dim=1)
        pixels = self.to_patches(self.decoder(x)[:, : self.config.patches])
        rows = self.config.side // patch
        pixels = (
            pixels.unflatten(2, (patch, patch, -1))
            .unflatten(1, (rows, rows))
            .permute(0, 5, 1, 3, 2, 4)
        )
        return pixels.reshape(images.shape), quantizer_loss.sum(), codes


def _blocks(half: Encoder | Decoder) -> nn.TransformerEncoder:
    """Return torch's pre-norm transformer with our weights."""
    width = half.norm.weight.shape[0]
    layer = nn.TransformerEncoderLayer(
        width,
        half.blocks[0].attention.heads,
        4 * width,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
    transformer = nn.TransformerEncoder(
        layer, len(half.blocks), norm=nn.LayerNorm(width), enable_nested_tensor=False
    )
    for our_block, their_layer in zip(half.blocks, transformer.layers, strict=True):
        weights = our_block.state_dict().items()
        their_layer.load_state_dict({_torch_name(name): value for name, value in weights})
    transformer.norm.load_state_dict(half.norm.state_dict())
    return transformer


def _torch_name(name: str) -> str:
    for ours, theirs in TORCH_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def _copy_linear(ours: nn.Linear) -> nn.Linear:
    linear = nn.Linear(ours.in_features, ours.out_features)
    linear.load_state_dict(ours.state_dict())
    return linear


def _copy(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone())
