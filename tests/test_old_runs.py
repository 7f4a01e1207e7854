"""Run folders of format 1 open: configuration, weights, history, evidence, further training."""

import dataclasses
import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.analysis.codebook.usage import codebook_usage
from workbench.core.errors import RunError
from workbench.launch.recipes import SYSTEMS
from workbench.storage import migrations
from workbench.storage.checkpoint import read_tensors
from workbench.storage.run import Run
from workbench.storage.run_search import find_runs

OLD_RUNS = Path(__file__).parent / "fixtures" / "runs-v1"
NAMES = ("ar", "sit", "softvq", "vqvae")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD_RUNS, tmp_path / "runs"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_old_run_opens(folder, name):
    before = contents(folder)
    run = Run(folder / name)
    assert run.config.format == migrations.FORMAT == 2
    assert run.config.training["batch_size"] == 8 and "plan" not in run.config.to_dict()
    assert run.config.changes["warmup_steps"] == 1
    assert run.steps == [4] and run.status()["steps"] == 4 and run.status()["state"] == "finished"
    assert run.history()["step"].tolist() == [2, 4]
    assert [event["event"] for event in run.events()] == ["started", "saved", "finished"]
    model = run.load()
    stored = read_tensors(run.checkpoint())
    assert stored["ema"].keys() == model.state_dict().keys() == stored["model"].keys()
    assert all(torch.equal(stored["ema"][key], value) for key, value in model.state_dict().items())
    assert contents(folder) == before


@pytest.mark.parametrize("name", NAMES)
def test_old_evidence_opens(folder, name):
    evidence = Run(folder / name).evidence()
    assert evidence.run_name == name and evidence.step == 4
    assert evidence.provenance["training"]["ema_decay"] == 0.995
    assert repr(evidence).startswith(f"Evidence of {name} at step 4: ")
    if evidence.latents is not None:
        assert evidence.latents.shape == (24, 2, 4)
    if evidence.codes is not None:
        usage = codebook_usage(**evidence.kwargs_for(codebook_usage))
        assert str(usage.summary())


# Class, format, and per renamed setting: the stored name, the current name, and a value that is not
# the default.
RENAMED = {
    "softvq:SoftVQ": (1, ("tokens", "num_tokens", 2), ("codes", "codebook_size", 6)),
    "softvq:SoftVQ books": (1, ("books", "num_codebooks", 2), ("skip", "linear_init", False)),
    "vqvae:VQVAE": (1, ("tokens", "num_tokens", 3), ("codes", "codebook_size", 5)),
    "karl:KARL": (1, ("least", "min_error", 0.02), ("most", "max_error", 0.2)),
    "karl:KARL later": (2, ("trust", "predict_after", 0.4)),
    "unicode2:UniCode2": (1, ("normalise", "normalize", "unit"), ("role", "mode", "frozen")),
}


@pytest.mark.parametrize("case", RENAMED)
def test_renamed_settings_open(folder, case):
    """A stored configuration with earlier names builds the same model as one with current names."""
    class_path = f"workbench.tokenizers.{case.partition(' ')[0]}"
    stored_format, *renamed = RENAMED[case]
    path = folder / "softvq"
    stored = {old: value for old, _, value in renamed}
    edit_config(
        path, format=stored_format, settings=stored, changes=stored, **{"class": class_path}
    )
    run = Run(path)
    current = {name: value for _, name, value in renamed}
    assert run.config.settings == run.config.changes == current
    config = run.build().config
    assert {name: getattr(config, name) for name in current} == current
    defaults = type(config)()
    assert all(getattr(defaults, name) != value for name, value in current.items())


@pytest.mark.parametrize("steps, tuning", [(None, False), (300, True)])
def test_steps_of_stage_two_became_a_switch(folder, steps, tuning):
    """Early runs of MAETok store tuning_steps, and in stage two also a tensor that counts them."""
    path = folder / "softvq"
    settings = {"tuning_steps": steps, "tokens": 2}
    edit_config(
        path, settings=settings, changes=settings, **{"class": "workbench.tokenizers.maetok:MAETok"}
    )
    assert Run(path).build().config.tuning is tuning
    assert migrations.is_removed_tensor("model.tuned", 1)
    assert not migrations.is_removed_tensor("model.tuned", 2)
    assert not migrations.is_removed_tensor("model.mask_patch", 1)


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_setting_has_an_earlier_name(system):
    """A setting with the earlier name of another one would be renamed when its run is opened."""
    module, _, name = SYSTEMS[system].partition(":")
    fields = {
        field.name for field in dataclasses.fields(getattr(import_module(module), name).Config)
    }
    earlier = migrations.MODEL_SETTINGS | migrations.CLASS_SETTINGS.get(SYSTEMS[system], {})
    assert not fields & earlier.keys()


