"""`workbench.modes(run)`, `budget(runs)`, `compare(runs)`: the explorer of a notebook, on one question.

Which analyses belong to a question is read off their groups, so that a new one joins by existing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench import analysis
from workbench.core.errors import UserError
from workbench.hosts.notebook.explorer import Explorer
from workbench.storage.run import Run
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace


def modes(run: Run | str | Path, *, step: int | None = None, **controls: Any) -> Explorer:
    """How many modes a run's latents have: `mixture_modes`, with its controls, and what else is about modes."""
    family = [name for name in analysis.groups()["latents"] if "mode" in name]
    return _explore([run], "mixture_modes", family, step, controls)


def budget(*runs: Run | str | Path, **controls: Any) -> Explorer:
    """What tokens buy, in several runs at once: `token_budget`, with its controls, and what else is about tokens."""
    return _explore(runs, "token_budget", analysis.groups()["tokens"], None, controls)


def compare(*runs: Run | str | Path, **controls: Any) -> Explorer:
    """Several runs on the same images: `metric_comparison`, with its controls, and all that takes several runs."""
    groups = analysis.groups()
    return _explore(runs, "metric_comparison", [*groups["runs"], *groups["checks"]], None, controls)


def _explore(
    runs: Sequence[Run | str | Path],
    first: str,
    family: Sequence[str],
    step: int | None,
    controls: dict[str, Any],
) -> Explorer:
    """An explorer of the folder that the first run is in, with the other runs beside it. Raises UserError."""
    named = [run if isinstance(run, Run) else Run(run) for run in runs]
    if not named:
        raise UserError("Name at least one run: its folder, or what wb.train returned.")
    explorer = Explorer(Workspace(named[0].folder.resolve().parent), ViewState(), family)
    return explorer.show(first, runs=named, step=step, **controls)
