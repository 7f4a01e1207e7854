"""Numbers of things in sentences."""


def counted(count: int, singular: str, plural: str = "") -> str:
    """Return a number and its noun, in the singular or plural.

    Parameters
    ----------
    count : int
        The number.
    singular : str
        The noun of one, with its verb if it has one.
    plural : str, optional
        That of any other number; by default the singular with an s.

    Returns
    -------
    str
        The number with separators of thousands, and the words.

    Examples
    --------
    >>> counted(1, "entry is", "entries are"), counted(1200, "run")
    ('1 entry is', '1,200 runs')
    """
    return f"{count:,} {singular if count == 1 else plural or f'{singular}s'}"
