"""The contract of all tokenizers, whose classes are discovered in the package."""

import dataclasses
import importlib
import inspect
import pkgutil

import forked_python
import numpy as np
import pytest
import torch

import workbench.tokenizers
from workbench.core.errors import UserError
from workbench.core.types import NeedsPreparation
from workbench.data import ImageSet, load
from workbench.nn.vit import ViTConfig
from workbench.tokenizers.base import TrainableTokenizer
from workbench.tokenizers.contract import OPTIONAL, REQUIRED, Subject

SMALL = {
    "side": 8,
    "channels": 1,
    "patch": 2,
    "num_tokens": 4,
    "dim": 6,
    "width": 16,
    "depth": 1,
    "heads": 2,
    # Convolutional: 2 x 2 tokens.
    "multipliers": (1, 2, 2),
    # ALIT
    "rounds": 2,
    # TiTok
    "pixel_codes": 16,
    "pixel_dim": 8,
    "pixel_widths": (32, 32),
}
UNICODE2_SIZES = {"patch": 4, "codebook_size": 8, "adapter": True}  # a token is a patch
# Another value of every setting.
OTHER = {
    "side": 16,
    "channels": 3,
    "patch": 4,
    "num_tokens": 2,
    "dim": 4,
    "width": 32,
    "depth": 2,
    "heads": 4,
    "decoder_width": 32,
    "decoder_depth": 2,
    "decoder_heads": 1,
    "linear_init": False,
    # Variants of SoftVQ-VAE and MAETok
    "encoder_class_token": True,
    "decoder_class_token": True,
    "norm_eps": 0.1,
    "rotary": True,
    "modulated": True,
    "layer_scale": 0.2,
    "num_codebooks": 2,
    "codebook_size": 33,
    "temperature": 0.5,
    "entropy_weight": 0.5,
    "entropy_temperature": 0.3,
    "commitment": 1.0,
    "cosine": False,
    "learn": "gradient",
    "decay": 0.5,
    "revive": 0.0,
    "logits": "distance",
    "radius": 2.0,
    "beta": 0.1,
    "levels": (4, 3, 3, 3, 3, 3),
    # MAETok
    "mask": "sample",
    "mask_low": 0.0,
    "mask_high": 0.8,
    "targets": ("random",),
    "score": "all",
    "aux_weight": 0.3,
    "aux_width": 24,
    "aux_depth": 1,
    "aux_heads": 1,
    "tuning": True,
    "learned_tokens": False,
    # VA-VAE
    "multipliers": (1, 2),
    "blocks": 2,
    "z_channels": 5,
    "padding": "bottom_right",
    "encoder_attention": (1,),
    "decoder_attention": (2,),
    "middle_attention": False,
    "flexible": True,
    "kl_weight": 1.0,
    "teacher": "random",
    "align_weight": 0.5,
    "margin_cosine": 0.1,
    "margin_distance": 0.0,
    "align": "mean",
    "project": "down",
    "adaptive": False,
    "noise": 0.5,
    "stages": True,
    "sample_seed": 0,
    # VQGAN
    "pixel": "l2",
    # KARL
    "error": 0.2,
    "bins": 4,
    "min_error": 0.02,
    "max_error": 0.9,
    "threshold": 0.3,
    "halt_weight": 2.0,
    "balance": "balanced",
    "hide": "label",
    "predict_after": 0.9,
    "error_bins": (0.1, 0.4, 0.8),
    "halt_estimate": True,
    "ends": 0.9,
    "labels": "smallest",
    # Tail drop, ALIT
    "shortest": 3,
    "rounds": 4,
    # UniCode2
    "normalize": "unit",
    "builder": "sample",
    "shrinkage": 0.5,
    "per_class": True,
    "tokens_per_code": 3,
    "mode": "random",
    "decoder": "flow",
    "adapter": False,
    "train": "adapter",
    # TiTok
    "legacy": True,
    "pixel_codes": 12,
    "pixel_dim": 4,
    "pixel_widths": (32, 64),
    # Perceptual and adversarial terms
    "perceptual_weight": 0.3,
    "latent_mask": 1.0,
    "interpolative_noise": 0.5,
    "equivariance_weight": 0.2,
    "half_size_weight": 0.2,
    "local_correlation_weight": 0.2,
    "local_correlation_threshold": 0.5,
    "perceptual": "random:1",
    "perceptual_rise": 0.9,
    "adversarial_weight": 0.3,
    "adversarial_start": 0.9,
    "adversarial_adaptive": False,
    "lecam": 1.0,
    "discriminator": "patchgan",
    "discriminator_weight": 2.0,
    "discriminator_augmentation": 1.0,
    "consistency_weight": 2.0,
}
# Terms that are off by default. They must be on for the test of every setting.
OPTIONAL_TERMS = {
    "perceptual_weight": 0.1,
    "adversarial_weight": 0.1,
    "align_weight": 0.1,
    "hide": "predicted",
}


