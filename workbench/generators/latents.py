"""Latents of a whole training set, made once: what a generator is trained on."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Latents:
    """A tokenizer's latents of every image, with labels: the training data of a generator."""

    latents: Float[Tensor, "n l d"]
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The latents and labels at the indices."""
        return self.latents[indices], self.labels[indices]
