"""A run is a folder: anybody may read it, half of a file is never seen, and what is wrong with it is said in words."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_jobs import wait_for

from workbench.collect import collect
from workbench.core.errors import RunError, UserError
from workbench.storage.checkpoint import read_tensors
from workbench.storage.jsonl import append_record
from workbench.storage.run import Run, find_runs

TOLD = {
    "class": "workbench.tokenizers.ae:AE",
    "settings": {"side": 8, "channels": 1, "patch": 4, "width": 8},
}


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create(tmp_path / "a", TOLD)


@pytest.fixture
def soft(trained, tmp_path) -> Run:
    """A copy of a trained run, to be damaged."""
    return Run(shutil.copytree(trained / "soft-4", tmp_path / "soft-4"))


def rewrite(run: Run, **changes) -> None:
    config = {**json.loads((run.folder / "config.json").read_text()), **changes}
    (run.folder / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if v is not None})
    )


# The folder


def test_a_new_run_says_what_it_is_and_that_nothing_has_happened(run):
    assert (run.name, run.kind, run.steps) == ("a", "AE", [])
    assert run.status()["state"] == "new" and run.events() == [] and run.history().empty
    assert run.tokenizer is None and Run(run.folder).config == run.config


def test_a_folder_that_holds_a_run_is_not_overwritten(run):
    with pytest.raises(RunError, match="already holds a run. Open it with Run"):
        Run.create(run.folder, TOLD)


def test_a_run_cannot_be_made_below_a_file_nor_in_place_of_one(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/a"):
        with pytest.raises(
            RunError, match=f"{place} cannot become a folder: .*. Choose another place"
        ):
            Run.create(tmp_path / place, TOLD)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["two words", "überlauf", "<b>bold", "50% & more", "[a-z]*"])
def test_a_run_may_have_any_name(tmp_path, name):
    Run.create(tmp_path / name, TOLD).log(1, loss=0.5)
    assert [found.name for found in find_runs(tmp_path)[0]] == [name]
    assert Run(tmp_path / name).history()["loss"].tolist() == [0.5]


def test_finding_runs_lists_the_good_ones_and_says_what_is_wrong_with_the_others(run, tmp_path):
    (tmp_path / "not a run").mkdir()
    Run.create(tmp_path / "b", TOLD)
    rewrite(Run.create(tmp_path / "new", TOLD), format=3)
    runs, refused = find_runs(tmp_path)
    assert [found.name for found in runs] == ["a", "b"]
    assert (
        len(refused) == 1
        and "new was written by a newer workbench (format 3, this one reads 2)" in refused[0]
    )
    assert [found.name for found in find_runs(run.folder)[0]] == ["a"]


def test_a_run_that_does_not_exist_is_answered_with_the_nearest_name(run, tmp_path):
    with pytest.raises(RunError, match="There is no run `b`; in .* there is a"):
        Run(tmp_path / "b")
    Run.create(tmp_path / "softvq-4", TOLD)
    with pytest.raises(RunError, match="Did you mean `softvq-4`"):
        Run(tmp_path / "softvq4")
    with pytest.raises(RunError, match="none does not exist. Train a run with: workbench train"):
        Run(tmp_path / "nowhere" / "none")
    with pytest.raises(
        RunError, match="config.json is a file, and a run is a folder. Did you mean .*a\\?"
    ):
        Run(run.folder / "config.json")
    with pytest.raises(
        RunError, match="has no config.json. It holds the runs a, softvq-4; name one"
    ):
        Run(tmp_path)


# Damage


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ('{"format": 1, "cla', "damaged"),
        ("[1]", "does not say its format"),
        ("null", "does not say its format"),
        ('{"class": "a:b", "settings": {}}', "does not say its format"),
        ('{"format": "one", "class": "a:b", "settings": {}}', "does not say its format"),
        ('{"format": 1}', "lacks class and settings"),
        ('{"format": 1, "class": 3, "settings": {}}', "lacks class"),
        ('{"format": 3}', "newer workbench .* Upgrade"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused_in_a_sentence(run, text, said):
    (run.folder / "config.json").write_text(text)
    with pytest.raises(RunError, match=said):
        Run(run.folder)


@pytest.mark.parametrize("text", ["", "{", "3", "null", "[]", "{}", '[3, {}, {"id": 4}]'])
def test_a_damaged_status_or_control_file_is_as_good_as_none(run, text):
    (run.folder / "status.json").write_text(text)
    (run.folder / "control.json").write_text(text)
    assert run.status()["state"] == "new" and run.commands() == []
    assert run.ask("stop") == 1 and run.commands()[0]["command"] == "stop"


def test_lines_torn_by_a_kill_are_left_out_and_the_next_line_is_not_lost(run):
    run.log(1, loss=3.0)
    with (run.folder / "log.jsonl").open("a") as log:
        log.write('{"step": 2, "lo')
    assert run.history()["step"].tolist() == [1]
    run.log(3, loss=1.0)
    assert run.history()["step"].tolist() == [1, 3]
    append_record(run.folder / "events.jsonl", {"event": "started"})
    assert run.events() == [{"event": "started"}]


def test_rewinding_forgets_what_was_logged_after_a_step(run):
    for step in (10, 20, 30):
        run.log(step, loss=1 / step)
    (run.folder / "log.jsonl").open("a").write('3\n{"note": "no step"}\n')
    run.rewind(20)
    assert run.history()["step"].tolist() == [10, 20]


def test_a_full_disk_or_a_folder_in_the_way_is_named(run):
    (run.folder / "events.jsonl").mkdir()
    with pytest.raises(RunError, match="events.jsonl could not be written: Is a directory"):
        run.event("started", 0)
    (run.folder / "status.json").mkdir()
    with pytest.raises(RunError, match="status.json could not be written"):
        run.report("running", 1)
    assert not list(run.folder.glob(".status*"))


def test_what_a_killed_writer_left_half_written_is_cleared_by_the_next(run):
    half = run.folder / ".step-000010.safetensors.123"
    half.write_bytes(b"half")
    assert run.steps == []
    with run.writing():
        assert not half.exists()


def test_a_run_that_cannot_be_locked_cannot_be_written(run):
    (run.folder / ".lock").mkdir()
    with pytest.raises(RunError, match="a cannot be written to"), run.writing():
        pass


# Status, requests


def status_of_writer(run: Run, **who) -> str:
    run.report("running", 7, steps=10)
    told = json.loads((run.folder / "status.json").read_text())
    (run.folder / "status.json").write_text(json.dumps(told | who))
    return run.status()["state"]


def test_a_writer_that_died_without_a_word_is_interrupted(run):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    assert status_of_writer(run, pid=os.getpid()) == "running"
    assert status_of_writer(run, pid=dead.pid) == "interrupted"
    assert status_of_writer(run, pid="x") == "interrupted"
    if sys.platform == "linux":
        assert (
            status_of_writer(run, born="1") == "interrupted"
        )  # its number is another process's now
    assert repr(run).endswith("AE, interrupted at step 7 of 10")


@pytest.mark.skipif(sys.platform != "linux", reason="only /proc tells")
def test_a_writer_that_was_killed_is_gone_before_its_parent_asks_for_it(run):
    script = f"import time; from workbench.storage.run import Run; Run({str(run.folder)!r}).report('running', 7)"
    script += "; print(flush=True); time.sleep(600)"
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    writer.stdout.readline()
    assert run.status()["state"] == "running"
    writer.kill()
    wait_for(lambda: run.status()["state"] == "interrupted")
    writer.wait()


def test_a_writer_on_another_machine_is_believed_for_a_minute(run):
    elsewhere = socket.gethostname() + "-other"
    assert status_of_writer(run, host=elsewhere) == "running"
    assert status_of_writer(run, host=elsewhere, time=0) == "interrupted"


def test_requests_are_numbered_and_the_latest_are_kept(run):
    assert [run.ask(command) for command in ("pause", "resume", "sample")] == [1, 2, 3]
    assert [request["command"] for request in run.commands()] == ["pause", "resume", "sample"]
    for _ in range(30):
        run.ask("sample")
    assert run.commands()[-1]["id"] == 33 and len(run.commands()) < 30
    with pytest.raises(
        UserError, match="There is no command `nonsense`; there is evaluate, lr, pause, resume"
    ):
        run.ask("nonsense")


# Checkpoints


def test_a_loaded_model_has_the_weights_that_were_saved(run):
    torch.manual_seed(1)
    model, average = run.build(), run.build()
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    run.save(10, tensors | {f"ema.{k}": v for k, v in average.state_dict().items()})
    assert run.steps == [10] and not run.load().training
    for saved, averaged in ((model, False), (average, True)):
        loaded = run.load(averaged=averaged).state_dict()
        assert loaded.keys() == saved.state_dict().keys()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.state_dict().items())
    name = "encoder.embed.weight"
    assert not torch.equal(
        run.load().state_dict()[name], run.load(averaged=False).state_dict()[name]
    )


def test_checkpoints_are_files_named_by_step_and_only_whole_ones_count(soft):
    assert soft.steps == [30, 60]
    assert soft.checkpoint().name == "step-000060.safetensors" == soft.checkpoint(60).name
    for name in (
        ".step-000090.safetensors.12",
        "step-90.safetensors",
        "step-000090.safetensors.part",
    ):
        (soft.folder / name).write_bytes(b"")
    assert soft.steps == [30, 60]
    with pytest.raises(RunError, match="has no checkpoint of step 45; it has 30, 60"):
        soft.load(45)
    for path in soft.folder.glob("step-*"):
        path.unlink()
    with pytest.raises(
        RunError, match=r"has no step-\*.safetensors yet. Train it, or wait for its first save"
    ):
        collect(soft)


def test_a_damaged_checkpoint_is_named_with_the_way_out(soft):
    whole = soft.checkpoint().read_bytes()
    for damaged in (b"", b"junk", whole[:1000], whole[:-1000]):
        soft.checkpoint().write_bytes(damaged)
        with pytest.raises(
            RunError, match="step-000060.safetensors is damaged .* Delete it to go on"
        ):
            soft.load()
    assert soft.load(30) is not None


def test_a_checkpoint_of_another_model_does_not_fit(soft):
    rewrite(soft, settings=soft.config["settings"] | {"width": 64})
    with pytest.raises(
        RunError, match="step-000060.safetensors does not fit workbench.tokenizers.softvq:SoftVQ"
    ):
        Run(soft.folder).load()


def test_only_classes_of_the_package_or_of_named_modules_are_imported(soft, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from workbench.tokenizers.softvq import SoftVQ as Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    rewrite(soft, **{"class": "mine:Mine"})
    foreign = Run(soft.folder)
    with pytest.raises(
        RunError,
        match=r"was trained with mine:Mine. To import that module, say .*modules=\['mine'\]",
    ):
        foreign.load()
    assert "mine" not in sys.modules
    name, weights = "encoder.embed.weight", read_tensors(foreign.checkpoint())["ema"]
    assert torch.equal(foreign.load(modules=["mine"]).state_dict()[name], weights[name])


@pytest.mark.parametrize(
    "changes",
    [
        {"class": "workbench.tokenizers.softvp:SoftVQ"},
        {"class": "workbench.tokenizers.softvq:Sovtvq"},
        {"class": "workbench.tokenizers.softvq"},
        {"settings": {"sides": 8}},
    ],
)
def test_a_class_or_setting_that_does_not_exist_is_named(soft, changes):
    rewrite(soft, **changes)
    with pytest.raises(RunError, match="soft-4 cannot be built from workbench.tokenizers.softv"):
        Run(soft.folder).build()


# Evidence, and the tokenizer of a generator


def test_a_run_without_evidence_says_how_to_make_it(run, trained):
    with pytest.raises(RunError, match="a has no evidence yet. Make it with: workbench collect"):
        run.evidence()
    with pytest.raises(RunError, match="soft-4 has no evidence of step 30 yet"):
        Run(trained / "soft-4").evidence(30)


def test_the_last_evidence_is_that_of_the_largest_step(soft):
    for step in (999_999, 1_000_000):
        copied = Path(
            shutil.copytree(
                soft.folder / "evidence/step-000060", soft.folder / f"evidence/step-{step}"
            )
        )
        text = (copied / "provenance.json").read_text()
        (copied / "provenance.json").write_text(text.replace('"step": 60', f'"step": {step}', 1))
    (soft.folder / "evidence/.step-2000000.17").mkdir()  # being written
    assert soft.evidence().step == 1_000_000 and soft.evidence(60).step == 60


def test_a_run_that_does_not_say_what_it_was_trained_on_cannot_be_collected(soft):
    rewrite(soft, data=None)
    with pytest.raises(
        RunError, match="does not say which images it was trained on; its config.json should"
    ):
        collect(Run(soft.folder))


def test_a_generator_finds_its_tokenizer_by_a_relative_path_so_both_may_move_together(
    trained, tmp_path
):
    moved = Path(shutil.copytree(trained, tmp_path / "elsewhere"))
    assert Run(moved / "flow").config["tokenizer"]["run"] == "../soft-4"
    tokenizer = Run(moved / "flow").tokenizer
    assert tokenizer.folder == moved / "soft-4" and tokenizer.steps == [30, 60]


def test_a_generator_whose_tokenizer_moved_says_so_and_the_other_runs_are_still_found(
    trained, tmp_path
):
    shutil.copytree(trained / "flow", tmp_path / "flow")
    shutil.copytree(trained / "plain", tmp_path / "plain")
    sentence = "flow needs the tokenizer .*soft-4, which is gone. Move it back, or write its place"
    with pytest.raises(RunError, match=sentence):
        collect(Run(tmp_path / "flow"))
    runs, (refused,) = find_runs(tmp_path)
    assert [found.name for found in runs] == ["plain"] and "which is gone" in refused