def tokenizer_classes() -> list[type[TrainableTokenizer]]:
    modules = [
        importlib.import_module(f"workbench.tokenizers.{module.name}")
        for module in pkgutil.iter_modules(workbench.tokenizers.__path__)
    ]
    members = [
        member for module in modules for _, member in inspect.getmembers(module, inspect.isclass)
    ]
    classes = {
        member
        for member in members
        if issubclass(member, TrainableTokenizer) and not inspect.isabstract(member)
    }
    return sorted(classes, key=lambda kind: kind.__name__)


def config_of(kind: type[TrainableTokenizer], **changed):
    """Return a small config, with as many levels as channels where there are levels."""
    fields = {field.name for field in dataclasses.fields(kind.Config)}
    settings = {name: value for name, value in SMALL.items() if name in fields} | changed
    if "levels" in fields:
        settings = {"levels": (5,) * settings["dim"]} | settings
    if "builder" in fields:
        settings = settings | UNICODE2_SIZES | changed
    return kind.Config(**settings)


def make(kind: type[TrainableTokenizer], **settings) -> TrainableTokenizer:
    torch.manual_seed(0)
    return kind(config_of(kind, **settings)).eval()


def images(count: int = 5, *, channels: int = 1, side: int = 8) -> torch.Tensor:
    return (
        torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    )


