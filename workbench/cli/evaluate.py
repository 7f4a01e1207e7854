"""The command that evaluates models trained elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.options import (
    DaskScheduler,
    FeatureExtractorName,
    Guidance,
    ImageSide,
    Limit,
    NumSamples,
    OnlyCollectors,
    PicturesOption,
    ReferenceFile,
    RequestedCollectors,
    SkippedCollectors,
    TrustOption,
)
from workbench.cli.output import echo, shorten_warnings
from workbench.cli.settings import ACCEPTS_SETTINGS, parse_settings
from workbench.core.counted import counted
from workbench.core.errors import UserError


def evaluate(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="The folder of the run, or of the runs of a sweep.")],
    address: Annotated[
        str | None,
        typer.Argument(
            help="FAMILY:LOCATION; a location is a hub id, a folder, a file or MODULE:FUNCTION.",
            metavar="ADDRESS",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="The images: a folder, a parquet file, hub:owner/name, or a dataset."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="The run of a tokenizer. Generators require it.")
    ] = None,
    side: ImageSide = None,
    value_range: Annotated[
        str | None,
        typer.Option(
            help="Pixel values of black and white in images of more than 8 bits, as in 0,4095.",
            metavar="LOW,HIGH",
        ),
    ] = None,
    limit: Limit = 2000,
    pictures: PicturesOption = 2000,
    samples: NumSamples = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    guidance: Guidance = 2.0,
    feature_extractor: FeatureExtractorName = "auto",
    reference: ReferenceFile = None,
    revision: Annotated[
        str | None, typer.Option(help="A branch, tag or commit on the hub.")
    ] = None,
    trust: TrustOption = None,
    only: OnlyCollectors = None,
    skip: SkippedCollectors = None,
    also: RequestedCollectors = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an imported run in the folder.")
    ] = False,
    sweep: Annotated[
        Path | None,
        typer.Option(
            help="Instead of an address: a .yaml, .json or .csv file with the arguments of many"
            " models.",
            dir_okay=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Parallel evaluations in a sweep; one per core by default.", min=1),
    ] = None,
    scheduler: DaskScheduler = None,
) -> None:
    """Evaluate a model that was trained elsewhere, as a run that contains no weights.

    Further options are passed to the loader of the family, as in --config model.yaml. The same
    command resumes an evaluation that was killed.

    \b
    workbench evaluate diffusers:stabilityai/sd-vae-ft-mse --data imagenet/val --out runs/sd-vae
    workbench evaluate ldm:model.ckpt --config model.yaml --data imagenet/val --out runs/mine
    workbench evaluate python:mine:make --trust mine --data digits --out runs/own
    workbench evaluate arrays:path/to/codes --codebook 16384 --out runs/codes
    workbench evaluate lightningdit:xl-64ep.pt --tokenizer runs/vavae --guidance 10 --out runs/gen
    torchrun --nproc_per_node 8 -m workbench evaluate ldm:model.ckpt --data val --out runs/mine
    workbench evaluate --sweep models.yaml --data imagenet/val --out runs
    """
    shorten_warnings()
    if sweep is not None:
        _evaluate_sweep(context, sweep, out)
        return
    if address is None:
        raise UserError("Name a model, such as softvq:SoftVQVAE/softvq-l-64, or --sweep list.yaml.")
    if workers is not None or scheduler is not None:
        raise UserError("--workers and --scheduler are options of --sweep.")
    from workbench.collect.processes import joined_processes
    from workbench.launch.evaluate import evaluate as evaluate_model

    with joined_processes() as processes:
        run = evaluate_model(
            address,
            data,
            out,
            tokenizer=tokenizer,
            side=side,
            value_range=value_range,
            limit=limit,
            pictures=pictures,
            samples=samples,
            seed=seed,
            guidance=guidance,
            feature_extractor=feature_extractor,
            reference=reference,
            only=only or (),
            skip=skip or (),
            also=also or (),
            revision=revision,
            trust=trust or (),
            overwrite=overwrite,
            processes=processes,
            **parse_settings(context),
        )
        is_main = processes.is_main
    if not is_main:
        return
    for note in run.config.imported.notes if run.config.imported else ():
        echo(f"workbench: {note}", err=True)
    echo(f"Evaluated {run.folder}. Open it with: workbench dashboard {run.folder.parent}")


def _evaluate_sweep(context: typer.Context, sweep: Path, out: Path) -> None:
    """Evaluate the models of a list, with the options of the command line for all of them."""
    from workbench.launch.evaluation_sweep import evaluate_sweep
    from workbench.launch.parameter_list import read_parameter_list

    address = context.params["address"]
    arguments = list(context.args)
    if address is not None and not address.startswith("--"):
        raise UserError(f"Give either the address {address} or --sweep {sweep}.")
    if address is not None:  # the first word of the options of a family
        arguments.insert(0, address)
    options = {
        name: value
        for name, value in context.params.items()
        if name not in ("address", "out", "sweep")
        and getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    options |= parse_settings(context, arguments)
    runs = evaluate_sweep(read_parameter_list(sweep), out, **options)
    number = counted(len(runs), "model")
    echo(f"Evaluated {number}. Open the runs with: workbench dashboard {out}")


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(context_settings=ACCEPTS_SETTINGS)(evaluate)
