"""Collectors: one quantity of the evidence per file. A new module in this folder is discovered."""

import importlib
import pkgutil
from functools import cache

from workbench.collect.collectors.base import CollectContext, Collector, ModelKind, collector

__all__ = ["CollectContext", "Collector", "ModelKind", "collector", "collectors"]


@cache
def collectors() -> dict[str, Collector]:
    """Return every collector by its name, in alphabetical order."""
    discovered: dict[str, Collector] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for value in vars(module).values():
            if isinstance(value, Collector):
                discovered[value.name] = value
    return dict(sorted(discovered.items()))
