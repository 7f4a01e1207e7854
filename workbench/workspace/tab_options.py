"""The options of the tabs Overview and Live, as the controls of the analyses that they show."""

from collections.abc import Mapping

from workbench import analysis
from workbench.core.coerce import coerce
from workbench.workspace.controls import Value, coerce_controls, controls

CURVES = "training_curves"
COMPARE = "compare"  # option of the live tab: whether it shows the other selected runs


def overview_controls(options: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """Return the controls of each analysis of the overview.

    Options that neither analysis has are passed to the token budget, which refuses them.
    """
    names = {control.name for control in controls(analysis.get("decision"))}
    return {
        "decision": {name: value for name, value in options.items() if name in names},
        "token_budget": {name: value for name, value in options.items() if name not in names},
        "checks": {},
    }


def live_options(options: Mapping[str, Value]) -> tuple[bool, dict[str, Value]]:
    """Return whether the live tab shows the other runs, and all controls of its curves.

    Raises
    ------
    UserError
        If the curves have no such control, or a value is not valid.
    """
    rest = {name: value for name, value in options.items() if name != COMPARE}
    shows_others = coerce(bool, COMPARE, options.get(COMPARE, True))
    return shows_others, coerce_controls(analysis.get(CURVES), rest)
