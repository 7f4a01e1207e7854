"""Import of code that the user trusts by name."""

import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.core.errors import UserError, unknown

PACKAGE = "workbench"  # this package, which is always trusted
MAIN = "__main__"  # a notebook or a script


class UntrustedError(UserError):
    """Code would be run that the user has not named."""


def is_trusted(module: str, trust: Sequence[str]) -> bool:
    """Return True if a module, or a package that contains it, is among the trusted names.

    Examples
    --------
    >>> is_trusted("mine.models", ["mine"]), is_trusted("mine2", ["mine"])
    (True, False)
    """
    return any(module == name or module.startswith(f"{name}.") for name in trust)


def describe_failure(error: BaseException) -> str:
    """Describe an error of the user's code by its type, message and line.

    Parameters
    ----------
    error : BaseException
        The error, as it was caught.

    Returns
    -------
    str
        The type and the first line of the message, and the file and line that raised it, if they
        are not of this package.
    """
    lines = str(error).strip().splitlines()
    text = ": ".join([type(error).__name__, *lines[:1]])
    last = traceback.extract_tb(error.__traceback__)[-1]
    file = Path(last.filename)
    if isinstance(error, SyntaxError) or file.is_relative_to(Path(__file__).parents[1]):
        return text  # the message of a syntax error has the line
    return f"{text} ({file.name}, line {last.lineno})"


def import_trusted(path: str, trust: Sequence[str]) -> Any:
    """Import an object by `module:name` from a module that the user trusts.

    The current folder is searched last.

    Parameters
    ----------
    path : str
        `module:name`.
    trust : sequence of str
        Names of modules and packages that may be imported.

    Raises
    ------
    UntrustedError
        If the module is not trusted.
    UserError
        If it is the program of a package, cannot be imported, or has no such name.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise UserError(f"Write module:name, as in my_module:make_tokenizer; got `{path}`.")
    package = module_name.partition(".")[0]
    if not is_trusted(module_name, trust):
        raise UntrustedError(
            f"Loading {path} runs the code of {module_name}. If you trust it, add --trust {package}"
            f" (in Python: trust=['{package}'])."
        )
    if module_name.endswith(f".{MAIN}"):
        raise UserError(f"{module_name} is a program, which importing would run, not a module.")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that no file of it replaces an installed module
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"{module_name} cannot be imported ({error}). Run the command in the folder that "
            "contains it, or install it."
        ) from None
    except (Exception, SystemExit) as error:  # of the user's code
        raise UserError(f"Importing {module_name} failed: {describe_failure(error)}.") from error
    if not hasattr(module, name):
        public = [each for each in vars(module) if not each.startswith("_")]
        raise unknown(f"name in {module_name}", name, public)
    return getattr(module, name)
