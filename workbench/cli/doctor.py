"""The command that examines the installation and the speed of training."""

import os
import shutil
from typing import Annotated, Any

import typer

from workbench.cli.dashboard import DEFAULT_PORT
from workbench.cli.output import echo
from workbench.cli.settings import ACCEPTS_SETTINGS, parse_settings
from workbench.core.cores import available_cores
from workbench.core.errors import UserError, install_command

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


def doctor(
    context: typer.Context,
    recipe: Annotated[
        str | None, typer.Option(help="Measure the training of this tokenizer recipe.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The images to measure with; by default those of the recipe.")
    ] = None,
) -> None:
    """Print what is installed and missing, or measure how fast a recipe trains, and why.

    With --recipe, decoding, moving to the GPU and training are measured for some seconds each.
    Other options are settings of the recipe. Nothing is written.

    \b
    workbench doctor
    workbench doctor --recipe softvq-imagenet256 --data imagenet --batch-size 64
    """
    settings = parse_settings(context)
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
        echo(f"{name:<{width}}{state}")


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
        echo(f"{name:<{width}}{rate:>9,.1f} images/s")
    echo(measured.bottleneck)


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


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(context_settings=ACCEPTS_SETTINGS)(doctor)
