"""A hook table by which a host displays view models; without a host they show as plain text.

The workspace imports no host. A host calls `register_display` for each class that it can display,
and `_repr_html_` and `_ipython_display_` of that class call `to_html` and `show`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Display:
    """The two forms in which a host displays an object."""

    to_html: Callable[[Any], str]  # a page that needs no kernel
    show: Callable[[Any], None]  # widgets in a notebook


_DISPLAYS: dict[type, Display] = {}


def register_display(
    kind: type, *, to_html: Callable[[Any], str], show: Callable[[Any], None]
) -> None:
    """Make a host display all objects of a class.

    Parameters
    ----------
    kind : type
        The class of the objects.
    to_html : callable
        Returns an object as a page that needs no kernel.
    show : callable
        Displays an object as widgets in a notebook.
    """
    _DISPLAYS[kind] = Display(to_html=to_html, show=show)


def to_html(content: object) -> str | None:
    """Return an object as a page; None without a host, so that IPython shows plain text."""
    display = _DISPLAYS.get(type(content))
    return None if display is None else display.to_html(content)


def show(content: object) -> None:
    """Display an object in a notebook.

    Raises
    ------
    NotImplementedError
        If no host displays its class; IPython then shows plain text.
    """
    display = _DISPLAYS.get(type(content))
    if display is None:
        raise NotImplementedError(f"No host displays {type(content).__name__}.")
    display.show(content)
