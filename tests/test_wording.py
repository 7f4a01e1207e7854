"""Snapshot of the sentences that users read.

A change of wording is one reviewed diff (`make wording`). Numbers are replaced by `#`.
"""

import re

import pytest
import typer
from test_analysis_contract import NAMES, several
from typer.testing import CliRunner

from workbench.analysis import get
from workbench.cli import app
from workbench.core.errors import UserError
from workbench.storage.evidence import kwargs_for


def words(text: str) -> str:
    """Remove numbers and terminal markup from a text."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return re.sub(r"(?<![\w.-])[-+]?\d+(,\d{3})*(\.\d+)?(e[-+]?\d+)?", "#", plain)


def labels(figure) -> list[str]:
    """Return the texts of a figure: title, axes, annotations and legend."""
    layout = figure.layout
    texts = [layout.title.text, layout.title.subtitle.text]
    texts += [axis.title.text for axis in (*figure.select_xaxes(), *figure.select_yaxes())]
    texts += [note.text for note in layout.annotations]
    texts += [trace.name for trace in figure.data if trace.to_plotly_json().get("showlegend", True)]
    return [words(text) for text in dict.fromkeys(text for text in texts if text)]


@pytest.mark.parametrize("name", NAMES)
def test_analysis(name, snapshot):
    analysis = get(name)
    result = analysis(**kwargs_for(analysis, several(60)))
    assert {
        "summary": words(result.summary()),
        "columns": [words(str(column)) for column in result.table().columns],
        "figure": labels(result.figure()),
    } == snapshot


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_analysis_of_few_images(name, n, snapshot):
    analysis = get(name)
    try:
        analysis(**kwargs_for(analysis, several(n)))
        message = "works"
    except UserError as error:
        message = words(str(error))
    assert message == snapshot


COMMANDS = sorted(typer.main.get_command(app).commands)


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_command_help(command, snapshot):
    arguments = ["--help"] if command is None else [command, "--help"]
    result = CliRunner().invoke(
        app, arguments, env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    )
    assert re.sub(r"[ ─]+", " ", words(result.output)).splitlines() == snapshot


def refusals() -> dict[str, object]:
    """Return mistakes of a user in training and opening runs, each as a function."""
    from workbench.data import load
    from workbench.features import get_feature_extractor
    from workbench.launch.in_process import prepare_training
    from workbench.storage.run import Run
    from workbench.storage.run_search import find_runs
    from workbench.workspace.selection import Selection

    return {
        "recipe": lambda out: prepare_training("softvqq-digits", out),
        "setting": lambda out: prepare_training("softvq-digits", out, tokns=4),
        "whole number": lambda out: prepare_training("softvq-digits", out, num_tokens="four"),
        "number": lambda out: prepare_training("softvq-digits", out, lr="fast"),
        "flag": lambda out: prepare_training("maetok-digits", out, tuning="perhaps"),
        "zero": lambda out: prepare_training("softvq-digits", out, num_tokens=0),
        "betas": lambda out: prepare_training("softvq-digits", out, betas="0.9"),
        "codes": lambda out: prepare_training("vqvae-digits", out, codebook_size=0),
        "levels": lambda out: prepare_training("fsqvae-digits", out, levels="1,2"),
        "heads": lambda out: prepare_training("softvq-digits", out, heads=5),
        "teacher": lambda out: prepare_training("vavae-digits", out, teacher="hogg"),
        "no tokenizer": lambda out: prepare_training("sit-digits", out),
        "tokens of a tokenizer": lambda out: prepare_training("sit-digits", out, num_tokens=4),
        "data": lambda out: prepare_training("softvq-digits", out, data="nowhere"),
        "limit": lambda out: prepare_training("softvq-digits", out, limit=0),
        "missing run": lambda out: Run(out / "missing"),
        "folder without runs": lambda out: find_runs(out / "missing"),
        "split": lambda out: load("digits", split="tests", side=8, channels=1),
        "side": lambda out: load("digits", split="test", side=0, channels=1),
        "feature extractor": lambda out: get_feature_extractor("dinov3"),
        "empty selection": lambda out: Selection(),
        "condition": lambda out: Selection(where="error is large"),
    }


@pytest.mark.parametrize("mistake", sorted(refusals()))
def test_user_error(mistake, tmp_path, snapshot):
    with pytest.raises(UserError) as error:
        refusals()[mistake](tmp_path)
    assert words(str(error.value).replace(str(tmp_path), "FOLDER")) == snapshot
