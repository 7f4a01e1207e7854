"""Settings of a recipe or a template: options that the parser does not declare."""

from typing import Any

import typer

from workbench.core.errors import UserError

# A command with this context hands on the options that it does not declare.
ACCEPTS_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def parse_settings(context: typer.Context, arguments: list[str] | None = None) -> dict[str, Any]:
    """Parse `--lr 0.001 --codebook-size=512` into a dictionary of texts.

    Parameters
    ----------
    context : typer.Context
        The context of the command.
    arguments : list of str, optional
        The words to parse; by default those that the parser of the command does not declare.

    Returns
    -------
    dict of str to str
        The value of each setting, whose name is spelt as in Python.

    Raises
    ------
    UserError
        If an argument is not of this form, or names a positional argument.
    """
    settings: dict[str, Any] = {}
    arguments = list(context.args if arguments is None else arguments)
    declared = {parameter.name for parameter in context.command.params}
    while arguments:
        word = arguments.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise UserError(f"`{word}` is not a setting; write --name value.")
        if not equals:
            if not arguments or arguments[0].startswith("--"):
                raise UserError(f"--{name} needs a value, as in --{name} 1.")
            value = arguments.pop(0)
        if name in declared and context.params[name] is not None:
            raise UserError(
                f"{name.upper()} is a positional argument: "
                f"write `workbench {context.info_name} {value}`."
            )
        settings[name.replace("-", "_")] = value
    return settings
