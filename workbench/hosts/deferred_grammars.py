"""Import of notebook packages without grammars that notebooks do not use.

nbformat, nbconvert, papermill and Plotly's widgets import jsonschema. For the formats `iri` and
`iri-reference` it imports rfc3987_syntax, which compiles 38 grammars when it is imported. That
takes longer than importing all these packages.
"""

import sys
from importlib.util import find_spec, module_from_spec
from typing import Any

GRAMMARS = "rfc3987_syntax"


def defer_grammars() -> None:
    """Let jsonschema load rfc3987_syntax only when a text is compared with one of its grammars.

    Nothing changes if jsonschema or the package is already imported, or if it is not installed.
    """
    if {GRAMMARS, "jsonschema"} & sys.modules.keys():
        return
    spec = find_spec(GRAMMARS)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    execute = spec.loader.exec_module

    def load() -> None:
        if module.__dict__.pop("__getattr__", None) is not None:
            execute(module)

    def attribute(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        load()
        return getattr(module, name)

    def is_valid_syntax(term: str, value: str) -> bool:
        load()
        return module.is_valid_syntax(term, value)

    # The package itself replaces them once it is executed.
    module.__dict__.update(is_valid_syntax=is_valid_syntax, __getattr__=attribute)
    sys.modules[GRAMMARS] = module
