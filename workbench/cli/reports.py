"""Commands that make reports."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.options import DaskScheduler
from workbench.cli.output import echo
from workbench.cli.settings import ACCEPTS_SETTINGS, parse_settings
from workbench.cli.settings_help import HelpSections, command_with_settings, first_argument


def report(
    context: typer.Context,
    template: Annotated[
        str,
        typer.Argument(
            help="The name of a template, such as tokenizer, or the path of a notebook.",
            metavar="TEMPLATE",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The HTML file; in the folder of the run by default.", dir_okay=False),
    ] = None,
) -> None:
    """Execute the notebook of a report and write one HTML file that needs no network.

    Other options are parameters of the template; `workbench report TEMPLATE --help` lists them.

    \b
    workbench report tokenizer --run runs/a
    workbench report tokenizer --run runs/a --compare-with runs/b,runs/c --out report.html
    """
    from workbench.hosts.reports.report import report as write_report

    echo(write_report(template, out, **parse_settings(context)).resolve())


def sweep(
    context: typer.Context,
    template: Annotated[
        str,
        typer.Argument(help="The template of a report, such as training.", metavar="TEMPLATE"),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="The folder of the sweep. Finished reports in it are kept.", file_okay=False
        ),
    ],
    grid: Annotated[
        str | None,
        typer.Option(help="Values of parameters; each combination becomes a report."),
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option("--list", help="A .csv or .json file of parameter sets instead of a grid."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Number of parallel reports; one per core by default.", min=1),
    ] = None,
    memory: Annotated[str, typer.Option(help="The memory limit of one report.")] = "2GB",
    scheduler: DaskScheduler = None,
) -> None:
    """Make a report for each of many parameter sets, and compare them.

    Other options are parameters that all reports share.

    \b
    workbench sweep training --grid "codebook_size=64,256;num_tokens=4,8" \\
        --out sweeps/a --recipe softvq-digits
    workbench sweep tokenizer --list points.csv --out sweeps/b --scheduler tcp://10.0.0.1:8786
    """
    from workbench.hosts.reports import sweep as sweeps

    options = {
        "workers": workers,
        "memory": memory,
        "scheduler": scheduler,
        **parse_settings(context),
    }
    index = sweeps.sweep(template, sweeps.parameter_sets(grid, points), out, **options)
    echo(index.resolve())


def gallery(
    folder: Annotated[Path, typer.Argument(help="A folder that contains reports.")] = Path("runs"),
) -> None:
    """Write index.html, a sortable and filterable table of all reports in a folder.

    \b
    workbench gallery runs
    """
    from workbench.hosts.reports.gallery import gallery as write_gallery

    echo(write_gallery(folder).resolve())


def _help_sections(arguments: Sequence[str]) -> HelpSections:
    from workbench.hosts.reports.template import template_names
    from workbench.hosts.reports.template_help import help_rows

    name = first_argument(arguments)
    if name is None:
        return {"Templates": [(template, "") for template in template_names()]}
    return {f"Parameters of {name}": help_rows(name)}


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(cls=command_with_settings(_help_sections), context_settings=ACCEPTS_SETTINGS)(
        report
    )
    app.command(context_settings=ACCEPTS_SETTINGS)(sweep)
    app.command()(gallery)
