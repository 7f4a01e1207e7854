"""Check a class from outside of the package against the contract of tokenizers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.core.errors import UserError
from workbench.launch.in_process import coerce_settings
from workbench.launch.trainables import load_class

if TYPE_CHECKING:
    from workbench.tokenizers.contract import Verdict


def check_class(
    path: str, trust: Sequence[str] = (), settings: Mapping[str, Any] | None = None
) -> "list[Verdict]":
    """Run the checks of `workbench.tokenizers.contract` on a class.

    Parameters
    ----------
    path : str
        `module:Class`.
    trust : sequence of str
        Modules and packages outside of this package that may be imported.
    settings : mapping, optional
        Settings of the class by name, as values or as text.

    Returns
    -------
    list of Verdict
        One per promise.

    Raises
    ------
    UserError
        If the class cannot be imported, is not a tokenizer, or does not take the settings.
    """
    from workbench.tokenizers.base import TrainableTokenizer
    from workbench.tokenizers.contract import Subject, check_tokenizer

    kind = load_class(path, trust)
    if not issubclass(kind, TrainableTokenizer):
        raise UserError(f"{path} is a generator; only tokenizers can be checked.")
    values = coerce_settings(path, dict(settings or {}), trust)
    try:
        config = kind.Config(**values)
    except TypeError as error:
        raise UserError(f"{path} does not take these settings: {error}.") from None
    return check_tokenizer(Subject(kind=kind, config=config))
