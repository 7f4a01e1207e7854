"""The promises every tokenizer keeps. Subjects are found by walking the folder: a new file is tested by existing."""

import dataclasses
import importlib
import inspect
import pkgutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import workbench.tokenizers
from workbench.core.errors import UserError
from workbench.core.types import Tokens
from workbench.data import ImageSet, load
from workbench.nn.vit import ViTConfig
from workbench.tokenizers.base import Tokenizer

SMALL = {
    "side": 8,
    "channels": 1,
    "patch": 2,
    "num_tokens": 4,
    "dim": 6,
    "width": 16,
    "depth": 1,
    "heads": 2,
}
SMALL |= {"multipliers": (1, 2, 2)}  # convolutional: 2 x 2 tokens
OTHER = {
    "side": 16,
    "channels": 3,
    "patch": 4,
    "num_tokens": 2,
    "dim": 4,
    "width": 32,
    "depth": 2,
    "heads": 4,
}
OTHER |= {
    "linear_init": False,
    "num_codebooks": 2,
    "codebook_size": 33,
    "temperature": 0.5,
    "entropy_weight": 0.5,
    "entropy_temperature": 0.3,
}
OTHER |= {
    "commitment": 1.0,
    "cosine": False,
    "learn": "gradient",
    "decay": 0.5,
    "revive": 0.0,
    "logits": "distance",
}
OTHER |= {"radius": 2.0, "beta": 0.1, "levels": (4, 3, 3, 3, 3, 3)}
OTHER |= {
    "mask": "sample",
    "mask_low": 0.0,
    "mask_high": 0.8,
    "targets": ("random",),
    "score": "all",
}  # MAETok
OTHER |= {
    "aux_weight": 0.3,
    "aux_width": 24,
    "aux_depth": 1,
    "tuning": True,
    "learned_tokens": False,
}
OTHER |= {
    "multipliers": (1, 2),
    "blocks": 2,
    "kl_weight": 1.0,
    "teacher": "random",
    "align_weight": 0.5,
}  # VA-VAE
OTHER |= {
    "margin_cosine": 0.1,
    "margin_distance": 0.0,
    "align": "mean",
    "project": "down",
    "adaptive": False,
    "noise": 0.5,
}
OTHER |= {
    "error": 0.2,
    "bins": 4,
    "least": 0.02,
    "most": 0.9,
    "threshold": 0.3,
    "halt_weight": 2.0,
}  # KARL
OTHER |= {"balance": "balanced", "hide": "label", "trust": 0.9, "shortest": 3}
SMALL, OTHER = SMALL | {"rounds": 2}, OTHER | {"rounds": 4}  # ALIT
CLUSTERED = {"patch": 4, "codebook_size": 8, "adapter": True}  # UniCode2: a token is a patch
OTHER |= {
    "normalise": "unit",
    "builder": "sample",
    "shrinkage": 0.5,
    "per_class": True,
    "tokens_per_code": 3,
}
OTHER |= {"role": "random", "decoder": "flow", "adapter": False, "train": "adapter"}


# Off in a usual model, and on where every setting is tried.
LOOKS = {
    "perceptual_weight": 0.1,
    "adversarial_weight": 0.1,
    "align_weight": 0.1,
    "hide": "predicted",
}
OTHER |= {
    "perceptual_weight": 0.3,
    "perceptual": "random:1",
    "adversarial_weight": 0.3,
    "adversarial_start": 0.9,
}
OTHER |= {"adversarial_adaptive": False, "lecam": 1.0, "stages": True}


def found() -> list[type[Tokenizer]]:
    modules = [
        importlib.import_module(f"workbench.tokenizers.{m.name}")
        for m in pkgutil.iter_modules(workbench.tokenizers.__path__)
    ]
    kinds = [kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass)]
    return sorted(
        {k for k in kinds if issubclass(k, Tokenizer) and not inspect.isabstract(k)},
        key=lambda k: k.__name__,
    )


def config_of(kind: type[Tokenizer], **changed):
    """A small config; where channels have levels, there are as many of them as channels."""
    fields = {field.name for field in dataclasses.fields(kind.Config)}
    settings = {name: value for name, value in SMALL.items() if name in fields} | changed
    if "levels" in fields:
        settings = {"levels": (5,) * settings["dim"]} | settings
    if "builder" in fields:
        settings = settings | CLUSTERED | changed
    return kind.Config(**settings)


def make(kind: type[Tokenizer], **settings) -> Tokenizer:
    torch.manual_seed(0)
    return kind(config_of(kind, **settings)).eval()


