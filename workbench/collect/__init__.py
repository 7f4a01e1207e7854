"""Collecting evidence: the only step of an analysis that runs the model.

Each quantity is one collector in `workbench.collect.collectors`.
"""

from workbench.collect.images import load_images, to_uint8
from workbench.collect.orchestration import collect
from workbench.collect.sampling import draw_samples, previewer
from workbench.collect.versions import versions

__all__ = ["collect", "draw_samples", "load_images", "previewer", "to_uint8", "versions"]
