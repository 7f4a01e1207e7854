"""The parameters of a report template as the options of a command."""

from typing import Any, Literal, get_args, get_origin

from workbench.hosts.reports.own_text import TEXT_PARAMETERS
from workbench.hosts.reports.template import Parameter, find_template, parameters_of

NO_DEFAULT: tuple[Any, ...] = ("", [], {})


def help_rows(name: str) -> list[tuple[str, str]]:
    """Return the parameters of a template as options, each with its meaning and default.

    Parameters
    ----------
    name : str
        Name of a template, or path of a notebook.

    Raises
    ------
    UserError
        If there is no such template.
    """
    rows = [_row(parameter) for parameter in parameters_of(find_template(name))]
    texts = [(f"--{name} TEXT", _sentence(text)) for name, text in TEXT_PARAMETERS.items()]
    return rows + texts


def _row(parameter: Parameter) -> tuple[str, str]:
    option = "--" + parameter.name.replace("_", "-")
    text = _sentence(parameter.description)
    if parameter.type is dict:
        return "--NAME VALUE", text
    if get_origin(parameter.type) is Literal:
        text += f" One of: {', '.join(map(str, get_args(parameter.type)))}."
    if parameter.default not in NO_DEFAULT:
        text += f" [default: {parameter.default}]"
    kinds = {int: "INTEGER", float: "NUMBER", bool: "true|false", list: "TEXT,..."}
    return f"{option} {kinds.get(parameter.type, 'TEXT')}", text


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""
