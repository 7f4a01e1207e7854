"""The contract of generators, checked for every class in `workbench.generators`, and a new kind."""

import dataclasses
import importlib
import inspect
import json
import pkgutil
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import workbench.generators
from workbench.collect import collect
from workbench.collect.sampling import previewer
from workbench.core.errors import NotApplicable, UserError
from workbench.core.types import Tokens
from workbench.explore import samples
from workbench.explore.loaded_run import LoadedRun
from workbench.generators.base import EncodedImages, Generator, SupportsTrajectory
from workbench.hosts.reports.report import report
from workbench.launch.latent_dataset import LatentDataset, load_encoded
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run
from workbench.training import TrainConfig, fit

RUNS = Path(__file__).parent / "fixtures" / "runs-v1"
NUM_IMAGES, NUM_TOKENS, DIM, CLASSES = 24, 4, 3, 5
CODEBOOK_SIZE = 7
SMALL = {"width": 16, "depth": 1, "heads": 2}


def discover() -> list[type[Generator]]:
    modules = [
        importlib.import_module(f"workbench.generators.{module.name}")
        for module in pkgutil.iter_modules(workbench.generators.__path__)
    ]
    classes = {
        kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass)
    }
    concrete = [k for k in classes if issubclass(k, Generator) and not inspect.isabstract(k)]
    return sorted(concrete, key=lambda kind: kind.__name__)


each = pytest.mark.parametrize("kind", discover(), ids=lambda kind: kind.__name__)


def codebook() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, CODEBOOK_SIZE, DIM, generator=generator)


def encoded(kind: type[Generator]) -> LatentDataset:
    """Latents or codes of images, as a tokenizer's run stores them."""
    random = np.random.default_rng(0)
    labels = np.arange(NUM_IMAGES) % CLASSES
    if kind.consumes == "codes":
        codes = random.integers(0, CODEBOOK_SIZE, (NUM_IMAGES, NUM_TOKENS)).astype(np.int32)
        return LatentDataset(rows=codes, labels=labels, codebook=codebook())
    latents = random.normal(size=(NUM_IMAGES, NUM_TOKENS, DIM)).astype(np.float32)
    return LatentDataset(rows=latents, labels=labels, grid=(2, 2))


def make(kind: type[Generator]) -> Generator:
    """A model whose weights have moved away from their initial values."""
    torch.manual_seed(0)
    model = kind(kind.Config(**kind.settings_from(encoded(kind), SMALL), **SMALL))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def draw(model: Generator, count: int = 3, **options) -> Tokens:
    labels = torch.arange(count) % CLASSES
    return model.sample(labels, **({"codebook": codebook(), "steps": 3} | options))


def held_out(kind: type[Generator]) -> tuple[Tokens, torch.Tensor]:
    data = encoded(kind)
    labels = torch.from_numpy(data.labels)
    rows = torch.from_numpy(data.rows)
    if kind.consumes == "codes":
        return Tokens(codebook()[0][rows.long()], rows.long()), labels
    return Tokens(rows), labels


def test_discovery():
    assert {kind.__name__ for kind in discover()} >= {"AR", "SiT"}


def test_latent_dataset_is_encoded_images():
    assert isinstance(encoded(discover()[0]), EncodedImages)


@each
def test_settings_from_the_tokenizer(kind):
    settings = kind.settings_from(encoded(kind), SMALL)
    assert set(settings) == set(kind.set_by_tokenizer)
    config = kind.Config(**settings)
    assert (config.num_tokens, config.classes) == (NUM_TOKENS, CLASSES)
    json.dumps(settings)


@each
def test_config_is_frozen_and_refuses_unknown_settings(kind):
    settings = kind.settings_from(encoded(kind), SMALL)
    config = kind.Config(**settings)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.classes = 3
    with pytest.raises(TypeError, match="widht"):
        kind.Config(**settings, widht=3)


