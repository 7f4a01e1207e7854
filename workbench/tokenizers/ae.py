"""AE: a plain autoencoder with one-dimensional latents, the ceiling that quantizers are measured against."""

from dataclasses import dataclass

import torch.nn.functional as F

from workbench.nn.vit import Encoder, PixelDecoder, Sizes
from workbench.tokenizers.tokenizer import Tokenizer
from workbench.types import Images, Objective, Tokens


class AE(Tokenizer):
    """Encoder, decoder, squared error; the latents are free."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Sizes):
        """The sizes alone."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder, self.decoder = Encoder(config), PixelDecoder(config)

    def encode(self, images: Images) -> Tokens:
        """The encoder's output, as it is."""
        return Tokens(self.encoder(images))

    def decode(self, tokens: Tokens) -> Images:
        """Tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images) -> Objective:
        """Mean squared error of pixels in [-1, 1]."""
        reconstruction = self.decode(self.encode(images))
        return Objective({"pixel": F.mse_loss(reconstruction, images)}, reconstruction)
