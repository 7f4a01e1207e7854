"""Declared and probed: does a decoder leave out inactive tokens?"""

import importlib

import pytest
import torch
import torch.nn.functional as F

from workbench.core.types import Tokens
from workbench.data import load
from workbench.launch.recipes import CLUSTERING, GENERATORS, SYSTEMS, recipe_settings
from workbench.tokenizers.active import respects_active
from workbench.tokenizers.base import Tokenizer

OWN = [name for name in SYSTEMS if name not in (*GENERATORS, *CLUSTERING)]
IMAGES = load("digits").images(slice(0, 2))


class Pooling(Tokenizer):
    """A tokenizer of four tokens; a subclass decides what is done with inactive ones."""

    def encode(self, images):
        return Tokens(F.avg_pool2d(images, 4).flatten(2).transpose(1, 2), grid=(2, 2))

    def decode(self, tokens):
        latents = self.hide(tokens)
        return F.interpolate(latents.transpose(1, 2).reshape(-1, 1, 2, 2), scale_factor=4.0)

    def hide(self, tokens):
        return tokens.latents


class Zeroing(Pooling):
    def hide(self, tokens):
        active = tokens.latents.new_ones(()) if tokens.active is None else tokens.active[..., None]
        return tokens.latents * active


class Leaking(Pooling):
    """Inactive tokens still change the image."""

    def hide(self, tokens):
        active = 1.0 if tokens.active is None else tokens.active[..., None].float()
        return tokens.latents * (0.5 + 0.5 * active)


@pytest.mark.parametrize(
    ("kind", "expected"), [(Pooling, False), (Zeroing, True), (Leaking, False)]
)
def test_foreign_decoders_are_probed(kind, expected):
    model = kind()
    assert model.respects_active is None
    assert respects_active(model, model.encode(IMAGES)) is expected


@pytest.mark.parametrize("system", OWN)
def test_declaration_of_every_system_agrees_with_the_probe(system):
    module, _, name = SYSTEMS[system].partition(":")
    model_class = getattr(importlib.import_module(module), name)
    settings = recipe_settings(system, "digits")
    small = {"width": 16, "depth": 1, "heads": 2}
    names = model_class.Config.__dataclass_fields__
    torch.manual_seed(0)
    config = model_class.Config(**settings | {k: v for k, v in small.items() if k in names})
    model = model_class(config).eval()
    for parameter in model.parameters():  # layers that start at zero would hide nothing
        torch.nn.init.normal_(parameter, std=0.2)
    declared = model.respects_active
    with torch.no_grad():
        tokens = model.encode(IMAGES)
    model.respects_active = None
    assert respects_active(model, tokens) is (declared is not False)
