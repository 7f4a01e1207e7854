"""Collecting evidence: the only step of an analysis that runs the model.

Each quantity is one collector in `workbench.collect.collectors`.
"""

from workbench.collect.images import load_images, to_uint8
from workbench.collect.models import LoadedModels
from workbench.collect.options import CollectOptions
from workbench.collect.orchestration import collect, collect_from
from workbench.collect.sampling import draw_samples, previewer
from workbench.collect.selection import select_collectors
from workbench.collect.versions import versions

__all__ = [
    "CollectOptions",
    "LoadedModels",
    "collect",
    "collect_from",
    "draw_samples",
    "load_images",
    "previewer",
    "select_collectors",
    "to_uint8",
    "versions",
]
