"""Interfaces of tokenizers.

Evaluation needs a `Tokenizer` only. Training needs a `TrainableTokenizer`. Abilities that only some
tokenizers have are classes that these inherit from: `SupportsErrorTarget`, `SupportsPosterior`,
`HasInitialCodebook`, and `NeedsPreparation` of `workbench.core.types`.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.core.image_size import ImageSize
from workbench.core.types import Images, Objective, Tokens
from workbench.features import FeatureExtractor

MAX_REASON_LENGTH = 200
DEFAULT_FEATURE_GRID = (8, 8)  # of a tokenizer that has neither a grid nor patches


class Tokenizer(nn.Module, ABC):
    """Encode images to tokens and decode tokens to images.

    The same image always gives the same tokens in evaluation mode, independently of the other
    images of its batch, and a decoder sees nothing but `Tokens`. Images have values in [-1, 1].

    Attributes
    ----------
    discrete : bool
        The codes alone determine the latents, so that tokens have a cost in bits.
    respects_active : bool or None
        The decoder leaves out the tokens that `active` excludes, so that fewer tokens can be
        decoded. None if this is not known; then it is probed (`workbench.tokenizers.active`).
    frozen_encoder : bool
        No trained parameter takes part in the selection of codes.
    """

    discrete: bool = False
    respects_active: bool | None = None
    frozen_encoder: ClassVar[bool] = False

    @property
    def codebook(self) -> Float[Tensor, "g k d"] | None:
        """Return the codewords, or None without a codebook.

        Codebook i serves the i-th of g equal blocks of tokens.
        """
        return None

    @property
    def grid(self) -> tuple[int, int] | None:
        """Return the rows and columns of the token grid, or None if tokens have no position."""
        return None

    @property
    def feature_grid(self) -> tuple[int, int]:
        """Return the rows and columns of the grid on which features of images are computed."""
        return self.grid or DEFAULT_FEATURE_GRID

    @abstractmethod
    def encode(self, images: Images) -> Tokens:
        """Encode images to tokens.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].

        Returns
        -------
        Tokens
            The tokens of each image.
        """

    @abstractmethod
    def decode(self, tokens: Tokens) -> Images:
        """Decode tokens to images.

        Parameters
        ----------
        tokens : Tokens
            Tokens of a batch of images.

        Returns
        -------
        Tensor, shape (batch, channels, height, width)
            Images in the range of [-1, 1], not clamped.
        """

    @torch.no_grad()
    def check_round_trip(self, images: Images) -> None:
        """Raise an error unless `decode(encode(images))` gives images of the same shape.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            A few images with values in [-1, 1].

        Raises
        ------
        UserError
            If the tokenizer fails for these images, or returns anything else.
        """
        name = type(self).__name__
        shape = tuple(images.shape)
        try:
            tokens = self.encode(images)
            decoded = self.decode(tokens)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            reason = " ".join(str(error).split())[:MAX_REASON_LENGTH]
            raise UserError(f"{name} fails for images of shape {shape}: {reason}") from error
        if tuple(decoded.shape) != shape:
            raise UserError(
                f"{name} decodes images of shape {shape} to the shape {tuple(decoded.shape)}."
            )
        dim = tokens.latents.shape[2]
        if self.codebook is not None and self.codebook.shape[2] not in (0, dim):
            raise UserError(
                f"{name} has codewords with {self.codebook.shape[2]:,} channels, and latents with "
                f"{dim:,}. Let encode return the codewords, and project them in decode."
            )
        if not torch.isfinite(decoded).all():
            raise UserError(f"{name} decodes images to NaN or infinity.")


class TrainableTokenizer(Tokenizer):
    """A tokenizer with settings and an objective. A new system is one new file
    (tests/test_tokenizer_contract.py).

    Parameters
    ----------
    config : Config
        The settings.

    Attributes
    ----------
    Config : type
        A frozen, keyword-only dataclass with one commented field per setting.
    progress : Tensor, shape ()
        Fraction of the training that is done; 1 outside of training. Schedules read it.
    """

    Config: ClassVar[type]
    config: Any  # an instance of Config; each system declares its own type
    progress: Float[Tensor, ""]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        # On the CPU even if the weights are built on the meta device to be loaded later.
        progress = torch.ones((), device="cpu")
        self.register_buffer("progress", progress, persistent=False)

    def set_progress(self, fraction: float) -> None:
        """Set the fraction of the training that is done, in [0, 1]."""
        self.progress.fill_(fraction)

    @property
    def teachers(self) -> tuple[FeatureExtractor, ...]:
        """Return the feature extractors whose features `objective` accepts after the images."""
        return ()

    @property
    def feature_grid(self) -> tuple[int, int]:
        """Return the token grid if there is one, otherwise the grid of patches."""
        if self.grid is not None:
            return self.grid
        height, width = ImageSize.of(self.config.side)
        return height // self.config.patch, width // self.config.patch

    @abstractmethod
    def objective(self, images: Images) -> Objective:
        """Compute the loss of one batch.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].

        Returns
        -------
        Objective
            The loss as named, weighted terms.
        """


class SupportsErrorTarget(Tokenizer):
    """A tokenizer with a variable number of tokens per image."""

    @property
    def budgets(self) -> tuple[int, ...]:
        """Return the numbers of tokens that `encode` accepts as a budget; none if not known."""
        return ()

    @abstractmethod
    def encode(
        self, images: Images, *, error: float | None = None, budget: int | None = None
    ) -> Tokens:
        """Encode images with as many tokens as an error target needs, or with a fixed number.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].
        error : float, optional
            Target for the mean absolute error of pixels in [0, 1].
        budget : int, optional
            Number of tokens per image. Not combined with `error`.

        Returns
        -------
        Tokens
            The tokens; `active` marks those that are used.
        """


class SupportsPosterior(Tokenizer):
    """A tokenizer that assigns probabilities of all codewords to each token."""

    @abstractmethod
    def posterior(self, images: Images) -> Float[Tensor, "b n k"]:
        """Return the probability of each codeword of a token's codebook.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].

        Returns
        -------
        Tensor, shape (batch, tokens, codewords)
            Probabilities that sum to 1 per token.
        """


class HasInitialCodebook(Tokenizer):
    """A tokenizer that retains the codebook from which its trained codebook started."""

    @property
    @abstractmethod
    def initial_codebook(self) -> Float[Tensor, "g k d"] | None:
        """Return the codebook before training, or None if these settings do not retain it."""
