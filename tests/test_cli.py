"""The command line: commands, help, and one sentence for each mistake."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import workbench
from workbench import cli
from workbench.core.progress_bar import progress_bar
from workbench.launch.recipes import SYSTEMS
from workbench.launch.settings import recipe_settings_list
from workbench.launch.trainables import recipe_names
from workbench.storage.run import Run

TINY = [
    "--width",
    "16",
    "--depth",
    "1",
    "--codebook-size",
    "16",
    "--batch-size",
    "16",
    "--warmup-steps",
    "5",
]
COMMANDS = (
    "train",
    "collect",
    "adm-batch",
    "evaluate",
    "report",
    "sweep",
    "gallery",
    "dashboard",
    "watch",
    "doctor",
)


def run_process(*command: str, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess:
    """Run Python in a process of its own, as a shell does."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(workbench.__file__).parents[1]),
        "COLUMNS": "120",
    }
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Run a command line in this process; return its exit code and everything it prints."""

    def invoke(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["workbench", *map(str, words)])
        with pytest.raises(SystemExit) as exit_request:
            cli.main()
        code = exit_request.value.code
        out, err = capsys.readouterr()
        return (1, out + err + code) if isinstance(code, str) else (code, out + err)

    return invoke


def assert_refused(result: tuple[int, str], *names: str) -> None:
    code, text = result
    assert code not in (0, None) and "Traceback" not in text
    assert all(name in text for name in names), text


def test_names_cannot_control_the_terminal(command_line, tmp_path):
    code, text = command_line("watch", tmp_path / "\x1b]0;title\x07\u202e")
    assert code == 1 and r"\x1b]0;title\x07\u202e" in text
    assert text.replace("\n", "").isprintable()


def test_processes_of_commands_ignore_the_current_folder(monkeypatch):
    values = []
    monkeypatch.setattr(cli, "app", lambda: values.append(os.environ.get("PYTHONSAFEPATH")))
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    cli.main()
    assert values == ["1"] and "PYTHONSAFEPATH" not in os.environ


# Commands


@pytest.mark.slow
def test_commands_work_in_a_shell(tmp_path):
    def workbench_(line: str, *more: str) -> str:
        done = run_process("-m", "workbench", *line.split(), *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    output = workbench_(
        "train softvq-digits --out runs/a --steps 40 --save-every 20 --num-tokens 4 --no-collect",
        *TINY,
    )
    assert "runs/a: 40 steps" in output and "workbench dashboard runs" in output
    assert sorted(path.name for path in (tmp_path / "runs/a").glob("step-*")) == [
        "step-000020.safetensors",
        "step-000040.safetensors",
    ]
    output = workbench_("collect runs/a --limit 50")
    assert output.startswith("Evidence of a at step 40: images 50x8x8x1")
    assert workbench_("watch runs/a") == "Run('runs/a'): SoftVQ, finished at step 40 of 40\n"
    write_template(tmp_path / "mine.ipynb")
    output = workbench_("report mine.ipynb --run runs/a --out mine.html")
    assert output == f"{tmp_path / 'mine.html'}\n"
    assert "SoftVQ, finished at step 40" in (tmp_path / "mine.html").read_text()
    rows = workbench_("doctor").splitlines()
    names = ("python", "torch", "cores", "accelerator", "this folder", "Inception-v3", "VGG-16")
    assert all(any(row.startswith(name) for row in rows) for name in names)


KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def write_template(path: Path) -> None:
    """Write a notebook with a cell of parameters."""
    sources = [
        ('seed: int = 0\nrun: str = ""', ["parameters"]),
        ("from workbench import Run\nprint(Run(run))", []),
    ]
    code = {"cell_type": "code", "outputs": [], "execution_count": None}
    cells = [{**code, "source": text, "metadata": {"tags": tags}} for text, tags in sources]
    notebook = {
        "cells": cells,
        "metadata": {"kernelspec": KERNEL},
        "nbformat": 4,
        "nbformat_minor": 4,
    }
    path.write_text(json.dumps(notebook))


def test_settings_may_use_underscores(command_line, tmp_path):
    small = ("--steps", "2", "--width", "8", "--depth", "1", "--no-collect")
    code, text = command_line(
        "train", "ae-digits", "--out", tmp_path / "a", "--save_every", "1", *small
    )
    assert code == 0 and Run(tmp_path / "a").steps == [1, 2], text


def test_positional_argument_given_as_an_option_is_refused(command_line, tmp_path):
    result = command_line("train", "ae-digits", "--out", tmp_path / "b", "--recipe", "ae-photos")
    assert_refused(result, "RECIPE", "workbench train ae-photos")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command_line, command):
    code, text = command_line(command, "--help")
    description = text.partition("Usage")[2].partition("\n")[2]
    assert code == 0 and f"workbench {command}" in description


def test_help_lists_recipes_and_commands(command_line):
    _, text = command_line("train", "--help")
    assert all(recipe in text for recipe in recipe_names())
    _, text = command_line("--help")
    assert all(command in text for command in COMMANDS)


def test_help_of_a_recipe_lists_its_settings_with_defaults(command_line):
    code, text = command_line("train", "softvq-digits", "--help")
    flat = " ".join(text.split())
    assert code == 0
    assert "--num-tokens INTEGER Latent tokens per image. [default: 8]" in flat
    assert "--betas NUMBER,..." in text and "[default: 0.9,0.95]" in flat
    assert "[default: digits]" in flat and "--logits cosine|distance" in text
    code, _ = command_line("train", "softvq-digts", "--help")
    assert code != 0


def test_help_of_a_report_lists_its_parameters(command_line):
    code, text = command_line("report", "comparison", "--help")
    assert code == 0 and "--compare-with TEXT,..." in text and "--conclusion" in text
    assert "One of: best generation," in " ".join(text.split())


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_setting_is_described(system):
    undescribed = [s.name for s in recipe_settings_list(f"{system}-digits") if not s.description]
    assert undescribed == []


def test_progress_in_a_file_is_a_line_each():
    file = io.StringIO()
    with progress_bar(total=4, desc="a", unit="step", file=file) as bar:
        bar.mininterval = 0
        for _ in range(4):
            bar.update()
    lines = file.getvalue().split("\n\n")[0].splitlines()
    assert lines[-1].startswith("a: 4 of 4 steps, 100 %")
    assert len(lines) >= 2 and "\r" not in file.getvalue()


def test_watch_prints_the_status_and_sends_commands(command_line, tmp_path):
    run = Run.create(tmp_path / "a", {"class": "workbench.tokenizers.ae:AE", "settings": {}})
    status = f"Run('{run.folder}'): AE, new at step 0 of 0\n"
    assert command_line("watch", run.folder, "--once") == (0, status)
    code, text = command_line("watch", run.folder, "--ask", "sample")
    assert code == 0 and run.commands()[0]["command"] == "sample"
    assert "command 1 (sample)" in text
    code, text = command_line("watch", run.folder, "--value", "0.5")
    assert code == 1 and "--ask" in text


# Mistakes


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("trian", "'train'"),
        ("train softvq-digit --out {new}", "`softvq-digits`"),
        ("train softvq-digits --out {new} --num-tokns 3", "`num_tokens`"),
        ("train softvq-digits --out {new} --lr", "--lr 1"),
        ("train softvq-digits --out {new} --lr nan", "`nan`"),
        ("train softvq-digits --out {new} lr 3", "`lr`"),
        ("train softvq-digits --out {new} --steps abc", "'--steps'"),
        ("train softvq-digits --out {new} --codebook-size 0", "codebook_size"),
        ("train softvq-digits", "'--out'"),
        ("train softvq-digits --out {run}/config.json", "config.json"),
        ("train sit-digits --out {new} --tokenizer {run}-9", "`soft-4-9`"),
        ("collect", "'RUN'"),
        ("collect {new}", "`new`"),
        ("collect {run} --step 45", "30, 60"),
        ("collect {run} --limit 0", "'--limit'"),
        ("collect {run} --limt 3", "--limit"),
        ("report tokeniser --run {run}", "`tokenizer`"),
        ("report tokenizer --rum {run}", "`run`"),
        ("report tokenizer --run {new}", "`new`"),
        ("report tokenizer --run {run} --out {run}", "directory"),
        ("report tokenizer --run {run} --out {run}/config.json/page.html", "config.json"),
        ("watch {run} --ask nonsense", "`nonsense`"),
        ("watch {new}", "`new`"),
        ("dashboard {run}/config.json --no-browser", "config.json"),
        ("dashboard {run} --port 99999", "'--port'"),
        ("dashboard {run} --no-browser --port 8797 --address 1.2.3.4.5", "1.2.3.4.5, port 8797"),
        ("doctor now", "now"),
    ],
)
def test_mistake_ends_in_one_sentence(trained, command_line, line, name):
    before = sorted(trained.rglob("*"))
    paths = {"new": trained / "new", "run": trained / "soft-4"}
    assert_refused(command_line(*(word.format(**paths) for word in line.split())), name)
    assert sorted(trained.rglob("*")) == before


def test_run_without_evidence_or_checkpoint_is_refused(command_line, tmp_path):
    folder = tmp_path / "two words"
    Run.create(folder, {"class": "workbench.tokenizers.ae:AE", "settings": {}})
    result = command_line("report", "tokenizer", "--run", folder)
    assert_refused(result, f"workbench collect {folder}")
    assert_refused(command_line("collect", folder), "step-*.safetensors")


def test_damaged_run_is_refused_by_every_command(command_line, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text("[1, 2]")
    for line in (
        "collect {}",
        "watch {}",
        "report tokenizer --run {}",
        "train ae-digits --out {}",
        "dashboard {}",
    ):
        assert_refused(command_line(*line.format(tmp_path / "a").split()), "config.json is damaged")


def test_missing_package_names_the_install_command(command_line, monkeypatch, tmp_path):
    (tmp_path / "template.ipynb").write_text("{}")
    monkeypatch.setitem(sys.modules, "papermill", None)
    result = command_line("report", tmp_path / "template.ipynb")
    assert_refused(result, "papermill", "pip install 'visual-tokenizer-workbench[")


@pytest.mark.parametrize("allocate", [np.empty, torch.empty])
def test_too_little_memory_is_refused(command_line, monkeypatch, allocate):
    monkeypatch.setattr(cli, "app", lambda: allocate(2**50))
    assert_refused(command_line(), "memory")


def test_folder_of_too_many_levels_is_refused(command_line, tmp_path):
    folder = tmp_path.joinpath(*["d"] * 1950)
    assert_refused(command_line("train", "ae-digits", "--out", folder))


# Ctrl-C (see also test_training.py)

INTERRUPTED = """
import os, signal, sys

