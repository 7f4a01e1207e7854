"""The JavaScript modules as components of a Panel page."""

from functools import cache

import param
from panel.custom import AnyWidgetComponent

from workbench.hosts.js import source


@cache
def component(name: str) -> type[AnyWidgetComponent]:
    """Return the component class of a module.

    Examples
    --------
    >>> lens = component("lens")(data="{}", view="{}")      # doctest: +SKIP
    """
    attributes = {
        "__module__": __name__,
        "_esm": source(name),
        "data": param.String("{}"),
        "view": param.String("{}"),
    }
    return type(f"{name.title()}Module", (AnyWidgetComponent,), attributes)
