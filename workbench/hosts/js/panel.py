"""The modules as components of a Panel page."""

from functools import cache

import param
from panel.custom import AnyWidgetComponent

from workbench.hosts.js import source


@cache
def component(name: str) -> type[AnyWidgetComponent]:
    """The class of a module's components: `component("lens")(data=json, view=json)`; `view` follows the person."""
    texts = {"_esm": source(name), "data": param.String("{}"), "view": param.String("{}")}
    return type(f"{name.title()}Module", (AnyWidgetComponent,), {"__module__": __name__, **texts})
