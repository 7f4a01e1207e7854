"""Tests of the README: its Python runs, and its commands, files and recipes exist."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition("#")[0].strip().removeprefix(".venv/bin/")
    for block in re.findall(r"```\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    if re.match(r"(\.venv/bin/)?(workbench|make) ", line)
]


def without_numbers(text: str) -> str:
    """Return the text with its numbers replaced, which differ a little between machines."""
    return re.sub(r"\d[\d,.]*\b", "#", text)


def test_demo_and_test_are_the_first_commands():
    assert COMMANDS[:2] == ["make demo", "make test"]


@pytest.mark.slow
@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
def test_every_python_block_runs(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out.strip().splitlines()[-1]
    assert without_numbers(printed) in without_numbers(" ".join(TEXT.split()))


def test_readme_is_short():
    assert len(TEXT.splitlines()) <= 200


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_every_make_command_has_a_target(command):
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("workbench")])
def test_every_workbench_command_parses(command):
    """The command and every option that it names exist."""
    import typer

    from workbench.cli import app

    group = typer.main.get_command(app)
    name, *words = shlex.split(command)[1:]
    context = group.commands[name].make_context(name, words)
    if name == "report":
        from workbench.hosts.reports.report import find_template, parameters_of

        known = {
            parameter.name for parameter in parameters_of(find_template(context.params["template"]))
        }
        assert {word.removeprefix("--") for word in context.args if word.startswith("--")} <= known


def test_named_files_exist():
    package = [p for p in re.findall(r"`([\w/]+\.py)`", TEXT) if p != "ae.py"]
    assert package and all((ROOT / "workbench" / path).exists() for path in package)
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    assert pictures and all((ROOT / path).exists() for path in pictures)
    assert (ROOT / "notebooks" / "0_first_run.ipynb").exists()


def test_named_recipes_exist():
    from workbench.launch.recipes import RECIPES

    assert set(re.findall(r"train (\w+-\w+)", TEXT)) <= set(RECIPES)


def test_table_lists_every_system():
    from workbench.launch.recipes import SYSTEMS

    table = TEXT.partition("## What can be trained")[2].partition("Data:")[0]
    named = [
        name
        for line in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", line)
    ]
    assert sorted(named) == sorted(SYSTEMS)


def test_table_lists_the_runs_of_the_demo():
    makefile = (ROOT / "Makefile").read_text()
    table = TEXT.partition("After `make demo`")[2].partition("## ")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE) == re.findall(
        r"--out \$\(RUNS\)/(\S+)", makefile
    )
