"""The command line as it is typed: guessable words, examples in every help, and one sentence for each mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import workbench
from workbench import cli
from workbench.launch.recipes import RECIPES
from workbench.storage.run import Run

TINY = ["--width", "16", "--depth", "1", "--codebook-size", "16", "--batch-size", "16", "--warmup-steps", "5"]
COMMANDS = ("train", "collect", "report", "sweep", "gallery", "dashboard", "watch", "doctor")


def run_alone(*command: str, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess:
    """A process of its own, as from a shell."""
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
def typed(monkeypatch, capsys):
    """What a command line ends with: its exit code, and all it said."""

    def type_in(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["workbench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code, (out, err) = ended.value.code, capsys.readouterr()
        return (1, out + err + code) if isinstance(code, str) else (code, out + err)

    return type_in


def refused(ended: tuple[int, str], *said: str) -> bool:
    code, text = ended
    assert code not in (0, None) and "Traceback" not in text
    missing = [some for some in said if some not in text]
    assert not missing, text
    return True


# The words


def test_train_collect_report_watch_and_doctor_as_they_are_typed(tmp_path):
    def workbench_(line: str, *more: str) -> str:
        done = run_alone("-m", "workbench", *line.split(), *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = workbench_(
        "train softvq-digits --out runs/a --steps 40 --save-every 20 --num-tokens 4 --no-collect",
        *TINY,
    )
    assert said == "runs/a is trained: 40 steps. Look at it with: workbench dashboard runs\n"
    assert sorted(p.name for p in (tmp_path / "runs/a").glob("step-*")) == [
        "step-000020.safetensors",
        "step-000040.safetensors",
    ]
    said = workbench_("collect runs/a --limit 50")
    assert said.startswith(
        "Evidence of a at step 40: images 50x8x8x1, reconstructions 50x8x8x1, latents 50x4x8"
    )
    assert workbench_("watch runs/a") == "Run('runs/a'): SoftVQ, finished at step 40 of 40\n"
    write_template(tmp_path / "mine.ipynb")
    assert (
        workbench_("report mine.ipynb --run runs/a --out mine.html")
        == f"{tmp_path / 'mine.html'}\n"
    )
    assert "SoftVQ, finished at step 40" in (tmp_path / "mine.html").read_text()
    said = workbench_("doctor")
    assert all(
        word in said
        for word in ("python", "torch", "cores", "accelerator", "this folder        writable")
    )


PYTHON = {"name": "python3", "display_name": "Python 3", "language": "python"}


def write_template(path: Path) -> None:
    cells = [
        ('seed: int = 0\nrun: str = ""', ["parameters"]),
        ("from workbench import Run\nprint(Run(run))", []),
    ]
    code = {"cell_type": "code", "outputs": [], "execution_count": None}
    told = [{**code, "source": text, "metadata": {"tags": tags}} for text, tags in cells]
    path.write_text(
        json.dumps(
            {"cells": told, "metadata": {"kernelspec": PYTHON}, "nbformat": 4, "nbformat_minor": 4}
        )
    )


def test_settings_may_be_spelt_as_in_python_and_an_argument_is_no_setting(typed, tmp_path):
    small = ("--steps", "2", "--width", "8", "--depth", "1", "--no-collect")
    code, said = typed("train", "ae-digits", "--out", tmp_path / "a", "--save_every", "1", *small)
    assert code == 0 and Run(tmp_path / "a").steps == [1, 2], said
    code, said = typed("train", "ae-digits", "--out", tmp_path / "b", "--recipe", "ae-photos")
    assert code == 1 and "--recipe is no setting; recipe is written without its name" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_shows_an_example(typed, command):
    code, said = typed(command, "--help")
    assert code == 0 and f"workbench {command}" in said.partition("Usage")[2].partition("\n")[2]


def test_the_help_of_train_lists_every_recipe_and_that_of_workbench_every_command(typed):
    _, said = typed("train", "--help")
    assert all(recipe in said for recipe in RECIPES)
    _, said = typed("--help")
    assert all(command in said for command in COMMANDS)


def test_watch_tells_and_asks(typed, tmp_path):
    run = Run.create(tmp_path / "a", {"class": "workbench.tokenizers.ae:AE", "settings": {}})
    assert typed("watch", run.folder, "--once") == (
        0,
        f"Run('{run.folder}'): AE, new at step 0 of 0\n",
    )
    code, said = typed("watch", run.folder, "--ask", "sample")
    assert (
        code == 0
        and run.commands()[0]["command"] == "sample"
        and "it answers within a second if it is running (request 1)" in said
    )


# Mistakes


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("trian", "Did you mean 'train'?"),
        ("train softvq-digit --out {new}", "Did you mean `softvq-digits`?"),
        ("train softvq-digits --out {new} --tokns 3", "Did you mean `tokens`?"),
        ("train softvq-digits --out {new} --lr", "--lr needs a value, as in --lr 1"),
        ("train softvq-digits --out {new} --lr nan", "lr takes a number; got `nan`"),
        ("train softvq-digits --out {new} lr 3", "`lr` is not a setting; write --name value"),
        ("train softvq-digits --out {new} --steps abc", "'--steps'"),
        (
            "train softvq-digits --out {new} --codebook-size 0",
            "num_codebooks and codebook_size must be at least 1; got 1 and 0",
        ),
        ("train softvq-digits", "Missing option '--out'"),
        ("train softvq-digits --out {run}/config.json", "config.json cannot become a folder"),
        ("train sit-digits --out {new} --tokenizer {run}-9", "There is no run `soft-4-9`"),
        ("collect", "Missing argument 'RUN'"),
        ("collect {new}", "There is no run `new`; in"),
        ("collect {run} --step 45", "has no checkpoint of step 45; it has 30, 60"),
        ("collect {run} --limit 0", "'--limit'"),
        ("collect {run} --limt 3", "--limit"),
        ("report tokeniser --run {run}", "Did you mean `tokenizer`?"),
        ("report tokenizer --rum {run}", "Did you mean `run`?"),
        ("report tokenizer --run {new}", "There is no run `new`"),
        ("report tokenizer --run {run} --out {run}", "is a directory"),
        (
            "report tokenizer --run {run} --out {run}/config.json/page.html",
            "config.json is a file where a folder is",
        ),
        (
            "watch {run} --ask nonsense",
            "There is no command `nonsense`; there is evaluate, lr, pause, resume",
        ),
        ("watch {new}", "There is no run `new`"),
        (
            "dashboard {run}/config.json --no-browser",
            "config.json is a file, and a run is a folder",
        ),
        ("dashboard {run} --port 99999", "'--port'"),
        (
            "dashboard {run} --no-browser --port 8797 --address 1.2.3.4.5",
            "Nothing can listen at 1.2.3.4.5, port 8797",
        ),
        ("doctor now", "now"),
    ],
)
def test_a_mistake_ends_in_a_sentence_and_writes_nothing(trained, typed, line, said):
    before = sorted(trained.rglob("*"))
    places = {"new": trained / "new", "run": trained / "soft-4"}
    assert refused(typed(*(word.format(**places) for word in line.split())), said)
    assert sorted(trained.rglob("*")) == before


def test_a_run_without_evidence_or_checkpoint_says_what_to_do_first(typed, tmp_path):
    Run.create(tmp_path / "two words", {"class": "workbench.tokenizers.ae:AE", "settings": {}})
    evidence = f"has no evidence yet. Make it with: workbench collect {tmp_path}/two words"
    assert refused(typed("report", "tokenizer", "--run", tmp_path / "two words"), evidence)
    assert refused(
        typed("collect", tmp_path / "two words"), "has no step-*.safetensors yet. Train it, or wait"
    )


def test_a_damaged_run_is_refused_by_every_command_that_opens_one(typed, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text("[1, 2]")
    for line in (
        "collect {}",
        "watch {}",
        "report tokenizer --run {}",
        "train ae-digits --out {}",
        "dashboard {}",
    ):
        ended = typed(*line.format(tmp_path / "a").split())
        assert refused(
            ended, "config.json is damaged (it does not say its format). Restore it from a copy"
        )


def test_a_missing_package_is_named_with_the_command_that_installs_it(typed, monkeypatch, tmp_path):
    (tmp_path / "template.ipynb").write_text("{}")
    monkeypatch.setitem(sys.modules, "papermill", None)
    monkeypatch.delitem(sys.modules, "workbench.hosts.reports.report", raising=False)
    ended = typed("report", tmp_path / "template.ipynb")
    assert refused(
        ended, "this needs papermill, which is not installed: pip install 'workbench[all]'"
    )


# Ctrl-C. Of `train`, see also test_train.py.

INTERRUPTED = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts its children deaf to it

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
    """A command line that gets Ctrl-C when it is about to import a module."""
    done = run_alone("-c", INTERRUPTED, module, *line.split(), cwd=cwd)
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr
    return done


def test_ctrl_c_before_training_is_under_way_still_stops_it_with_a_checkpoint(tmp_path):
    """`fit` imports accelerate before it looks for requests; what was asked then must not be forgotten."""
    done = interrupted_at(
        "accelerate", "train ae-digits --out a --steps 400 --width 16 --depth 1", tmp_path
    )
    assert "Stopping with a checkpoint" in done.stderr
    assert "Stopped at step 10 of 400; the same command goes on from there." in done.stderr
    run = Run(tmp_path / "a")
    assert run.status()["state"] == "stopped" and run.steps == [10] and run.load() is not None


def test_ctrl_c_elsewhere_ends_in_a_sentence_and_nothing_is_half_written(trained, tmp_path):
    said = "workbench: Interrupted; files are whole or not there, and the same command can be given again.\n"
    done = interrupted_at("workbench.data.bundled", "train ae-digits --out a", tmp_path)
    assert done.stderr == said and list(tmp_path.iterdir()) == []
    before = sorted(trained.rglob("*"))
    assert (
        interrupted_at("workbench.data.bundled", f"collect {trained / 'plain'}", tmp_path).stderr
        == said
    )
    assert sorted(trained.rglob("*")) == before and Run(trained / "plain").evidence().step == 60
