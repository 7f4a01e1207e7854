"""A workbench for visual tokenizers and the latent diffusion models built on them.

>>> import workbench as wb
>>> run = wb.train("softvq-digits", "runs/a", num_tokens=8)  # doctest: +SKIP
>>> wb.open("runs/")  # doctest: +SKIP

Every name is imported when it is first used, so `import workbench` is fast.

====================== =========================================================================
train, start           train a recipe or a class, or start its training in another process
check                  check what is expected of a tokenizer of your own
open, watch            explore a folder of runs, or follow a running training, in a notebook
compare, budget, modes compare runs, plot quality against token budget, and count modes
diffusability          compare latent spaces by how well a generator can learn them
predict                predict which tokenizer generates better, if that can be predicted
lens                   show what single tokens, modes and noise do to images
latent_map, codebook   show the latents of all images, or the codewords with their images
select                 measure a selection of images
report                 write a report as one HTML file
evaluate, wrap         evaluate a tokenizer from elsewhere, or from two functions, as a run
models                 published checkpoints that can be loaded, with their published figures
load_tokenizer         load a tokenizer that was trained elsewhere, by its address
transformed            map the latents of a tokenizer linearly, with equal reconstructions
load_generator         load a generator that was trained elsewhere, by its address
analysis, analyses     all analyses as functions, and a dictionary of them
Run, Evidence          a training run on disk, and the arrays collected from it
evidence, export       evidence from arrays in files or in memory, and arrays of a run as files
====================== =========================================================================
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# `hosts.displays` registers how lenses, maps and codebooks are displayed in notebooks.
_MODULES = {
    "Run": "workbench.storage.run",
    "Evidence": "workbench.storage.evidence",
    "analyses": "workbench.analysis",
    "budget": "workbench.hosts.notebook.shortcuts",
    "check": "workbench.launch.contract",
    "codebook": "workbench.hosts.displays",
    "evidence": "workbench.storage.array_evidence",
    "export": "workbench.collect.export",
    "compare": "workbench.hosts.notebook.shortcuts",
    "diffusability": "workbench.hosts.notebook.shortcuts",
    "evaluate": "workbench.launch.evaluate",
    "latent_map": "workbench.hosts.displays",
    "lens": "workbench.hosts.displays",
    "load_generator": "workbench.generators.pretrained",
    "load_tokenizer": "workbench.tokenizers.pretrained",
    "models": "workbench.storage.published_models",
    "modes": "workbench.hosts.notebook.shortcuts",
    "predict": "workbench.hosts.notebook.shortcuts",
    "open": "workbench.hosts.notebook.explorer",
    "report": "workbench.hosts.reports.report",
    "select": "workbench.workspace.image_selection",
    "start": "workbench.launch.subprocess",
    "train": "workbench.launch.subprocess",
    "transformed": "workbench.launch.transformed",
    "watch": "workbench.hosts.notebook.explorer",
    "wrap": "workbench.tokenizers.pretrained.wrapped",
}
# The extra with the packages that a name may lack, by the beginning of its module.
_EXTRAS = {
    "workbench.hosts.reports": "report",
    "workbench.hosts": "lab",
    "workbench": "train",
}
__all__ = ["__version__", "analysis", *_MODULES]


def __getattr__(name: str) -> Any:
    if name == "analysis":
        return importlib.import_module("workbench.analysis")
    if name not in _MODULES:
        available = ", ".join(_MODULES)
        raise AttributeError(f"module 'workbench' has no attribute '{name}'; it has {available}")
    try:
        return getattr(importlib.import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        package = error.name or ""
        if package.startswith("workbench"):
            raise
        from workbench.core.errors import missing_extra

        extra = next(_EXTRAS[part] for part in _EXTRAS if _MODULES[name].startswith(part))
        raise missing_extra(package, extra, f"wb.{name}") from None


def __dir__() -> list[str]:
    return sorted(__all__)
