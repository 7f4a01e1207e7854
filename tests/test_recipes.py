"""Recipes: every name trains, settings change by name and type, and what cannot be trained is refused before a run."""

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
    """A tokenizer's run for each kind of data, with codes, and a checkpoint of no training at all."""
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
    """Twenty pictures, each class in a folder of its own."""
    from PIL import Image

    random = np.random.default_rng(0)
    for i in range(20):
        place = tmp_path / "pictures" / ("cats" if i % 2 else "dogs")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (20, 24, 3), np.uint8)).save(place / f"{i}.png")
    return tmp_path / "pictures"


# What a recipe builds


@pytest.mark.parametrize(
    "recipe", [recipe for recipe in RECIPES if recipe.split("-")[1] in BUNDLED]
)
def test_every_recipe_of_bundled_images_builds_a_model_that_they_fit(recipe, untrained, tmp_path):
    system, data = recipe.split("-")
    more = {"tokenizer": untrained / data} if system in GENERATORS else {"limit": 50}
    job = prepare_training(recipe, tmp_path / "run", **more)
    assert type(job.model).__name__ == SYSTEMS[system].partition(":")[2] == job.run.kind
    assert len(job.data) == (100 if system in GENERATORS else 50)
    terms = job.model.objective(*job.data.batch(torch.arange(2))).terms
    assert terms and all(torch.isfinite(term) for term in terms.values())
    assert job.run.config.recipe == recipe and job.run.steps == []


def set_by_tokenizer(system: str) -> tuple[str, ...]:
    return _made_of(system).set_by_tokenizer if system in GENERATORS else ()


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_recipe_at_a_larger_scale_has_settings_and_a_plan_that_are_accepted(system):
    learned = {
        "num_tokens": 256,
        "dim": 32,
        "classes": 10,
        "mean": 0.0,
        "std": 1.0,
        "rows": 16,
        "codebook_size": 512,
        "num_codebooks": 1,
    }
    made_of = _made_of(system)
    for data in ("cifar10", "imagenet256"):
        given = {name: learned[name] for name in set_by_tokenizer(system)}
        assert made_of.Config(**recipe_settings(system, data), **given)
        assert TrainConfig(**recipe_train_config(system, data))


# Parameters that the papers (or their READMEs) state, and what we count of them.
PUBLISHED = {
    "softvq": (173e6, {"align_weight": 0.0}),
    "maetok": (176e6, {"targets": ()}),
    "sit": (675e6, {}),
    "dit": (675e6, {}),
    "lightningdit": (675e6, {}),
}


@pytest.mark.parametrize("system", PUBLISHED)
def test_the_papers_scale_has_the_papers_number_of_parameters(system):
    """Within 5 %, without the parts that other networks bring, and without discriminators."""
    stated, without = PUBLISHED[system]
    learned = {"num_tokens": 256, "dim": 32, "classes": 1000, "mean": 0.0, "std": 1.0, "rows": 16}
    settings = (
        recipe_settings(system, "imagenet256")
        | {name: learned[name] for name in set_by_tokenizer(system)}
        | without
    )
    settings |= {
        name: 0.0 for name in ("perceptual_weight", "adversarial_weight") if name in settings
    }
    with torch.device("meta"):
        model = _made_of(system)(_made_of(system).Config(**settings))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(stated, rel=0.05)


def _made_of(system: str):
    module, _, name = SYSTEMS[system].partition(":")
    return getattr(importlib.import_module(module), name)


def test_a_run_stores_all_it_was_made_of(tmp_path):
    job = prepare_training("softvq-digits", tmp_path / "a", **SMALL, codebook_size=32)
    told = config(tmp_path / "a")
    assert told["format"] == 2 and told["recipe"] == "softvq-digits"
    assert told["changes"] == SMALL | {"codebook_size": 32}
    assert (
        told["settings"]["codebook_size"] == 32
        and told["settings"]["side"] == 8
        and told["settings"]["temperature"] == 0.07
    )
    assert told["training"]["steps"] == 20 and told["training"]["betas"] == [0.9, 0.95]
    assert told["data"]["fingerprint"] == job.data.fingerprint and told["data"]["n"] == 1437
    assert set(told["versions"]) >= {"workbench", "torch", "numpy"}


