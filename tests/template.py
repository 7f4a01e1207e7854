"""Small report templates for tests."""

import json
from pathlib import Path

OPEN = "from workbench.hosts.reports.report import ReportWriter\nreport = ReportWriter(run)"
PYTHON_KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
PARAMETERS = 'run: str = ""\nseed: int = 0'


def template(path: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    """Write a notebook with a parameters cell and further cells; text after # is Markdown."""
    notebook_cells = []
    for index, source in enumerate([parameters, *cells]):
        cell = {"id": f"cell-{index}", "source": source, "metadata": {}}
        if index == 0:
            cell["metadata"] = {"tags": ["parameters"]}
        if source.startswith("#"):
            cell["cell_type"] = "markdown"
        else:
            cell |= {"cell_type": "code", "outputs": [], "execution_count": None}
        notebook_cells.append(cell)
    notebook = {
        "cells": notebook_cells,
        "metadata": {"kernelspec": PYTHON_KERNEL},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path
