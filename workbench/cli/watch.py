"""The command that follows a run and sends it commands."""

import time
from typing import Annotated

import typer

from workbench.cli.options import RunFolder
from workbench.cli.output import echo

POLL_INTERVAL_S = 0.5  # seconds between two reads of the status by `watch`


def watch(
    run: RunFolder,
    ask: Annotated[
        str | None,
        typer.Option(
            help="A command to send: pause, resume, stop, sample, evaluate, weight or lr."
        ),
    ] = None,
    term: Annotated[str | None, typer.Option(help="The loss term, for the command weight.")] = None,
    value: Annotated[
        float | None, typer.Option(help="The multiplier, for the commands weight and lr.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print the status and exit.")] = False,
) -> None:
    """Follow a run from another terminal, or send it a command with --ask.

    \b
    workbench watch runs/a
    workbench watch runs/a --ask pause
    workbench watch runs/a --ask weight --term align --value 0.5
    """
    from workbench.core.errors import UserError
    from workbench.core.progress_bar import progress_bar
    from workbench.storage.jsonl import JsonlTail, is_log_record
    from workbench.storage.run import ACTIVE_STATES, Run
    from workbench.storage.training_log import NOT_TERMS

    opened = Run(run)
    if ask is None and (term is not None or value is not None):
        raise UserError("--term and --value belong to a command; add --ask weight or --ask lr.")
    if ask is not None:
        number = opened.ask(ask, term=term, value=value)
        echo(
            f"Sent command {number} ({ask}) to {run}. A running process applies it after its step."
        )
        return
    if once or opened.config.imported is not None:  # nothing to follow
        echo(repr(opened))
        return
    status = opened.status()
    log = JsonlTail(opened.folder / "log.jsonl", is_log_record)
    terms = ""
    with progress_bar(
        total=status["steps"], initial=status["step"], desc=opened.name, unit="step"
    ) as bar:
        while status["state"] in ACTIVE_STATES:
            for record in log.read():
                names = [name for name in record if name not in NOT_TERMS]
                terms = "".join(f", {name}={record[name]:.3g}" for name in names)
            bar.set_postfix_str(f"{status['state']}{terms}", refresh=False)
            bar.update(status["step"] - bar.n)
            time.sleep(POLL_INTERVAL_S)
            status = opened.status()
        bar.update(status["step"] - bar.n)
    echo(repr(opened))


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(watch)
