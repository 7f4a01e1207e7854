"""Check a class from outside of the package against the contract of tokenizers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.core.errors import UserError
from workbench.launch.in_process import coerce_settings
from workbench.launch.trainables import load_class, parse_target

if TYPE_CHECKING:
    import pandas as pd

OK, FAILED, ABSENT = "ok", "FAIL", "no"


def check(target: Any, *, trust: Sequence[str] | str = (), **settings: Any) -> "pd.DataFrame":
    """Check what the workbench expects of every tokenizer, on a small batch of random images.

    Parameters
    ----------
    target : str, type or Config
        The class as `module:Class`, as the class itself, or as its Config.
    trust : sequence of str or str
        Modules and packages outside of this package that may be imported. The module of a class
        that is passed itself is trusted.
    **settings
        Settings of the class by name. Small sizes make the checks fast.

    Returns
    -------
    DataFrame
        One row per promise, with the columns promise, result and reason. The result is "ok",
        "FAIL", or "no" for a promise that only some analyses need.

    Raises
    ------
    UserError
        If the class cannot be imported, is not a tokenizer, or does not take the settings.
    """
    import pandas as pd

    from workbench.tokenizers.base import TrainableTokenizer
    from workbench.tokenizers.contract import Subject, check_tokenizer

    parsed = parse_target(target, trust)
    kind = load_class(parsed.name, parsed.trust)
    if not issubclass(kind, TrainableTokenizer):
        raise UserError(f"{parsed.name} is a generator; only tokenizers can be checked.")
    values = coerce_settings(parsed.name, parsed.settings | settings, parsed.trust)
    try:
        config = kind.Config(**values)
    except TypeError as error:
        raise UserError(f"{parsed.name} does not take these settings: {error}.") from None
    rows = []
    for verdict in check_tokenizer(Subject(kind=kind, config=config)):
        broken = FAILED if verdict.is_required else ABSENT
        rows.append(
            {
                "promise": verdict.promise,
                "result": OK if verdict.is_kept else broken,
                "reason": verdict.reason,
            }
        )
    return pd.DataFrame(rows)
