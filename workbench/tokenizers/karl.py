"""KARL (arXiv:2507.07995): one pass predicts how many tokens an image needs for a requested error.

Each step runs twice. Run 1 draws a budget and sees which error it reaches; run 2 is given that error with the whole
budget, and learns which tokens were surplus. Errors are mean absolute differences of pixels in [0, 1].

Here: pixels are predicted without a base tokenizer, perceptual or adversarial terms; the budget is drawn for each image
(the released code draws one a batch, in steps of 16); masks are laid out by sample (the released code's are not); error
embeddings start random (its start constant, which its first norm maps to one point); run 1 always asks for the tightest
error (it draws among the tight ones). The bottleneck is continuous, or, with a `codebook_size`, the released one: unit vectors,
a codebook that learns by gradient, commitment 0.25; of run 1 only the tokens within the budget teach it.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.core.types import Images, Objective, Quantized, Tokens
from workbench.nn.vit import Encoder, PixelDecoder, ViTConfig
from workbench.quantizers.vector import VectorQuantizer
from workbench.tokenizers.base import SupportsErrorTarget

COMMITMENT = 0.25  # beta of the bottleneck; its codebook loss counts 1


class KARL(SupportsErrorTarget):
    """An encoder told the error it may make, a head that halts surplus tokens, a decoder that never sees those."""

    discrete = True  # where it has codes

    @dataclass(frozen=True, kw_only=True)
    class Config(ViTConfig):
        """Sizes (`num_tokens` is the largest budget), the errors it can be asked for, and halting."""

        error: float = 0.05  # what `encode` asks for where nobody says
        bins: int = 16  # errors that can be told apart, spaced evenly in their logarithm
        least: float = 0.005  # the first bin
        most: float = 0.3  # the last
        threshold: float = 0.75  # a token whose halting probability is above it is dropped
        halt_weight: float = 1.0  # lambda
        balance: Literal["plain", "balanced"] = (
            "plain"  # of the halting loss; the released code's is balanced by class
        )
        hide: Literal["label", "predicted"] = (
            "label"  # which tokens run 2 drops; the paper's: the predicted
        )
        trust: float = (
            0.15  # share of the training after which predictions are good enough to hide by
        )
        codebook_size: int = 0  # K, codewords of a discrete bottleneck, the released model's 4096; 0: a continuous one

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.bins < 1 or not 0 < self.least <= self.most:
                raise UserError(
                    f"{self.bins} bins from {self.least} to {self.most} tell no errors apart."
                )
            if not 0 < self.threshold < 1:
                raise UserError(f"threshold is {self.threshold}; it must lie between 0 and 1.")
            if self.codebook_size < 0:
                raise UserError(
                    f"codebook_size is {self.codebook_size}; it must be at least 1, or 0 for a continuous bottleneck."
                )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder, self.decoder = Encoder(config), PixelDecoder(config)
        self.errors = nn.Parameter(0.1 * torch.randn(config.bins, config.width))
        self.halting = nn.Sequential(
            nn.Linear(config.width, config.width), nn.Tanh(), nn.Linear(config.width, 1)
        )
        edges = torch.logspace(0, 1, config.bins, base=config.most / config.least) * config.least
        self.register_buffer("edges", edges, persistent=False)
        self.quantizer = None
        if config.codebook_size:
            self.quantizer = VectorQuantizer(
                codebook_size=config.codebook_size,
                dim=config.dim,
                commitment=COMMITMENT,
                cosine=True,
            )

    @property
    def codebook(self) -> Float[Tensor, "g k d"] | None:
        """The codewords as they are compared; None for a continuous bottleneck."""
        return None if self.quantizer is None else self.quantizer.words

    def encode(
        self, images: Images, *, error: float | None = None, budget: int | None = None
    ) -> Tokens:
        """As many tokens as each image needs for the error, in one pass; or exactly `budget` for each."""
        if error is not None and budget is not None:
            raise UserError("ask for an error or for a budget, not for both.")
        if budget is not None:
            if not 1 <= budget <= self.config.num_tokens:
                raise UserError(
                    f"budget is {budget}; it must lie between 1 and {self.config.num_tokens}."
                )
            active = self._first(torch.full_like(self._tightest(images), budget))
            quantized = self.quantize(self.write(images, self._tightest(images), active)[0])
            return Tokens(quantized.latents, quantized.codes, active)
        error = self.config.error if error is None else error
        if not error > 0:
            raise UserError(f"error is {error}; it must be above 0 (pixels in [0, 1]).")
        wanted = self.bin_of(images.new_full((len(images),), error))
        latents, logits = self.write(
            images, wanted, self._first(torch.full_like(wanted, self.config.num_tokens))
        )
        quantized = self.quantize(latents)
        return Tokens(quantized.latents, quantized.codes, self.kept(logits))

    def decode(self, tokens: Tokens) -> Images:
        """The active tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images) -> Objective:
        """Both runs of Section 3.2: what a random budget reaches, and which tokens that error did not need."""
        # Run 1: estimate. An error that `budget` tokens reach.
        budget = torch.randint(1, self.config.num_tokens + 1, (len(images),), device=images.device)
        within = self._first(budget)
        estimate = self.quantize(self.write(images, self._tightest(images), within)[0], within)
        first = self.decode(Tokens(estimate.latents, active=within))
        reached = ((first.detach() - images).abs() / 2).mean(dim=(1, 2, 3))
        # Run 2: learn. The same image, that error, the whole budget; what lies beyond `budget` was surplus.
        latents, logits = self.write(images, self.bin_of(reached), torch.ones_like(within))
        learn = self.quantize(latents)
        trusted = self.config.hide == "predicted" and self.progress > self.config.trust
        kept = self.kept(logits) if trusted else within
        second = self.decode(Tokens(learn.latents, active=kept))
        terms = {
            "estimate": F.l1_loss(first, images),
            "pixel": F.l1_loss(second, images),
            "halt": self.config.halt_weight * halting_loss(logits, ~within, self.config.balance),
            **{name: estimate.losses[name] + learn.losses[name] for name in learn.losses},
        }
        return Objective(terms, second)

    def write(
        self, images: Images, wanted: Int[Tensor, " b"], visible: Bool[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n"]]:
        """Latents, and the logit that each is surplus: the encoder, told the wanted error, with the visible slots."""
        patches = self.encoder.look(images)
        told = rearrange(self.errors[wanted], "b width -> b 1 width")
        x = torch.cat(
            [told, patches + self.encoder.patch_positions, self.encoder.queries(patches)], dim=1
        )
        mask = torch.cat(
            [torch.ones_like(x[:, : -visible.shape[1], 0], dtype=torch.bool), visible], dim=1
        )
        for block in self.encoder.blocks:
            x = block(x, mask)
        slots = self.encoder.norm(x[:, -visible.shape[1] :])
        return self.encoder.to_latents(slots), rearrange(self.halting(slots), "b n 1 -> b n")

    def quantize(
        self, latents: Float[Tensor, "b n d"], within: Bool[Tensor, "b n"] | None = None
    ) -> Quantized:
        """The bottleneck: each latent's codeword, or the latent itself. `within`: those to learn from; others are 0."""
        if self.quantizer is None:
            return Quantized(latents, None, {})
        if within is None:
            return self.quantizer(latents)
        found = self.quantizer(rearrange(latents[within], "t d -> 1 t d"))
        nothing = found.latents.new_zeros(latents.shape)
        chosen = nothing.masked_scatter(rearrange(within, "b n -> b n 1"), found.latents)
        return Quantized(chosen, None, found.losses)

    def kept(self, logits: Float[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
        """The tokens that are not halted; the first always stays, so that a decoder has something to see."""
        keep = logits.sigmoid() <= self.config.threshold
        keep[:, 0] = True
        return keep

    def bin_of(self, error: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
        """The smallest bin that is not below the error; the last, if none is."""
        return torch.searchsorted(self.edges, error.contiguous()).clamp(max=self.config.bins - 1)

    def _tightest(self, images: Images) -> Int[Tensor, " b"]:
        return torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def _first(self, budget: Tensor) -> Bool[Tensor, "b n"]:
        return torch.arange(self.config.num_tokens, device=budget.device) < rearrange(
            budget, "b -> b 1"
        )


def halting_loss(
    logits: Float[Tensor, "b n"],
    surplus: Bool[Tensor, "b n"],
    balance: Literal["plain", "balanced"],
) -> Float[Tensor, ""]:
    """Binary cross-entropy; balanced: the mean over surplus tokens plus the mean over needed ones.

    Plain, its optimum for token i is P(budget <= i | image, error): the posterior CDF, and the threshold a quantile.
    """
    each = F.binary_cross_entropy_with_logits(logits, surplus.to(logits.dtype), reduction="none")
    if balance == "plain":
        return each.mean()
    return sum((each * part).sum() / part.sum().clamp(min=1) for part in (surplus, ~surplus))
