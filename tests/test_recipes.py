"""Recipes: every name trains, settings are converted, and invalid settings leave no run."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

import workbench
from workbench.collect import collect, load_images
from workbench.core.coerce import coerce
from workbench.core.errors import RunError, UserError
from workbench.launch.in_process import prepare_training, train
from workbench.launch.recipes import (
    GENERATORS,
    RECIPES,
    SIZES,
    SOURCES,
    SYSTEMS,
    recipe_settings,
    recipe_train_config,
)
from workbench.storage.run import Run
from workbench.training import TrainConfig, fit

SMALL = {
    "num_tokens": 4,
    "width": 16,
    "depth": 1,
    "batch_size": 16,
    "steps": 20,
    "save_every": 10,
    "warmup_steps": 2,
}
BUNDLED = [data for data in SIZES if SOURCES[data] == data]


def config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """Untrained tokenizers with codes, one per bundled dataset."""
    folder = tmp_path_factory.mktemp("untrained")
    for data in BUNDLED:
        job = prepare_training(
            f"vqvae-{data}",
            folder / data,
            width=16,
            depth=1,
            num_tokens=4,
            codebook_size=16,
            limit=100,
        )
        job.run.save(1, {f"ema.{k}": v for k, v in job.model.state_dict().items()})
    return folder


@pytest.fixture
def folder_of_images(tmp_path):
    """Twenty images in one folder per class."""
    from PIL import Image

    random = np.random.default_rng(0)
    for i in range(20):
        folder = tmp_path / "pictures" / ("cats" if i % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (20, 24, 3), np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "pictures"


# Models of recipes


@pytest.mark.parametrize(
    "recipe", [recipe for recipe in RECIPES if recipe.split("-")[1] in BUNDLED]
)
def test_recipe_builds_a_model_that_fits_its_images(recipe, untrained, tmp_path):
    system, data = recipe.split("-")
    more = {"tokenizer": untrained / data} if system in GENERATORS else {"limit": 50}
    job = prepare_training(recipe, tmp_path / "run", **more)
    assert type(job.model).__name__ == SYSTEMS[system].partition(":")[2] == job.run.kind
    assert len(job.data) == (100 if system in GENERATORS else 50)
    terms = job.model.objective(*job.data.batch(torch.arange(2))).terms
    assert terms and all(torch.isfinite(term) for term in terms.values())
    assert job.run.config.recipe == recipe and job.run.steps == []


def set_by_tokenizer(system: str) -> tuple[str, ...]:
    return _model_class(system).set_by_tokenizer if system in GENERATORS else ()


@pytest.mark.parametrize("system", SYSTEMS)
def test_settings_of_larger_recipes_are_valid(system):
    derived = {
        "num_tokens": 256,
        "dim": 32,
        "classes": 10,
        "mean": 0.0,
        "std": 1.0,
        "rows": 16,
        "codebook_size": 512,
        "num_codebooks": 1,
    }
    model_class = _model_class(system)
    for data in ("cifar10", "imagenet256"):
        from_tokenizer = {name: derived[name] for name in set_by_tokenizer(system)}
        assert model_class.Config(**recipe_settings(system, data), **from_tokenizer)
        assert TrainConfig(**recipe_train_config(system, data))


# The number of parameters that a paper or its code states, and settings without other networks.
PUBLISHED = {
    "softvq": (173e6, {"align_weight": 0.0}),
    "maetok": (176e6, {"targets": ()}),
    "vavae": (69.84e6, {"align_weight": 0.0}),
    "vqgan": (71.88e6, {}),
    "sit": (675e6, {}),
    "dit": (675e6, {}),
    "lightningdit": (675e6, {}),
}


@pytest.mark.parametrize("system", PUBLISHED)
def test_paper_scale_has_the_published_size(system):
    """Within 5 %, without the networks of perceptual losses and without discriminators."""
    published_size, removed = PUBLISHED[system]
    derived = {"num_tokens": 256, "dim": 32, "classes": 1000, "mean": 0.0, "std": 1.0, "rows": 16}
    settings = (
        recipe_settings(system, "imagenet256")
        | {name: derived[name] for name in set_by_tokenizer(system)}
        | removed
    )
    settings |= {
        name: 0.0 for name in ("perceptual_weight", "adversarial_weight") if name in settings
    }
    with torch.device("meta"):
        model = _model_class(system)(_model_class(system).Config(**settings))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(published_size, rel=0.05)


def _model_class(system: str):
    module, _, name = SYSTEMS[system].partition(":")
    return getattr(importlib.import_module(module), name)


def test_config_stores_all_settings(tmp_path):
    job = prepare_training("softvq-digits", tmp_path / "a", **SMALL, codebook_size=32)
    stored = config(tmp_path / "a")
    assert stored["format"] == 2 and stored["recipe"] == "softvq-digits"
    assert stored["changes"] == SMALL | {"codebook_size": 32}
    settings = {"codebook_size": 32, "side": 8, "temperature": 0.07}
    assert stored["settings"] | settings == stored["settings"]
    assert stored["training"]["steps"] == 20 and stored["training"]["betas"] == [0.9, 0.95]
    assert stored["data"]["fingerprint"] == job.data.fingerprint and stored["data"]["n"] == 1437
    assert set(stored["versions"]) >= {"workbench", "torch", "numpy"}


def test_generator_takes_settings_from_its_tokenizer(trained):
    stored = config(trained / "flow")
    soft = Run(trained / "soft-4")
    with torch.no_grad():
        latents = soft.load().encode(load_images(soft, "train").images()).latents
    assert stored["tokenizer"] == {"run": "../soft-4", "step": 60}
    sizes = {"num_tokens": 4, "dim": 8, "classes": 10}
    assert stored["settings"] | sizes == stored["settings"]
    assert stored["settings"]["mean"] == pytest.approx(latents.mean().item(), abs=1e-5)
    assert stored["settings"]["std"] == pytest.approx(latents.std().item(), rel=1e-4)


# Settings by name and type


def test_settings_are_converted_from_text(tmp_path):
    text = {
        "lr": "1e-3",
        "steps": "2e1",
        "codebook_size": "32",
        "linear_init": "no",
        "betas": "0.8,0.9",
        "precision": "no",
    }
    stored = prepare_training("softvq-digits", tmp_path / "a", **text).run.config
    training = {"lr": 0.001, "steps": 20, "betas": [0.8, 0.9], "precision": "no"}
    assert stored.training | training == stored.training
    settings = {"codebook_size": 32, "linear_init": False}
    assert stored.settings | settings == stored.settings


def test_coerce():
    assert coerce(int, "seed", str(2**62 + 1)) == 2**62 + 1
    assert coerce(int | None, "start", "none") is None and coerce(int | None, "start", "3") == 3
    assert coerce(int, "steps", "1e4") == 10_000 and coerce(int, "steps", 8.0) == 8
    assert coerce(Literal["hog", "none"], "teacher", "hog") == "hog"
    assert coerce(Literal[1, 3], "channels", "3") == 3
    assert coerce(tuple[int, ...], "levels", "8,5,5") == (8, 5, 5)
    assert coerce(tuple[int, ...], "levels", [8, 5, 5]) == (8, 5, 5)
    assert coerce(list, "runs", "a, b") == ["a", "b"]
    assert coerce(str, "run", Path("a/b")) == "a/b" and coerce(str, "name", 3) == "3"
    assert coerce(bool, "flag", "no") is False and coerce(bool, "flag", "True") is True
    assert coerce(float, "lr", "0.5", low=0, high=1) == 0.5


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, "2.5"),
        (int, "many"),
        (int, "inf"),
        (float, "abc"),
        (float, float("nan")),
        (bool, "maybe"),
        (tuple[float, float], "0.9"),
        (tuple[int, ...], "8,x"),
        (Literal["hog", "random"], "dino"),
    ],
)
def test_coerce_refuses_other_types(kind, value):
    with pytest.raises(UserError) as error:
        coerce(kind, "option", value)
    assert "option" in str(error.value) and f"`{value}`" in str(error.value)


def test_coerce_refuses_numbers_out_of_range():
    with pytest.raises(UserError, match="1 .* 8.* `9`"):
        coerce(int, "option", "9", low=1, high=8)


@pytest.mark.parametrize(
    ("recipe", "changes", "name"),
    [
        ("softvq-digit", {}, "`softvq-digits`"),
        ("softvq-digits", {"tokns": 8}, "`num_tokens`"),
        ("softvq-digits", {"tokenizer": "runs/a"}, "`tokenizer`"),
        ("softvq-digits", {"lr": "fast"}, "lr .*`fast`"),
        ("softvq-digits", {"lr": -1}, "lr .*-1.0"),
        ("softvq-digits", {"num_tokens": 0}, "num_tokens .*0"),
        ("softvq-digits", {"patch": 3}, "6 or 9"),
        ("softvq-photos", {"side": 30}, "24 or 32"),
        ("softvq-digits", {"heads": 3}, "heads"),
        ("softvq-digits", {"codebook_size": 0}, "codebook_size"),
        ("softvq-digits", {"betas": "2,3"}, "betas"),
        ("softvq-digits", {"weight_decay": -1}, "weight_decay"),
        ("softvq-digits", {"data": "digit"}, "`digits`"),
        ("softvq-digits", {"data": "./nowhere"}, "./nowhere"),
        ("softvq-digits", {"limit": 0}, "limit"),
        ("sit-digits", {}, "workbench train sit-digits --tokenizer runs/softvq-digits --out "),
        ("sit-digits", {"tokenizer": "no/where"}, "where"),
        ("sit-digits", {"num_tokens": 3}, "num_tokens"),
    ],
)
def test_invalid_setting_is_refused_without_a_run(recipe, changes, name, tmp_path):
    with pytest.raises(UserError, match=name):
        prepare_training(recipe, tmp_path / "a", **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changes", [{"heads": 0}, {"width": 18}])
def test_invalid_generator_is_refused(trained, tmp_path, changes):
    (name,) = changes
    with pytest.raises(UserError, match=name):
        prepare_training("sit-digits", tmp_path / "a", tokenizer=trained / "soft-4", **changes)
    assert list(tmp_path.iterdir()) == []


def test_tokenizer_of_a_generator_must_fit(trained, tmp_path):
    with pytest.raises(UserError, match=r"flow .*SiT"):
        prepare_training("sit-digits", tmp_path / "a", tokenizer=trained / "flow")
    with pytest.raises(UserError, match="soft-4 .*sit-digits"):
        prepare_training("sit-photos", tmp_path / "a", tokenizer=trained / "soft-4")
    with pytest.raises(RunError, match="`soft-3`"):
        prepare_training("sit-digits", tmp_path / "a", tokenizer=trained / "soft-3")


# Resuming


def test_resume_accepts_other_spellings(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "soft-4", tmp_path / "soft-4")
    first = prepare_training("sit-digits", "flow", tokenizer="soft-4", lr="1e-3", steps=20)
    again = prepare_training(
        "sit-digits", tmp_path / "flow", tokenizer=tmp_path / "soft-4", lr=0.001, steps="20"
    )
    assert again.run.config == first.run.config and again.train_config == first.train_config
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True)
    )


def test_resume_with_other_settings_is_refused(tmp_path):
    prepare_training("softvq-digits", tmp_path / "a", **SMALL)
    for changes, difference in (
        ({**SMALL, "num_tokens": 8}, "num_tokens=4, got num_tokens=8"),
        ({**SMALL, "lr": 0.1}, "no lr, got lr=0.1"),
    ):
        with pytest.raises(RunError, match=difference):
            prepare_training("softvq-digits", tmp_path / "a", **changes)
    with pytest.raises(RunError, match="softvq-digits.*ae-digits"):
        prepare_training("ae-digits", tmp_path / "a", **SMALL)
    with pytest.raises(UserError, match="`num_tokens`"):
        prepare_training("softvq-digits", tmp_path / "a", tokns=8)


# Images of the user


@pytest.mark.slow
def test_folder_of_images_is_trained_at_the_given_size(folder_of_images, tmp_path, monkeypatch):
    monkeypatch.chdir(folder_of_images.parent)
    train("ae-photos", "run", data="pictures", side=16, patch=8, **SMALL)
    monkeypatch.chdir("/")  # a run can be read from any folder
    run = Run(tmp_path / "run")
    data = run.config.data
    assert (data.n, data.side, data.names) == (18, 16, ("cats", "dogs"))
    assert collect(run).images.shape == (2, 16, 16, 3) and run.status()["state"] == "finished"


def test_changed_images_are_refused(folder_of_images, tmp_path):
    job = prepare_training(
        "ae-photos", tmp_path / "a", data=folder_of_images, side=16, patch=8, **SMALL
    )
    (folder_of_images / "cats" / "1.png").unlink()
    with pytest.raises(RunError, match="pictures"):
        prepare_training(
            "ae-photos", tmp_path / "a", data=folder_of_images, side=16, patch=8, **SMALL
        )
    assert job.run.steps == []


@pytest.mark.slow
def test_generator_of_images_without_labels_has_one_class(folder_of_images, tmp_path):
    for picture in list(folder_of_images.glob("*/*.png")):
        picture.rename(folder_of_images / picture.name)
    run = train("ae-photos", tmp_path / "a", data=folder_of_images, side=16, patch=8, **SMALL)
    assert run.evidence().labels is None and run.evidence().images is not None
    job = prepare_training("sit-photos", tmp_path / "flow", tokenizer=run.folder)
    assert job.model.config.classes == 1


# Training


def test_training_saves_samples_and_evidence(trained):
    for name in ("soft-4", "flow"):
        run = Run(trained / name)
        assert (
            run.steps == [30, 60]
            and run.status()["state"] == "finished"
            and run.evidence().step == 60
        )
        samples = [np.load(path) for path in sorted((run.folder / "samples").iterdir())]
        assert [array.shape for array in samples] == [(16, 8, 8, 1)] * 2
        assert samples[0].dtype == np.uint8


def test_finished_run_is_not_changed(trained, tmp_path):
    shutil.copytree(trained / "plain", tmp_path / "plain")
    run = Run(tmp_path / "plain")
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    again = train("ae-digits", run.folder, **run.config.changes)
    assert again.status()["state"] == "finished"
    after = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    assert before == after  # neither its events nor its evidence
    job = prepare_training("ae-digits", run.folder, **run.config.changes)
    assert list(fit(job.model, job.data, job.train_config, job.run)) == []


VIEWERS = (
    "pandas",
    "PIL",
    "plotly",
    "panel",
    "papermill",
    "ipywidgets",
    "datasets",
    "skimage",
    "umap",
    "typer",
)


@pytest.mark.slow
def test_training_needs_no_viewer_packages(tmp_path):
    """Training, samples and evidence work without the packages of viewers."""
    code = f"""
        import sys
        sys.modules |= dict.fromkeys({VIEWERS})  # importing one of them raises an error
        import torch
        from workbench.launch.in_process import prepare_training, train
        from workbench.training import fit
        torch.set_num_threads(1)
        small = {SMALL}
        job = prepare_training("softvq-digits", "a", **small)
        for record in fit(job.model, job.data, job.train_config, job.run):
            pass
        del small["num_tokens"]
        run = train("sit-digits", "flow", tokenizer="a", **small)
        print(record.step, run.evidence(), sorted(name for name in {VIEWERS} if sys.modules[name]))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("20 Evidence of flow at step 20: ")
    assert "samples 640x8x8x1, sample_labels 640" in done.stdout and done.stdout.endswith(" []\n")


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(workbench.__file__).parents[1])}


