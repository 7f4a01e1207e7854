"""The command line: thin words over the package's functions. `workbench COMMAND --help` shows examples."""

import os
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.core.errors import UserError

app = typer.Typer(
    name="workbench",
    help="Train visual tokenizers and small latent diffusion models, and look inside them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
ANY_SETTING = {"allow_extra_args": True, "ignore_unknown_options": True}
RunFolder = Annotated[Path, typer.Argument(help="The run's folder.", metavar="RUN")]


def _list_recipes() -> str:
    from workbench.launch.recipes import SIZES, SYSTEMS

    lines = ("  " + "  ".join(f"{system}-{data}" for data in SIZES) for system in SYSTEMS)
    return "\n".join(["\b", "Recipes:", *lines])  # \b: a name is not to be broken at its hyphen


@app.command(context_settings=ANY_SETTING, epilog=_list_recipes())
def train(
    context: typer.Context,
    recipe: Annotated[
        str, typer.Argument(help="A system and its data, such as softvq-digits.", metavar="RECIPE")
    ],
    out: Annotated[Path, typer.Option(help="The run's folder; an unfinished run in it goes on.")],
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    num_tokens: Annotated[int | None, typer.Option(help="Latent tokens an image.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="The tokenizer's run; generators need one.")
    ] = None,
    collect: Annotated[bool, typer.Option(help="Collect evidence when training is done.")] = True,
) -> None:
    """Train a recipe. Every setting can be changed by its name, as in --lr 0.001 or --codebook-size 512.

    \b
    workbench train softvq-digits --out runs/a --steps 500 --save-every 100 --num-tokens 16
    workbench train softvq-photos --out runs/mine --data path/to/my/images --side 64
    workbench train sit-digits --tokenizer runs/a --out runs/flow
    """
    from workbench.launch import in_process as jobs

    warnings.formatwarning = lambda message, *_: (
        f"workbench: {message}\n"
    )  # of skipped images: the sentence alone
    given = {
        "steps": steps,
        "save_every": save_every,
        "num_tokens": num_tokens,
        "tokenizer": tokenizer,
    }
    run = jobs.train(recipe, out, collect=collect, **given | _settings(context))
    status = run.status()
    if status["state"] != "finished":
        typer.echo(
            f"Stopped at step {status['step']} of {status['steps']}; the same command goes on from there.",
            err=True,
        )
        raise typer.Exit(130)
    if os.environ.get("RANK", "0") == "0":  # of several processes the first speaks
        told = f"Look at it with: workbench dashboard {run.folder.parent}"
        typer.echo(f"{run.folder} is trained: {status['step']} steps. {told}")


@app.command()
def collect(
    run: RunFolder,
    step: Annotated[int | None, typer.Option(help="Checkpoint; the last by default.")] = None,
    limit: Annotated[int, typer.Option(help="Held-out images (or samples) at most.", min=1)] = 2000,
    feature_extractor: Annotated[
        str,
        typer.Option(
            help="Feature extractor for Fréchet distances and precision/recall (hog, random, dinov2)."
        ),
    ] = "hog",
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run only this collector, and those it requires; repeatable."),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Leave out this collector; repeatable.")
    ] = None,
) -> None:
    """Run a trained model on held-out images and save arrays, which every analysis reads.

    \b
    workbench collect runs/a
    workbench collect runs/a --skip prefixes
    """
    from workbench.collect import collect as collect_evidence
    from workbench.storage.run import Run

    evidence = collect_evidence(
        Run(run),
        step=step,
        limit=limit,
        feature_extractor=feature_extractor,
        only=only or (),
        skip=skip or (),
    )
    typer.echo(evidence)


