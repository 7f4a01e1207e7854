"""What several analyses ask of their evidence before they start, each refusal in one sentence."""

import numpy as np

from workbench.core.errors import NotApplicable, UserError


def flatten_latents(latents: np.ndarray, least: int, purpose: str) -> np.ndarray:
    """Latents (n, tokens, d) as float64 (n, tokens * d): an image's tokens side by side.

    Raises NotApplicable for fewer than `least` images or latents that never change, UserError for NaN or infinity.
    """
    n = len(latents)
    if n < least:
        raise NotApplicable(f"{purpose} needs at least {least} images; this evidence has {n}.")
    rows = np.asarray(latents, np.float64).reshape(n, -1)
    broken = int((~np.isfinite(rows)).any(axis=1).sum())
    if broken:
        raise UserError(
            f"The latents of {broken} of {n} images hold NaN or infinity. Collect from an earlier step."
        )
    if not np.ptp(rows, axis=0).any():
        raise NotApplicable(
            f"{purpose} needs latents that differ; these are the same for all {n} images."
        )
    return rows


def class_names(labels: np.ndarray | None, names: tuple[str, ...], n: int) -> tuple[str, ...]:
    """The class of each of n images as text: its name where it has one, else its number; empty without labels.

    Raises UserError where the labels are not n.
    """
    if labels is None:
        return ()
    if len(labels) != n:
        raise UserError(
            f"There are {len(labels)} labels for {n} images. Do both come from the same run?"
        )
    return tuple(
        names[label] if 0 <= label < len(names) else str(label)
        for label in np.asarray(labels).tolist()
    )
