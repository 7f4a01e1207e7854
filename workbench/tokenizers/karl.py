"""KARL (arXiv:2507.07995): one pass predicts the number of tokens for a requested error.

Each training step runs twice. Run 1 draws a budget and measures the error that it reaches. Run 2
gets that error and the whole budget, and learns which tokens are surplus. Errors are mean absolute
differences of pixels in [0, 1].

Differences from the paper: the decoder predicts pixels, without a base tokenizer and without
perceptual or adversarial terms, so that the released weights, which need another network, are not
loaded. The budget is drawn per image (the released code draws one per batch, in steps of 16). Masks
are arranged by sample (those of the released code are not). Error embeddings start random (those of
the released code start constant, and its first norm maps them to one point). Run 1 always requests
the lowest error (the released code draws among the low ones). The bottleneck is continuous or, with
a `codebook_size`, as released: unit vectors, a codebook trained by gradient, commitment 0.25; in
run 1, only tokens within the budget train it.

By default, the halting head learns from run 2 only, and never at the ends of its range: an image
that one token meets, or that no budget meets. `halt_estimate`, `ends`, `error_bins` and `balance`
change this nearly as the released code does: its budgets exceed the number of tokens in 7 of 23
draws, and then represent errors that are lower than the requested ones. Half of `ends` is a single
token, while the released budgets are never below a sixteenth of the tokens. `labels="smallest"` is
not the paper's: the head then learns whether a token is beyond the smallest budget that meets an
error, for any error, instead of beyond the budget that was drawn.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from workbench.core.batch_shares import batch_mean, item_draws, masked_batch_mean
from workbench.core.errors import UserError, unknown
from workbench.core.types import Images, Objective, Quantized, Tokens
from workbench.nn.vit import Encoder, PixelDecoder, ViTConfig
from workbench.quantizers.vector import VectorQuantizer
from workbench.tokenizers.base import SupportsErrorTarget, TrainableTokenizer

COMMITMENT = 0.25  # beta of the bottleneck; its codebook loss has weight 1
Balance = Literal["plain", "balanced"]
Labels = Literal["budget", "smallest"]


class KARL(SupportsErrorTarget, TrainableTokenizer):
    """Encoder conditioned on an error, head that halts surplus tokens, decoder of the rest."""

    discrete = True  # if there is a codebook
    respects_active = True

    @dataclass(frozen=True, kw_only=True)
    class Config(ViTConfig):
        """Settings of a KARL; `num_tokens` is the largest budget.

        Attributes
        ----------
        error : float
            Default error target when images are encoded.
        bins : int
            Number of distinguishable errors, equally spaced in their logarithm.
        min_error : float
            The smallest distinguishable error.
        max_error : float
            The largest distinguishable error.
        error_bins : tuple of float
            Ascending errors that replace the three settings before, such as those that will be
            requested; empty: equally spaced ones.
        threshold : float
            Tokens with a larger halting probability are dropped.
        halt_weight : float
            Weight of the halting loss.
        balance : {"plain", "balanced"}
            Weights of the halting loss; the released code balances the two classes.
        halt_estimate : bool
            Whether run 1 also teaches to keep all tokens of its budget for the lowest error.
        ends : float
            Fraction of the images whose budget is one token or all tokens, half each. For these
            budgets, run 2 requests an error above that of one token, or below that of all.
        labels : {"budget", "smallest"}
            Surplus tokens are those beyond the drawn budget (budget), as in the paper, or those
            beyond the smallest budget that meets an error (smallest), as far as the drawn budget
            decides this.
        hide : {"label", "predicted"}
            Tokens that run 2 drops: the surplus by label, or the predicted ones, as in the paper.
        predict_after : float
            Fraction of the training after which predictions decide which tokens are dropped.
        codebook_size : int
            Codewords of a discrete bottleneck (the released model: 4096); 0: a continuous
            bottleneck.
        """

        error: float = 0.05
        bins: int = 16
        min_error: float = 0.005
        max_error: float = 0.3
        error_bins: tuple[float, ...] = ()
        threshold: float = 0.75
        halt_weight: float = 1.0
        balance: Balance = "plain"
        halt_estimate: bool = False
        ends: float = 0.0
        labels: Labels = "budget"
        hide: Literal["label", "predicted"] = "label"
        predict_after: float = 0.15
        codebook_size: int = 0

        def __post_init__(self) -> None:
            super().__post_init__()
            object.__setattr__(self, "error_bins", tuple(self.error_bins))  # JSON has a list
            self._check_halting()
            if self.bins < 1:
                raise UserError(f"bins must be at least 1, got {self.bins}.")
            if not 0 < self.min_error <= self.max_error:
                raise UserError(
                    "min_error and max_error must satisfy 0 < min_error <= max_error, "
                    f"got {self.min_error} and {self.max_error}."
                )
            if not 0 < self.threshold < 1:
                raise UserError(f"threshold must be between 0 and 1, got {self.threshold}.")
            if self.codebook_size < 0:
                raise UserError(
                    "codebook_size must be at least 1, or 0 for a continuous bottleneck, "
                    f"got {self.codebook_size}."
                )

        def _check_halting(self) -> None:
            steps = zip((0.0, *self.error_bins), self.error_bins, strict=False)
            if any(not low < high for low, high in steps):
                raise UserError(
                    "error_bins must be ascending numbers above 0, "
                    f"got {','.join(f'{error:g}' for error in self.error_bins)}."
                )
            if not 0 <= self.ends <= 1:
                raise UserError(f"ends must be a fraction between 0 and 1, got {self.ends}.")
            for name, kinds in (("balance", Balance), ("labels", Labels)):
                if getattr(self, name) not in get_args(kinds):
                    raise unknown(name, getattr(self, name), get_args(kinds))

        @property
        def bin_errors(self) -> Float[Tensor, " bins"]:
            """Return the error of each bin."""
            if self.error_bins:
                return torch.tensor(self.error_bins)
            ratios = torch.logspace(0, 1, self.bins, base=self.max_error / self.min_error)
            return ratios * self.min_error

    config: Config
    edges: Float[Tensor, " bins"]  # the errors of the bins

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder, self.decoder = Encoder(config), PixelDecoder(config)
        self.register_buffer("edges", config.bin_errors, persistent=False)
        self.errors = nn.Parameter(0.1 * torch.randn(len(self.edges), config.width))
        self.halting = nn.Sequential(
            nn.Linear(config.width, config.width), nn.Tanh(), nn.Linear(config.width, 1)
        )
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
        """Return the codewords as they are compared, or None for a continuous bottleneck."""
        return None if self.quantizer is None else self.quantizer.codewords

    @property
    def budgets(self) -> tuple[int, ...]:
        """Return all numbers of tokens."""
        return tuple(range(1, self.config.num_tokens + 1))

    def encode(
        self, images: Images, *, error: float | None = None, budget: int | None = None
    ) -> Tokens:
        """Encode images in one pass, with as many tokens as an error needs or with a fixed number.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].
        error : float, optional
            Target for the mean absolute error of pixels in [0, 1]; `config.error` by default.
        budget : int, optional
            Number of tokens per image.

        Returns
        -------
        Tokens
            The tokens; `active` marks those that are not halted.

        Raises
        ------
        UserError
            If both `error` and `budget` are given, or if one of them is out of range.
        """
        if error is not None and budget is not None:
            raise UserError("Give an error or a budget, not both.")
        if budget is not None:
            return self._encode_with_budget(images, budget)
        target = self.config.error if error is None else error
        if not target > 0:
            raise UserError(f"error must be above 0 (pixels in [0, 1]), got {target}.")
        bins = self.error_bin(images.new_full((len(images),), target))
        every_token = self._prefix_mask(torch.full_like(bins, self.config.num_tokens))
        latents, logits = self.encode_for_target(images, bins, every_token)
        quantized = self.quantize(latents)
        return Tokens(quantized.latents, quantized.codes, self.needed_tokens(logits))

    def decode(self, tokens: Tokens) -> Images:
        """Decode the active tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images) -> Objective:
        """Return the terms of both runs of Section 3.2.

        Run 1 measures the error of a random budget; run 2 learns which tokens that error does not
        need.
        """
        # Run 1: estimate. An error that `budget` tokens reach.
        budget = self._draw_budgets(images)
        within = self._prefix_mask(budget)
        latents, estimate_logits = self.encode_for_target(images, self._lowest_bin(images), within)
        estimate = self.quantize(latents, within)
        first = self.decode(Tokens(estimate.latents, active=within))
        reached = ((first.detach() - images).abs() / 2).mean(dim=(1, 2, 3))
        # Run 2: learn. The same image, that error, the whole budget; tokens beyond `budget` were
        # surplus.
        bins = self._draw_requests(reached, budget)
        latents, logits = self.encode_for_target(images, bins, torch.ones_like(within))
        learn = self.quantize(latents)
        config = self.config
        is_predicted = config.hide == "predicted" and self.progress > config.predict_after
        active = self.needed_tokens(logits) if is_predicted else within
        second = self.decode(Tokens(learn.latents, active=active))
        halting = self._halting_loss(logits, within, bins=bins, reached=reached)
        if config.halt_estimate:
            halting = halting + keeping_loss(estimate_logits, within)
        terms = {
            "estimate": F.l1_loss(first, images),
            "pixel": F.l1_loss(second, images),
            "halt": config.halt_weight * halting,
            **{name: estimate.losses[name] + learn.losses[name] for name in learn.losses},
        }
        return Objective(terms, second)

    def encode_for_target(
        self, images: Images, bins: Int[Tensor, " b"], visible: Bool[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n"]]:
        """Run the encoder, conditioned on an error.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].
        bins : Tensor of int, shape (batch,)
            Bin of the requested error.
        visible : Tensor of bool, shape (batch, num_tokens)
            Tokens that the encoder may use.

        Returns
        -------
        latents : Tensor, shape (batch, num_tokens, dim)
            Latents before the bottleneck.
        logits : Tensor, shape (batch, num_tokens)
            Logit that each token is surplus.
        """
        patches = self.encoder.embed_patches(images)
        condition = rearrange(self.errors[bins], "b width -> b 1 width")
        positioned = patches + self.encoder.patch_positions
        x = torch.cat([condition, positioned, self.encoder.queries(patches)], dim=1)
        num_tokens = visible.shape[1]
        always_visible = torch.ones_like(x[:, :-num_tokens, 0], dtype=torch.bool)
        mask = torch.cat([always_visible, visible], dim=1)
        for block in self.encoder.blocks:
            x = block(x, mask)
        rows = self.encoder.norm(x[:, -num_tokens:])
        return self.encoder.to_latents(rows), rearrange(self.halting(rows), "b n 1 -> b n")

    def quantize(
        self, latents: Float[Tensor, "b n d"], within: Bool[Tensor, "b n"] | None = None
    ) -> Quantized:
        """Apply the bottleneck.

        Parameters
        ----------
        latents : Tensor, shape (batch, num_tokens, dim)
            Latents before the bottleneck.
        within : Tensor of bool, shape (batch, num_tokens), optional
            Tokens that train the codebook; all others become 0.

        Returns
        -------
        Quantized
            The codeword of each latent, or the latents themselves if the bottleneck is continuous.
        """
        if self.quantizer is None:
            return Quantized(latents=latents, codes=None, losses={})
        if within is None:
            return self.quantizer(latents)
        quantized = self.quantizer(rearrange(latents[within], "t d -> 1 t d"))
        zeros = quantized.latents.new_zeros(latents.shape)
        selected = zeros.masked_scatter(rearrange(within, "b n -> b n 1"), quantized.latents)
        # Shares of a batch have different numbers of tokens within their budgets.
        count = within.sum().float()
        share = count / batch_mean(count)
        losses = {name: share * loss for name, loss in quantized.losses.items()}
        return Quantized(latents=selected, codes=None, losses=losses)

    def needed_tokens(self, logits: Float[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
        """Return the tokens that are not halted.

        The first is never halted, so that a decoder has an input.
        """
        needed = logits.sigmoid() <= self.config.threshold
        needed[:, 0] = True
        return needed

    def error_bin(self, error: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Return the first bin that is not below an error, or the last bin if all are below."""
        return torch.searchsorted(self.edges, error.contiguous()).clamp(max=len(self.edges) - 1)

    def _draw_budgets(self, images: Images) -> Int[Tensor, " b"]:
        """Draw the budget of each image, and replace a fraction by the ends of the range."""
        num_tokens = self.config.num_tokens
        ends = self.config.ends
        sampler = partial(torch.randint, 1, num_tokens + 1)
        budget = item_draws(sampler, (len(images),), device=images.device)
        if not ends:
            return budget
        share = item_draws(torch.rand, (len(images),), device=images.device)
        budget = torch.where(share < ends, num_tokens, budget)
        return torch.where(share < ends / 2, 1, budget)

    def _draw_requests(
        self, reached: Float[Tensor, " b"], budget: Int[Tensor, " b"]
    ) -> Int[Tensor, " b"]:
        """Return the bins that run 2 requests: those of the reached errors, or others.

        All tokens of an image are needed for lower errors too, and one token is enough for higher
        ones. With labels for any error, half of the images get a random bin.
        """
        bins = self.error_bin(reached)
        num_bins = len(self.edges)
        if self.config.ends:
            share = item_draws(torch.rand, (len(bins),), device=bins.device)
            lower = (share * (bins + 1)).long()
            higher = bins + (share * (num_bins - bins)).long()
            bins = torch.where(budget == self.config.num_tokens, lower, bins)
            bins = torch.where(budget == 1, higher, bins)
        if self.config.labels == "smallest":
            sampler = partial(torch.randint, 0, num_bins)
            other = item_draws(sampler, (len(bins),), device=bins.device)
            is_other = item_draws(torch.rand, (len(bins),), device=bins.device) < 0.5
            bins = torch.where(is_other, other, bins)
        return bins

    def _halting_loss(
        self,
        logits: Float[Tensor, "b n"],
        within: Bool[Tensor, "b n"],
        *,
        bins: Int[Tensor, " b"],
        reached: Float[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        if self.config.labels == "budget":
            return halting_loss(logits, ~within, self.config.balance)
        surplus, is_labelled = smallest_budget_labels(within, reached <= self.edges[bins])
        return halting_loss(logits, surplus, self.config.balance, is_labelled)

    def _encode_with_budget(self, images: Images, budget: int) -> Tokens:
        if not 1 <= budget <= self.config.num_tokens:
            raise UserError(f"budget must be between 1 and {self.config.num_tokens}, got {budget}.")
        bins = self._lowest_bin(images)
        active = self._prefix_mask(torch.full_like(bins, budget))
        latents, _ = self.encode_for_target(images, bins, active)
        quantized = self.quantize(latents)
        return Tokens(quantized.latents, quantized.codes, active)

    def _lowest_bin(self, images: Images) -> Int[Tensor, " b"]:
        return torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def _prefix_mask(self, lengths: Tensor) -> Bool[Tensor, "b n"]:
        positions = torch.arange(self.config.num_tokens, device=lengths.device)
        return positions < rearrange(lengths, "b -> b 1")


def smallest_budget_labels(
    within: Bool[Tensor, "b n"], meets: Bool[Tensor, " b"]
) -> tuple[Bool[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """Return what one budget decides about the smallest budget that meets an error.

    If the budget meets the error, the smallest is not larger, so that the tokens beyond it are
    surplus. Otherwise the smallest is larger, so that its tokens and the next one are needed.

    Parameters
    ----------
    within : Tensor of bool, shape (batch, num_tokens)
        The tokens of the budget.
    meets : Tensor of bool, shape (batch,)
        Whether the budget meets the error.

    Returns
    -------
    surplus, known : Tensor of bool, shape (batch, num_tokens)
        Whether a token is surplus, and whether this is known.
    """
    is_met = rearrange(meets, "b -> b 1")
    up_to_next = F.pad(within, (1, 0), value=True)[:, :-1]
    surplus = is_met & ~within
    return surplus, surplus | (~is_met & up_to_next)


def keeping_loss(logits: Float[Tensor, "b n"], within: Bool[Tensor, "b n"]) -> Float[Tensor, ""]:
    """Compute the binary cross-entropy of keeping each token of a budget.

    Parameters
    ----------
    logits : Tensor, shape (batch, num_tokens)
        Logit that each token is surplus.
    within : Tensor of bool, shape (batch, num_tokens)
        The tokens of the budget.

    Returns
    -------
    Tensor, shape ()
        Mean over the tokens of all budgets.
    """
    return masked_batch_mean(F.softplus(logits), within)


def halting_loss(
    logits: Float[Tensor, "b n"],
    surplus: Bool[Tensor, "b n"],
    balance: Balance,
    known: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, ""]:
    """Compute the binary cross-entropy of the halting head.

    The optimum of the plain loss for token i is P(budget <= i | image, error), the posterior
    distribution function, so that the threshold is a quantile.

    Parameters
    ----------
    logits : Tensor, shape (batch, num_tokens)
        Logit that each token is surplus.
    surplus : Tensor of bool, shape (batch, num_tokens)
        Whether it is.
    balance : {"plain", "balanced"}
        Average over all tokens, or add the averages over surplus and over needed tokens.
    known : Tensor of bool, shape (batch, num_tokens), optional
        The tokens that count; all by default.

    Returns
    -------
    Tensor, shape ()
        The loss.
    """
    each = F.binary_cross_entropy_with_logits(logits, surplus.to(logits.dtype), reduction="none")
    if balance == "plain":
        return each.mean() if known is None else masked_batch_mean(each, known)
    needed = ~surplus if known is None else known & ~surplus
    return masked_batch_mean(each, surplus) + masked_batch_mean(each, needed)
