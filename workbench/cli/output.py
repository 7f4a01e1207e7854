"""Messages that commands print."""

import warnings

import typer

from workbench.core.printable import escape_controls


def echo(message: object, *, err: bool = False) -> None:
    """Print a message, in which control characters of names and files are shown as escapes."""
    typer.echo(plain(message), err=err)


def plain(message: object) -> str:
    """Return a message as text, without control characters except line breaks and tabs."""
    return escape_controls(str(message), keep="\n\t")


def shorten_warnings() -> None:
    """Print warnings, such as those about skipped images, without their source line."""
    warnings.formatwarning = lambda message, *_: f"workbench: {plain(message)}\n"
