"""What a tokenizer is: it encodes images to tokens, decodes tokens to images, and says what it is trained for."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from workbench.types import Images, Objective, Tokens


class Tokenizer(nn.Module, ABC):
    """The promise every system keeps (tests/test_tokenizer_contract.py). A new one is one new file.

    The same image gives the same tokens, each image on its own; a decoder sees nothing but `Tokens`.
    """

    Config: ClassVar[type]  # a frozen, keyword-only dataclass: every setting, one comment each
    discrete: ClassVar[bool] = False  # True: the codes alone rebuild the latents, so they can be counted in bits

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

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