# A background shell starts its children with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

module = sys.argv.pop(1)

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from workbench.cli import main
main()
"""


def interrupted_at(module: str, line: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run a command line that receives Ctrl-C when it imports a module."""
    done = run_process("-c", INTERRUPTED, module, *line.split(), cwd=cwd)
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.slow
def test_ctrl_c_before_the_first_step_saves_a_checkpoint(tmp_path):
    """`fit` imports accelerate before it reads commands; an earlier command must not be lost."""
    line = "train ae-digits --out a --steps 400 --width 16 --depth 1"
    done = interrupted_at("accelerate", line, tmp_path)
    assert "step 10 of 400" in done.stderr
    run = Run(tmp_path / "a")
    assert run.status()["state"] == "stopped" and run.steps == [10] and run.load() is not None


@pytest.mark.slow
def test_ctrl_c_leaves_only_complete_files(trained, tmp_path):
    done = interrupted_at("workbench.data.bundled", "train ae-digits --out a", tmp_path)
    assert done.stderr.startswith("workbench: Interrupted.") and list(tmp_path.iterdir()) == []
    before = sorted(trained.rglob("*"))
    line = f"collect {trained / 'plain'}"
    done = interrupted_at("workbench.data.bundled", line, tmp_path)
    assert done.stderr.startswith("workbench: Interrupted.")
    assert sorted(trained.rglob("*")) == before and Run(trained / "plain").evidence().step == 60


# What surrounds the process


@pytest.mark.slow
def test_terminal_that_cannot_show_a_path_shows_numbers(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    folder = tmp_path / "runs→"
    folder.mkdir()
    done = run_process("-m", "workbench", "list", str(folder), cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "" and r"\u2192" in done.stdout


@pytest.mark.slow
def test_deleted_working_folder_is_refused(tmp_path):
    (tmp_path / "gone").mkdir()
    code = "import os; os.rmdir(os.getcwd()); from workbench.cli import main; main()"
    done = run_process("-c", code, "train", "ae-digits", cwd=tmp_path / "gone")
    assert done.returncode == 1 and done.stderr.startswith("workbench: ")
    assert len(done.stderr.splitlines()) == 1
