"""The promises every tokenizer keeps. Subjects are found by walking the folder: a new file is tested by existing."""

import dataclasses
import importlib
import inspect
import pkgutil

import pytest
import torch

import workbench.tokenizers
from workbench.data import load
from workbench.errors import UserError
from workbench.tokenizers.tokenizer import Tokenizer
from workbench.types import Tokens

SMALL = {"side": 8, "channels": 1, "patch": 2, "tokens": 4, "dim": 6, "width": 16, "depth": 1, "heads": 2}
OTHER = {"side": 16, "channels": 3, "patch": 4, "tokens": 2, "dim": 4, "width": 32, "depth": 2, "heads": 4}
OTHER |= {"skip": False, "books": 2, "codes": 33, "temperature": 0.5, "entropy_weight": 0.5, "entropy_temperature": 0.3}
OTHER |= {"commitment": 1.0, "cosine": False}


def found() -> list[type[Tokenizer]]:
    modules = [
        importlib.import_module(f"workbench.tokenizers.{m.name}")
        for m in pkgutil.iter_modules(workbench.tokenizers.__path__)
    ]
    kinds = [kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass)]
    return sorted({k for k in kinds if issubclass(k, Tokenizer) and k is not Tokenizer}, key=lambda k: k.__name__)


def make(kind: type[Tokenizer], **settings) -> Tokenizer:
    torch.manual_seed(0)
    return kind(kind.Config(**(SMALL | settings))).eval()


def images(count: int = 5, *, channels: int = 1, side: int = 8) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


each = pytest.mark.parametrize("kind", found(), ids=lambda k: k.__name__)


def test_the_walk_finds_the_systems():
    assert {"AE", "VQVAE", "SoftVQ"} <= {kind.__name__ for kind in found()}


@each
def test_it_decodes_what_it_encodes(kind):
    model = make(kind)
    tokens = model.encode(images())
    assert tokens.latents.shape == (5, 4, 6)
    assert model.decode(tokens).shape == (5, 1, 8, 8)


@each
def test_the_same_image_gives_the_same_tokens(kind):
    model = make(kind)
    assert torch.equal(model.encode(images()).latents, model.encode(images()).latents)


@each
def test_each_image_is_encoded_and_decoded_on_its_own(kind):
    model, x, order = make(kind), images(), torch.tensor([3, 0, 4, 1, 2])
    tokens, permuted = model.encode(x), model.encode(x[order])
    torch.testing.assert_close(permuted.latents, tokens.latents[order])
    torch.testing.assert_close(model.decode(permuted), model.decode(tokens)[order])
    if tokens.codes is not None:
        assert torch.equal(permuted.codes, tokens.codes[order])
    torch.testing.assert_close(model.encode(x[:1]).latents, tokens.latents[:1])


@each
def test_codes_point_into_the_codebook(kind):
    model = make(kind)
    tokens = model.encode(images())
    assert (tokens.codes is None) == (model.codebook is None)
    if tokens.codes is not None:
        books, codes, dim = model.codebook.shape
        assert tokens.codes.min() >= 0 and tokens.codes.max() < codes
        assert dim == tokens.latents.shape[2] and tokens.codes.shape[1] % books == 0
        if kind.discrete:  # codes alone rebuild the latents
            torch.testing.assert_close(model.codebook[0][tokens.codes], tokens.latents)


@each
def test_the_content_of_an_inactive_token_never_reaches_the_decoder(kind):
    model, tokens = make(kind), make(kind).encode(images())
    active = torch.tensor([True, True, False, False]).expand(5, 4)
    shown = model.decode(Tokens(tokens.latents, active=active))
    loud = torch.where(active[..., None], tokens.latents, 1e3)
    torch.testing.assert_close(model.decode(Tokens(loud, active=active)), shown)
    assert not torch.allclose(shown, model.decode(tokens))


@each
def test_every_trainable_parameter_gets_a_gradient(kind):
    model = make(kind).train()
    model.objective(images(16)).total.backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


@each
def test_the_decoders_gradient_reaches_the_encoder_through_the_latents(kind):
    model = make(kind)
    model.decode(model.encode(images(8))).square().mean().backward()
    assert model.encoder.embed.weight.grad.abs().sum() > 0


@each
def test_a_few_steps_help(kind):
    model = make(kind).train()
    optimizer, x = torch.optim.AdamW(model.parameters(), lr=5e-3), load("digits").images(slice(32))
    before = model.objective(x).terms["pixel"].item()
    for _ in range(60):
        optimizer.zero_grad()
        model.objective(x).total.backward()
        optimizer.step()
    assert model.objective(x).terms["pixel"].item() < 0.5 * before


@each
def test_a_misspelled_setting_is_refused(kind):
    with pytest.raises(TypeError, match="widht"):
        kind.Config(widht=3)


@each
def test_every_setting_changes_something(kind):
    """No decorative options: each field, changed alone, changes tokens, images, loss terms or what is accepted."""

    def behaviour(config) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = kind(config).train()
        x = images(channels=config.channels, side=config.side)
        objective = model.objective(x)
        return [model.encode(x).latents, objective.reconstruction, *objective.terms.values()]

    usual = behaviour(kind.Config(**SMALL))
    for field in dataclasses.fields(kind.Config):
        now = behaviour(kind.Config(**(SMALL | {field.name: OTHER[field.name]})))
        same = all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(usual, now, strict=True))
        assert not same, f"{field.name} changes nothing"


@each
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"side": 30, "patch": 4}, "image side 30 is not a multiple of patch 4. Use 28 or 32."),
        ({"tokens": 0}, "tokens is 0; it must be at least 1."),
        ({"width": 18, "heads": 4}, "width 18 does not divide into 4 heads."),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_one_sentence(kind, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        kind.Config(**settings)


@each
def test_images_of_another_size_are_refused(kind):
    with pytest.raises(UserError, match="images are 1 x 16 x 16; this tokenizer was made for 1 x 8 x 8."):
        make(kind).encode(images(side=16))


def test_softvq_refuses_books_that_do_not_divide_the_tokens():
    from workbench.tokenizers.softvq import SoftVQ

    with pytest.raises(UserError, match="16 tokens do not divide into 3 books"):
        SoftVQ.Config(tokens=16, books=3)