def training_images(*, channels: int, side: int) -> ImageSet:
    """Return training data of two classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, side, side, channels), dtype=np.uint8)
    return ImageSet(pixels, np.arange(16) % 2, ("even", "odd"), "noise", "train")


def optimizers(model: TrainableTokenizer, lr: float) -> list[torch.optim.Optimizer]:
    """Return AdamW and, for tables with sparse gradients, SparseAdam."""
    tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding) and m.sparse]
    dense = [p for p in model.parameters() if not any(p is table for table in tables)]
    return [
        torch.optim.AdamW(dense, lr=lr),
        *([torch.optim.SparseAdam(tables, lr=lr)] if tables else []),
    ]


def takes_images_of(model: TrainableTokenizer, *, side: int) -> bool:
    try:
        model.encode(images(channels=model.config.channels, side=side))
    except UserError:
        return False
    return True


for_each_class = pytest.mark.parametrize("kind", tokenizer_classes(), ids=lambda k: k.__name__)


def test_all_systems_are_discovered():
    assert {
        "AE",
        "ALIT",
        "FSQVAE",
        "KARL",
        "KLVAE",
        "MAETok",
        "SoftVQ",
        "TailDrop",
        "TiTok",
        "TiTokVAE",
        "UniCode2",
        "VAVAE",
        "VQGAN",
        "VQVAE",
    } <= {kind.__name__ for kind in tokenizer_classes()}


@for_each_class
@pytest.mark.parametrize("promise", [*REQUIRED, *OPTIONAL])
def test_promise_is_kept(kind, promise):
    (REQUIRED | OPTIONAL)[promise](Subject(kind=kind, config=config_of(kind)))


@for_each_class
def test_sizes_of_tokens(kind):
    tokens = make(kind).encode(images())
    assert tokens.latents.shape == (5, 4, 6)


@for_each_class
@pytest.mark.slow
def test_few_steps_halve_the_error(kind):
    model, digits = make(kind).train(), load("digits")
    if isinstance(model, NeedsPreparation):
        model.prepare(digits, 0)
    all_optimizers, x = optimizers(model, lr=5e-3), digits.images(slice(32))
    before = model.objective(x).terms["pixel"].item()
    for _ in range(60):
        model.zero_grad()
        objective = model.objective(x)
        if objective.terms["pixel"].item() < 0.4 * before:
            break  # with a margin, as codes that are replaced raise the error for a step
        objective.total.backward()
        for optimizer in all_optimizers:
            optimizer.step()
    assert model.objective(x).terms["pixel"].item() < 0.5 * before


@for_each_class
def test_misspelled_setting_raises(kind):
    with pytest.raises(TypeError, match="widht"):
        kind.Config(widht=3)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory) -> str:
    """A folder with an untrained DINOv2 of the size of the small encoders."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("dinov2")
    sizes = {"hidden_size": SMALL["width"], "num_hidden_layers": SMALL["depth"]}
    sizes |= {"num_attention_heads": SMALL["heads"], "image_size": 28}
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).save_pretrained(folder)
    return str(folder)


@for_each_class
def test_every_setting_changes_something(kind, dinov2):
    """Each field, changed alone, changes tokens, images, terms or the trained parameters."""

    def behavior(config) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = kind(config).train()
        if isinstance(model, NeedsPreparation):
            model.prepare(training_images(channels=config.channels, side=config.side), 0)
        model.set_progress(0.5)
        x = images(channels=config.channels, side=config.side)
        objective = model.objective(x)
        tokens = model.eval().encode(x)
        return {
            "latents": tokens.latents,
            "reconstruction": objective.reconstruction,
            "decoded": model.decode(tokens),
            "trained": torch.tensor([p.requires_grad for p in model.parameters()]),
            "takes_other_sides": torch.tensor(takes_images_of(model, side=2 * config.side)),
            **objective.terms,
        }

    fields = [field.name for field in dataclasses.fields(kind.Config)]
    base = {name: value for name, value in OPTIONAL_TERMS.items() if name in fields}
    others = OTHER | {"encoder_start": dinov2}
    if "learned_tokens" in fields:
        base["num_tokens"] = 16  # as many as patches
    if "builder" in fields:
        others |= {"patch": 8, "revive": 0.5}
    if "num_codebooks" in fields:
        others["align"] = "pool"
    default_behavior = behavior(config_of(kind, **base))
    for name in fields:
        before, settings = default_behavior, base
        if name == "revive" and "mode" in fields:  # only online codebooks revive codes
            settings = base | {"mode": "online"}
            before = behavior(config_of(kind, **settings))
        if name.startswith("pixel_"):  # only the first release of TiTok has another VQGAN
            settings = base | {"legacy": True}
            before = behavior(config_of(kind, **settings))
        if name == "discriminator":  # the other one needs larger images
            settings = base | {"side": 24}
            before = behavior(config_of(kind, **settings))
        if name == "local_correlation_threshold":
            settings = base | {"local_correlation_weight": 0.5}
            before = behavior(config_of(kind, **settings))
        after = behavior(config_of(kind, **(settings | {name: others[name]})))
        is_equal = before.keys() == after.keys() and all(
            torch.equal(before[key], after[key]) for key in before
        )
        assert not is_equal, f"{name} changes nothing"