def test_a_generator_learns_sizes_and_scale_from_its_tokenizer(trained):
    told, soft = config(trained / "flow"), Run(trained / "soft-4")
    with torch.no_grad():
        latents = soft.load().encode(load_images(soft, "train").images()).latents
    assert told["tokenizer"] == {"run": "../soft-4", "step": 60}
    assert (
        told["settings"]["num_tokens"],
        told["settings"]["dim"],
        told["settings"]["classes"],
    ) == (
        4,
        8,
        10,
    )
    assert told["settings"]["mean"] == pytest.approx(latents.mean().item(), abs=1e-5)
    assert told["settings"]["std"] == pytest.approx(latents.std().item(), rel=1e-4)


# Settings by name and type


def test_settings_are_read_from_text_in_their_declared_types(tmp_path):
    text = {
        "lr": "1e-3",
        "steps": "2e1",
        "codebook_size": "32",
        "linear_init": "no",
        "betas": "0.8,0.9",
        "precision": "no",
    }
    told = prepare_training("softvq-digits", tmp_path / "a", **text).run.config
    assert (
        told["training"] | {"lr": 0.001, "steps": 20, "betas": [0.8, 0.9], "precision": "no"}
        == told["training"]
    )
    assert told["settings"] | {"codebook_size": 32, "linear_init": False} == told["settings"]


def test_a_value_takes_the_type_of_its_setting_or_is_refused_with_what_would_be_right():
    assert coerce(int, "seed", str(2**62 + 1)) == 2**62 + 1
    assert coerce(int | None, "start", "none") is None and coerce(int | None, "start", "3") == 3
    assert coerce(Literal["hog", "none"], "teacher", "hog") == "hog"
    assert (
        coerce(tuple[int, ...], "levels", "8,5,5")
        == (8, 5, 5)
        == coerce(tuple[int, ...], "levels", [8, 5, 5])
    )
    refused = [
        (int, "2.5", "a whole number; got `2.5`"),
        (int, "many", "a whole number; got `many`"),
        (int, "inf", "a whole number; got `inf`"),
        (float, "abc", "a number; got `abc`"),
        (float, float("nan"), "a number; got `nan`"),
        (bool, "maybe", "true or false; got `maybe`"),
        (tuple[float, float], "0.9", "2 numbers, as in 0.9,0.95; got `0.9`"),
        (tuple[int, ...], "8,x", "numbers with commas between them; got `8,x`"),
        (Literal["hog", "random"], "dino", "one of hog, random; got `dino`"),
    ]
    for kind, value, said in refused:
        with pytest.raises(UserError, match=f"^it takes {said}.$"):
            coerce(kind, "it", value)