@each
def test_objective_trains_every_parameter(kind):
    model, data = make(kind).train(), encoded(kind)
    objective = model.objective(*data.batch(torch.arange(NUM_IMAGES)))
    assert objective.terms and all(torch.isfinite(term) for term in objective.terms.values())
    objective.total.backward()
    without_gradient = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.to_dense().abs().sum() > 0
    ]
    assert not without_gradient


@each
def test_samples_are_tokens(kind):
    tokens = draw(make(kind))
    assert tokens.latents.shape == (3, NUM_TOKENS, DIM) and torch.isfinite(tokens.latents).all()
    assert (tokens.codes is not None) == (kind.consumes == "codes")
    if tokens.codes is not None:
        assert tokens.codes.shape == (3, NUM_TOKENS)
        assert torch.equal(tokens.latents, codebook()[0][tokens.codes])
    assert draw(make(kind), count=0).latents.shape == (0, NUM_TOKENS, DIM)


@each
def test_seed_determines_the_samples(kind):
    model = make(kind)
    state = torch.get_rng_state()
    first = draw(model, seed=1).latents
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(draw(model, seed=1).latents, first)
    assert not torch.equal(draw(model, seed=2).latents, first)


@each
def test_guidance_of_one_is_the_conditional(kind):
    model = make(kind)
    assert torch.equal(draw(model, guidance=1.0).latents, draw(model).latents)
    assert not torch.equal(draw(model, guidance=5.0).latents, draw(model).latents)


@each
def test_labels_out_of_range_raise(kind):
    for label in (-1, CLASSES):
        with pytest.raises(UserError) as error:
            make(kind).sample(torch.tensor([label]), codebook=codebook(), steps=3)
        assert str(label) in str(error.value)


@each
def test_evaluate_returns_arrays_of_evidence(kind):
    model = make(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        arrays = model.evaluate(*held_out(kind), seed=0)
        again = model.evaluate(*held_out(kind), seed=0)
    assert arrays and set(arrays) <= {field.name for field in dataclasses.fields(Evidence)}
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, again[name])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@each
def test_sampling_config_can_be_stored(kind):
    stored = json.loads(json.dumps(make(kind).sampling_config()))
    assert {"solver", "steps"} <= stored.keys()


@each
def test_axes_fit_the_interface(kind):
    model = make(kind)
    assert {"guidance", "step"} <= set(kind.axes)
    assert isinstance(model, SupportsTrajectory) == ({"interval", "time"} <= set(kind.axes))
    if isinstance(model, SupportsTrajectory):
        points = list(model.trajectory(torch.arange(2), steps=4, seed=3))
        times = [time for time, _ in points]
        assert len(points) == 5 and times == sorted(times, reverse=True) and times[-1] == 0
        narrow = model.sample(torch.arange(2), guidance=5.0, steps=3, interval=(0.99, 0.995))
        assert torch.equal(narrow.latents, draw(model, count=2).latents)


# A third kind of generator, in a file outside the package

