"""The few ways this package says no. Every message is one sentence: what was wrong, where, what would be right."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake the user can mend. The command line prints the sentence alone, without a traceback."""


class RunError(UserError):
    """A run folder that is missing, damaged, too new, or being written by somebody else."""


class NotApplicable(UserError):
    """An analysis was asked of a tokenizer that lacks what it needs; hosts show the sentence in the figure's place."""


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The one way to say "did you mean": an error to raise for a name that is not among the known ones."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean `{near[0]}`?" if near else ""
    return UserError(f"There is no {what} `{name}`; there is {', '.join(known) or 'none'}.{hint}")
