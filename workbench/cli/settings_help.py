"""Help of a command that also lists the settings of its first argument."""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

from typer.core import TyperCommand

HelpSections = dict[str, list[tuple[str, str]]]


def command_with_settings(
    help_sections: Callable[[Sequence[str]], HelpSections],
) -> type[TyperCommand]:
    """Return a class of commands whose help ends with sections that depend on the arguments.

    Parameters
    ----------
    help_sections : callable
        Returns the rows of each section, given the words of the command line. If it returns no
        section, the help ends with the epilog of the command.

    Returns
    -------
    type of TyperCommand
    """

    class CommandWithSettings(TyperCommand):
        """A command whose help also lists the settings of what its first argument names."""

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            """Keep the words, which are not parsed yet when the help is printed."""
            ctx.meta["words"] = list(args)
            return list(super().parse_args(ctx, args))

        def format_epilog(self, ctx: Any, formatter: Any) -> None:
            """Write the sections, or the epilog if there are none."""
            sections = help_sections(ctx.meta.get("words", []))
            if not sections:
                super().format_epilog(ctx, formatter)
            for title, rows in sections.items():
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=26)

    return CommandWithSettings


def first_argument(arguments: Sequence[str]) -> str | None:
    """Return the first word that is not an option, if there is one."""
    return next((word for word in arguments if not word.startswith("-")), None)


def option_value(arguments: Sequence[str], name: str) -> str | None:
    """Return the value of an option in the words of a command line, if it is there."""
    for word, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
        if word == f"--{name}":
            return following
    return None
