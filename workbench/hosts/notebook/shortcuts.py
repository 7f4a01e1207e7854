"""Explorers for one question, such as `workbench.modes(run)` or `compare(*runs)`.

The groups of the analyses decide which analyses belong to a question, so that a new analysis
appears by existing.
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
    """Explore the modes of a run's latents.

    Parameters
    ----------
    run : Run, str or Path
        The run, or its folder.
    step : int, optional
        The step of the evidence; the last one by default.
    **controls
        Controls of the analysis `mixture_modes`.

    Returns
    -------
    Explorer
        Offers the analyses of modes.
    """
    names = [name for name in analysis.groups()["latents"] if "mode" in name]
    return _explore([run], "mixture_modes", names, step, controls)


def budget(*runs: Run | str | Path, **controls: Any) -> Explorer:
    """Explore the cost and the quality of tokens in one or several runs.

    Parameters
    ----------
    *runs : Run, str or Path
        The runs, or their folders; the primary run first.
    **controls
        Controls of the analysis `token_budget`.

    Returns
    -------
    Explorer
        Offers the analyses of tokens.
    """
    return _explore(runs, "token_budget", analysis.groups()["tokens"], None, controls)


def compare(*runs: Run | str | Path, **controls: Any) -> Explorer:
    """Compare several runs on the same images.

    Parameters
    ----------
    *runs : Run, str or Path
        The runs, or their folders; the primary run first.
    **controls
        Controls of the analysis `decision`, such as `goal="best probe"`.

    Returns
    -------
    Explorer
        Shows which run to choose, and offers the analyses of several runs. Only these runs are
        listed.
    """
    groups = analysis.groups()
    names = [*groups["runs"], *groups["diagnosis"]]
    return _explore(runs, "decision", names, None, controls)


def diffusability(*runs: Run | str | Path, **controls: Any) -> Explorer:
    """Compare the latent spaces of tokenizers: how well a generator can learn each of them.

    Parameters
    ----------
    *runs : Run, str or Path
        The runs, or their folders; values are compared with those of the first.
    **controls
        Controls of the analysis `diffusability`.

    Returns
    -------
    Explorer
        Shows all perspectives of all runs, and offers the analyses that they are from.
    """
    return _explore(runs, "diffusability", analysis.groups()["learnability"], None, controls)


def predict(*runs: Run | str | Path, **controls: Any) -> Explorer:
    """Predict which tokenizer generates better, and place the runs among published tokenizers.

    Parameters
    ----------
    *runs : Run, str or Path
        The runs, or their folders: tokenizers, and generators of some of them. The prediction is
        for the first tokenizer without a generator.
    **controls
        Controls of the analysis `generation_prediction`, such as `ifid=23.1` if that was measured
        with the authors' code.

    Returns
    -------
    Explorer
        Shows the prediction, or the reason why there is none with the measurement that decides.
    """
    names = ["generation_prediction", "generation_predictors", "diffusability"]
    return _explore(runs, "generation_prediction", names, None, controls)


def _explore(
    runs: Sequence[Run | str | Path],
    name: str,
    analyses: Sequence[str],
    step: int | None,
    controls: dict[str, Any],
) -> Explorer:
    """Open the folder of the first run and show an analysis of all runs."""
    opened = [run if isinstance(run, Run) else Run(run) for run in runs]
    if not opened:
        raise UserError("Name at least one run: its folder, or the run that wb.train returned.")
    workspace = Workspace(_folder_of(opened[0]))
    workspace.runs = {}  # only the named runs are listed
    explorer = Explorer(workspace, ViewState(), analyses)
    return explorer.show(name, runs=opened, step=step, **controls)


def _folder_of(run: Run) -> Path:
    """Return the folder that contains a run, relative if the folder of the run is."""
    name = run.folder.name
    return run.folder.resolve().parent if name in ("", "..") else run.folder.parent