@pytest.mark.slow
def test_run_starts_from_weights_of_another_run(tmp_path):
    """A new adapter learns to feed codes to the trained decoder of continuous features."""
    small = {"codebook_size": 16, "width": 16, "depth": 1, "collect": False}
    first = train(
        "unicode2-digits",
        tmp_path / "first",
        mode="continuous",
        **small,
        steps=6,
        batch_size=16,
        save_every=6,
    )
    more = {
        "mode": "frozen",
        "adapter": True,
        "train": "adapter",
        "start": first.folder,
        "steps": 4,
        "batch_size": 16,
        "save_every": 4,
    }
    second = train("unicode2-digits", tmp_path / "second", **small, **more)
    assert second.steps == [0, 4] and (second.config.start.run, second.config.start.step) == (
        "../first",
        6,
    )
    shutil.rmtree(first.folder)
    before, after = second.load(0).state_dict(), second.load(4).state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"adapter.weight", "adapter.bias"}
    assert (before["adapter.weight"] == torch.eye(len(before["adapter.weight"]))).all()
    event = next(event for event in second.events() if event["event"] == "started from")
    assert event["taken"] > 10 and event["new"] == ["adapter.bias", "adapter.weight"]


@pytest.mark.slow
def test_weights_that_do_not_fit_are_refused(tmp_path):
    small = {
        "width": 16,
        "depth": 1,
        "steps": 2,
        "batch_size": 16,
        "save_every": 2,
        "collect": False,
    }
    train("ae-digits", tmp_path / "ae", **small)
    with pytest.raises(UserError, match="VAVAE"):
        train("vavae-digits", tmp_path / "other", start=tmp_path / "ae")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_resume_with_other_code_warns(tmp_path):
    run = train("ae-digits", tmp_path / "run", collect=False, **SMALL)
    (tmp_path / "run" / "step-000020.safetensors").unlink()
    run.report("stopped", 10)
    sections = config(tmp_path / "run")
    sections["versions"]["code"] = "0123456789ab"
    (tmp_path / "run" / "config.json").write_text(json.dumps(sections))
    with pytest.warns(UserWarning, match="0123456789ab"):
        run = train("ae-digits", tmp_path / "run", collect=False, **SMALL)
    assert run.status()["state"] == "finished"
    event = next(event for event in run.events() if event["event"] == "versions changed")
    assert event["step"] == 10 and event["before"]["code"] == "0123456789ab"
    assert event["now"]["code"] != "0123456789ab"
