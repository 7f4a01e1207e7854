"""The command that opens the dashboard."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.options import TrustOption
from workbench.cli.output import echo
from workbench.core.errors import UserError

DEFAULT_PORT = 8765


def dashboard(
    runs: Annotated[Path, typer.Argument(help="A folder of runs.", metavar="RUNS")] = Path("runs"),
    port: Annotated[
        int, typer.Option(help="The port; 0 selects a free one.", min=0, max=65535)
    ] = DEFAULT_PORT,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    address: Annotated[
        str, typer.Option(help="The address to listen on; by default only for this machine.")
    ] = "127.0.0.1",
    token: Annotated[
        bool, typer.Option("--token/--no-token", help="Require the token of the printed link.")
    ] = True,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A further Host header to accept, such as that of a proxy.", metavar="HOST"
        ),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(help="A further origin whose pages may connect.", metavar="ORIGIN"),
    ] = None,
    trust: TrustOption = None,
) -> None:
    """Open the dashboard on a folder of runs.

    \b
    workbench dashboard runs --port 8765 --no-browser
    workbench dashboard runs --allow-host hub.example.org
    workbench dashboard runs --trust my_module
    """
    from workbench.hosts.dashboard.server import serve

    try:
        serve(
            runs,
            port=port,
            address=address,
            show=browser,
            use_token=token,
            allow_hosts=allow_host or (),
            origins=origin or (),
            trust=trust or (),
            on_ready=lambda link: echo(f"The dashboard is at {link}"),
        )
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"Cannot listen at {address}, port {port}: {reason}.") from None


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(dashboard)
