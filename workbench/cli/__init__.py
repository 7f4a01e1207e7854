"""The command line. `workbench COMMAND --help` shows examples."""

import io
import sys
from pathlib import Path

import typer

from workbench.cli import (
    check,
    collect,
    dashboard,
    doctor,
    evaluate,
    listing,
    reports,
    train,
    watch,
)
from workbench.cli.output import echo, plain
from workbench.core.errors import UserError, is_out_of_memory, missing_extra
from workbench.core.safe_path import ignore_current_folder

app = typer.Typer(
    name="workbench",
    help="Train visual tokenizers and small latent diffusion models, and analyze them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# The help lists the commands in this order.
for module in (train, collect, evaluate, reports, dashboard, watch, listing, check, doctor):
    module.add_commands(app)


def check_working_folder() -> None:
    """Refuse to start in a folder that was deleted; torch would end the process.

    Raises
    ------
    UserError
        If the working folder does not exist.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UserError("The current folder was deleted. Change to a folder that exists.") from None


def main() -> None:
    """Run the command line; a user's mistake ends in one sentence and a non-zero exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character of a path shows its number instead.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        check_working_folder()
        with ignore_current_folder():
            app()
    except SystemExit as exit_request:
        # typer prints nothing on Ctrl-C.
        cause = exit_request.__context__.__cause__ if exit_request.__context__ else None
        if isinstance(cause, KeyboardInterrupt):
            echo(
                "workbench: Interrupted. All files are complete; "
                "the same command can be run again.",
                err=True,
            )
        raise
    except UserError as error:
        sys.exit(f"workbench: {plain(error)}")
    except RecursionError:
        sys.exit("workbench: A path or a file is nested too deeply to be read.")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sys.exit(
            "workbench: There is not enough memory. A smaller batch_size, side, width or depth and "
            "fewer images need less."
        )
    except ModuleNotFoundError as error:
        sys.exit(f"workbench: {missing_extra(str(error.name), 'all')}")
    except (FileExistsError, NotADirectoryError) as error:
        sys.exit(f"workbench: {plain(error.filename)} is a file where a folder is needed.")
    except OSError as error:
        location = f" ({error.filename})" if error.filename else ""
        sys.exit(f"workbench: {plain(error.strerror or error)}{plain(location)}.")