GAUSSIAN = '''
"""A Gaussian per class: the smallest generator."""

from dataclasses import dataclass

import torch
from torch import nn

from workbench.core.errors import UserError
from workbench.core.types import Objective, Tokens
from workbench.generators.base import Generator


class ClassGaussian(Generator):
    """Independent Gaussians of every number of the latents, with a mean per class."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        num_tokens: int
        dim: int
        classes: int

    consumes = "latents"
    set_by_tokenizer = ("num_tokens", "dim", "classes")

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.means = nn.Parameter(torch.zeros(config.classes, config.num_tokens, config.dim))
        self.log_std = nn.Parameter(torch.zeros(()))

    @classmethod
    def settings_from(cls, data, settings):
        num_tokens, dim = data.rows.shape[1:]
        classes = int(data.labels.max()) + 1
        return {"num_tokens": num_tokens, "dim": dim, "classes": classes}

    def objective(self, latents, labels, /):
        scaled = (latents - self.means[labels]) / self.log_std.exp()
        return Objective({"nll": scaled.square().mean() / 2 + self.log_std})

    def sample(self, labels, *, codebook=None, guidance=1.0, steps=None, seed=0):
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.config.classes:
            raise UserError(f"Labels must be in 0..{self.config.classes - 1}, got {labels}.")
        means = self.means[labels]
        noise = torch.randn(means.shape, generator=torch.Generator().manual_seed(seed))
        overall = self.means.mean(dim=0)
        return Tokens(overall + guidance * (means - overall) + self.log_std.exp() * noise)

    def evaluate(self, tokens, labels, *, seed=0):
        distances = torch.cdist(tokens.latents.flatten(1), self.means.flatten(1))
        return {"predicted": distances.argmin(dim=1).cpu().numpy()}

    def sampling_config(self):
        return {"solver": "gaussian", "steps": 1}
'''
MODULES = ("class_gaussian",)


@pytest.fixture(scope="module")
def gaussian_run(tmp_path_factory):
    """A run of the third generator, trained on the latents of a small tokenizer."""
    folder = tmp_path_factory.mktemp("third")
    (folder / "class_gaussian.py").write_text(textwrap.dedent(GAUSSIAN), encoding="utf-8")
    shutil.copytree(RUNS / "softvq", folder / "softvq")
    tokenizer = Run(folder / "softvq")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        kind = importlib.import_module("class_gaussian").ClassGaussian
        data = load_encoded(tokenizer, tokenizer.steps[-1], kind.consumes)
        settings = kind.settings_from(data, {})
        config = TrainConfig(steps=60, batch_size=64, lr=0.05, warmup_steps=1, save_every=30)
        sections = {
            "class": "class_gaussian:ClassGaussian",
            "settings": settings,
            "training": {"steps": 60},
            "tokenizer": {"run": "../softvq", "step": tokenizer.steps[-1]},
        }
        run = Run.create(folder / "gaussian", sections)
        list(fit(kind(kind.Config(**settings)), data, config, run))
        yield run


@pytest.mark.slow
def test_third_generator_is_trained_and_sampled(gaussian_run):
    losses = gaussian_run.history()["nll"]
    assert losses.iloc[-1] < losses.iloc[0]
    model = gaussian_run.load(trust=MODULES)
    tokens = model.sample(torch.arange(10), seed=0)
    assert tokens.latents.shape == (10, model.config.num_tokens, model.config.dim)
    assert previewer(gaussian_run)(model).shape == (16, 8, 8, 1)


@pytest.mark.slow
def test_third_generator_is_explored(gaussian_run):
    loaded = LoadedRun.load(gaussian_run, trust=MODULES)
    assert loaded.axes == ("guidance", "step")
    for axis in loaded.axes:
        assert loaded.explore(axis, [0, 1]).images.shape[2:] == (8, 8, 1)
    model, tokenizer = gaussian_run.load(trust=MODULES), samples.tokenizer_of(gaussian_run)
    with pytest.raises(NotApplicable) as error:
        samples.trajectory(model, tokenizer, [0])
    assert "ClassGaussian" in str(error.value)


@pytest.mark.slow
@pytest.mark.kernel
def test_third_generator_is_collected_and_reported(gaussian_run, tmp_path):
    evidence = collect(gaussian_run, limit=60, trust=MODULES)
    assert evidence.samples.shape == (60, 8, 8, 1) and len(evidence.predicted) == 24
    assert evidence.sampling == {"solver": "gaussian", "steps": 1, "guidance": 2.0, "seed": 0}
    assert (evidence.predicted == evidence.labels).mean() > 0.1  # ten classes
    page = report("generator", tmp_path / "page.html", run=str(gaussian_run.folder), progress=False)
    html = page.read_text(encoding="utf-8")
    assert "gaussian" in html and "plotly" in html
