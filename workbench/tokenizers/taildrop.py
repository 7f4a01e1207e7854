"""Tail drop (Matryoshka, One-D-Piece, arXiv:2501.10064): the baseline that finds an image's length by search.

In training the decoder sees a random number of first tokens; afterwards any prefix can be decoded, and the shortest one
that meets a target error is found by decoding again and again. KARL claims to need no such search, and neither does
`GradientEnergyLength`, which looks at the image's edges alone.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.core.errors import UserError
from workbench.core.types import Images, Objective, Tokens
from workbench.nn.vit import Encoder, PixelDecoder, ViTConfig
from workbench.tokenizers.base import SupportsErrorTarget


class TailDrop(SupportsErrorTarget):
    """A plain autoencoder whose tokens are ordered by use: the first ones carry the most."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ViTConfig):
        """The sizes, and how short a prefix training draws."""

        shortest: int = 1  # tokens; prefixes are drawn evenly from here to all

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 1 <= self.shortest <= self.num_tokens:
                raise UserError(
                    f"shortest is {self.shortest}; it must lie between 1 and {self.num_tokens} tokens."
                )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder, self.decoder = Encoder(config), PixelDecoder(config)

    def encode(
        self,
        images: Images,
        *,
        budget: int | Int[Tensor, " b"] | None = None,
        error: float | None = None,
    ) -> Tokens:
        """Every token; or the first `budget`, of all images or each; or the fewest first ones that `search` finds."""
        latents = self.encoder(images)
        if error is not None:
            return Tokens(latents, active=self._first(self.search(latents, images, error)[0]))
        if budget is None:
            return Tokens(latents)
        lengths = torch.as_tensor(budget, device=latents.device).expand(len(latents))
        for length in lengths.unique().tolist():
            if not 1 <= length <= self.config.num_tokens:
                raise UserError(
                    f"budget is {length}; it must lie between 1 and {self.config.num_tokens}."
                )
        return Tokens(latents, active=self._first(lengths))

    def decode(self, tokens: Tokens) -> Images:
        """The active tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images) -> Objective:
        """Squared error of what a random prefix decodes to, drawn for each image."""
        length = torch.randint(
            self.config.shortest, self.config.num_tokens + 1, (len(images),), device=images.device
        )
        reconstruction = self.decode(Tokens(self.encoder(images), active=self._first(length)))
        return Objective({"pixel": F.mse_loss(reconstruction, images)}, reconstruction)

    def search(
        self, latents: Float[Tensor, "b n d"], images: Images, error: float
    ) -> tuple[Int[Tensor, " b"], int]:
        """The shortest prefix of each image that meets the error (pixels in [0, 1]), all tokens if none does; and the
        number of decodings that took. By bisection, so right where the error falls with every token.
        """
        low = torch.ones(len(images), dtype=torch.int64, device=images.device)
        high, decodings = torch.full_like(low, self.config.num_tokens), 0
        while (low < high).any():
            middle = (low + high) // 2
            shown = self.decode(Tokens(latents, active=self._first(middle)))
            met = ((shown - images).abs() / 2).mean(dim=(1, 2, 3)) <= error
            low, high, decodings = (
                torch.where(met, low, middle + 1),
                torch.where(met, middle, high),
                decodings + 1,
            )
            low = torch.minimum(low, high)
        return high, decodings

    def _first(self, length: Tensor) -> Bool[Tensor, "b n"]:
        return torch.arange(self.config.num_tokens, device=length.device) < rearrange(
            length, "b -> b 1"
        )


@dataclass(frozen=True)
class GradientEnergyLength:
    """How many tokens images need for one error, guessed from their gradient energy: a rising curve of steps.

    The sanity check of KARL's learned halting: if this ties with it, the halting has learned no more than a statistic
    made by hand. To use it: `model.encode(images, budget=length.predict(images))`.
    """

    energies: Float[Tensor, " m"]  # the curve's corners
    tokens: Float[Tensor, " m"]

    @classmethod
    def fit(cls, images: Images, needed: Int[Tensor, " b"]) -> "GradientEnergyLength":
        """Isotonic regression of the tokens needed, as `TailDrop.search` finds them. Raises UserError for no images."""
        from sklearn.isotonic import IsotonicRegression

        if not len(images):
            raise UserError("a length cannot be learned from no images.")
        curve = IsotonicRegression().fit(
            gradient_energy(images).cpu().double(), needed.cpu().double()
        )
        return cls(
            torch.tensor(curve.X_thresholds_).float(), torch.tensor(curve.y_thresholds_).float()
        )

    def predict(self, images: Images) -> Int[Tensor, " b"]:
        """The tokens that each image is expected to need, rounded; outside of what was fitted, as at its ends."""
        import numpy as np

        guessed = np.interp(
            gradient_energy(images).cpu().numpy(), self.energies.numpy(), self.tokens.numpy()
        )
        return torch.from_numpy(guessed.round()).long().to(images.device)


def gradient_energy(images: Images) -> Float[Tensor, " b"]:
    """Mean squared difference of neighbouring pixels, across plus down."""
    across, down = images.diff(dim=3), images.diff(dim=2)
    return across.square().mean(dim=(1, 2, 3)) + down.square().mean(dim=(1, 2, 3))
