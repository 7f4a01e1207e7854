"""Descriptions of the fields of a dataclass, from the Attributes section of its docstring."""

import dataclasses
import inspect
import re

HEADING = re.compile(r"^(\w[\w ]*)\n-{3,}$", re.MULTILINE)
ATTRIBUTE = re.compile(r"^(\w+(?:, \w+)*) : .*$")


def attribute_docs(kind: type) -> dict[str, str]:
    """Return the description of each field of a dataclass, also of inherited fields.

    Parameters
    ----------
    kind : type
        The dataclass. Its docstring, or that of the class that a field is inherited from, has a
        section Attributes in the format of numpydoc.

    Returns
    -------
    dict
        Text without line breaks by the name of the field; fields without a description are absent.

    Examples
    --------
    >>> @dataclasses.dataclass
    ... class Size:
    ...     '''A size.
    ...
    ...     Attributes
    ...     ----------
    ...     width : int
    ...         Channels of
    ...         the network.
    ...     '''
    ...
    ...     width: int
    >>> attribute_docs(Size)
    {'width': 'Channels of the network.'}
    """
    descriptions: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        if dataclasses.is_dataclass(parent):
            descriptions |= _attributes_section(inspect.cleandoc(parent.__doc__ or ""))
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return {name: descriptions[name] for name in names if name in descriptions}


def _attributes_section(docstring: str) -> dict[str, str]:
    parts = HEADING.split(docstring)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    lines: dict[str, list[str]] = {}
    names: list[str] = []
    for line in sections.get("Attributes", "").splitlines():
        heading = ATTRIBUTE.match(line)
        if heading:
            names = heading[1].split(", ")
            lines |= {name: [] for name in names}
            continue
        for name in names:
            lines[name].append(line.strip())
    return {name: " ".join(filter(None, text)) for name, text in lines.items()}
