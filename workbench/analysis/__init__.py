"""Analyses: pure functions of evidence that return a `Result`. A new module in a group's folder is found."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

from workbench.core.errors import unknown

GROUPS = (
    "images",
    "tokens",
    "codebook",
    "latents",
    "generation",
    "runs",
    "checks",
)  # as hosts list them


def groups() -> dict[str, tuple[str, ...]]:
    """The names of the analyses of each group, in the order of its `ORDER`, then by module."""
    return {group: tuple(_found(group)) for group in GROUPS}


def analyses() -> dict[str, Callable[..., Any]]:
    """Every analysis by its name: the public functions of the groups' modules that return a `Result`."""
    return {name: function for group in GROUPS for name, function in _found(group).items()}


def get(name: str) -> Callable[..., Any]:
    """One analysis. Raises UserError, with the nearest name, where there is none."""
    known = analyses()
    if name not in known:
        raise unknown("analysis", name, known)
    return known[name]


def _found(group: str) -> dict[str, Callable[..., Any]]:
    package = importlib.import_module(f"{__name__}.{group}")
    modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
    order = getattr(package, "ORDER", ())
    modules.sort(key=lambda name: (order.index(name) if name in order else len(order), name))
    found: dict[str, Callable[..., Any]] = {}
    for name in modules:
        found |= _defined_in(importlib.import_module(f"{package.__name__}.{name}"))
    return found


@cache  # asked for over and over: by every tab of every page
def _defined_in(module: ModuleType) -> dict[str, Callable[..., Any]]:
    functions = inspect.getmembers(module, inspect.isfunction)
    own = {
        name: f
        for name, f in functions
        if f.__module__ == module.__name__ and not name.startswith("_")
    }
    return {name: f for name, f in own.items() if _returns_a_result(f)}


def _returns_a_result(function: Callable[..., Any]) -> bool:
    from workbench.analysis.base import Result

    returned = inspect.signature(function).return_annotation
    return isinstance(returned, type) and issubclass(returned, Result)