def images(count: int = 5, *, channels: int = 1, side: int = 8) -> torch.Tensor:
    return (
        torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    )


def pictures(*, channels: int, side: int) -> ImageSet:
    """Training data of two classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, side, side, channels), dtype=np.uint8)
    return ImageSet(pixels, np.arange(16) % 2, ("even", "odd"), "noise", "train")


def optimizers(model: Tokenizer, lr: float) -> list[torch.optim.Optimizer]:
    """AdamW, and for tables of sparse gradients the optimiser that takes them."""
    tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding) and m.sparse]
    dense = [p for p in model.parameters() if not any(p is table for table in tables)]
    return [
        torch.optim.AdamW(dense, lr=lr),
        *([torch.optim.SparseAdam(tables, lr=lr)] if tables else []),
    ]


each = pytest.mark.parametrize("kind", found(), ids=lambda k: k.__name__)


def test_the_walk_finds_the_systems():
    assert {
        "AE",
        "ALIT",
        "FSQVAE",
        "KARL",
        "KLVAE",
        "MAETok",
        "SoftVQ",
        "TailDrop",
        "UniCode2",
        "VAVAE",
        "VQVAE",
    } <= {kind.__name__ for kind in found()}


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
            assert torch.equal(model.codebook[0][tokens.codes], tokens.latents)


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


@pytest.mark.parametrize(
    "kind", [k for k in found() if not k.frozen_encoder], ids=lambda k: k.__name__
)
def test_the_decoders_gradient_reaches_the_encoder_through_the_latents(kind):
    model = make(kind)
    model.decode(model.encode(images(8))).square().mean().backward()
    assert next(model.encoder.parameters()).grad.abs().sum() > 0


@pytest.mark.parametrize("kind", [k for k in found() if k.frozen_encoder], ids=lambda k: k.__name__)
def test_no_trainable_parameter_takes_part_in_the_codes_of_a_frozen_encoder(kind):
    model = make(kind)
    codes = model.encode(images()).codes
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    assert torch.equal(model.encode(images()).codes, codes)


@each
def test_a_few_steps_help(kind):
    model, digits = make(kind).train(), load("digits")
    model.prepare(digits, 0)
    steppers, x = optimizers(model, lr=5e-3), digits.images(slice(32))
    before = model.objective(x).terms["pixel"].item()
    for _ in range(60):
        model.zero_grad()
        model.objective(x).total.backward()
        for stepper in steppers:
            stepper.step()
    assert model.objective(x).terms["pixel"].item() < 0.5 * before


@each
def test_a_misspelled_setting_is_refused(kind):
    with pytest.raises(TypeError, match="widht"):
        kind.Config(widht=3)


@each
def test_every_setting_changes_something(kind):
    """No decorative options: each field, changed alone, changes tokens, images, terms, what is accepted or learns."""

    def behaviour(config) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = kind(config).train()
        model.prepare(pictures(channels=config.channels, side=config.side), 0)
        model.progress.fill_(0.5)
        x = images(channels=config.channels, side=config.side)
        objective = model.objective(x)
        tokens = model.eval().encode(x)
        return {
            "latents": tokens.latents,
            "image": objective.reconstruction,
            "look": model.decode(tokens),
            "learning": torch.tensor([p.requires_grad for p in model.parameters()]),
            **objective.terms,
        }

    fields = [field.name for field in dataclasses.fields(kind.Config)]
    on = {name: value for name, value in LOOKS.items() if name in fields}
    on |= (
        {"num_tokens": 16} if "learned_tokens" in fields else {}
    )  # as many as patches, which they may be
    others = (
        OTHER
        | ({"patch": 8} if "builder" in fields else {})
        | ({"align": "pool"} if "num_codebooks" in fields else {})
    )
    others |= {"revive": 0.5} if "role" in fields else {}
    plain = behaviour(config_of(kind, **on))
    for name in fields:
        learned = (
            {"role": "online"} if name == "revive" and "role" in fields else {}
        )  # codes that others do not learn
        usual = behaviour(config_of(kind, **(on | learned))) if learned else plain
        now = behaviour(config_of(kind, **(on | learned | {name: others[name]})))
        same = usual.keys() == now.keys() and all(
            torch.equal(usual[key], now[key]) for key in usual
        )
        assert not same, f"{name} changes nothing"


@each
def test_encoding_for_a_look_changes_nothing_in_the_model(kind):
    model = make(kind).train()
    model.objective(images(16)).total.backward()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model.objective(images())
    model.eval().encode(images())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@each
def test_training_that_stops_and_goes_on_from_its_weights_is_the_same_training(kind):
    """All that a tokenizer learns is in its state: running averages and counts of codes too."""

    def steps(model: Tokenizer, first: int, last: int) -> Tokenizer:
        for step in range(first, last):
            torch.manual_seed(step)
            gradients = torch.autograd.grad(
                model.train().objective(images(16)).total, list(model.parameters())
            )
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient
        return model

    whole, resumed = steps(make(kind), 0, 6), make(kind)
    resumed.load_state_dict(steps(make(kind), 0, 3).state_dict())
    steps(resumed, 3, 6)
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    "kind", [k for k in found() if issubclass(k.Config, ViTConfig)], ids=lambda k: k.__name__
)
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"side": 30, "patch": 4}, "image side 30 is not a multiple of patch 4. Use 28 or 32."),
        ({"num_tokens": 0}, "num_tokens is 0; it must be at least 1."),
        ({"width": 18, "heads": 4}, "width 18 does not divide into 4 heads."),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_one_sentence(kind, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        config_of(kind, **settings)


@each
def test_images_of_another_size_are_refused(kind):
    with pytest.raises(
        UserError, match="images are 1 x 16 x 16; this tokenizer was made for 1 x 8 x 8."
    ):
        make(kind).encode(images(side=16))


@pytest.mark.parametrize(
    ("system", "settings", "sentence"),
    [
        (
            "softvq:SoftVQ",
            {"num_tokens": 16, "num_codebooks": 3},
            "16 tokens do not divide into 3 codebooks",
        ),
        (
            "softvq:SoftVQ",
            {"num_codebooks": 0},
            "num_codebooks and codebook_size must be at least 1; got 0 and 256.",
        ),
        ("softvq:SoftVQ", {"temperature": 0.0}, "temperatures must be above 0; got 0.0, 0.01."),
        ("vqvae:VQVAE", {"codebook_size": 0}, "codebook_size is 0; it must be at least 1."),
        ("vqvae:VQVAE", {"decay": 1.0}, "decay is 1.0; it must be at least 0 and below 1."),
        ("vqvae:VQVAE", {"revive": 2.0}, "revive is 2.0; it must be at least 0 and below 1."),
        ("vqvae:VQVAE", {"commitment": -1.0}, "commitment is -1.0; it must not be below 0."),
        ("klvae:KLVAE", {"beta": -1.0}, "beta is -1.0; it must not be below 0."),
        ("ae:AE", {"radius": 0.0}, "radius is 0.0; it must be above 0, or none for free latents."),
        ("fsqvae:FSQVAE", {"dim": 6}, "levels 8,5,5,5 are for 4 channels, and dim is 6."),
        ("fsqvae:FSQVAE", {"dim": 2, "levels": (5, 2)}, "levels are 5,2; each must be at least 3"),
        (
            "fsqvae:FSQVAE",
            {"levels": (64,) * 4},
            "levels 64,64,64,64 make 16777216 codes; at most 1048576",
        ),
    ],
)
def test_what_a_system_cannot_be_is_refused_in_one_sentence(system, settings, sentence):
    module, name = system.split(":")
    with pytest.raises(UserError, match=sentence):
        getattr(importlib.import_module(f"workbench.tokenizers.{module}"), name).Config(**settings)


def test_an_autoencoder_with_a_radius_keeps_its_latents_on_that_sphere():
    from workbench.tokenizers.ae import AE

    norms = make(AE, radius=2.0).encode(images()).latents.norm(dim=-1)
    torch.testing.assert_close(norms, torch.full((5, 4), 2.0))


def test_settings_of_the_wrong_kind_are_refused_and_lists_from_json_are_taken_as_tuples():
    """In a process of its own: here the checker of shapes and types would speak first."""
    code = """
from workbench.tokenizers.fsqvae import FSQVAE
from workbench.tokenizers.softvq import SoftVQ
from workbench.tokenizers.vqvae import VQVAE
print(FSQVAE.Config(levels=[8, 5, 5, 5]) == FSQVAE.Config())
for make in (lambda: SoftVQ.Config(logits="cosin"), lambda: VQVAE.Config(learn="emma")):
    try:
        make()
    except ValueError as error:
        print(error)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.splitlines() == [
        "True",
        "There is no kind of logits `cosin`; there is cosine, distance. Did you mean `cosine`?",
        "There is no way to learn a codebook `emma`; there is ema, gradient. Did you mean `ema`?",
    ]
