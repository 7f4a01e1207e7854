"""Training steps of tokenizers beside the same networks built of public parts.

The ViT tokenizers' counterpart is made of torch.nn's transformer and takes our weights over, so that both are one
function; its codes are vector-quantize-pytorch's. The convolutional one's is diffusers' AutoencoderKL.
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

from .measure import Pair, alike, distance, found, stepper
from .quantizers import EQUAL
from .sizes import Size

CODES = 256
BLANK = {"linear_init": False}  # as the papers have it; public parts have no linear path
NAMES = {  # of a block's parts, ours and torch's
    "attention.project_in.": "self_attn.in_proj_",
    "attention.project_out": "self_attn.out_proj",
    "mlp.0": "linear1",
    "mlp.2": "linear2",
    "norm_1": "norm1",
    "norm_2": "norm2",
}


def pairs(size: Size, device: str) -> Iterator[Callable[[], Pair]]:
    """Every comparison, each made when it is its turn."""
    for make in (plain, hard, soft, convolutional):
        yield partial(make, size, device)


def plain(size: Size, device: str) -> Pair:
    """An autoencoder without a quantizer: the transformers alone."""
    return _vit("AE", AE(AE.Config(**BLANK, **size.vit)), None, size, device)


def hard(size: Size, device: str) -> Pair:
    """Codes of unit vectors as running averages of their tokens, none revived."""
    ours = VQVAE(VQVAE.Config(codebook_size=CODES, revive=0.0, **BLANK, **size.vit))
    return _vit(f"VQ-VAE of {CODES} codes", ours, vector_quantize(ours), size, device)


def soft(size: Size, device: str) -> Pair:
    """Soft mixes of codes; as no public package has them, beside hard codes."""
    ours = SoftVQ(SoftVQ.Config(codebook_size=CODES, align_weight=0.0, **BLANK, **size.vit))
    return _vit(f"SoftVQ of {CODES} codes", ours, vector_quantize(ours), size, device)


def vector_quantize(ours: VQVAE | SoftVQ) -> nn.Module:
    """vector-quantize-pytorch's codes of unit vectors, as our VQ-VAE learns its own, starting from ours."""
    from vector_quantize_pytorch import VectorQuantize

    made = VectorQuantize(
        dim=ours.config.dim,
        codebook_size=CODES,
        decay=0.95,
        commitment_weight=0.25,
        rotation_trick=False,
        use_cosine_sim=True,
    )
    made._codebook.embed.data.copy_(ours.codebook[:1].detach())
    return made


def _vit(
    name: str, ours: AE | VQVAE | SoftVQ, quantizer: nn.Module | None, size: Size, device: str
) -> Pair:
    theirs, config = Public(ours, quantizer).to(device), ours.config
    ours = ours.to(device)
    images = (
        torch.rand(size.images, config.channels, config.side, config.side, device=device) * 2 - 1
    )

    def their_loss() -> Tensor:
        returned, cost, _ = theirs(images)
        return F.mse_loss(returned, images) + cost

    layers = f"{config.depth} + {config.depth} layers of {config.width}"
    sizes = f"{size.images} images of {config.side} px, {config.num_tokens} tokens, {layers}"
    public = "torch.nn" if quantizer is None else "torch.nn, vector-quantize"
    why = "A soft mix and its entropy go over every code several times; hard codes look for the least alone."
    sides = stepper(ours, lambda: ours.objective(images).total), stepper(theirs, their_loss)
    agrees = (
        found(True, alike(ours, theirs))
        if isinstance(ours, SoftVQ)
        else found(*_equal(ours, theirs, images))
    )
    return Pair(
        f"{name}, step", sizes, public, *sides, agrees, why if isinstance(ours, SoftVQ) else ""
    )


@torch.no_grad()
def _equal(ours: AE | VQVAE, theirs: "Public", images: Tensor) -> tuple[bool, str]:
    """Whether the two are one function before they learn."""
    ours.eval(), theirs.eval()
    tokens, (returned, _, codes) = ours.encode(images), theirs(images)
    apart = distance(ours.decode(tokens), returned)
    ours.train(), theirs.train()
    if codes is None:
        return apart < 1e-4, f"images equal but for {apart:.0e}"
    equal = (tokens.codes == codes).float().mean().item()
    return equal > EQUAL, f"{equal:.1%} of codes"


