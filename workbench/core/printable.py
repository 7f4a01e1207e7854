"""Text that comes from files and folders, as terminals can show it."""

import os
import unicodedata
from pathlib import Path

# Control characters, those that change the direction of the text, and line separators.
UNPRINTABLE_CATEGORIES = ("Cc", "Cf", "Zl", "Zp")
# These are kept: some scripts and emoji need them, and they do not change the direction.
JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"


def printable(path: Path | str) -> str:
    """Return a path as text that every terminal and page can show.

    Bytes of a name that are not UTF-8 and control characters are shown as escapes: a name could
    otherwise change the title or the clipboard of a terminal, or pretend to be another name.

    Examples
    --------
    >>> printable("runs/caf\\udce9")
    'runs/caf\\\\xe9'
    >>> printable("runs/\\x1b[31m\\n")
    'runs/\\\\x1b[31m\\\\n'
    """
    return escape_controls(os.fsencode(path).decode("utf-8", "backslashreplace"))


def escape_controls(text: str, *, keep: str = "") -> str:
    """Replace the control characters of a text by escapes, except those to keep.

    Examples
    --------
    >>> escape_controls("a\\tb\\nc\\u202ed", keep="\\n") == "a\\\\tb\\nc\\\\u202ed"
    True
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escape(character) if _is_unprintable(character) and character not in keep else character
        for character in text
    )


def _is_unprintable(character: str) -> bool:
    return unicodedata.category(character) in UNPRINTABLE_CATEGORIES and character not in JOINERS


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
