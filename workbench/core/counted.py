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
        The noun of any other number; by default the singular with an s.

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


def mean_count(count: float) -> str:
    """Return a mean or expected number of things with one decimal, unless that decimal is 0.

    Parameters
    ----------
    count : float
        The number.

    Returns
    -------
    str
        The number with separators of thousands.

    Examples
    --------
    >>> mean_count(255.98), mean_count(1066.24)
    ('256', '1,066.2')
    """
    return f"{count:,.1f}".removesuffix(".0")
