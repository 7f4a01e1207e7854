"""A small ALIT (arXiv:2411.02393): tokens are added in rounds, until the image is told well enough.

Each round the one encoder reads its own last view of patches and tokens, with some fresh tokens beside them, and what
it has so far is decoded: R encodings and R decodings for what KARL does in one of each.

Here: pixels are predicted without a base tokenizer, perceptual or adversarial terms; latents are continuous; image
patches are never halted; a fresh token is known by its own learned query, so that a round needs no vector of its own.
An image stops at its own error (the released code: at the batch's), and only when it is asked to.
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
from workbench.tokenizers.base import SupportsErrorTarget

WEIGHTS = (
    2.5,
    2.0,
    1.5,
    1.25,
    1.0,
    1.0,
    1.0,
    1.0,
)  # of the rounds' losses, in the released code; the first R are used


class ALIT(SupportsErrorTarget):
    """A recurrent encoder, and a decoder that reads the tokens of any round."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ViTConfig):
        """The sizes (`num_tokens` is what the last round has), and the rounds."""

        rounds: int = 4  # R; each adds num_tokens / R

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 1 <= self.rounds <= len(WEIGHTS):
                raise UserError(
                    f"rounds is {self.rounds}; it must lie between 1 and {len(WEIGHTS)}."
                )
            if self.num_tokens % self.rounds:
                raise UserError(
                    f"{self.num_tokens} tokens do not divide into {self.rounds} rounds."
                )

        @property
        def fresh(self) -> int:
            """Tokens that a round adds."""
            return self.num_tokens // self.rounds

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder, self.decoder = Encoder(config), PixelDecoder(config)

    def encode(
        self, images: Images, *, budget: int | None = None, error: float | None = None
    ) -> Tokens:
        """Every token; or those of the rounds that make `budget`; or of each image's first round that meets an error.

        Errors are mean absolute differences of pixels in [0, 1]; an image that no round brings there keeps every token.
        """
        if error is not None and budget is not None:
            raise UserError("ask for an error or for a budget, not for both.")
        if budget is not None:
            rounds, rest = divmod(budget, self.config.fresh)
            if rest or not 1 <= rounds <= self.config.rounds:
                multiple = f"a multiple of {self.config.fresh}, what a round adds, up to {self.config.num_tokens}"
                raise UserError(f"budget is {budget}; it must be {multiple}.")
            return Tokens(
                self.roll(images, rounds)[-1], active=self._active(len(images))[rounds - 1]
            )
        latents = self.roll(images, self.config.rounds)
        if error is None:
            return Tokens(latents[-1])
        if not error > 0:
            raise UserError(f"error is {error}; it must be above 0 (pixels in [0, 1]).")
        met = (self._decoded(latents) - images).abs().mean(dim=(2, 3, 4)) / 2 <= error
        met[-1] = True
        first, each = met.int().argmax(dim=0), torch.arange(len(images), device=images.device)
        return Tokens(latents[first, each], active=self._active(len(images))[first, each])

    def decode(self, tokens: Tokens) -> Images:
        """The active tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images) -> Objective:
        """Mean absolute error of every round's image, times the round's weight; `pixel` is the last round's."""
        shown = self._decoded(self.roll(images, self.config.rounds))
        names = [*(f"round_{r}" for r in range(1, self.config.rounds)), "pixel"]
        each = zip(names, WEIGHTS, shown, strict=False)
        return Objective(
            {name: weight * F.l1_loss(image, images) for name, weight, image in each}, shown[-1]
        )

    def roll(self, images: Images, rounds: int) -> Float[Tensor, "r b n d"]:
        """The latents after each round, which rewrites those of the rounds before; zeros where none are yet."""
        patches, fresh = self.encoder.look(images), self.config.fresh
        queries = self.encoder.queries(patches).split(fresh, dim=1)
        view, latents = patches + self.encoder.patch_positions, []
        for now in range(rounds):
            view = torch.cat([view, queries[now]], dim=1)
            for block in self.encoder.blocks:
                view = block(view)
            view = self.encoder.norm(view)
            written = self.encoder.to_latents(view[:, patches.shape[1] :])
            latents.append(F.pad(written, (0, 0, 0, self.config.num_tokens - written.shape[1])))
        return torch.stack(latents)

    def _decoded(self, latents: Float[Tensor, "r b n d"]) -> Float[Tensor, "r b c h w"]:
        rounds, count = latents.shape[:2]
        active = rearrange(self._active(count), "r b n -> (r b) n")
        shown = self.decode(Tokens(rearrange(latents, "r b n d -> (r b) n d"), active=active))
        return rearrange(shown, "(r b) c h w -> r b c h w", r=rounds)

    def _active(self, count: int) -> Bool[Tensor, "r b n"]:
        """Which tokens there are after each round."""
        place = (
            torch.arange(self.config.num_tokens, device=self.encoder.tokens.device)
            // self.config.fresh
        )
        rows = torch.arange(self.config.rounds, device=place.device)
        return repeat(place <= rearrange(rows, "r -> r 1"), "r n -> r b n", b=count)
