"""Checks and conversions of evidence that several analyses share."""

from collections.abc import Sequence

import numpy as np

from workbench.core.errors import NotApplicable, UserError
from workbench.storage.evidence import Evidence


def flatten_latents(latents: np.ndarray, min_images: int, purpose: str) -> np.ndarray:
    """Concatenate the tokens of each image and check the values.

    Parameters
    ----------
    latents : ndarray of float, shape (n, tokens, d)
        Latent vectors of n images.
    min_images : int
        Smallest number of images that the analysis accepts.
    purpose : str
        Name of the analysis, used as the subject of the error message.

    Returns
    -------
    ndarray of float64, shape (n, tokens * d)

    Raises
    ------
    NotApplicable
        If there are fewer than `min_images` images, or all images have the same latents.
    UserError
        If a latent is NaN or infinite.

    Examples
    --------
    >>> latents = np.arange(12.0).reshape(3, 2, 2)
    >>> flatten_latents(latents, 2, "This analysis").shape
    (3, 4)
    """
    n = len(latents)
    if n < min_images:
        raise NotApplicable(f"{purpose} needs at least {min_images} images; the evidence has {n}.")
    rows = np.asarray(latents, np.float64).reshape(n, -1)
    num_invalid = int((~np.isfinite(rows)).any(axis=1).sum())
    if num_invalid:
        raise UserError(
            f"The latents of {num_invalid} of {n} images contain NaN or infinity. Collect the"
            " evidence of an earlier step."
        )
    if not np.ptp(rows, axis=0).any():
        raise NotApplicable(
            f"{purpose} needs latents that differ between images; all {n} images have the same."
        )
    return rows


def describe_pictures(n: int, num_images: int | None) -> str:
    """Return a sentence if only some images have the pictures that an analysis needs.

    Examples
    --------
    >>> describe_pictures(2000, 50_000)
    ' It uses the 2,000 of 50,000 images that have pictures.'
    >>> describe_pictures(2000, 2000), describe_pictures(2000, None)
    ('', '')
    """
    if num_images is None or n >= num_images:
        return ""
    return f" It uses the {n:,} of {num_images:,} images that have pictures."


def check_labels(labels: np.ndarray | None, n: int, purpose: str) -> None:
    """Check that every image has a label.

    Parameters
    ----------
    labels : ndarray of int, shape (n,), or None
        Class of each image.
    n : int
        Number of images.
    purpose : str
        Name of the analysis, used as the subject of the error message.

    Raises
    ------
    NotApplicable
        If there are no labels.
    UserError
        If the number of labels is not `n`.
    """
    if labels is None:
        raise NotApplicable(f"{purpose} needs the class of each image, and there are no labels.")
    class_names(labels, (), n)


def class_names(labels: np.ndarray | None, names: tuple[str, ...], n: int) -> tuple[str, ...]:
    """Return the class of each image as text.

    Parameters
    ----------
    labels : ndarray of int, shape (n,), or None
        Class of each image.
    names : tuple of str
        Names of the classes. A label without a name is written as a number.
    n : int
        Number of images.

    Returns
    -------
    tuple of str
        One entry per image; empty if `labels` is None.

    Raises
    ------
    UserError
        If the number of labels is not `n`.

    Examples
    --------
    >>> class_names(np.array([1, 0, 2]), ("cat", "dog"), 3)
    ('dog', 'cat', '2')
    """
    if labels is None:
        return ()
    if len(labels) != n:
        raise UserError(
            f"There are {len(labels)} labels for {n} images. Check that both come from one run."
        )
    return tuple(
        names[label] if 0 <= label < len(names) else str(label)
        for label in np.asarray(labels).tolist()
    )


def with_inactive_at_zero(latents: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Return latents without what the encoder computed for tokens that the decoder does not read.

    Parameters
    ----------
    latents : ndarray of float, shape (n, tokens, d)
        Latent vectors, one per token.
    active : ndarray of bool, shape (n, tokens)
        Tokens that the decoder reads.

    Returns
    -------
    ndarray of float, shape (n, tokens, d)
        The latents, with 0 for the other tokens.
    """
    return np.where(np.asarray(active, bool)[..., None], latents, 0)


def image_set(evidence: Evidence, latents: np.ndarray) -> tuple[object, int]:
    """Return a key that is equal for two runs measured on the same images.

    Parameters
    ----------
    evidence : Evidence
        Evidence of one run.
    latents : ndarray, shape (n, tokens, d)
        The latents of the evidence.

    Returns
    -------
    tuple
        Fingerprint of the images, and their number.
    """
    return evidence.provenance.get("fingerprint"), len(latents)


def distinct_names(evidences: Sequence[Evidence]) -> tuple[str, ...]:
    """Return the name of each run, followed by the step if the name occurs more than once.

    Parameters
    ----------
    evidences : sequence of Evidence
        Evidence of the runs.

    Returns
    -------
    tuple of str
    """
    names = [evidence.run_name for evidence in evidences]
    return tuple(
        e.run_name if names.count(e.run_name) == 1 else f"{e.run_name}, step {e.step:,}"
        for e in evidences
    )


def require_array(array: np.ndarray | None, description: str, run_name: str) -> np.ndarray:
    """Return an array of a run's evidence, or raise NotApplicable if it was not collected.

    Parameters
    ----------
    array : ndarray or None
        The array, or None if it was not collected.
    description : str
        Name of the array in the error message.
    run_name : str
        Name of the run in the error message.

    Returns
    -------
    ndarray

    Raises
    ------
    NotApplicable
        If `array` is None.
    """
    if array is None:
        raise NotApplicable(f"This needs {description}; {run_name} has none.")
    return array
