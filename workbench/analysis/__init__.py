"""Analyses: pure functions of evidence that return a `Result`.

Every public function of a module in a group's folder whose return annotation is a `Result` is an
analysis. A new module is discovered without registration. Each analysis is also an attribute of
this package, for example `workbench.analysis.mixture_modes`.
"""

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

from workbench.core.errors import unknown

# The groups in the order in which hosts list them.
GROUPS = (
    "images",
    "tokens",
    "codebook",
    "latents",
    "learnability",
    "generation",
    "runs",
    "diagnosis",
)


def groups() -> dict[str, tuple[str, ...]]:
    """List the names of the analyses of each group.

    Returns
    -------
    dict of str to tuple of str
        Group name to analysis names, in the order of the group's `ORDER`, then by module name.

    Examples
    --------
    >>> from workbench import analysis
    >>> analysis.groups()["images"]
    ('image_comparison', 'similar_images', 'reconstruction', 'published_figures')
    """
    return {group: tuple(_analyses_of_group(group)) for group in GROUPS}


def analyses() -> dict[str, Callable[..., Any]]:
    """Return every analysis by name.

    Returns
    -------
    dict of str to callable
        The functions that return a `Result`, group by group.
    """
    return {
        name: function for group in GROUPS for name, function in _analyses_of_group(group).items()
    }


def get(name: str) -> Callable[..., Any]:
    """Return the analysis of a name.

    Parameters
    ----------
    name : str
        Name of the function, for example `mixture_modes`.

    Returns
    -------
    callable

    Raises
    ------
    UserError
        If no analysis has this name. The message suggests the nearest name.

    Examples
    --------
    >>> from workbench import analysis
    >>> analysis.get("reconstruction").__module__
    'workbench.analysis.images.reconstruction'
    """
    functions = analyses()
    if name not in functions:
        raise unknown("analysis", name, functions)
    return functions[name]


def __getattr__(name: str) -> Callable[..., Any]:
    # Python looks up an attribute before it imports a submodule of that name.
    if name.startswith("_") or importlib.util.find_spec(f"{__name__}.{name}") is not None:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    functions = analyses()
    if name not in functions:
        raise AttributeError(str(unknown("analysis", name, functions)))
    return functions[name]


def __dir__() -> list[str]:
    return sorted([*globals(), *analyses()])


def _analyses_of_group(group: str) -> dict[str, Callable[..., Any]]:
    package = importlib.import_module(f"{__name__}.{group}")
    functions: dict[str, Callable[..., Any]] = {}
    for name in _module_names(package, tuple(package.__path__)):
        functions |= _analyses_of_module(importlib.import_module(f"{package.__name__}.{name}"))
    return functions


@cache  # listing the folders takes longer than everything else
def _module_names(package: ModuleType, folders: tuple[str, ...]) -> list[str]:
    """Return the names of the modules in the folders of a group, in its order."""
    order = package.ORDER
    names = [module.name for module in pkgutil.iter_modules(folders)]
    return sorted(
        names, key=lambda name: (order.index(name) if name in order else len(order), name)
    )


@cache  # every tab of every page requests the list
def _analyses_of_module(module: ModuleType) -> dict[str, Callable[..., Any]]:
    return {
        name: function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and not name.startswith("_")
        and _returns_result(function)
    }


def _returns_result(function: Callable[..., Any]) -> bool:
    from workbench.analysis.base import Result

    annotation = inspect.signature(function).return_annotation
    return isinstance(annotation, type) and issubclass(annotation, Result)
