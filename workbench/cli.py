"""The command line. `workbench COMMAND --help` shows examples."""

import io
import os
import shutil
import sys
import textwrap
import time
import warnings
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from workbench.core.cores import available_cores
from workbench.core.errors import (
    UserError,
    install_command,
    is_out_of_memory,
    missing_extra,
)

app = typer.Typer(
    name="workbench",
    help="Train visual tokenizers and small latent diffusion models, and analyze them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
ACCEPTS_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}
DEFAULT_PORT = 8765
POLL_INTERVAL_S = 0.5  # seconds between two reads of the status by `watch`
EXIT_INTERRUPTED = 130
TrustOption = Annotated[
    list[str] | None,
    typer.Option(
        help="A module or package whose code may be imported; repeatable.", metavar="MODULE"
    ),
]
RunFolder = Annotated[Path, typer.Argument(help="The folder of a run.", metavar="RUN")]
FeatureExtractorName = Annotated[
    str,
    typer.Option(
        help="Feature extractor for Fréchet distances and precision/recall: inception, dinov2, "
        "efficientnet, hog, ...; by default the first of these that needs no download."
    ),
]
ReferenceFile = Annotated[
    Path | None,
    typer.Option(help="Reference statistics or images, as an .npz of ADM's evaluator."),
]
Guidance = Annotated[
    float, typer.Option(help="Scale of classifier-free guidance of a generator's samples.")
]
OnlyCollectors = Annotated[
    list[str] | None,
    typer.Option(help="Run only this collector, and those it requires; repeatable."),
]
SkippedCollectors = Annotated[
    list[str] | None, typer.Option(help="Leave out this collector; repeatable.")
]
RequestedCollectors = Annotated[
    list[str] | None,
    typer.Option(help="Run this collector as well, which runs only on request; repeatable."),
]
PicturesOption = Annotated[
    int,
    typer.Option(help="Images whose pictures are stored; all contribute numbers.", min=1),
]


HelpSections = dict[str, list[tuple[str, str]]]