@pytest.mark.parametrize(
    "kind",
    [kind for kind in tokenizer_classes() if issubclass(kind.Config, ViTConfig)],
    ids=lambda kind: kind.__name__,
)
@pytest.mark.parametrize(
    ("settings", "fragments"),
    [
        ({"side": 30, "patch": 4}, ("side", "30", "28 or 32")),
        ({"num_tokens": 0}, ("num_tokens", "0")),
        ({"width": 18, "heads": 4}, ("width", "18", "4 heads")),
    ],
)
def test_invalid_sizes_raise(kind, settings, fragments):
    with pytest.raises(UserError) as error:
        config_of(kind, **settings)
    assert all(fragment in str(error.value) for fragment in fragments)


@for_each_class
def test_images_of_another_size_raise(kind):
    with pytest.raises(UserError) as error:
        make(kind).encode(images(side=16))
    assert "1 x 16 x 16" in str(error.value) and "1 x 8 x 8" in str(error.value)


@pytest.mark.parametrize(
    ("system", "settings", "fragments"),
    [
        ("softvq:SoftVQ", {"num_tokens": 16, "num_codebooks": 3}, ("num_codebooks", "16", "3")),
        ("softvq:SoftVQ", {"num_codebooks": 0}, ("num_codebooks", "0")),
        ("softvq:SoftVQ", {"temperature": 0.0}, ("temperature", "0.0")),
        ("vqvae:VQVAE", {"codebook_size": 0}, ("codebook_size", "0")),
        ("vqvae:VQVAE", {"decay": 1.0}, ("decay", "1.0")),
        ("vqvae:VQVAE", {"revive": 2.0}, ("revive", "2.0")),
        ("vqvae:VQVAE", {"commitment": -1.0}, ("commitment", "-1.0")),
        ("klvae:KLVAE", {"beta": -1.0}, ("beta", "-1.0")),
        ("ae:AE", {"radius": 0.0}, ("radius", "0.0")),
        ("fsqvae:FSQVAE", {"dim": 6}, ("levels", "8,5,5,5", "dim 6")),
        ("fsqvae:FSQVAE", {"dim": 2, "levels": (5, 2)}, ("levels", "5,2", "3")),
        ("vqgan:VQGAN", {"codebook_size": 0}, ("codebook_size", "0")),
        ("vqgan:VQGAN", {"lecam": -1.0}, ("lecam", "-1.0")),
        ("vqgan:VQGAN", {"z_channels": 0}, ("z_channels", "0")),
        ("vqgan:VQGAN", {"encoder_attention": (1, 3)}, ("encoder_attention", "1,3", "2")),
        ("vavae:VAVAE", {"decoder_attention": (-1,)}, ("decoder_attention", "-1")),
        ("vavae:VAVAE", {"sample_seed": -1}, ("sample_seed", "-1")),
        ("fsqvae:FSQVAE", {"levels": (64,) * 4}, ("64,64,64,64", "16777216", "1048576")),
    ],
)
def test_invalid_settings_raise(system, settings, fragments):
    module, name = system.split(":")
    kind = getattr(importlib.import_module(f"workbench.tokenizers.{module}"), name)
    with pytest.raises(UserError) as error:
        kind.Config(**settings)
    assert all(fragment in str(error.value) for fragment in fragments)


def test_radius_is_the_norm_of_the_latents():
    from workbench.tokenizers.ae import AE

    norms = make(AE, radius=2.0).encode(images()).latents.norm(dim=-1)
    torch.testing.assert_close(norms, torch.full((5, 4), 2.0))


@pytest.mark.slow
def test_unknown_choices_raise_and_lists_become_tuples():
    """In a separate process, because the type checker of the tests would raise first."""
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
    assert forked_python.run(code).splitlines() == [
        "True",
        "There is no kind of logits `cosin`. Did you mean `cosine`? Available: cosine, distance.",
        "There is no way to learn a codebook `emma`. Did you mean `ema`? Available: ema, gradient.",
    ]
