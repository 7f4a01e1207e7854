"""Reports from papermill templates, pages over many of them, and sweeps that make many."""

from pathlib import Path

from workbench.workspace.view_state import ViewState


def write_views_report(folder: Path, views: tuple[ViewState, ...]) -> Path:
    """Write a report of saved views of a folder of runs, and return its path."""
    # Imported here: a worker process that never writes a report does not pay for it.
    from workbench.hosts.reports.report import report

    return report("views", folder=folder, views=views)
