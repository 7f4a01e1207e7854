"""Commands that list runs and published models."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.output import echo


def models(
    family: Annotated[
        str | None, typer.Argument(help="Only this family, such as softvq.", metavar="[FAMILY]")
    ] = None,
) -> None:
    """List published checkpoints that can be loaded, with license, published figures and sources.

    The figures are those of the sources: compare them only with numbers of the same protocol.

    \b
    workbench models
    workbench models titok
    """
    from workbench.core.errors import unknown
    from workbench.storage.published_models import MODEL_COLUMNS
    from workbench.storage.published_models import models as published_models

    table = published_models()
    families = table["address"].str.partition(":")[0]
    if family is not None:
        if family not in set(families):
            raise unknown("family with published figures", family, set(families))
        table = table[families == family]
    rows = table[list(MODEL_COLUMNS)].astype(object)
    echo(rows.where(rows.notna(), "").to_string(index=False))
    echo("\nSources of the figures, and remarks on them:")
    for (source, notes), group in table.groupby(["source", "notes"], sort=False):
        echo(f"- {'; '.join(group['name'])}: {source}{notes and f' ({notes})'}")


def list_runs(
    runs: Annotated[Path, typer.Argument(help="A folder of runs.")] = Path("runs"),
) -> None:
    """List the runs of a folder with their state and the PSNR on held-out images.

    \b
    workbench list runs
    """
    from workbench.workspace.workspace import Workspace

    workspace = Workspace(runs)
    table = workspace.table()
    if table.empty:
        echo(f"There are no runs in {runs}. Train one: workbench train --help")
    else:
        # A missing count makes the others floating-point numbers.
        counts = ["tokens", "dim", "step", "evidence at step"]
        table[counts] = table[counts].convert_dtypes()
        echo(table.to_string(index=False, na_rep="", float_format="{:.1f}".format))
    for sentence in workspace.refused:
        echo(f"workbench: {sentence}", err=True)


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(models)
    app.command(name="list")(list_runs)
