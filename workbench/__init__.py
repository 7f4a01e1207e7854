"""A workbench for visual tokenizers and the latent diffusion models built on them.

    import workbench as wb
    run = wb.train("softvq-digits", "runs/a", num_tokens=8)    # or: workbench train softvq-digits --out runs/a --num-tokens 8
    wb.open("runs/")                                       # in a notebook: every run, every analysis

Everything is imported when it is first used: this line costs nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Run": "workbench.storage.run",
    "Evidence": "workbench.storage.evidence",
    "analyses": "workbench.analysis",
    "budget": "workbench.hosts.notebook.shortcuts",
    "codebook": "workbench.hosts.displays",
    "compare": "workbench.hosts.notebook.shortcuts",
    "latent_map": "workbench.hosts.displays",
    "lens": "workbench.hosts.displays",
    "modes": "workbench.hosts.notebook.shortcuts",
    "open": "workbench.hosts.notebook.explorer",
    "report": "workbench.hosts.reports.report",
    "select": "workbench.workspace.image_selection",
    "start": "workbench.launch.subprocess",
    "train": "workbench.launch.subprocess",
    "watch": "workbench.hosts.notebook.explorer",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name == "analysis":  # the package, so that `wb.analysis.mixture_modes` works
        return importlib.import_module("workbench.analysis")
    if name not in _HOMES:
        raise AttributeError(
            f"module 'workbench' has no attribute '{name}'; it has {', '.join(_HOMES)}"
        )
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
