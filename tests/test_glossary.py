"""Every control, button, menu and metric column has an entry in the glossary."""

import ast
from pathlib import Path

from workbench.analysis import analyses
from workbench.core.glossary import BUTTONS, CHOICES, COLUMNS, Term, control_term
from workbench.hosts import dashboard
from workbench.hosts.dashboard.help_pages import checks_page, glossary_page
from workbench.workspace.controls import controls
from workbench.workspace.run_metrics import METRIC_COLUMNS


def test_every_control_and_choice_is_defined():
    for name, analysis in analyses().items():
        for control in controls(analysis):
            assert control_term(name, control.name).definition, f"{name}: {control.name}"
            assert control.label != control.name and control.tooltip
            missing = set(control.choices) - set(CHOICES)
            assert not missing, f"{name}, {control.name}: {missing}"
            # Two choices of one menu must not look alike.
            assert len(control.options) == len(control.choices)


def test_every_metric_column_is_defined():
    assert all(COLUMNS[column.name].definition for column in METRIC_COLUMNS)
    psnr = Term("PSNR", "A ratio.", "dB", "higher is better")
    assert psnr.tooltip == "A ratio. Unit: dB. Higher is better."


def test_every_button_is_defined():
    labels = set()
    for path in Path(dashboard.__file__).parent.glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            options = {option.arg: option.value for option in call.keywords}
            if call.func.attr in ("Button", "FileDownload") and "description" not in options:
                label = options["label"]
                labels |= {label.value} if isinstance(label, ast.Constant) else set()
    assert labels <= set(BUTTONS) and len(labels) > 15


def test_help_pages_have_an_anchor_for_every_check():
    page = checks_page()
    assert all(f'id="{code}"' in page for code in ("tk001", "tk074"))
    assert "PSNR (dB)" in glossary_page()
