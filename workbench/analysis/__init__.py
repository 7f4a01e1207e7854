"""Analyses: pure functions of evidence that return a `Result`. A new module in this folder is found by existing."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any

from workbench.errors import unknown

CODEBOOK = ("codebook_distances", "codebook_dropping", "codebook_gallery", "codebook_information")
CODEBOOK += ("codebook_cooccurrence", "codebook_churn", "codebook_cascade", "codebook_softness", "codebook_levels")
# The order in which hosts list them; modules that are not named here follow, alphabetically.
ORDER = ("reconstruction", "budget", "error_request", "complexity", "token_value", "codebook", *CODEBOOK)
ORDER += ("modes", "projection", "geometry", "probes", "alignment")
ORDER += ("generation", "fidelity", "denoising")


def analyses() -> dict[str, Callable[..., Any]]:
    """Every analysis by its name: the public functions of this folder's modules that return a `Result`."""
    modules = [module.name for module in pkgutil.iter_modules(__path__)]
    modules.sort(key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    found: dict[str, Callable[..., Any]] = {}
    for name in modules:
        found |= _defined_in(importlib.import_module(f"{__name__}.{name}"))
    return found


def get(name: str) -> Callable[..., Any]:
    """One analysis. Raises UserError, with the nearest name, where there is none."""
    known = analyses()
    if name not in known:
        raise unknown("analysis", name, known)
    return known[name]


def _defined_in(module: ModuleType) -> dict[str, Callable[..., Any]]:
    functions = inspect.getmembers(module, inspect.isfunction)
    own = {name: f for name, f in functions if f.__module__ == module.__name__ and not name.startswith("_")}
    return {name: f for name, f in own.items() if _returns_a_result(f)}


def _returns_a_result(function: Callable[..., Any]) -> bool:
    from workbench.analysis.result import Result

    returned = inspect.signature(function).return_annotation
    return isinstance(returned, type) and issubclass(returned, Result)