def convolutional(size: Size, device: str) -> Pair:
    """A KL autoencoder of convolutions: encode, sample, decode, error, divergence."""
    from diffusers import AutoencoderKL

    config = VAVAE.Config(
        side=32, channels=3, dim=size.channels, blocks=1, align_weight=0.0, **BLANK, **size.conv
    )
    ours, levels = VAVAE(config).to(device), len(config.multipliers)
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
        found = theirs.decode(posterior.sample()).sample
        return F.l1_loss(found, images) + 1e-6 * posterior.kl().mean()

    sizes = f"{size.conv_images} images of 32 px, {levels} levels from width {config.width}"
    sides = stepper(ours, lambda: ours.objective(images).total), stepper(theirs, their_loss)
    return Pair(
        "convolutional KL-VAE, step",
        sizes,
        "diffusers' AutoencoderKL",
        *sides,
        found(True, alike(ours, theirs)),
    )


class Public(nn.Module):
    """A one-dimensional ViT autoencoder of torch's parts, with the weights of one of ours."""

    def __init__(self, ours: AE | VQVAE | SoftVQ, quantizer: nn.Module | None = None) -> None:
        super().__init__()
        self.sizes, self.quantizer = ours.config, quantizer
        encoder, decoder = ours.encoder, ours.decoder.decoder
        self.patches = nn.Conv2d(
            ours.config.channels, ours.config.width, ours.config.patch, ours.config.patch
        )
        kernel = rearrange(
            encoder.embed.weight, "w (i j c) -> w c i j", i=ours.config.patch, j=ours.config.patch
        )
        self.patches.load_state_dict({"weight": kernel, "bias": encoder.embed.bias})
        self.encoder, self.decoder = _blocks(encoder), _blocks(decoder)
        self.to_latents, self.from_latents, self.to_patches = map(
            _like, (encoder.to_latents, decoder.embed, decoder.to_patches)
        )
        self.places, self.queries = _copy(encoder.patch_positions), _copy(encoder.tokens)
        self.blank, self.blank_places = _copy(decoder.patch), _copy(decoder.patch_positions)
        self.token_places = _copy(decoder.token_positions)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images as they come back, what the codes cost, and the codes."""
        many, patch = len(images), self.sizes.patch
        seen = self.patches(images).flatten(2).transpose(1, 2) + self.places
        x = torch.cat([seen, self.queries.expand(many, -1, -1)], dim=1)
        latents, cost, codes = (
            self.to_latents(self.encoder(x)[:, -self.sizes.num_tokens :]),
            images.new_zeros(()),
            None,
        )
        if self.quantizer is not None:
            latents, codes, cost = self.quantizer(latents)
        blank = (self.blank + self.blank_places).expand(many, -1, -1)
        x = torch.cat([blank, self.from_latents(latents) + self.token_places], dim=1)
        found = self.to_patches(self.decoder(x)[:, : self.sizes.patches])
        rows = self.sizes.side // patch
        found = (
            found.unflatten(2, (patch, patch, -1))
            .unflatten(1, (rows, rows))
            .permute(0, 5, 1, 3, 2, 4)
        )
        return found.reshape(images.shape), cost.sum(), codes


def _blocks(half: Encoder | Decoder) -> nn.TransformerEncoder:
    """torch's pre-norm transformer with the weights of ours."""
    width, block = half.norm.weight.shape[0], half.blocks[0]
    how = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
    layer = nn.TransformerEncoderLayer(width, block.attention.heads, 4 * width, **how)
    made = nn.TransformerEncoder(
        layer, len(half.blocks), norm=nn.LayerNorm(width), enable_nested_tensor=False
    )
    for mine, its in zip(half.blocks, made.layers, strict=True):
        its.load_state_dict({_named(name): value for name, value in mine.state_dict().items()})
    made.norm.load_state_dict(half.norm.state_dict())
    return made


def _named(name: str) -> str:
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


def _like(ours: nn.Linear) -> nn.Linear:
    made = nn.Linear(ours.in_features, ours.out_features)
    made.load_state_dict(ours.state_dict())
    return made


def _copy(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone())
