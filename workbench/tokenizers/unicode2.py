"""UniCode2's tokenizer (arXiv:2506.20214): a frozen teacher's features, clustered; codes that training cannot move.

A patch's feature is looked up in a frozen table F of cluster centres, and the row of a trainable table E goes on. Here:
E and a decoder to pixels learn from reconstruction instead of within a language model, and the teacher is any of ours.
Of the paper the abstract and two summaries were read; what they leave open is a setting.
"""

import dataclasses
import math
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args, get_origin

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError, unknown
from workbench.core.progress import report_progress
from workbench.core.types import Images, Objective, Quantized, Tokens
from workbench.features import FeatureExtractor, get_feature_extractor
from workbench.nn.vit import PixelDecoder, ViTConfig
from workbench.quantizers.cascaded import CascadedCodebook, CascadeMode
from workbench.quantizers.clustering import Builder, cluster
from workbench.quantizers.normalizer import Normalise, Normalizer
from workbench.tokenizers.base import HasInitialCodebook

BATCH = 256  # images the teacher sees at a time


class UniCode2(HasInitialCodebook):
    """Teacher, normaliser, cascade, adapter, decoder. `prepare` fits normaliser and F; before it, F is noise."""

    discrete = True  # but for the role "continuous", which has no codes
    frozen_encoder = True  # but for the controls single, projector and online, whose codes move

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes, how the codebook is built, which part of it learns, and the decoder."""

        side: int = 32  # pixels, height and width
        channels: int = 3  # 1 grey, 3 RGB
        patch: int = 8  # pixels; one token each
        teacher: str = "hog"  # see workbench.features.get_feature_extractor; the paper's is siglip
        normalise: Normalise = "channel"  # of features, before anything is compared
        dim: int | None = (
            None  # d, channels of a token: principal axes of the features; None: all their channels
        )
        codebook_size: int = 256  # K; the paper's are 500,000
        builder: Builder = "two-level"  # of the codebook; "sample": random tokens, a control
        shrinkage: float = 0.0  # lambda, in tokens a code; above 0.1 codes fall out of use
        per_class: bool = (
            False  # cluster each class apart, with equally many codes, as VQGAN-LC; needs labels
        )
        tokens_per_code: int = 256  # at most so many are clustered, of the training images'
        role: CascadeMode = (
            "cascade"  # which table chooses and which speaks; see workbench.quantizers.cascaded
        )
        revive: float = 0.0  # role online: replace codes chosen less often than this share of an even use; 0: never
        decoder: Literal["pixels", "flow"] = "pixels"
        width: int = 96  # of the decoder
        depth: int = 2  # blocks in the decoder
        heads: int = 4
        linear_init: bool = True  # the decoder to pixels starts as a linear map of all tokens
        adapter: bool = (
            False  # a linear map, at first the identity, between the tables and the decoder
        )
        train: Literal["all", "adapter"] = (
            "all"  # "adapter": it alone, for a decoder that is finished
        )

        def __post_init__(self) -> None:
            for field in dataclasses.fields(self):
                value = getattr(self, field.name)
                if get_origin(field.type) is Literal and value not in get_args(field.type):
                    raise unknown(field.name, str(value), get_args(field.type))
            self.sizes(1 if self.dim is None else self.dim)
            for name in ("codebook_size", "tokens_per_code"):
                if getattr(self, name) < 1:
                    raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
            for name in ("shrinkage", "revive"):
                if getattr(self, name) < 0:
                    raise UserError(f"{name} is {getattr(self, name)}; it must not be below 0.")
            if self.revive and self.role != "online":
                raise UserError(
                    f'revive is of the role "online"; codes of "{self.role}" are not learned that way.'
                )
            if self.train == "adapter" and not self.adapter:
                raise UserError('With train "adapter" there must be one; set adapter to true.')

        @property
        def grid(self) -> tuple[int, int]:
            """Rows and columns of tokens."""
            return self.side // self.patch, self.side // self.patch

        def sizes(self, dim: int) -> ViTConfig:
            """The decoder's sizes. Raises UserError where they do not fit."""
            own = {
                f.name: getattr(self, f.name)
                for f in dataclasses.fields(ViTConfig)
                if f.name not in ("num_tokens", "dim")
            }
            return ViTConfig(
                **own, dim=dim, num_tokens=max(1, self.side // max(1, self.patch)) ** 2
            )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.teacher = get_feature_extractor(config.teacher, channels=config.channels)
        dim = config.dim or self.teacher.dim
        if dim > self.teacher.dim:
            raise UserError(
                f"dim is {dim}, and features of {config.teacher} have {self.teacher.dim} channels."
            )
        self.normaliser = Normalizer(config.normalise, channels=self.teacher.dim, dim=dim)
        unit = config.normalise == "unit"
        self.quantizer = CascadedCodebook(
            codebook_size=config.codebook_size,
            dim=dim,
            role=config.role,
            unit=unit,
            revive=config.revive,
        )
        self.decoder = _decoder(config, config.sizes(dim))
        if config.train == "adapter":
            self.requires_grad_(False)
        if config.adapter:
            self.adapter = nn.Linear(dim, dim)
            nn.init.eye_(self.adapter.weight)
            nn.init.zeros_(self.adapter.bias)

    @property
    def teachers(self) -> tuple[FeatureExtractor, ...]:
        """The one whose features are its tokens."""
        return (self.teacher,)

    @property
    def cells(self) -> tuple[int, int]:
        """The tokens' own."""
        return self.config.grid

    @property
    def codebook(self) -> Float[Tensor, "1 k d"] | None:
        """The vectors that codes stand for; None where tokens are continuous."""
        table = self.quantizer.table
        return None if table is None else rearrange(table, "k d -> 1 k d")

    @property
    def initial_codebook(self) -> Float[Tensor, "1 k d"] | None:
        """Where the codebook began, if it is one that learns while another table chooses."""
        return (
            rearrange(self.quantizer.index, "k d -> 1 k d")
            if self.config.role == "cascade"
            else None
        )

    def encode(self, images: Images) -> Tokens:
        """The code of each patch's feature, and what the code says."""
        quantized = self.quantize(self.features(images))
        return Tokens(quantized.latents, quantized.codes, grid=self.config.grid)

    def decode(self, tokens: Tokens) -> Images:
        """Tokens to images; the flow decoder starts from the same noise each time."""
        latents = self.adapt(tokens.latents)
        if self.config.decoder == "pixels":
            return self.decoder(Tokens(latents, active=tokens.active))
        return self.decoder(
            latents if tokens.active is None else latents * rearrange(tokens.active, "b n -> b n 1")
        )

    def objective(
        self, images: Images, features: Float[Tensor, "b n e"] | None = None
    ) -> Objective:
        """Squared error of pixels, or the flow's; features that were computed before spare the teacher's work."""
        latents = self.quantize(self.features(images) if features is None else features).latents
        if self.config.decoder == "flow":
            return Objective({"flow": self.decoder.loss(self.adapt(latents), images)})
        reconstruction = self.decode(Tokens(latents))
        return Objective({"pixel": F.mse_loss(reconstruction, images)}, reconstruction)

    def features(self, images: Images) -> Float[Tensor, "b n e"]:
        """What the teacher says of each patch."""
        expected = (self.config.channels, self.config.side, self.config.side)
        if tuple(images.shape[1:]) != expected:
            got = " x ".join(map(str, images.shape[1:]))
            raise UserError(
                f"images are {got}; this tokenizer was made for {' x '.join(map(str, expected))}."
            )
        return self.teacher.features(images, self.config.grid)

    def quantize(self, features: Float[Tensor, "b n e"]) -> Quantized:
        """Features, normalised and quantized."""
        rows, columns = self.config.grid
        expected = (rows * columns, self.teacher.dim)
        if tuple(features.shape[1:]) != expected:
            got, wanted = (" x ".join(map(str, shape)) for shape in (features.shape[1:], expected))
            raise UserError(f"features are {got}; {self.teacher.name} on this grid gives {wanted}.")
        # Without gradients averaged codes stand still, too.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.train == "all"):
            return self.quantizer(self.normaliser(features))

    def adapt(self, latents: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """What the decoder reads of them."""
        return self.adapter(latents) if self.config.adapter else latents

    prepares = ("quantizer.",)

    @torch.no_grad()
    def prepare(self, data: Any, seed: int) -> None:
        """Cluster the features of random training images into F, on the device where F lies.

        `data` has a length and `batch(indices)`, and `labels` where classes are clustered apart; or it is a stream,
        whose first images are taken. Raises UserError.
        """
        labels = getattr(data, "labels", None)
        if self.config.per_class and labels is None:
            raise UserError(
                "per_class needs the images' classes, and these training data have no labels."
            )
        device, tokens = self.quantizer.index.device, math.prod(self.config.grid)
        wanted, parts = (
            math.ceil(self.config.codebook_size * self.config.tokens_per_code / tokens),
            [],
        )
        drawn = torch.arange(0)
        if hasattr(data, "batch"):
            drawn = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[
                :wanted
            ]
            batches = map(data.batch, drawn.split(BATCH))
        else:
            size = min(BATCH, wanted)
            batches = islice(data.batches(size, seed=seed), math.ceil(wanted / size))
        for images, *known in batches:
            features = known[0] if known else self.features(images.to(device))
            parts.append(rearrange(features.to(device), "b n e -> (b n) e").float())
        features = torch.cat(parts)
        if not self.normaliser.fitted:  # else it came with the decoder that this run starts from
            self.normaliser.fit(features)
        classes = (
            repeat(torch.as_tensor(labels)[drawn], "b -> (b n)", n=tokens)
            if self.config.per_class
            else None
        )
        index = cluster(
            self.normaliser(features),
            self.config.codebook_size,
            builder=self.config.builder,
            shrinkage=self.config.shrinkage,
            unit=self.config.normalise == "unit",
            labels=None if classes is None else classes.to(device),
            seed=seed,
            tick=report_progress,
        )
        self.quantizer.fill(index, seed=seed)


def _decoder(config: UniCode2.Config, sizes: ViTConfig) -> nn.Module:
    if config.decoder == "pixels":
        return PixelDecoder(sizes)
    from workbench.generators.flow_decoder import FlowDecoder

    own = ("side", "channels", "patch", "num_tokens", "dim", "width", "depth", "heads")
    return FlowDecoder(**{name: getattr(sizes, name) for name in own})
