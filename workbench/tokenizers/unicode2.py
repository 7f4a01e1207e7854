"""UniCode2's tokenizer (arXiv:2506.20214): clustered features of a frozen teacher, with codes that
training cannot move.

The feature of a patch is looked up in a frozen table F of cluster centers, and its value is the row
of a trainable table E.

Differences from the paper: E and a pixel decoder are trained by reconstruction instead of within a
language model, and the teacher is any of our feature extractors. Only the abstract and two
summaries of the paper were available; what they leave open is a setting.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, get_args, get_origin

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError, unknown
from workbench.core.image_size import AnySide, ImageSize, as_side
from workbench.core.types import (
    Dataset,
    HasLabels,
    Images,
    MapDataset,
    Objective,
    Quantized,
    Tokens,
)
from workbench.features import FeatureExtractor, get_feature_extractor
from workbench.generators.flow_decoder import FlowDecoder
from workbench.nn.image_shape import check_image_shape
from workbench.nn.vit import PixelDecoder, ViTConfig
from workbench.quantizers.cascaded import CascadedCodebook, CascadeMode
from workbench.quantizers.clustering import Builder, cluster
from workbench.quantizers.normalizer import Normalization, Normalizer
from workbench.tokenizers.base import HasInitialCodebook, TrainableTokenizer

BATCH_SIZE = 256  # images per call of the teacher


class UniCode2(HasInitialCodebook, TrainableTokenizer):
    """Teacher, normalizer, cascaded codebook, adapter, decoder.

    `prepare` fits the normalizer and F; before it, F is noise.
    """

    discrete = True  # except in mode continuous, which has no codes
    respects_active = True
    frozen_encoder = True  # except in the controls single, projector and online, whose codes move
    prepared_state = ("quantizer.",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Settings of a UniCode2.

        Attributes
        ----------
        side : int, str or pair of int
            Height and width of the images in pixels, as in 256 or 128x256.
        channels : int
            Color channels of the images: 1 for gray, 3 for RGB.
        patch : int
            Height and width of a patch in pixels; each patch is one token.
        teacher : str
            Feature extractor whose features are clustered; the paper's is siglip.
        normalize : {"none", "unit", "channel", "whiten"}
            Normalization of the features before any comparison.
        dim : int, optional
            Channels of a token: that many principal axes of the features; none: all their channels.
        codebook_size : int
            Number of codewords; the paper's models have 500,000.
        builder : {"sample", "flat", "two-level", "faiss"}
            Method that builds the codebook; "sample" takes random tokens, as a control.
        shrinkage : float
            Shrinkage of codewords to the mean, in tokens per code; above 0.1, codes become unused.
        per_class : bool
            Whether each class is clustered separately with equally many codes, as in VQGAN-LC.
            Images need classes then.
        tokens_per_code : int
            Upper bound of the training tokens that are clustered, per code.
        mode : {"cascade", "frozen", "random", "single", "projector", "online", "continuous"}
            Roles of the two tables of codewords.
        revive : float
            With mode "online", replace codes that are used less often than this fraction of uniform
            usage; 0: never.
        decoder : {"pixels", "flow"}
            Kind of decoder: to pixels, or a rectified flow.
        width : int
            Channels of the decoder.
        depth : int
            Blocks of the decoder.
        heads : int
            Attention heads of the decoder.
        linear_init : bool
            Whether the pixel decoder starts as a linear map of all tokens.
        adapter : bool
            Whether there is a linear map between the tables and the decoder, initialized with the
            identity.
        train : {"all", "adapter"}
            "adapter": train nothing but the adapter, for a decoder that is already trained.
        """

        side: AnySide = 32
        channels: int = 3
        patch: int = 8
        teacher: str = "hog"
        normalize: Normalization = "channel"
        dim: int | None = None
        codebook_size: int = 256
        builder: Builder = "two-level"
        shrinkage: float = 0.0
        per_class: bool = False
        tokens_per_code: int = 256
        mode: CascadeMode = "cascade"
        revive: float = 0.0
        decoder: Literal["pixels", "flow"] = "pixels"
        width: int = 96
        depth: int = 2
        heads: int = 4
        linear_init: bool = True
        adapter: bool = False
        train: Literal["all", "adapter"] = "all"

        def __post_init__(self) -> None:
            object.__setattr__(self, "side", as_side(self.side))  # JSON has a text
            for field in dataclasses.fields(self):
                value = getattr(self, field.name)
                if get_origin(field.type) is Literal and value not in get_args(field.type):
                    raise unknown(field.name, str(value), get_args(field.type))
            self.decoder_sizes(1 if self.dim is None else self.dim)
            for name in ("codebook_size", "tokens_per_code"):
                if getattr(self, name) < 1:
                    raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
            for name in ("shrinkage", "revive"):
                if getattr(self, name) < 0:
                    raise UserError(f"{name} must be at least 0, got {getattr(self, name)}.")
            if self.revive and self.mode != "online":
                raise UserError(
                    f'revive must be 0 unless mode is "online", got mode "{self.mode}".'
                )
            if self.decoder == "flow" and not self.size.is_square:
                raise UserError(f'side must be one number with decoder "flow", got {self.side}.')
            if self.train == "adapter" and not self.adapter:
                raise UserError('adapter must be true with train "adapter", got false.')

        @property
        def size(self) -> ImageSize:
            """Return the height and width of the images."""
            return ImageSize.of(self.side)

        @property
        def grid(self) -> tuple[int, int]:
            """Return the rows and columns of tokens."""
            return self.size.height // self.patch, self.size.width // self.patch

        def decoder_sizes(self, dim: int) -> ViTConfig:
            """Return the sizes of the decoder for tokens of `dim` channels."""
            rows, columns = (max(1, length // max(1, self.patch)) for length in self.size)
            return ViTConfig(
                side=self.side,
                channels=self.channels,
                patch=self.patch,
                num_tokens=rows * columns,
                dim=dim,
                width=self.width,
                depth=self.depth,
                heads=self.heads,
                linear_init=self.linear_init,
            )

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.teacher = get_feature_extractor(config.teacher, channels=config.channels)
        dim = config.dim or self.teacher.dim
        if dim > self.teacher.dim:
            raise UserError(
                f"dim must be at most {self.teacher.dim}, the channels of {config.teacher}, "
                f"got {dim}."
            )
        self.normalizer = Normalizer(config.normalize, channels=self.teacher.dim, dim=dim)
        self.quantizer = CascadedCodebook(
            codebook_size=config.codebook_size,
            dim=dim,
            mode=config.mode,
            unit=config.normalize == "unit",
            revive=config.revive,
        )
        self.decoder = _make_decoder(config, config.decoder_sizes(dim))
        if config.train == "adapter":
            self.requires_grad_(False)
        if config.adapter:
            self.adapter = nn.Linear(dim, dim)
            nn.init.eye_(self.adapter.weight)
            nn.init.zeros_(self.adapter.bias)

    @property
    def teachers(self) -> tuple[FeatureExtractor, ...]:
        """Return the teacher whose features are tokenized."""
        return (self.teacher,)

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of tokens."""
        return self.config.grid

    @property
    def codebook(self) -> Float[Tensor, "1 k d"] | None:
        """Return the values of the codes, or None if tokens are continuous."""
        table = self.quantizer.table
        return None if table is None else rearrange(table, "k d -> 1 k d")

    @property
    def initial_codebook(self) -> Float[Tensor, "1 k d"] | None:
        """Return F, from which E started, in mode cascade."""
        if self.config.mode != "cascade":
            return None
        return rearrange(self.quantizer.index, "k d -> 1 k d")

    def encode(self, images: Images) -> Tokens:
        """Return the code of each patch's feature, and its value."""
        quantized = self.quantize(self.features(images))
        return Tokens(quantized.latents, quantized.codes, grid=self.grid)

    def decode(self, tokens: Tokens) -> Images:
        """Decode tokens to images. The flow decoder starts from the same noise each time."""
        latents = self.adapt(tokens.latents)
        if isinstance(self.decoder, PixelDecoder):
            return self.decoder(Tokens(latents, active=tokens.active))
        if tokens.active is not None:
            latents = latents * rearrange(tokens.active, "b n -> b n 1")
        return self.decoder(latents)

    def objective(
        self, images: Images, features: Float[Tensor, "b n e"] | None = None
    ) -> Objective:
        """Return the squared error of pixels, or the loss of the flow.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].
        features : Tensor, shape (batch, tokens, channels), optional
            Precomputed features of the teacher.

        Returns
        -------
        Objective
            One term, `pixel` or `flow`.
        """
        quantized = self.quantize(self.features(images) if features is None else features)
        latents = quantized.latents
        if isinstance(self.decoder, FlowDecoder):
            flow = self.decoder.loss(self.adapt(latents), images)
            return Objective({"flow": flow}, codes=quantized.codes)
        reconstruction = self.decode(Tokens(latents))
        pixel = F.mse_loss(reconstruction, images)
        return Objective({"pixel": pixel}, reconstruction, quantized.codes)

    def features(self, images: Images) -> Float[Tensor, "b n e"]:
        """Compute the teacher's feature of each patch."""
        check_image_shape(images, channels=self.config.channels, size=self.config.size)
        return self.teacher.features(images, self.grid)

    def quantize(self, features: Float[Tensor, "b n e"]) -> Quantized:
        """Normalize and quantize features."""
        rows, columns = self.grid
        expected = (rows * columns, self.teacher.dim)
        if tuple(features.shape[1:]) != expected:
            got = " x ".join(map(str, features.shape[1:]))
            expected_text = " x ".join(map(str, expected))
            raise UserError(
                f"features must be {expected_text} for {self.teacher.name} on this grid, got {got}."
            )
        # Without gradients, codebooks of running averages are not updated either.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.train == "all"):
            return self.quantizer(self.normalizer(features))

    def adapt(self, latents: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Apply the adapter, if there is one."""
        return self.adapter(latents) if self.config.adapter else latents

    @torch.no_grad()
    def prepare(self, data: Dataset, seed: int) -> None:
        """Cluster the features of random training images into F, on the device of F.

        Of a stream, the first images are used.

        Parameters
        ----------
        data : MapDataset or StreamDataset
            Training data: images, and optionally their features. `per_class` needs labels.
        seed : int
            Seed of the selection of images and of the clustering.

        Raises
        ------
        UserError
            If there are too few images or no labels.
        """
        labels = data.labels if isinstance(data, HasLabels) else None
        if self.config.per_class and labels is None:
            raise UserError("per_class needs training images with labels, got none.")
        device = self.quantizer.index.device
        tokens_per_image = math.prod(self.grid)
        max_tokens = self.config.codebook_size * self.config.tokens_per_code
        max_images = math.ceil(max_tokens / tokens_per_image)
        indices = torch.arange(0)
        if isinstance(data, MapDataset):
            generator = torch.Generator().manual_seed(seed)
            indices = torch.randperm(len(data), generator=generator)[:max_images]
            batches: Iterator[tuple[Tensor, ...]] = map(data.batch, indices.split(BATCH_SIZE))
        else:
            size = min(BATCH_SIZE, max_images)
            batches = islice(data.batches(size, seed=seed), math.ceil(max_images / size))
        parts = []
        for images, *precomputed in batches:
            part = precomputed[0] if precomputed else self.features(images.to(device))
            parts.append(rearrange(part.to(device), "b n e -> (b n) e").float())
        features = torch.cat(parts)
        # A fitted normalizer came with the decoder from which this run starts.
        if not self.normalizer.is_fitted:
            self.normalizer.fit(features)
        classes = None
        if self.config.per_class:
            image_classes = torch.as_tensor(labels)[indices]
            classes = repeat(image_classes, "b -> (b n)", n=tokens_per_image).to(device)
        index = cluster(
            self.normalizer(features),
            self.config.codebook_size,
            builder=self.config.builder,
            shrinkage=self.config.shrinkage,
            unit=self.config.normalize == "unit",
            labels=classes,
            seed=seed,
        )
        self.quantizer.fill(index, seed=seed)


def _make_decoder(config: UniCode2.Config, sizes: ViTConfig) -> PixelDecoder | FlowDecoder:
    if config.decoder == "pixels":
        return PixelDecoder(sizes)
    return FlowDecoder(
        side=sizes.size.height,
        channels=sizes.channels,
        patch=sizes.patch,
        num_tokens=sizes.num_tokens,
        dim=sizes.dim,
        width=sizes.width,
        depth=sizes.depth,
        heads=sizes.heads,
    )
