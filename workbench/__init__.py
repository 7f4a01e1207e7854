"""A workbench for visual tokenizers and the latent diffusion models built on them.

    import workbench as wb
    run = wb.train("softvq-digits", "runs/a", tokens=8)    # or: workbench train softvq-digits --out runs/a --tokens 8
    wb.open("runs/")                                       # in a notebook: every run, every analysis

Everything is imported when it is first used: this line costs nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Run": "workbench.runs",
    "Evidence": "workbench.evidence",
    "analyses": "workbench.analysis",
    "budget": "workbench.views.lab.families",
    "codebook": "workbench.views.codebook",
    "compare": "workbench.views.lab.families",
    "latent_map": "workbench.views.latent_map",
    "lens": "workbench.views.lens",
    "modes": "workbench.views.lab.families",
    "open": "workbench.views.lab.notebook",
    "report": "workbench.views.reports.report",
    "select": "workbench.views.picked",
    "start": "workbench.background",
    "train": "workbench.background",
    "watch": "workbench.views.lab.notebook",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'workbench' has no attribute '{name}'; it has {', '.join(_HOMES)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
