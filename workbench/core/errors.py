"""The exceptions of this package.

A message is one sentence: what was wrong, where, and what would be right.
"""

import difflib
from collections.abc import Iterable

DISTRIBUTION = "visual-tokenizer-workbench"


class UserError(ValueError):
    """A mistake that the user can correct.

    The command line prints the message without a traceback.
    """


class RunError(UserError):
    """A run folder is missing, damaged, too new, or in use by another process."""


class NotApplicable(UserError):
    """An analysis needs something that this tokenizer or run does not have.

    Hosts show the message in place of the figure.
    """


def unknown(kind: str, name: str, known: Iterable[str], *, within: str = "") -> UserError:
    """Return the error for a name that does not exist, with the closest known name.

    Parameters
    ----------
    kind : str
        The kind of thing that was named, such as "recipe".
    name : str
        The name that does not exist.
    known : iterable of str
        All names that exist.
    within : str, optional
        Where it would be, such as "of the lens" or "in runs".

    Returns
    -------
    UserError
        The error to raise.

    Examples
    --------
    >>> str(unknown("dataset", "digts", ["digits", "photos"]))
    'There is no dataset `digts`. Did you mean `digits`? Available: digits, photos.'
    >>> str(unknown("run", "b", ["a"], within="in runs"))
    'There is no run `b` in runs. Available: a.'
    """
    names = sorted(known)
    closest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean `{closest[0]}`?" if closest else ""
    place = f" {within}" if within else ""
    available = ", ".join(names) or "none"
    return UserError(f"There is no {kind} `{name}`{place}.{hint} Available: {available}.")


def install_command(extra: str) -> str:
    """Return the command that installs this package with an extra.

    Examples
    --------
    >>> install_command("train")
    "pip install 'visual-tokenizer-workbench[train]'"
    """
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def missing_extra(package: str, extra: str, purpose: str = "This command") -> UserError:
    """Return the error for a package that is not installed, with the command that installs it.

    Parameters
    ----------
    package : str
        The missing package.
    extra : str
        The extra of this distribution that contains the package.
    purpose : str
        The subject of the sentence: what needs the package.

    Returns
    -------
    UserError
        The error to raise.

    Examples
    --------
    >>> str(missing_extra("torch", "train", "Training"))
    "Training needs torch, which is not installed: pip install 'visual-tokenizer-workbench[train]'"
    """
    return UserError(f"{purpose} needs {package}, which is not installed: {install_command(extra)}")


def is_out_of_memory(error: Exception) -> bool:
    """Return True if an exception reports that memory could not be allocated.

    Parameters
    ----------
    error : Exception
        An exception of Python, NumPy or torch. Those of torch are RuntimeErrors.
    """
    text = str(error)
    return (
        isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text
    )
