"""Tests of the documentation: its Python runs, and its commands, links and tables are right."""

import re
import shlex
from pathlib import Path

import forked_python
import pytest
import typer

from workbench.cli import app
from workbench.hosts.reports.report import find_template, parameters_of
from workbench.launch.trainables import recipe_names

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
GENERATED = {"_build", "_generated", "notebooks"}
TRAINING_STEPS = 10
PAGES = [
    path for path in sorted(DOCS.rglob("*.md")) if not GENERATED & set(path.relative_to(DOCS).parts)
]


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).with_suffix("").as_posix()


def python_of(page: Path) -> str:
    """The complete Python blocks of a page, one after the other."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return "\n".join(block for block in blocks if "..." not in block)


def shortened(python: str) -> str:
    """The Python of a page with trainings of a few steps."""
    python = re.sub(r"steps=\d+", f"steps={TRAINING_STEPS}", python)
    call = r"(wb\.train\((?:(?!steps=)[^()\n])*)\)"
    return re.sub(call, rf"\1, steps={TRAINING_STEPS})", python)


def commands_of(page: Path) -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(("workbench ", "torchrun ", "make "))]


COMMANDS = [(page, command) for page in PAGES for command in commands_of(page)]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if python_of(page)], ids=name_of)
def test_python_of_page_runs(page, tmp_path):
    script = tmp_path / "page.py"
    script.write_text(shortened(python_of(page)), encoding="utf-8")
    code = f"import runpy\nrunpy.run_path({script.name!r}, run_name='__main__')"
    forked_python.run(code, folder=tmp_path)


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[c for _, c in COMMANDS])
def test_command_of_page_is_valid(page, command):
    command = command.partition(" -m ")[2] or command
    program, name, *words = shlex.split(command)
    if program == "make":
        assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    group = typer.main.get_command(app)
    context = group.commands[name].make_context(name, words)
    if name == "train":
        assert context.params["class_path"] or context.params["recipe"] in recipe_names()
    if name in ("report", "sweep"):
        template = find_template(context.params["template"])
        parameters = {parameter.name for parameter in parameters_of(template)}
        words = [word.removeprefix("--") for word in context.args if word.startswith("--")]
        options = {word.replace("-", "_") for word in words}
        assert options <= parameters


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_of_page_exist(page):
    text = page.read_text(encoding="utf-8")
    files = re.findall(r"`((?:workbench|tests|docs|benchmarks)/[\w/.-]+)`", text)
    missing = [file for file in files if not (ROOT / file).exists()]
    assert not missing


def test_glossary_is_sorted():
    text = (DOCS / "concepts" / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^(\w[^\n]*)\n    ", text, re.MULTILINE)
    assert terms == sorted(terms, key=str.lower)
