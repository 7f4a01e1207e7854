"""The networks of metrics: which are on this machine, and how to obtain the others."""

from collections.abc import Callable

from workbench.core.errors import UserError
from workbench.features.default import CANDIDATES, default_feature_extractor
from workbench.features.lpips import NETWORKS


def metric_networks() -> dict[str, str]:
    """Return the state of every network that a metric needs, without downloading anything.

    Returns
    -------
    dict of str to str
        By the name of the network: `present`, or how to obtain its weights. The entry
        `default features` is the default of `collect`, with its reason.
    """
    states = {c.title: _state(c.is_present, c.instructions) for c in CANDIDATES}
    for network in NETWORKS.values():
        for weights in (network.backbone, network.heads):
            states[weights.title] = _state(weights.find, weights.instructions)
    try:
        selected = default_feature_extractor()
        states["default features"] = f"{selected.name}: {selected.reason}"
    except UserError as error:
        states["default features"] = str(error)
    return states


def _state(find: Callable[[], object], instructions: Callable[[], str]) -> str:
    try:
        return "present" if find() else f"missing: {instructions()}"
    except UserError as error:
        return str(error)
