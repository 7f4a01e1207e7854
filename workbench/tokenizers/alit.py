"""A small ALIT (arXiv:2411.02393): tokens are added in rounds until the image is reconstructed well
enough.

In each round, the one encoder reads its own previous output for patches and tokens, plus some new
tokens, and the tokens so far are decoded. R rounds are R encodings and R decodings, where KARL
needs one of each.

Differences from the paper: the decoder predicts pixels, without a base tokenizer and without
perceptual or adversarial terms. Latents are continuous. Image patches are never halted. A new token
is identified by its own learned query, so that a round needs no embedding of its own. Each image
stops at its own error (the released code: at the error of the batch), and only if an error target
is given.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.core.errors import UserError
from workbench.core.types import Images, Objective, Tokens
from workbench.nn.vit import Encoder, PixelDecoder, ViTConfig
from workbench.tokenizers.base import SupportsErrorTarget, TrainableTokenizer

# Weights of the rounds' losses in the released code; the first R are used.
ROUND_WEIGHTS = (2.5, 2.0, 1.5, 1.25, 1.0, 1.0, 1.0, 1.0)


class ALIT(SupportsErrorTarget, TrainableTokenizer):
    """A recurrent encoder, and a decoder that reads the tokens of any round."""

    respects_active = True

    @dataclass(frozen=True, kw_only=True)
    class Config(ViTConfig):
        """Settings of an ALIT; `num_tokens` is the number of tokens after the last round.

        Attributes
        ----------
        rounds : int
            Number of rounds; each adds num_tokens / rounds tokens.
        """

        rounds: int = 4

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 1 <= self.rounds <= len(ROUND_WEIGHTS):
                raise UserError(
                    f"rounds must be between 1 and {len(ROUND_WEIGHTS)}, got {self.rounds}."
                )
            if self.num_tokens % self.rounds:
                raise UserError(
                    f"num_tokens must be a multiple of rounds, got {self.num_tokens} tokens "
                    f"and {self.rounds} rounds."
                )

        @property
        def tokens_per_round(self) -> int:
            """Return the number of tokens that a round adds."""
            return self.num_tokens // self.rounds

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder, self.decoder = Encoder(config), PixelDecoder(config)

    @property
    def budgets(self) -> tuple[int, ...]:
        """Return the numbers of tokens after each round."""
        step = self.config.tokens_per_round
        return tuple(range(step, self.config.num_tokens + 1, step))

    def encode(
        self, images: Images, *, error: float | None = None, budget: int | None = None
    ) -> Tokens:
        """Encode images with all tokens, with `budget` tokens, or with those of the first round
        that meets an error.

        An image that meets the error in no round uses all tokens.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].
        error : float, optional
            Target for the mean absolute error of pixels in [0, 1].
        budget : int, optional
            Number of tokens, a multiple of the tokens per round.

        Returns
        -------
        Tokens
            The tokens; `active` marks those of the rounds that are used.

        Raises
        ------
        UserError
            If both `error` and `budget` are given, or if one of them is out of range.
        """
        if error is not None and budget is not None:
            raise UserError("Give an error or a budget, not both.")
        if budget is not None:
            rounds, rest = divmod(budget, self.config.tokens_per_round)
            if rest or not 1 <= rounds <= self.config.rounds:
                raise UserError(
                    f"budget must be a multiple of {self.config.tokens_per_round}, "
                    f"the tokens per round, up to {self.config.num_tokens}, got {budget}."
                )
            latents = self.latents_by_round(images, rounds)[-1]
            return Tokens(latents, active=self._active(len(images))[rounds - 1])
        latents = self.latents_by_round(images, self.config.rounds)
        if error is None:
            return Tokens(latents[-1])
        if not error > 0:
            raise UserError(f"error must be above 0 (pixels in [0, 1]), got {error}.")
        errors = (self._decode_rounds(latents) - images).abs().mean(dim=(2, 3, 4)) / 2
        meets_target = errors <= error
        meets_target[-1] = True
        first = meets_target.int().argmax(dim=0)
        rows = torch.arange(len(images), device=images.device)
        return Tokens(latents[first, rows], active=self._active(len(images))[first, rows])

    def decode(self, tokens: Tokens) -> Images:
        """Decode the active tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images) -> Objective:
        """Return the weighted mean absolute error of each round; the last is `pixel`."""
        reconstructions = self._decode_rounds(self.latents_by_round(images, self.config.rounds))
        names = [*(f"round_{r}" for r in range(1, self.config.rounds)), "pixel"]
        terms = {
            name: weight * F.l1_loss(reconstruction, images)
            for name, weight, reconstruction in zip(
                names, ROUND_WEIGHTS, reconstructions, strict=False
            )
        }
        return Objective(terms, reconstructions[-1])

    def latents_by_round(self, images: Images, rounds: int) -> Float[Tensor, "r b n d"]:
        """Return the latents after each round.

        Each round rewrites the latents of the rounds before it. Latents of later rounds are zero.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].
        rounds : int
            Number of rounds.

        Returns
        -------
        Tensor, shape (rounds, batch, num_tokens, dim)
            The latents.
        """
        patches = self.encoder.embed_patches(images)
        queries = self.encoder.queries(patches).split(self.config.tokens_per_round, dim=1)
        rows = patches + self.encoder.patch_positions
        latents = []
        for index in range(rounds):
            rows = torch.cat([rows, queries[index]], dim=1)
            for block in self.encoder.blocks:
                rows = block(rows)
            rows = self.encoder.norm(rows)
            written = self.encoder.to_latents(rows[:, patches.shape[1] :])
            missing = self.config.num_tokens - written.shape[1]
            latents.append(F.pad(written, (0, 0, 0, missing)))
        return torch.stack(latents)

    def _decode_rounds(self, latents: Float[Tensor, "r b n d"]) -> Float[Tensor, "r b c h w"]:
        rounds, count = latents.shape[:2]
        active = rearrange(self._active(count), "r b n -> (r b) n")
        images = self.decode(Tokens(rearrange(latents, "r b n d -> (r b) n d"), active=active))
        return rearrange(images, "(r b) c h w -> r b c h w", r=rounds)

    def _active(self, count: int) -> Bool[Tensor, "r b n"]:
        """Return the tokens that exist after each round."""
        device = self.encoder.patch_positions.device
        round_of_token = (
            torch.arange(self.config.num_tokens, device=device) // self.config.tokens_per_round
        )
        rounds = torch.arange(self.config.rounds, device=device)
        return repeat(round_of_token <= rearrange(rounds, "r -> r 1"), "r n -> r b n", b=count)
