"""Tail drop (Matryoshka; One-D-Piece, arXiv:2501.10064): the baseline that finds the length of an
image by search.

In training, the decoder sees a random number of leading tokens. Afterwards any prefix can be
decoded, and the shortest one that meets an error target is found by decoding repeatedly. KARL needs
no such search, and neither does `GradientEnergyLength`, which only looks at the edges of the image.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.core.batch_shares import item_draws
from workbench.core.errors import UserError
from workbench.core.types import Images, Objective, Tokens
from workbench.nn.vit import Encoder, PixelDecoder, ViTConfig
from workbench.tokenizers.base import SupportsErrorTarget, TrainableTokenizer


class TailDrop(SupportsErrorTarget, TrainableTokenizer):
    """A plain autoencoder whose tokens are ordered by importance: the first carry the most."""

    respects_active = True

    @dataclass(frozen=True, kw_only=True)
    class Config(ViTConfig):
        """Settings of tail drop.

        Attributes
        ----------
        shortest : int
            Tokens of the shortest prefix. Training draws the length of a prefix uniformly from here
            to all tokens.
        """

        shortest: int = 1

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 1 <= self.shortest <= self.num_tokens:
                raise UserError(
                    f"shortest must be between 1 and {self.num_tokens} tokens, got {self.shortest}."
                )

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder, self.decoder = Encoder(config), PixelDecoder(config)

    @property
    def budgets(self) -> tuple[int, ...]:
        """Return all numbers of tokens."""
        return tuple(range(1, self.config.num_tokens + 1))

    def encode(
        self,
        images: Images,
        *,
        error: float | None = None,
        budget: int | Int[Tensor, " b"] | None = None,
    ) -> Tokens:
        """Encode images with all tokens, the first `budget` tokens, or the shortest prefix that
        meets an error.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].
        error : float, optional
            Target for the mean absolute error of pixels in [0, 1]; see `search`.
        budget : int or Tensor of int, shape (batch,), optional
            Number of tokens, of all images or of each.

        Returns
        -------
        Tokens
            The tokens; `active` marks the prefix.

        Raises
        ------
        UserError
            If a budget is out of range.
        """
        latents = self.encoder(images)
        if error is not None:
            lengths, _ = self.search(latents, images, error)
            return Tokens(latents, active=self._prefix_mask(lengths))
        if budget is None:
            return Tokens(latents)
        lengths = torch.as_tensor(budget, device=latents.device).expand(len(latents))
        for length in lengths.unique().tolist():
            if not 1 <= length <= self.config.num_tokens:
                raise UserError(
                    f"budget must be between 1 and {self.config.num_tokens}, got {length}."
                )
        return Tokens(latents, active=self._prefix_mask(lengths))

    def decode(self, tokens: Tokens) -> Images:
        """Decode the active tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images) -> Objective:
        """Return the squared error after decoding a random prefix, drawn per image."""
        sampler = partial(torch.randint, self.config.shortest, self.config.num_tokens + 1)
        lengths = item_draws(sampler, (len(images),), device=images.device)
        tokens = Tokens(self.encoder(images), active=self._prefix_mask(lengths))
        reconstruction = self.decode(tokens)
        return Objective({"pixel": F.mse_loss(reconstruction, images)}, reconstruction)

    def search(
        self, latents: Float[Tensor, "b n d"], images: Images, error: float
    ) -> tuple[Int[Tensor, " b"], int]:
        """Find the shortest prefix of each image that meets an error, by bisection.

        The result is exact if the error decreases with every token.

        Parameters
        ----------
        latents : Tensor, shape (batch, num_tokens, dim)
            Latents of the images.
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].
        error : float
            Target for the mean absolute error of pixels in [0, 1].

        Returns
        -------
        lengths : Tensor of int64, shape (batch,)
            Tokens per image; all tokens if no prefix meets the error.
        decodings : int
            Number of times the batch was decoded.
        """
        low = torch.ones(len(images), dtype=torch.int64, device=images.device)
        high = torch.full_like(low, self.config.num_tokens)
        decodings = 0
        while (low < high).any():
            middle = (low + high) // 2
            decoded = self.decode(Tokens(latents, active=self._prefix_mask(middle)))
            meets_target = ((decoded - images).abs() / 2).mean(dim=(1, 2, 3)) <= error
            low = torch.where(meets_target, low, middle + 1)
            high = torch.where(meets_target, middle, high)
            low = torch.minimum(low, high)
            decodings += 1
        return high, decodings

    def _prefix_mask(self, lengths: Tensor) -> Bool[Tensor, "b n"]:
        positions = torch.arange(self.config.num_tokens, device=lengths.device)
        return positions < rearrange(lengths, "b -> b 1")


@dataclass(frozen=True)
class GradientEnergyLength:
    """Predict the tokens that images need for one error from their gradient energy, by a monotone
    step function.

    This is a control for KARL's learned halting: if both are equally good, the halting has learned
    nothing beyond a hand-crafted statistic. Use it as `model.encode(images,
    budget=length.predict(images))`.
    """

    energies: Float[Tensor, " m"]  # gradient energies at the corners of the function
    tokens: Float[Tensor, " m"]  # tokens at the corners

    @classmethod
    def fit(cls, images: Images, lengths: Int[Tensor, " b"]) -> "GradientEnergyLength":
        """Fit an isotonic regression of the lengths that `TailDrop.search` returns.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].
        lengths : Tensor of int, shape (batch,)
            Tokens that each image needs.

        Returns
        -------
        GradientEnergyLength
            The fitted function.

        Raises
        ------
        UserError
            If there are no images.
        """
        from sklearn.isotonic import IsotonicRegression

        if not len(images):
            raise UserError("Fitting a length needs at least one image, got none.")
        energies = gradient_energy(images).cpu().double()
        curve = IsotonicRegression().fit(energies, lengths.cpu().double())
        return cls(
            energies=torch.tensor(curve.X_thresholds_).float(),
            tokens=torch.tensor(curve.y_thresholds_).float(),
        )

    def predict(self, images: Images) -> Int[Tensor, " b"]:
        """Return the rounded number of tokens per image; constant outside of the fitted range."""
        energies = gradient_energy(images).cpu().numpy()
        lengths = np.interp(energies, self.energies.numpy(), self.tokens.numpy())
        return torch.from_numpy(lengths.round()).long().to(images.device)


def gradient_energy(images: Images) -> Float[Tensor, " b"]:
    """Compute the mean squared difference of horizontal plus that of vertical neighbors."""
    horizontal, vertical = images.diff(dim=3), images.diff(dim=2)
    return horizontal.square().mean(dim=(1, 2, 3)) + vertical.square().mean(dim=(1, 2, 3))
