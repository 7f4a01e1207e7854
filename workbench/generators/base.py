"""The interface of generators: class-conditional models of a tokenizer's latents or codes.

A generator of one class is unconditional: images without labels are all of class 0.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.core.types import Objective, Tokens
from workbench.storage.sharded_array import RowArray


class GeneratorConfig(Protocol):
    """The settings that every generator has."""

    @property
    def num_tokens(self) -> int:
        """Tokens per image."""
        ...

    @property
    def classes(self) -> int:
        """Classes that can be sampled."""
        ...


@runtime_checkable
class EncodedImages(Protocol):
    """A tokenizer's latents or codes of its training images."""

    @property
    def rows(self) -> RowArray:
        """Latents, float32 of shape (n_images, n_tokens, dim), or codes, int32 without dim."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """Classes, int64 of shape (n_images,)."""
        ...

    @property
    def codebook(self) -> Tensor | None:
        """Codewords of the codes, shape (n_codebooks, n_codes, dim); None for latents."""
        ...

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the tokens; None if they have no position in the image."""
        ...

    def moments(self, *, by_channel: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Compute the mean and standard deviation of all numbers, or of each channel."""
        ...


class Generator(nn.Module, ABC):
    """A class-conditional model of a tokenizer's tokens.

    A new kind of generator is one file with one subclass; training, collecting, exploring and
    reports use nothing but this interface. tests/test_generator_contract.py checks it.

    Attributes
    ----------
    Config : type
        A frozen, keyword-only dataclass with the settings of `GeneratorConfig` and more.
    consumes : {"latents", "codes"}
        The part of the tokens that the generator is trained on and `evaluate` reads.
    set_by_tokenizer : tuple of str
        Names of the settings that `settings_from` computes; users cannot set them.
    axes : tuple of str
        Axes that `workbench.explore` offers: "guidance" and "step" for every generator; "interval"
        and "time" only for one that implements `SupportsTrajectory`.
    config : GeneratorConfig
        The settings of this model.
    """

    Config: ClassVar[type]
    consumes: ClassVar[Literal["latents", "codes"]]
    set_by_tokenizer: ClassVar[tuple[str, ...]]
    axes: ClassVar[tuple[str, ...]] = ("guidance", "step")
    config: GeneratorConfig

    @property
    def supports_guidance(self) -> bool:
        """True if guidance has an effect: there are several classes and a trained null class.

        A single class adds nothing to the null class that guidance could enlarge.
        """
        return self.config.classes > 1

    @classmethod
    @abstractmethod
    def settings_from(cls, data: EncodedImages, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Compute the settings in `set_by_tokenizer` from the training data.

        Parameters
        ----------
        data : EncodedImages
            The tokenizer's latents or codes of its training images.
        settings : mapping
            The settings that the user or the recipe has chosen.
        """

    @abstractmethod
    def objective(self, rows: Tensor, labels: Int[Tensor, " b"], /) -> Objective:
        """Compute the loss of one batch as named, weighted terms.

        Parameters
        ----------
        rows : Tensor
            Latents, float of shape (batch, n_tokens, dim), or codes, int of shape
            (batch, n_tokens).
        labels : Tensor of int, shape (batch,)
            Classes.
        """

    @abstractmethod
    def sample(
        self,
        labels: Int[Tensor, " b"],
        *,
        codebook: Float[Tensor, "g k d"] | None = None,
        guidance: float = 1.0,
        steps: int | None = None,
        seed: int = 0,
    ) -> Tokens:
        """Sample the tokens of one image per label.

        Parameters
        ----------
        labels : Tensor of int, shape (batch,)
            Classes, on the device of the model.
        codebook : Tensor of shape (n_codebooks, n_codes, dim), optional
            The tokenizer's codewords. Generators of codes look the latents up in it.
        guidance : float
            Scale of classifier-free guidance; 1 samples from the conditional model.
        steps : int, optional
            Sampling steps; None uses the generator's default. A generator with a fixed number of
            steps ignores it.
        seed : int
            Seed of all random numbers. The global random state is neither read nor changed.

        Returns
        -------
        Tokens
            What the tokenizer's decoder reads.

        Raises
        ------
        UserError
            If a label or an option is out of range.
        """

    def evaluate(
        self, tokens: Tokens, labels: Int[Tensor, " b"], *, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Measure the generator on the tokens of held-out images.

        Parameters
        ----------
        tokens : Tokens
            The tokenizer's tokens of images that the generator was not trained on.
        labels : Tensor of int, shape (batch,)
            Their classes.
        seed : int
            Seed of the noise, for generators that need one.

        Returns
        -------
        dict of str to ndarray
            Arrays by their names in `workbench.storage.evidence.Evidence`, for example
            `loss_by_time`, `predicted` or `code_bits`; empty if there is nothing to measure.
        """
        return {}

    @abstractmethod
    def sampling_config(self) -> dict[str, Any]:
        """Return how `sample` draws by default, for the provenance: solver, steps and the like."""


def check_guidance(scale: float, drop_class: float) -> None:
    """Raise UserError if guidance is requested from a model whose null class was not trained."""
    if scale != 1 and not drop_class:
        raise UserError(
            f"A model with drop_class=0 has no null class; use guidance 1, got {scale:g}."
        )


@runtime_checkable
class SupportsTrajectory(Protocol):
    """A generator that follows a path over times in [0, 1], from noise (1) to data (0)."""

    def sample(
        self,
        labels: Int[Tensor, " b"],
        *,
        codebook: Float[Tensor, "g k d"] | None = None,
        guidance: float = 1.0,
        steps: int | None = None,
        seed: int = 0,
        interval: tuple[float, float] | None = None,
    ) -> Tokens:
        """Sample as `Generator.sample`, with guidance only at times in `interval`."""
        ...

    def trajectory(
        self,
        labels: Int[Tensor, " b"],
        *,
        guidance: float = 1.0,
        steps: int = 10,
        seed: int = 0,
    ) -> Iterator[tuple[float, Tokens]]:
        """Sample, and yield each time with the tokens that the prediction there points to.

        The last pair is time 0 and the sample itself.
        """
        ...
