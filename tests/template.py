"""Writes small templates: reports of a few cells, for what a large one would take too long to show."""

import json
from pathlib import Path

OPEN = "from workbench.hosts.reports.report import ReportWriter\npages = ReportWriter(run)"
PYTHON = {"name": "python3", "display_name": "Python 3", "language": "python"}


def template(path: Path, *cells: str, parameters: str = 'run: str = ""\nseed: int = 0') -> Path:
    """A notebook with a parameters cell and these: markdown where a cell starts with #, else code."""
    told = []
    for i, text in enumerate([parameters, *cells]):
        code = {"cell_type": "code", "outputs": [], "execution_count": None}
        kind = {"cell_type": "markdown"} if text.startswith("#") else code
        told.append(
            kind
            | {
                "source": text,
                "metadata": {"tags": ["parameters"]} if i == 0 else {},
                "id": f"cell-{i}",
            }
        )
    book = {"cells": told, "metadata": {"kernelspec": PYTHON}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(book), encoding="utf-8")
    return path
