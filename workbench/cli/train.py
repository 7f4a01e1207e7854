"""The command that trains."""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.options import TrustOption
from workbench.cli.output import echo, shorten_warnings
from workbench.cli.settings import ACCEPTS_SETTINGS, parse_settings
from workbench.cli.settings_help import (
    HelpSections,
    command_with_settings,
    first_argument,
    option_value,
)
from workbench.core.errors import UserError

EXIT_INTERRUPTED = 130


def train(
    context: typer.Context,
    out: Annotated[
        Path,
        typer.Option(
            help="The folder of the run. An unfinished run in it is resumed, and a finished one is "
            "trained longer with more --steps."
        ),
    ],
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A system and its data, such as softvq-digits, or a published model, such as "
            "softvq-l-64.",
            metavar="RECIPE",
        ),
    ] = None,
    class_path: Annotated[
        str | None,
        typer.Option("--class", help="Instead of a recipe: a class, as my_module:MyTokenizer."),
    ] = None,
    trust: TrustOption = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    num_tokens: Annotated[int | None, typer.Option(help="Latent tokens per image.")] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="The run of a trained tokenizer, on whose latents a generator is trained."
        ),
    ] = None,
    latents: Annotated[
        Path | None,
        typer.Option(
            help="A folder of latents or codes for a generator, instead of the tokenizer's own."
        ),
    ] = None,
    collect: Annotated[bool, typer.Option(help="Collect evidence after training.")] = True,
) -> None:
    """Train a recipe, or a class of your own.

    Any setting can be changed by its name, as in --lr 0.001 or --codebook-size 512.
    `workbench train RECIPE --help` lists them.

    \b
    workbench train softvq-digits --out runs/a --steps 500 --save-every 100 --num-tokens 16
    workbench train softvq-photos --out runs/mine --data path/to/my/images --side 64
    workbench train sit-digits --tokenizer runs/a --out runs/flow
    workbench train --class my_module:MyTokenizer --trust my_module --data digits --out runs/own
    """
    from workbench.launch import in_process

    shorten_warnings()
    options = {
        "steps": steps,
        "save_every": save_every,
        "num_tokens": num_tokens,
        "tokenizer": tokenizer,
        "latents": latents,
    }
    target, arguments = _target_and_arguments(recipe, class_path, context.args)
    settings = options | parse_settings(context, arguments)
    run = in_process.train(target, out, trust=trust or (), collect=collect, **settings)
    status = run.status()
    if status["state"] != "finished":
        echo(
            f"Stopped at step {status['step']} of {status['steps']}. "
            "Run the same command to resume.",
            err=True,
        )
        raise typer.Exit(EXIT_INTERRUPTED)
    if os.environ.get("RANK", "0") == "0":  # only the main process prints
        echo(
            f"Trained {run.folder}: {status['step']} steps. "
            f"Open it with: workbench dashboard {run.folder.parent}"
        )


def _target_and_arguments(
    recipe: str | None, class_path: str | None, arguments: list[str]
) -> tuple[str, list[str]]:
    """Return the recipe or the class, and the words of the settings.

    Without a recipe, the parser takes the first word of the settings for it.
    """
    if recipe is not None and recipe.startswith("--"):
        arguments = [recipe, *arguments]
        recipe = None
    if class_path is None and recipe is not None:
        return recipe, arguments
    if class_path is not None and recipe is None:
        return class_path, arguments
    raise UserError("Name a recipe, such as softvq-digits, or --class my_module:MyTokenizer.")


def _recipe_list() -> str:
    from workbench.launch.paper_recipes import PAPER_RECIPES
    from workbench.launch.recipes import SIZES, SYSTEMS
    from workbench.launch.trainables import installed_systems

    systems = (*SYSTEMS, *installed_systems())
    lines = ("  " + "  ".join(f"{system}-{data}" for data in SIZES) for system in systems)
    papers = textwrap.wrap(
        "  ".join(PAPER_RECIPES),
        width=76,
        initial_indent="  ",
        subsequent_indent="  ",
        break_on_hyphens=False,
    )
    # \b: a name must not be broken at its hyphen.
    return "\n".join(["\b", "Recipes:", *lines, "", "\b", "Published models:", *papers])


def _help_sections(arguments: Sequence[str]) -> HelpSections:
    name = option_value(arguments, "class") or first_argument(arguments)
    if name is None:
        return {}
    from workbench.launch.settings import help_sections

    trust = option_value(arguments, "trust")
    return help_sections(name, [trust] if trust else ())


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        cls=command_with_settings(_help_sections),
        context_settings=ACCEPTS_SETTINGS,
        epilog=_recipe_list(),
    )(train)