@app.command(context_settings=ANY_SETTING)
def report(
    context: typer.Context,
    template: Annotated[
        str,
        typer.Argument(
            help="A template's name, such as tokenizer; or a notebook.", metavar="TEMPLATE"
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The HTML file; in the run by default.", dir_okay=False)
    ] = None,
) -> None:
    """Execute a report's notebook with parameters and write one HTML file that needs no network.

    \b
    workbench report tokenizer --run runs/a
    workbench report tokenizer --run runs/a --compare-with runs/b,runs/c --out report.html
    """
    from workbench.hosts.reports.report import report as write_report

    typer.echo(write_report(template, out, **_settings(context)).resolve())


@app.command(context_settings=ANY_SETTING)
def sweep(
    context: typer.Context,
    template: Annotated[
        str, typer.Argument(help="A report's template, such as training.", metavar="TEMPLATE")
    ],
    out: Annotated[
        Path,
        typer.Option(help="The sweep's folder; what is finished in it is kept.", file_okay=False),
    ],
    grid: Annotated[str | None, typer.Option(help="Values of parameters, all combined.")] = None,
    points: Annotated[
        Path | None, typer.Option("--list", help="A .csv or .json of parameters instead.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Reports at once; one a core by default.", min=1)
    ] = None,
    memory: Annotated[str, typer.Option(help="What one report may take.")] = "2GB",
    scheduler: Annotated[
        str | None, typer.Option(help="A Dask scheduler's address; this machine if none.")
    ] = None,
) -> None:
    """Make a report for each of many sets of parameters, then compare them. Other parameters are given to all.

    \b
    workbench sweep training --grid "codebook_size=64,256;num_tokens=4,8" --out sweeps/a --recipe softvq-digits
    workbench sweep tokenizer --list points.csv --out sweeps/b --scheduler tcp://10.0.0.1:8786
    """
    from workbench.hosts.reports import sweep as sweeps

    how = {"workers": workers, "memory": memory, "scheduler": scheduler, **_settings(context)}
    typer.echo(sweeps.sweep(template, sweeps.parameter_sets(grid, points), out, **how).resolve())


@app.command()
def gallery(
    folder: Annotated[Path, typer.Argument(help="A folder that holds reports.")] = Path("runs"),
) -> None:
    """Write index.html over all reports in a folder, to sort and to filter: workbench gallery runs."""
    from workbench.hosts.reports.gallery import gallery as write_gallery

    typer.echo(write_gallery(folder).resolve())


@app.command()
def dashboard(
    runs: Annotated[Path, typer.Argument(help="A folder of runs.", metavar="RUNS")] = Path("runs"),
    port: Annotated[
        int, typer.Option(help="Port on this machine; 0 takes a free one.", min=0, max=65535)
    ] = 8765,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    address: Annotated[
        str, typer.Option(help="Where to listen; only this machine by default.")
    ] = "127.0.0.1",
) -> None:
    """Open the dashboard over a folder of runs.

    \b
    workbench dashboard runs --port 8765 --no-browser
    """
    from workbench.hosts.dashboard.server import serve

    try:
        serve(runs, port=port, address=address, show=browser)
    except OSError as error:
        raise UserError(
            f"Nothing can listen at {address}, port {port}: {error.strerror or error}."
        ) from None


@app.command()
def watch(
    run: RunFolder,
    ask: Annotated[
        str | None, typer.Option(help="pause, resume, stop, sample, evaluate, weight or lr.")
    ] = None,
    term: Annotated[str | None, typer.Option(help="The term whose weight to change.")] = None,
    value: Annotated[
        float | None, typer.Option(help="The multiplier of that weight, or of the lr.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Say how it stands, and leave.")] = False,
) -> None:
    """Follow a run from another terminal: it reads files only. With --ask, steer it.

    \b
    workbench watch runs/a
    workbench watch runs/a --ask pause
    workbench watch runs/a --ask weight --term align --value 0.5
    """
    from tqdm import tqdm

    from workbench.storage.run import Run

    opened = Run(run)
    if ask is not None:
        number = opened.ask(ask, term=term, value=value)
        typer.echo(
            f"Asked {run} to {ask}; it answers within a second if it is running (request {number})."
        )
        return
    status = opened.status()
    if once:
        typer.echo(repr(opened))
        return
    with tqdm(
        total=status["steps"], initial=status["step"], desc=opened.name, unit="step", disable=None
    ) as bar:
        while status["state"] in ("running", "paused"):
            bar.update(status["step"] - bar.n)
            bar.set_postfix_str(status["state"])
            time.sleep(0.5)
            status = opened.status()
        bar.update(status["step"] - bar.n)
    typer.echo(repr(opened))


@app.command(name="list")
def list_runs(
    runs: Annotated[Path, typer.Argument(help="A folder of runs.")] = Path("runs"),
) -> None:
    """List the runs of a folder: what each is, how far it is, its PSNR on held-out images.

    \b
    workbench list runs
    """
    from workbench.workspace.workspace import Workspace

    bench = Workspace(runs)
    typer.echo(bench.table().to_string(index=False, na_rep="", float_format="{:.1f}".format))
    for sentence in bench.refused:
        typer.echo(f"workbench: {sentence}", err=True)


@app.command()
def doctor() -> None:
    """Say what this machine has, and what is missing.

    \b
    workbench doctor
    """
    import importlib.metadata as metadata
    import platform
    import socket

    def line(name: str, said: str) -> None:
        typer.echo(f"{name:<18} {said}")

    line("python", platform.python_version())
    for package, need in PACKAGES.items():
        try:
            line(package, metadata.version(package))
        except metadata.PackageNotFoundError:
            line(package, f"missing: pip install 'workbench[{need}]'")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    line("cores", str(cores))
    line("accelerator", _accelerator())
    line(
        "browser",
        shutil.which("chromium")
        or shutil.which("google-chrome")
        or "no chromium on the PATH (tests need one)",
    )
    line(
        "this folder",
        "writable" if os.access(".", os.W_OK) else "not writable: runs cannot be kept here",
    )
    with socket.socket() as probe:
        line(
            "port 8765",
            "in use: give --port" if probe.connect_ex(("127.0.0.1", 8765)) == 0 else "free",
        )


PACKAGES = {
    "workbench": "all",
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


def _accelerator() -> str:
    try:
        import torch
    except ImportError:
        return "unknown without torch"
    return (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else "none: training runs on the CPU"
    )


def _settings(context: typer.Context) -> dict[str, Any]:
    """`--lr 0.001 --codebook-size=512` as a dictionary. Raises UserError for anything else, and for an argument's own name."""
    settings, rest, spelt = {}, list(context.args), {each.name for each in context.command.params}
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise UserError(f"`{word}` is not a setting; write --name value.")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"--{name} needs a value, as in --{name} 1.")
            value = rest.pop(0)
        if name in spelt and context.params[name] is not None:
            raise UserError(
                f"--{name} is no setting; {name} is written without its name: {context.info_name} {value}."
            )
        settings[name.replace("-", "_")] = value
    return settings


def main() -> None:
    """The entry point: a user's mistake, or the machine's, ends in one sentence and an exit code that is not 0."""
    try:
        app()
    except SystemExit as ended:  # typer's answer to Ctrl-C is silence
        if isinstance(getattr(ended.__context__, "__cause__", None), KeyboardInterrupt):
            said = "workbench: Interrupted; files are whole or not there, and the same command can be given again."
            typer.echo(said, err=True)
        raise
    except UserError as error:
        sys.exit(f"workbench: {error}")
    except ModuleNotFoundError as error:
        sys.exit(
            f"workbench: this needs {error.name}, which is not installed: pip install 'workbench[all]'"
        )
    except (FileExistsError, NotADirectoryError) as error:
        sys.exit(f"workbench: {error.filename} is a file where a folder is needed.")
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        sys.exit(f"workbench: {error.strerror or error}{where}.")
