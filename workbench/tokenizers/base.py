"""What a tokenizer is: it encodes images to tokens, decodes tokens to images, and says what it is trained for."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.types import Images, Objective, Tokens
from workbench.features import FeatureExtractor


class Tokenizer(nn.Module, ABC):
    """The promise every system keeps (tests/test_tokenizer_contract.py). A new one is one new file.

    The same image gives the same tokens, each image on its own; a decoder sees nothing but `Tokens`.
    """

    Config: ClassVar[type]  # a frozen, keyword-only dataclass: every setting, one comment each
    discrete: ClassVar[bool] = (
        False  # True: the codes alone rebuild the latents, so they can be counted in bits
    )
    frozen_encoder: ClassVar[bool] = (
        False  # True: nothing that is trained takes part in choosing the codes
    )

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        # The share of the training that is done, which `fit` sets before each step: what follows a schedule reads it.
        self.register_buffer("progress", torch.ones(()), persistent=False)

    def set_progress(self, fraction: float) -> None:
        """Set the finished fraction of training, 0 to 1."""
        self.progress.fill_(fraction)

    @property
    def teachers(self) -> tuple[FeatureExtractor, ...]:
        """Those whose features its objective wants, and takes after the images where they were computed before."""
        return ()

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the grid on which it asks teachers for features."""
        rows = self.config.side // self.config.patch
        return rows, rows

    prepares: ClassVar[
        tuple[str, ...]
    ] = ()  # beginnings of the names, in its state, of what `prepare` fills

    def prepare(self, data: Any, seed: int) -> None:
        """Before the first step, once: look at the training data (a `training.Data`), for instance to cluster it.

        Progress goes to the listener of `workbench.core.progress`.
        """

    @property
    def codebook(self) -> Float[Tensor, "g k d"] | None:
        """The codewords its codes point to; book i serves the i-th of g equal blocks of tokens. None: it has none."""
        return None

    @abstractmethod
    def encode(self, images: Images) -> Tokens:
        """Images in [-1, 1] to tokens."""

    @abstractmethod
    def decode(self, tokens: Tokens) -> Images:
        """Tokens to images, not clamped."""

    @abstractmethod
    def objective(self, images: Images) -> Objective:
        """The loss of one batch, as named terms."""


class SupportsErrorTarget(Tokenizer):
    """A tokenizer that can spend as many tokens per image as an error or a budget needs."""

    @abstractmethod
    def encode(
        self, images: Images, *, error: float | None = None, budget: int | None = None
    ) -> Tokens:
        """Encode images in [-1, 1] with a target error or with a number of tokens.

        Parameters
        ----------
        images : Tensor of shape (batch, c, h, w)
            Images in [-1, 1].
        error : float, optional
            Target for the mean absolute error, pixels in [0, 1].
        budget : int, optional
            Number of tokens per image. Cannot be combined with `error`.
        """


class SupportsPosterior(Tokenizer):
    """A tokenizer with a distribution over the codes of each token."""

    @abstractmethod
    def posterior(self, images: Images) -> Float[Tensor, "b n k"]:
        """Compute the probabilities of the codes of each token."""


class HasInitialCodebook(Tokenizer):
    """A tokenizer whose codebook started from a table that it keeps."""

    @property
    @abstractmethod
    def initial_codebook(self) -> Float[Tensor, "g k d"] | None:
        """The table from which the codebook started; None if it does not keep one."""
