"""Reports: executed notebook templates, galleries of reports, and parameter sweeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.workspace.compute_worker import ReportRequest


def write_views_report(folder: Path, request: "ReportRequest", trust: Sequence[str] = ()) -> Path:
    """Write a report of saved views of a folder of runs, and return its path."""
    # Imported here so that a worker process that writes no report starts faster.
    from workbench.hosts.reports.report import report

    return report(
        "views",
        folder=folder,
        views=request.views,
        notes=request.notes,
        title=request.title,
        author=request.author,
        conclusion=request.conclusion,
        trust=trust,
    )
