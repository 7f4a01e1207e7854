"""Run folders: reading, damage, status, commands, checkpoints, and links to other runs."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from polling import wait_until

from workbench.collect import collect
from workbench.core.errors import RunError, UserError
from workbench.storage.checkpoint import read_tensors
from workbench.storage.jsonl import JsonlTail, append_record
from workbench.storage.run import Run
from workbench.storage.run_config import RunConfig
from workbench.storage.run_search import find_runs
from workbench.workspace.run_snapshot import RunFollower
from workbench.workspace.workspace import Workspace

CONFIG = {
    "class": "workbench.tokenizers.ae:AE",
    "settings": {"side": 8, "channels": 1, "patch": 4, "width": 8},
}


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create(tmp_path / "a", CONFIG)


@pytest.fixture
def soft(trained, tmp_path) -> Run:
    """A copy of a trained run that a test may damage."""
    return Run(shutil.copytree(trained / "soft-4", tmp_path / "soft-4"))


def edit_config(run: Run, **changes) -> None:
    """Change sections of config.json; None removes a section."""
    config = {**json.loads((run.folder / "config.json").read_text()), **changes}
    config = {name: section for name, section in config.items() if section is not None}
    (run.folder / "config.json").write_text(json.dumps(config))


# The folder


def test_new_run_is_empty(run):
    assert (run.name, run.kind, run.steps) == ("a", "AE", [])
    assert run.status()["state"] == "new" and run.events() == [] and run.history().empty
    assert run.tokenizer is None and Run(run.folder).config == run.config


def test_config_is_typed_and_keeps_unknown_sections(tmp_path):
    sections = CONFIG | {
        "training": {"steps": 5, "betas": (0.9, 0.95)},
        "data": {"source": "digits", "side": 8, "names": ["zero", "one"]},
        "tokenizer": {"run": "../b", "step": 3},
        "note": "mine",
    }
    config = Run.create(tmp_path / "a", sections).config
    assert config.class_path == CONFIG["class"] and config.settings["side"] == 8
    assert config.training == {"steps": 5, "betas": [0.9, 0.95]}
    assert (config.data.source, config.data.side, config.data.limit) == ("digits", 8, None)
    assert (config.tokenizer.run, config.tokenizer.step) == ("../b", 3)
    assert config.recipe is None and config.start is None and config.changes == {}
    stored = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config.to_dict() == stored and stored["note"] == "mine"
    assert RunConfig.from_dict(stored) == config


def test_config_without_a_class_is_refused(tmp_path):
    with pytest.raises(RunError, match="class"):
        Run.create(tmp_path / "a", {"settings": {}})
    assert not (tmp_path / "a").exists()


def test_existing_run_is_not_overwritten(run):
    with pytest.raises(RunError) as error:
        Run.create(run.folder, CONFIG)
    assert str(run.folder) in str(error.value)


def test_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for name in ("file", "file/a"):
        with pytest.raises(RunError, match=name):
            Run.create(tmp_path / name, CONFIG)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["two words", "überlauf", "<b>bold", "50% & more", "[a-z]*"])
def test_any_folder_name_works(tmp_path, name):
    Run.create(tmp_path / name, CONFIG).log(1, loss=0.5)
    assert [run.name for run in find_runs(tmp_path)[0]] == [name]
    assert Run(tmp_path / name).history()["loss"].tolist() == [0.5]


def test_find_runs_lists_valid_and_refused_runs(run, tmp_path):
    (tmp_path / "not a run").mkdir()
    Run.create(tmp_path / "b", CONFIG)
    edit_config(Run.create(tmp_path / "new", CONFIG), format=3)
    runs, refused = find_runs(tmp_path)
    assert [run.name for run in runs] == ["a", "b"]
    assert len(refused) == 1 and "new" in refused[0] and "format 3" in refused[0]
    assert [run.name for run in find_runs(run.folder)[0]] == ["a"]


def refusal(folder: Path) -> str:
    with pytest.raises(RunError) as error:
        Run(folder)
    return str(error.value)


def test_missing_run_suggests_the_closest_name(run, tmp_path):
    assert "`b`" in refusal(tmp_path / "b")
    Run.create(tmp_path / "softvq-4", CONFIG)
    assert "`softvq-4`" in refusal(tmp_path / "softvq4")
    assert "workbench train" in refusal(tmp_path / "nowhere" / "none")
    assert f"{run.folder}?" in refusal(run.folder / "config.json")
    assert "a, softvq-4" in refusal(tmp_path)


# Damage


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ('{"format": 1, "cla', "Unterminated"),
        ("[1]", "no format"),
        ("null", "no format"),
        ('{"class": "a:b", "settings": {}}', "no format"),
        ('{"format": "one", "class": "a:b", "settings": {}}', "no format"),
        ('{"format": 1}', "no class and no settings"),
        ('{"format": 1, "class": 3, "settings": {}}', "class: "),
        ('{"format": 2, "class": "a:b", "settings": {}, "data": {"side": "x"}}', "data.side: "),
        ('{"format": 3}', "format 3"),
    ],
)
def test_damaged_config_is_refused(run, text, reason):
    (run.folder / "config.json").write_text(text)
    message = refusal(run.folder)
    assert reason in message and str(run.folder) in message


@pytest.mark.parametrize("text", ["", "{", "3", "null", "[]", "{}", '[3, {}, {"id": 4}]'])
def test_damaged_status_or_control_file_counts_as_missing(run, text):
    (run.folder / "status.json").write_text(text)
    (run.folder / "control.json").write_text(text)
    assert run.status()["state"] == "new" and run.commands() == []
    assert run.ask("stop") == 1 and run.commands()[0]["command"] == "stop"


@pytest.mark.parametrize(
    ("name", "value"),
    [("step", "x"), ("steps", None), ("state", 3), ("weights", []), ("time", "now"), ("lr", "1")],
)
def test_status_of_wrong_types_is_refused(run, name, value):
    (run.folder / "status.json").write_text(json.dumps({"state": "running", name: value}))
    with pytest.raises(RunError, match=f"status.json is damaged .{name} "):
        run.status()


@pytest.mark.parametrize("name", ["step-000800 (copy)", "step-000800.bak", "step-000800-old"])
def test_copied_evidence_folders_are_ignored(run, name):
    for folder in ("step-000100", name):
        (run.folder / "evidence" / folder).mkdir(parents=True)
    (run.folder / "evidence" / "step-000900").write_text("a file")
    assert run.evidence_steps == [100]


def test_odd_names_of_checkpoints_are_ignored(run):
    for name in ("step-000100", "step-000100 (copy)", "step-²²²²²²"):
        (run.folder / f"{name}.safetensors").write_bytes(b"")
    assert run.steps == [100]
    assert RunFollower(run).snapshot().checkpoint_steps == (100,)


def test_fifo_is_no_checkpoint(run):
    os.mkfifo(run.folder / "step-000100.safetensors")
    with pytest.raises(RunError, match="not a regular file"):
        read_tensors(run.checkpoint())


def test_history_has_readable_times(run):
    append_record(run.folder / "log.jsonl", {"step": 10, "loss": 3.0, "time": 1_795_951_000.25})
    append_record(run.folder / "log.jsonl", {"step": 20, "loss": 2.0, "time": 1e300})
    times = run.history()["time"]
    assert str(times[0]) == "2026-11-29 11:16:40.250000+00:00" and pd.isna(times[1])


def test_table_counts_tokens_that_are_no_setting(soft):
    path = soft.folder / "config.json"
    config = json.loads(path.read_text())
    del config["settings"]["num_tokens"]
    path.write_text(json.dumps(config))
    assert Workspace(soft.folder.parent).table()["tokens"].tolist() == [4]


def test_torn_lines_are_skipped(run):
    run.log(1, loss=3.0)
    with (run.folder / "log.jsonl").open("a") as log:
        log.write('{"step": 2, "lo')
    assert run.history()["step"].tolist() == [1]
    run.log(3, loss=1.0)
    assert run.history()["step"].tolist() == [1, 3]
    append_record(run.folder / "events.jsonl", {"event": "started", "step": 0})
    append_record(run.folder / "events.jsonl", {"event": "without a step"})
    assert run.events() == [{"event": "started", "step": 0}]


def test_tail_reads_again_after_a_rewind(run):
    tail = JsonlTail(run.folder / "log.jsonl")
    assert tail.read() == []
    for step in (10, 20):
        run.log(step, loss=1.0)
    assert [record["step"] for record in tail.read()] == [10, 20]
    run.rewind(10)
    run.log(15, loss=0.5)
    assert [record["step"] for record in tail.read()] == [10, 15]


def test_rewind_removes_the_log_after_a_step(run):
    for step in (10, 20, 30):
        run.log(step, loss=1 / step)
    (run.folder / "log.jsonl").open("a").write('3\n{"note": "no step"}\n')
    run.rewind(20)
    assert run.history()["step"].tolist() == [10, 20]


def test_file_that_cannot_be_written_is_named(run):
    (run.folder / "events.jsonl").mkdir()
    with pytest.raises(RunError, match=r"events\.jsonl"):
        run.event("started", 0)
    (run.folder / "status.json").mkdir()
    with pytest.raises(RunError, match=r"status\.json"):
        run.report("running", 1)
    assert not list(run.folder.glob(".status*"))


def test_next_writer_removes_unfinished_checkpoints(run):
    unfinished = run.folder / ".step-000010.safetensors.123"
    unfinished.write_bytes(b"half")
    assert run.steps == []
    with run.writing():
        assert not unfinished.exists()


def test_run_that_cannot_be_locked_is_refused(run):
    (run.folder / ".lock").mkdir()
    with pytest.raises(RunError, match=str(run.folder)), run.writing():
        pass


# Status and commands


def state_of_writer(run: Run, **process) -> str:
    """The state of a run whose status names another process."""
    run.report("running", 7, steps=10)
    status = json.loads((run.folder / "status.json").read_text())
    (run.folder / "status.json").write_text(json.dumps(status | process))
    return run.status()["state"]


@pytest.mark.slow
def test_run_of_a_dead_process_is_interrupted(run):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    assert state_of_writer(run, pid=os.getpid()) == "running"
    assert state_of_writer(run, pid=dead.pid) == "interrupted"
    assert state_of_writer(run, pid="x") == "interrupted"
    assert (
        state_of_writer(run, born=1.0) == "interrupted"
    )  # the number was given to another process
    assert repr(run).endswith("AE, interrupted at step 7 of 10")


def test_status_of_format_1_has_no_comparable_start_time(run):
    assert state_of_writer(run, born="35763") == "running"


@pytest.mark.slow
def test_killed_process_counts_as_dead_before_its_parent_waits(run):
    script = (
        "import time; from workbench.storage.run import Run; "
        f"Run({str(run.folder)!r}).report('running', 7); print(flush=True); time.sleep(600)"
    )
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    writer.stdout.readline()
    assert run.status()["state"] == "running"
    writer.kill()
    wait_until(lambda: run.status()["state"] == "interrupted")
    writer.wait()


def test_remote_process_counts_as_alive_for_a_minute(run):
    other_host = socket.gethostname() + "-other"
    assert state_of_writer(run, host=other_host) == "running"
    assert state_of_writer(run, host=other_host, time=0) == "interrupted"


def test_commands_are_numbered_and_stored_until_received(run):
    assert [run.ask(command) for command in ("pause", "resume", "sample")] == [1, 2, 3]
    assert [command["command"] for command in run.commands()] == ["pause", "resume", "sample"]
    for _ in range(30):
        run.ask("sample")
    assert [command["id"] for command in run.commands()] == list(range(1, 34))
    run.report("running", 1, answered=33)
    assert run.ask("stop") == 34 and len(run.commands()) == 20
    with pytest.raises(UserError, match="`nonsense`"):
        run.ask("nonsense")


def test_numbers_of_commands_are_not_used_again(run):
    (run.folder / "control.json").write_text('[{"id": 7, "command": "pause"}]')  # of format 1
    assert run.ask("stop") == 8
    assert [command["id"] for command in run.commands()] == [7, 8]
    run.report("running", 1, answered=8)
    shutil.rmtree(run.folder / "control")
    (run.folder / "control.json").write_text("torn")
    assert run.ask("stop") == 9
    (run.folder / "control" / "000009.json").write_text("torn")
    assert run.ask("stop") == 10 and [command["id"] for command in run.commands()] == [10]


@pytest.mark.parametrize(
    "value",
    [10**400, 10**5000, [10**5000], float("nan"), float("inf"), "1e999", -1, True, "x"],
    ids=range(9),  # pytest cannot print the largest
)
def test_multiplier_is_a_finite_number(run, value):
    with pytest.raises(UserError) as error:
        run.ask("lr", value=value)
    assert len(str(error.value)) < 200 and run.commands() == []


SENDER = """
import sys
from workbench.storage.run import Run
run = Run(sys.argv[1])
sys.stdin.readline()
print(*[run.ask("sample") for _ in range(20)])
"""


@pytest.mark.slow
def test_concurrent_commands_are_all_stored(run):
    words = [sys.executable, "-c", SENDER, str(run.folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    senders = [subprocess.Popen(words, **pipes) for _ in range(6)]
    for sender in senders:
        sender.stdin.write("\n")
        sender.stdin.flush()
    numbers = [int(word) for sender in senders for word in sender.communicate()[0].split()]
    assert sorted(numbers) == list(range(1, 121))
    assert [command["id"] for command in run.commands()] == list(range(1, 121))


# Checkpoints


def test_loaded_weights_equal_the_saved_ones(run):
    torch.manual_seed(1)
    model, ema = run.build(), run.build()
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in ema.state_dict().items()}
    run.save(10, tensors)
    assert run.steps == [10] and not run.load().training
    for saved, averaged in ((model, False), (ema, True)):
        loaded = run.load(averaged=averaged).state_dict()
        assert loaded.keys() == saved.state_dict().keys()
        assert all(torch.equal(loaded[name], value) for name, value in saved.state_dict().items())
    name = "encoder.embed.weight"
    weights = run.load(averaged=False).state_dict()[name]
    assert not torch.equal(run.load().state_dict()[name], weights)


def test_only_complete_checkpoints_count(soft):
    assert soft.steps == [30, 60]
    assert soft.checkpoint().name == "step-000060.safetensors" == soft.checkpoint(60).name
    names = (".step-000090.safetensors.12", "step-90.safetensors", "step-000090.safetensors.part")
    for name in names:
        (soft.folder / name).write_bytes(b"")
    assert soft.steps == [30, 60]
    with pytest.raises(RunError, match="step 45.* 30, 60"):
        soft.load(45)
    for path in soft.folder.glob("step-*"):
        path.unlink()
    with pytest.raises(RunError, match=r"step-\*\.safetensors"):
        collect(soft)


def test_damaged_checkpoint_is_named(soft):
    content = soft.checkpoint().read_bytes()
    for damaged in (b"", b"junk", content[:1000], content[:-1000]):
        soft.checkpoint().write_bytes(damaged)
        with pytest.raises(RunError, match=r"step-000060\.safetensors is damaged"):
            soft.load()
    assert soft.load(30) is not None


def test_checkpoint_of_another_model_is_refused(soft):
    edit_config(soft, settings=soft.config.settings | {"width": 64})
    with pytest.raises(RunError, match=r"step-000060\.safetensors .*softvq:SoftVQ"):
        Run(soft.folder).load()


def test_foreign_modules_are_imported_only_if_named(soft, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from workbench.tokenizers.softvq import SoftVQ as Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    edit_config(soft, **{"class": "mine:Mine"})
    foreign = Run(soft.folder)
    with pytest.raises(RunError, match=r"mine:Mine.*--trust mine"):
        foreign.load()
    assert "mine" not in sys.modules
    name = "encoder.embed.weight"
    stored = read_tensors(foreign.checkpoint())["ema"][name]
    assert torch.equal(foreign.load(trust=["mine"]).state_dict()[name], stored)


@pytest.mark.parametrize(
    "changes",
    [
        {"class": "workbench.tokenizers.softvp:SoftVQ"},
        {"class": "workbench.tokenizers.softvq:Sovtvq"},
        {"class": "workbench.tokenizers.softvq"},
        {"settings": {"sides": 8}},
    ],
)
def test_class_or_setting_that_does_not_exist_is_refused(soft, changes):
    edit_config(soft, **changes)
    with pytest.raises(RunError, match=changes.get("class", "sides")):
        Run(soft.folder).build()


# Evidence, and the tokenizer of a generator


def test_missing_evidence_names_the_command(run, trained):
    with pytest.raises(RunError, match=f"workbench collect {run.folder}"):
        run.evidence()
    with pytest.raises(RunError, match="step 30"):
        Run(trained / "soft-4").evidence(30)


def test_last_evidence_has_the_largest_step(soft):
    evidence = soft.folder / "evidence"
    for step in (999_999, 1_000_000):
        copied = Path(shutil.copytree(evidence / "step-000060", evidence / f"step-{step}"))
        text = (copied / "provenance.json").read_text()
        (copied / "provenance.json").write_text(text.replace('"step": 60', f'"step": {step}', 1))
    (evidence / ".step-2000000.17").mkdir()  # still being written
    assert soft.evidence().step == 1_000_000 and soft.evidence(60).step == 60


def test_run_without_data_cannot_be_collected(soft):
    edit_config(soft, data=None)
    with pytest.raises(RunError, match=r"config\.json"):
        collect(Run(soft.folder))


def test_generator_and_tokenizer_may_move_together(trained, tmp_path):
    moved = Path(shutil.copytree(trained, tmp_path / "elsewhere"))
    assert Run(moved / "flow").config.tokenizer.run == "../soft-4"
    tokenizer = Run(moved / "flow").tokenizer
    assert tokenizer.folder == moved / "soft-4" and tokenizer.steps == [30, 60]


def test_generator_without_its_tokenizer_is_refused(trained, tmp_path):
    shutil.copytree(trained / "flow", tmp_path / "flow")
    shutil.copytree(trained / "plain", tmp_path / "plain")
    with pytest.raises(RunError, match="flow .*soft-4"):
        collect(Run(tmp_path / "flow"))
    runs, (refused,) = find_runs(tmp_path)
    assert [run.name for run in runs] == ["plain"] and "soft-4" in refused


def test_sizes_that_the_checkpoint_does_not_have_are_refused_without_memory(soft):
    settings = json.loads((soft.folder / "config.json").read_text())["settings"]
    edit_config(soft, settings=settings | {"width": 10**8})  # several petabytes
    with pytest.raises(RunError):
        Run(soft.folder).load()


def test_linked_generator_has_the_tokenizer_next_to_it_and_not_next_to_the_link(tmp_path):
    config = {"class": "m:A", "settings": {}}
    reference = {"run": "../tokenizer", "step": None}
    for experiment in ("one", "two"):
        Run.create(tmp_path / experiment / "tokenizer", config)
        Run.create(tmp_path / experiment / "generator", config | {"tokenizer": reference})
    (tmp_path / "compared").mkdir()
    (tmp_path / "compared" / "tokenizer").symlink_to(tmp_path / "one" / "tokenizer")
    (tmp_path / "compared" / "generator").symlink_to(tmp_path / "two" / "generator")
    linked = Run(tmp_path / "compared" / "generator")
    assert linked.tokenizer.folder == (tmp_path / "two" / "tokenizer").resolve()