class CommandWithSettings(TyperCommand):
    """A command whose help also lists the settings of what its first argument names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the words, which are not parsed yet when the help is printed."""
        ctx.meta["words"] = list(args)
        return list(super().parse_args(ctx, args))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the settings; without an argument, the names from which one is chosen."""
        arguments = ctx.meta.get("words", [])
        sections = (
            _train_sections(arguments) if self.name == "train" else _report_sections(arguments)
        )
        if not sections:
            super().format_epilog(ctx, formatter)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows, col_max=26)


def _train_sections(arguments: Sequence[str]) -> HelpSections:
    name = _option(arguments, "class") or _first_argument(arguments)
    if name is None:
        return {}
    from workbench.launch.settings import help_sections

    trust = _option(arguments, "trust")
    return help_sections(name, [trust] if trust else ())


def _report_sections(arguments: Sequence[str]) -> HelpSections:
    from workbench.hosts.reports.template import template_names
    from workbench.hosts.reports.template_help import help_rows

    name = _first_argument(arguments)
    if name is None:
        return {"Templates": [(template, "") for template in template_names()]}
    return {f"Parameters of {name}": help_rows(name)}


def _first_argument(arguments: Sequence[str]) -> str | None:
    return next((word for word in arguments if not word.startswith("-")), None)


def _option(arguments: Sequence[str], name: str) -> str | None:
    """Return the value of an option in the words of a command line, if it is there."""
    for word, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
        if word == f"--{name}":
            return following
    return None


def _list_recipes() -> str:
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


@app.command(cls=CommandWithSettings, context_settings=ACCEPTS_SETTINGS, epilog=_list_recipes())
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
            help="A folder of latents or codes for a generator, in place of the tokenizer's own."
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

    # Print warnings, as of skipped images, without their source line.
    warnings.formatwarning = lambda message, *_: f"workbench: {message}\n"
    options = {
        "steps": steps,
        "save_every": save_every,
        "num_tokens": num_tokens,
        "tokenizer": tokenizer,
        "latents": latents,
    }
    target, arguments = _target_and_arguments(recipe, class_path, context.args)
    settings = options | _settings(context, arguments)
    run = in_process.train(target, out, trust=trust or (), collect=collect, **settings)
    status = run.status()
    if status["state"] != "finished":
        typer.echo(
            f"Stopped at step {status['step']} of {status['steps']}. "
            "Run the same command to resume.",
            err=True,
        )
        raise typer.Exit(EXIT_INTERRUPTED)
    if os.environ.get("RANK", "0") == "0":  # only one of several processes prints
        typer.echo(
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


@app.command()
def collect(
    run: RunFolder,
    step: Annotated[
        int | None, typer.Option(help="Step of the checkpoint; the last by default.")
    ] = None,
    limit: Annotated[
        int, typer.Option(help="Largest number of held-out images or samples.", min=1)
    ] = 2000,
    pictures: PicturesOption = 2000,
    guidance: Guidance = 2.0,
    feature_extractor: FeatureExtractorName = "auto",
    reference: ReferenceFile = None,
    only: OnlyCollectors = None,
    skip: SkippedCollectors = None,
    also: RequestedCollectors = None,
    trust: TrustOption = None,
) -> None:
    """Run a trained model on held-out images and save the arrays that analyses read.

    A collection that was killed is resumed by the same command.

    \b
    workbench collect runs/a
    workbench collect runs/a --skip prefixes
    workbench collect runs/a --also perturbed_codes
    torchrun --nproc_per_node 8 -m workbench collect runs/a --limit 50000
    """
    from workbench.collect import collect as collect_evidence
    from workbench.collect.processes import joined_processes
    from workbench.launch.progress_bar import collecting_bar
    from workbench.storage.run import Run

    opened = Run(run)
    source = opened if opened.tokenizer is None else opened.tokenizer
    with joined_processes() as processes:
        is_main = processes.is_main
        if is_main and source.config.data is not None and source.config.data.summary is not None:
            typer.echo(source.config.data.summary, err=True)
        with collecting_bar(opened.name, is_shown=is_main):
            evidence = collect_evidence(
                opened,
                step=step,
                limit=limit,
                pictures=pictures,
                guidance=guidance,
                feature_extractor=feature_extractor,
                reference=reference,
                only=only or (),
                skip=skip or (),
                also=also or (),
                trust=trust or (),
                processes=processes,
            )
        if is_main:
            typer.echo(evidence)


@app.command()
def statistics(
    source: Annotated[
        str,
        typer.Argument(help="A folder or parquet file of images, or an .npz with arr_0."),
    ],
    out: Annotated[Path, typer.Option(help="The .npz file to write.", dir_okay=False)],
    feature_extractor: Annotated[
        str, typer.Option(help="The network; only inception is comparable with published values.")
    ] = "inception",
    split: Annotated[str, typer.Option(help="train, test or all.")] = "all",
    side: Annotated[int | None, typer.Option(help="Height and width of the images.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="Largest number of images; all by default.", min=1)
    ] = None,
) -> None:
    """Write mean and covariance of features of a reference set, as the evaluator of ADM reads them.

    \b
    workbench statistics path/to/images --side 256 --out reference.npz
    workbench collect runs/a --reference reference.npz
    """
    from workbench.collect.statistics import write_statistics

    warnings.formatwarning = lambda message, *_: f"workbench: {message}\n"
    written = write_statistics(
        source,
        out,
        feature_extractor=feature_extractor,
        split=split,
        side=side,
        limit=limit,
    )
    typer.echo(
        f"Wrote the statistics of {written.features.count:,} images"
        f" ({written.features.dim:,} features) to {out}."
    )


@app.command()
def export(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="A new folder for the files.", file_okay=False)],
    latents: Annotated[bool, typer.Option("--latents", help="Write the latents.")] = False,
    codes: Annotated[bool, typer.Option("--codes", help="Write the codes.")] = False,
    images: Annotated[bool, typer.Option("--images", help="Write the images.")] = False,
    reconstructions: Annotated[
        bool, typer.Option("--reconstructions", help="Write the decoded images.")
    ] = False,
    file_format: Annotated[
        str, typer.Option("--format", help="safetensors, npz or npy.")
    ] = "safetensors",
    split: Annotated[
        str,
        typer.Option(help="test: the images of the evidence. train: encode the training images."),
    ] = "test",
    step: Annotated[
        int | None, typer.Option(help="Step of the checkpoint; the last by default.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Largest number of images; all by default.", min=1)
    ] = None,
) -> None:
    """Write latents, codes or images to files for other programs.

    latent_stats.json has mean, deviation, scale and shift of the latents.

    \b
    workbench export runs/a --latents --split train --out latents/a
    workbench export runs/a --latents --codes --format npy --out arrays/a
    """
    from workbench.collect.export import export as export_arrays

    result = export_arrays(
        run,
        out,
        latents=latents,
        codes=codes,
        images=images,
        reconstructions=reconstructions,
        format=file_format,
        split=split,
        step=step,
        limit=limit,
    )
    typer.echo(f"Wrote {', '.join(result.arrays)} of {result.images:,} images to {out}.")
    if result.stats is not None:
        typer.echo(
            f"scaling_factor {result.stats.scaling_factor:.6g}, "
            f"shift_factor {result.stats.mean:.6g} (see latent_stats.json)"
        )


@app.command(context_settings=ACCEPTS_SETTINGS)
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
        typer.Option(help="The images: a folder, a parquet file, hub:owner/name, or a data set."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="The run of a tokenizer. Generators require it.")
    ] = None,
    side: Annotated[int | None, typer.Option(help="Height and width of the images.")] = None,
    value_range: Annotated[
        str | None,
        typer.Option(
            help="Black and white of images with more than 8 bits, as in 0,4095.",
            metavar="LOW,HIGH",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Largest number of images or samples.", min=1)] = 2000,
    pictures: PicturesOption = 2000,
    seed: Annotated[int, typer.Option(help="Seed of all random choices.")] = 0,
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
        typer.Option(help="Evaluations of a sweep at once; one per core by default.", min=1),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="The address of a Dask scheduler for a sweep; this machine by default."),
    ] = None,
) -> None:
    """Evaluate a model that was trained elsewhere, as a run that contains no weights.

    Other options are those of the family, as in --config model.yaml. An evaluation that was killed
    is resumed by the same command.

    \b
    workbench evaluate diffusers:stabilityai/sd-vae-ft-mse --data imagenet/val --out runs/sd-vae
    workbench evaluate ldm:model.ckpt --config model.yaml --data imagenet/val --out runs/mine
    workbench evaluate python:mine:make --trust mine --data digits --out runs/own
    workbench evaluate arrays:path/to/codes --codebook 16384 --out runs/codes
    workbench evaluate lightningdit:xl-64ep.pt --tokenizer runs/vavae --guidance 10 --out runs/gen
    torchrun --nproc_per_node 8 -m workbench evaluate ldm:model.ckpt --data val --out runs/mine
    workbench evaluate --sweep models.yaml --data imagenet/val --out runs
    """
    warnings.formatwarning = lambda message, *_: f"workbench: {message}\n"
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
            **_settings(context),
        )
        is_main = processes.is_main
    if not is_main:
        return
    for note in run.config.imported.notes if run.config.imported else ():
        typer.echo(f"workbench: {note}", err=True)
    typer.echo(f"Evaluated {run.folder}. Open it with: workbench dashboard {run.folder.parent}")


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
    options |= _settings(context, arguments)
    runs = evaluate_sweep(read_parameter_list(sweep), out, **options)
    typer.echo(f"Evaluated {len(runs)} models. Open them with: workbench dashboard {out}")


@app.command(cls=CommandWithSettings, context_settings=ACCEPTS_SETTINGS)
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

    typer.echo(write_report(template, out, **_settings(context)).resolve())


@app.command(context_settings=ACCEPTS_SETTINGS)
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
        typer.Option(help="Values of parameters; every combination becomes a report."),
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option("--list", help="A .csv or .json file of parameter sets instead of a grid."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Reports at the same time; one per core by default.", min=1),
    ] = None,
    memory: Annotated[str, typer.Option(help="The memory limit of one report.")] = "2GB",
    scheduler: Annotated[
        str | None,
        typer.Option(help="The address of a Dask scheduler; this machine by default."),
    ] = None,
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
        **_settings(context),
    }
    index = sweeps.sweep(template, sweeps.parameter_sets(grid, points), out, **options)
    typer.echo(index.resolve())


@app.command()
def gallery(
    folder: Annotated[Path, typer.Argument(help="A folder that contains reports.")] = Path("runs"),
) -> None:
    """Write index.html, a sortable and filterable table of all reports in a folder.

    \b
    workbench gallery runs
    """
    from workbench.hosts.reports.gallery import gallery as write_gallery

    typer.echo(write_gallery(folder).resolve())


@app.command()
def dashboard(
    runs: Annotated[Path, typer.Argument(help="A folder of runs.", metavar="RUNS")] = Path("runs"),
    port: Annotated[
        int, typer.Option(help="The port; 0 selects a free one.", min=0, max=65535)
    ] = DEFAULT_PORT,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    address: Annotated[
        str, typer.Option(help="The address to listen at; only this machine by default.")
    ] = "127.0.0.1",
    token: Annotated[
        bool, typer.Option("--token/--no-token", help="Require the token of the printed link.")
    ] = True,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another Host header to answer, such as a proxy's.", metavar="HOST"),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(help="Another origin whose pages may connect.", metavar="ORIGIN"),
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
            on_ready=lambda link: typer.echo(f"The dashboard is at {link}"),
        )
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"Cannot listen at {address}, port {port}: {reason}.") from None


@app.command()
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
    from workbench.launch.progress_bar import progress_bar
    from workbench.storage.jsonl import JsonlTail, is_log_record
    from workbench.storage.run import ACTIVE_STATES, Run

    opened = Run(run)
    if ask is not None:
        number = opened.ask(ask, term=term, value=value)
        typer.echo(
            f"Sent command {number} ({ask}) to {run}. A running process applies it after its step."
        )
        return
    if once:
        typer.echo(repr(opened))
        return
    status = opened.status()
    log = JsonlTail(opened.folder / "log.jsonl", is_log_record)
    loss = ""
    with progress_bar(
        total=status["steps"], initial=status["step"], desc=opened.name, unit="step"
    ) as bar:
        while status["state"] in ACTIVE_STATES:
            for record in log.read():
                loss = f", loss {record['loss']:.3g}" if "loss" in record else loss
            bar.set_postfix_str(f"{status['state']}{loss}", refresh=False)
            bar.update(status["step"] - bar.n)
            time.sleep(POLL_INTERVAL_S)
            status = opened.status()
        bar.update(status["step"] - bar.n)
    typer.echo(repr(opened))


@app.command()
def models(
    family: Annotated[
        str | None, typer.Argument(help="Only this family, such as softvq.", metavar="[FAMILY]")
    ] = None,
) -> None:
    """List published checkpoints that can be loaded, with license and published figures.

    The figures are those of the sources: compare them only with numbers of the same protocol.

    \b
    workbench models
    workbench models titok
    """
    from workbench.core.errors import unknown
    from workbench.storage.published_models import MODEL_COLUMNS
    from workbench.storage.published_models import models as published_models

    table = published_models()
    families = table["address"].str.partition(":")[0]
    if family is not None:
        if family not in set(families):
            raise unknown("family with published figures", family, set(families))
        table = table[families == family]
    rows = table[list(MODEL_COLUMNS)].astype(object)
    typer.echo(rows.where(rows.notna(), "").to_string(index=False))


@app.command(name="list")
def list_runs(
    runs: Annotated[Path, typer.Argument(help="A folder of runs.")] = Path("runs"),
) -> None:
    """List the runs of a folder with their state and the PSNR on held-out images.

    \b
    workbench list runs
    """
    from workbench.workspace.workspace import Workspace

    workspace = Workspace(runs)
    table = workspace.table()
    if table.empty:
        typer.echo(f"There are no runs in {runs}. Train one: workbench train --help")
    else:
        typer.echo(table.to_string(index=False, na_rep="", float_format="{:.1f}".format))
    for sentence in workspace.refused:
        typer.echo(f"workbench: {sentence}", err=True)


@app.command(context_settings=ACCEPTS_SETTINGS)
def check(
    context: typer.Context,
    class_path: Annotated[
        str,
        typer.Argument(help="A class, as my_module:MyTokenizer.", metavar="CLASS"),
    ],
    trust: TrustOption = None,
) -> None:
    """Check that a tokenizer of your own keeps what the workbench expects of every tokenizer.

    Settings that are not named have their defaults. Small sizes make the checks fast.

    \b
    workbench check my_module:MyTokenizer --trust my_module --dim 8
    """
    from workbench.launch import contract

    settings = _settings(context)
    table = contract.check(class_path, trust=trust or (), **settings)
    width = table["promise"].str.len().max() + 2
    for _, row in table.iterrows():
        typer.echo(f"{row['result']:<6}{row['promise']:<{width}}{row['reason']}".rstrip())
    failed = (table["result"] == contract.FAILED).sum()
    if failed:
        raise UserError(f"{class_path} fails {failed} of {len(table)} checks.")
    typer.echo(f"{class_path} can be trained and analyzed.")


PACKAGES = {
    "visual-tokenizer-workbench": "all",
    "numpy": "all",
    "plotly": "all",
    "umap-learn": "all",
    "torch": "train",
    "accelerate": "train",
    "datasets": "train",
    "jupyterlab": "lab",
    "ipywidgets": "lab",
    "panel": "dashboard",
    "papermill": "report",
}


@app.command(context_settings=ACCEPTS_SETTINGS)
def doctor(
    context: typer.Context,
    recipe: Annotated[
        str | None, typer.Option(help="Measure the training of this recipe of a tokenizer.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The images to measure with; those of the recipe if absent.")
    ] = None,
) -> None:
    """Print what is installed and missing, or measure how fast a recipe trains, and why.

    With --recipe, decoding, moving to the GPU and training are measured for some seconds each.
    Other options are settings of the recipe. Nothing is written.

    \b
    workbench doctor
    workbench doctor --recipe softvq-imagenet256 --data imagenet --batch-size 64
    """
    settings = _settings(context)
    if recipe is not None:
        _print_throughput(recipe, data, settings)
        return
    if data is not None or settings:
        raise UserError("Give the recipe to measure as well, as in --recipe softvq-imagenet256.")
    import platform

    rows = {"python": platform.python_version()}
    rows |= {package: _installed_version(package, extra) for package, extra in PACKAGES.items()}
    rows |= {
        "cores": str(available_cores()),
        "accelerator": _accelerator(),
        "browser": _browser(),
        "this folder": _writability(),
        f"port {DEFAULT_PORT}": _port_state(DEFAULT_PORT),
    }
    rows |= _metric_networks()
    width = max(len(name) for name in rows) + 2
    for name, state in rows.items():
        typer.echo(f"{name:<{width}}{state}")


def _print_throughput(recipe: str, data: str | None, settings: dict[str, Any]) -> None:
    from workbench.launch.throughput import measure_throughput

    measured = measure_throughput(recipe, data=data, **settings)
    rows = {
        f"decoding, {workers} worker{'' if workers == 1 else 's'}": rate
        for workers, rate in measured.decoding.items()
    }
    if measured.transfer is not None:
        rows["moving to the GPU"] = measured.transfer
    rows[f"training, {measured.step_images} images per step"] = measured.training
    width = max(len(name) for name in rows) + 2
    for name, rate in rows.items():
        typer.echo(f"{name:<{width}}{rate:>9,.1f} images/s")
    typer.echo(measured.bottleneck)


def _metric_networks() -> dict[str, str]:
    try:
        from workbench.collect.networks import metric_networks
    except ImportError:
        return {"metric networks": f"unknown without torch: {install_command('train')}"}
    return metric_networks()


def _installed_version(package: str, extra: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return f"missing: {install_command(extra)}"


def _accelerator() -> str:
    try:
        import torch
    except ImportError:
        return "unknown without torch"
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "none; training uses the CPU"


def _browser() -> str:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    return path or "no chromium on the PATH; the browser tests need one"


def _writability() -> str:
    return "writable" if os.access(".", os.W_OK) else "not writable; runs cannot be stored here"


def _port_state(port: int) -> str:
    import socket

    with socket.socket() as probe:
        is_used = probe.connect_ex(("127.0.0.1", port)) == 0
    return "in use; choose another with --port" if is_used else "free"


def _settings(context: typer.Context, arguments: list[str] | None = None) -> dict[str, Any]:
    """Parse `--lr 0.001 --codebook-size=512` into a dictionary of texts.

    The words are those that the parser does not know, if no others are given.

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
        app()
    except SystemExit as exit_request:
        # typer prints nothing on Ctrl-C.
        cause = exit_request.__context__.__cause__ if exit_request.__context__ else None
        if isinstance(cause, KeyboardInterrupt):
            typer.echo(
                "workbench: Interrupted. All files are complete; "
                "the same command can be run again.",
                err=True,
            )
        raise
    except UserError as error:
        sys.exit(f"workbench: {error}")
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
        sys.exit(f"workbench: {error.filename} is a file where a folder is needed.")
    except OSError as error:
        location = f" ({error.filename})" if error.filename else ""
        sys.exit(f"workbench: {error.strerror or error}{location}.")