def test_old_runs_are_listed_with_their_tokenizers(folder):
    runs, refused = find_runs(folder)
    assert [run.name for run in runs] == list(NAMES) and refused == []
    tokenizers = {run.name: run.tokenizer.name for run in runs if run.tokenizer is not None}
    assert tokenizers == {"ar": "vqvae", "sit": "softvq"}


@pytest.mark.slow
def test_training_resumes_from_an_old_checkpoint(folder):
    """Training resumes from the weights and the optimizer state of the old checkpoint."""
    from workbench.launch.in_process import prepare_training
    from workbench.training import TrainConfig, fit

    path = folder / "softvq"
    stored = json.loads((path / "config.json").read_text())
    job = prepare_training("softvq-digits", path, **Run(path).config.changes)
    longer = job.run.config.training | {"steps": 6, "save_every": 6}
    train_config = TrainConfig.from_dict(longer)
    records = list(fit(job.model, job.data, train_config, job.run))
    assert [record.step for record in records] == [6] and job.run.steps == [4, 6]
    assert job.run.events()[-3]["event"] == "resumed" and job.run.events()[-3]["step"] == 4
    old, new = (read_tensors(job.run.checkpoint(step)) for step in (4, 6))
    assert old.keys() == new.keys() and all(old[group].keys() == new[group].keys() for group in old)
    name = next(key for key in new["optimizer"] if key.endswith(".step"))
    assert (float(old["optimizer"][name]), float(new["optimizer"][name])) == (4.0, 6.0)
    assert json.loads((path / "config.json").read_text()) == stored


def test_arrays_of_an_old_evidence_may_have_other_names(folder, monkeypatch):
    path = folder / "vqvae" / "evidence" / "step-000004"
    (path / "codes.npy").rename(path / "old_name.npy")
    monkeypatch.setitem(migrations.EVIDENCE_ARRAYS, "old_name", "codes")
    assert np.asarray(Run(folder / "vqvae").evidence().codes).shape == (24, 2)


def test_tensor_names_are_translated_at_their_dots(monkeypatch):
    monkeypatch.setitem(migrations.STATE_DICT_NAMES, "quantizer.words", "quantizer.codebook")
    assert migrations.migrate_tensor_name("average.quantizer.words", 1) == "ema.quantizer.codebook"
    assert (
        migrations.migrate_tensor_name("optimizer.quantizer.words.step", 1)
        == "optimizer.quantizer.codebook.step"
    )
    assert migrations.migrate_tensor_name("model.my_quantizer.words", 1) == (
        "model.my_quantizer.words"
    )
    assert migrations.migrate_tensor_name("model.quantizer.words", 2) == "model.quantizer.words"


def edit_config(path: Path, **changes: object) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))


def test_run_of_a_newer_format_is_refused(folder):
    edit_config(folder / "softvq", format=99)
    with pytest.raises(RunError) as error:
        Run(folder / "softvq")
    assert "format 99" in str(error.value)


def test_evidence_of_a_newer_format_is_refused(folder):
    path = folder / "softvq" / "evidence" / "step-000004" / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(RunError, match="newer"):
        Run(folder / "softvq").evidence()


@pytest.mark.parametrize(
    "path",
    ["workbench.tokenizers.gone:Gone", "workbench.tokenizers.softvq:Gone", "workbench.__main__:x"],
)
def test_class_path_that_does_not_exist_is_refused(folder, path):
    edit_config(folder / "softvq", **{"class": path})
    run = Run(folder / "softvq")  # reading its files needs no class
    assert len(run.history()) == 2
    with pytest.raises(RunError) as error:
        run.load()
    assert path in str(error.value) and "\n" not in str(error.value)