@pytest.mark.parametrize(
    ("recipe", "changes", "said"),
    [
        ("softvq-digit", {}, "There is no recipe `softvq-digit`; .* Did you mean `softvq-digits`?"),
        (
            "softvq-digits",
            {"tokns": 8},
            "There is no setting `tokns`; .* Did you mean `num_tokens`?",
        ),
        ("softvq-digits", {"tokenizer": "runs/a"}, "There is no setting `tokenizer`"),
        ("softvq-digits", {"lr": "fast"}, "lr takes a number; got `fast`"),
        ("softvq-digits", {"lr": -1}, "lr is -1.0; it must be above 0"),
        ("softvq-digits", {"num_tokens": 0}, "num_tokens must be at least 1, got 0"),
        ("softvq-digits", {"patch": 3}, "side must be a multiple of patch 3, got 8. Use 6 or 9"),
        ("softvq-photos", {"side": 30}, "side must be a multiple of patch 8, got 30. Use 24 or 32"),
        (
            "softvq-digits",
            {"heads": 3},
            "width must be a multiple of heads, got width 64 and 3 heads",
        ),
        ("softvq-digits", {"codebook_size": 0}, "codebook_size"),
        ("softvq-digits", {"betas": "2,3"}, "betas"),
        ("softvq-digits", {"weight_decay": -1}, "weight_decay"),
        (
            "softvq-digits",
            {"data": "digit"},
            "There is no data set `digit`; .* Did you mean `digits`?",
        ),
        ("softvq-digits", {"data": "./nowhere"}, "./nowhere does not exist. A folder of images"),
        ("softvq-digits", {"limit": 0}, "limit must be at least 1"),
        (
            "sit-digits",
            {},
            "name its run: workbench train sit-digits --tokenizer runs/softvq-digits --out ",
        ),
        ("sit-digits", {"tokenizer": "no/where"}, "where does not exist"),
        (
            "sit-digits",
            {"num_tokens": 3},
            "sit-digits takes num_tokens, .* from its tokenizer; leave num_tokens out",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_and_no_run_is_made(recipe, changes, said, tmp_path):
    with pytest.raises(UserError, match=said):
        prepare_training(recipe, tmp_path / "a", **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changes", [{"heads": 0}, {"width": 18}])
def test_a_generator_that_cannot_be_built_is_refused_in_a_sentence(trained, tmp_path, changes):
    (name,) = changes
    with pytest.raises(UserError, match=name):
        prepare_training("sit-digits", tmp_path / "a", tokenizer=trained / "soft-4", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_generator_is_not_a_tokenizer_and_its_data_must_be_that_of_the_tokenizer(
    trained, tmp_path
):
    with pytest.raises(
        UserError, match="flow is a generator .SiT.; a generator learns from a tokenizer's run"
    ):
        prepare_training("sit-digits", tmp_path / "a", tokenizer=trained / "flow")
    with pytest.raises(UserError, match="soft-4 was trained on digits; use the recipe sit-digits"):
        prepare_training("sit-photos", tmp_path / "a", tokenizer=trained / "soft-4")
    with pytest.raises(RunError, match="There is no run `soft-3`; .* Did you mean `soft-"):
        prepare_training("sit-digits", tmp_path / "a", tokenizer=trained / "soft-3")


# Going on


def test_the_same_call_goes_on_however_its_numbers_and_paths_are_written(
    trained, tmp_path, monkeypatch
):
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


def test_going_on_with_other_settings_is_refused_with_both_values(tmp_path):
    prepare_training("softvq-digits", tmp_path / "a", **SMALL)
    for changes, said in (
        (
            {**SMALL, "num_tokens": 8},
            "was started with num_tokens=4, and now you ask for num_tokens=8",
        ),
        ({**SMALL, "lr": 0.1}, "was started with no lr, and now you ask for lr=0.1"),
    ):
        with pytest.raises(
            RunError, match=f"{said}. Give the same settings to go on with it, or another folder"
        ):
            prepare_training("softvq-digits", tmp_path / "a", **changes)
    with pytest.raises(
        RunError, match="recipe=softvq-digits, and now you ask for recipe=ae-digits"
    ):
        prepare_training("ae-digits", tmp_path / "a", **SMALL)
    with pytest.raises(UserError, match="Did you mean `num_tokens`"):
        prepare_training("softvq-digits", tmp_path / "a", tokns=8)


# Your own images


def test_a_folder_of_images_is_trained_on_at_the_side_that_was_asked_for(
    folder_of_images, tmp_path, monkeypatch
):
    monkeypatch.chdir(folder_of_images.parent)
    train("ae-photos", "run", data="pictures", side=16, patch=8, **SMALL)
    monkeypatch.chdir("/")  # a run can be read from any folder
    run = Run(tmp_path / "run")
    data = run.config.data
    assert (data.n, data.side, data.names) == (18, 16, ("cats", "dogs"))
    assert collect(run).images.shape == (2, 16, 16, 3) and run.status()["state"] == "finished"


def test_images_that_changed_since_are_refused(folder_of_images, tmp_path):
    job = prepare_training(
        "ae-photos", tmp_path / "a", data=folder_of_images, side=16, patch=8, **SMALL
    )
    (folder_of_images / "cats" / "1.png").unlink()
    with pytest.raises(
        RunError,
        match="The images in .*pictures changed since .* was trained on them; train a new run",
    ):
        prepare_training(
            "ae-photos", tmp_path / "a", data=folder_of_images, side=16, patch=8, **SMALL
        )
    assert job.run.steps == []


def test_images_without_labels_train_a_tokenizer_but_no_generator(folder_of_images, tmp_path):
    for picture in list(folder_of_images.glob("*/*.png")):
        picture.rename(folder_of_images / picture.name)
    run = train("ae-photos", tmp_path / "a", data=folder_of_images, side=16, patch=8, **SMALL)
    assert run.evidence().labels is None and run.evidence().images is not None
    with pytest.raises(
        UserError, match="pictures has no labels, and a class-conditional generator needs them"
    ):
        prepare_training("sit-photos", tmp_path / "flow", tokenizer=run.folder)
    assert not (tmp_path / "flow").exists()


# Training


def test_training_keeps_pictures_at_each_checkpoint_and_evidence_at_the_end(trained):
    for name in ("soft-4", "flow"):
        run = Run(trained / name)
        assert (
            run.steps == [30, 60]
            and run.status()["state"] == "finished"
            and run.evidence().step == 60
        )
        pictures = [np.load(p) for p in sorted((run.folder / "samples").iterdir())]
        assert [p.shape for p in pictures] == [(16, 8, 8, 1)] * 2 and pictures[0].dtype == np.uint8


def test_a_finished_run_is_only_opened(trained, tmp_path):
    shutil.copytree(trained / "plain", tmp_path / "plain")
    run = Run(tmp_path / "plain")
    before = {
        path: path.stat().st_mtime_ns
        for path in run.folder.rglob("*")
        if "evidence" not in path.parts
    }
    again = train("ae-digits", run.folder, collect=False, **run.config.changes)
    assert again.status()["state"] == "finished"
    after = {
        path: path.stat().st_mtime_ns
        for path in run.folder.rglob("*")
        if "evidence" not in path.parts
    }
    assert before == after  # its events too: nothing was resumed
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


def test_training_needs_nothing_that_is_only_for_looking(tmp_path):
    """A tokenizer by the loop alone, then a generator with pictures and evidence, where those packages are absent."""
    code = f"""
        import sys
        sys.modules |= dict.fromkeys({VIEWERS})  # importing one of them would raise
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


def test_a_run_may_start_from_anothers_weights_and_then_does_without_it(tmp_path):
    """UniCode2's minimal adaptation: a decoder of continuous features is fed codes, and a new adapter alone learns."""
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
    begun, done = second.load(0).state_dict(), second.load(4).state_dict()
    changed = {name for name in done if not torch.equal(begun[name], done[name])}
    assert changed == {"adapter.weight", "adapter.bias"}
    assert (begun["adapter.weight"] == torch.eye(len(begun["adapter.weight"]))).all()
    noted = next(event for event in second.events() if event["event"] == "started from")
    assert noted["taken"] > 10 and noted["new"] == ["adapter.bias", "adapter.weight"]


def test_weights_that_fit_nowhere_are_refused_before_there_is_a_run(tmp_path):
    small = {
        "width": 16,
        "depth": 1,
        "steps": 2,
        "batch_size": 16,
        "save_every": 2,
        "collect": False,
    }
    train("ae-digits", tmp_path / "ae", **small)
    with pytest.raises(UserError, match="has no weights that this VAVAE could take"):
        train("vavae-digits", tmp_path / "other", start=tmp_path / "ae")
    assert not (tmp_path / "other").exists()


def test_a_run_that_goes_on_under_other_code_is_told_and_notes_it(tmp_path):
    run = train("ae-digits", tmp_path / "run", collect=False, **SMALL)
    (tmp_path / "run" / "step-000020.safetensors").unlink()
    run.report("stopped", 10)
    told = config(tmp_path / "run")
    told["versions"]["code"] = "0123456789ab"
    (tmp_path / "run" / "config.json").write_text(json.dumps(told))
    with pytest.warns(
        UserWarning, match="began with code 0123456789ab, now .* It goes on, as noted in its events"
    ):
        run = train("ae-digits", tmp_path / "run", collect=False, **SMALL)
    assert run.status()["state"] == "finished"
    noted = next(event for event in run.events() if event["event"] == "versions changed")
    assert noted["step"] == 10 and noted["before"]["code"] == "0123456789ab" != noted["now"]["code"]
