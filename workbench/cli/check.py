"""The command that checks a tokenizer class."""

from typing import Annotated

import typer

from workbench.cli.options import TrustOption
from workbench.cli.output import echo
from workbench.cli.settings import ACCEPTS_SETTINGS, parse_settings
from workbench.core.errors import UserError


def check(
    context: typer.Context,
    class_path: Annotated[
        str,
        typer.Argument(help="A class, as my_module:MyTokenizer.", metavar="CLASS"),
    ],
    trust: TrustOption = None,
) -> None:
    """Test your own tokenizer against the requirements on every tokenizer.

    Settings that are not given have their defaults. Small sizes make the checks fast.

    \b
    workbench check my_module:MyTokenizer --trust my_module --dim 8
    """
    from workbench.launch import contract

    settings = parse_settings(context)
    table = contract.check(class_path, trust=trust or (), **settings)
    width = table["promise"].str.len().max() + 2
    for _, row in table.iterrows():
        echo(f"{row['result']:<6}{row['promise']:<{width}}{row['reason']}".rstrip())
    failed = (table["result"] == contract.FAILED).sum()
    if failed:
        raise UserError(f"{class_path} fails {failed} of {len(table)} checks.")
    echo(f"{class_path} can be trained and analyzed.")


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(context_settings=ACCEPTS_SETTINGS)(check)
