"""The runs whose pictures of the same images can be compared, and how far these differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workbench.analysis.images.reconstruction import image_errors, psnr_db
from workbench.analysis.inputs import class_names, distinct_names
from workbench.core.errors import NotApplicable
from workbench.core.progress import report_progress
from workbench.storage.evidence import Evidence

MAX_RUNS = 8  # as many as there are colors
LETTERS = "ABCDEFGH"
IMAGES_PER_BATCH = 64
PATCHES_PER_SIDE = 4  # the side of a patch is this part of the shorter side of an image
MAX_PIXELS = 4_000_000  # in all pictures of one page; larger pictures are shrunk


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Runs with pictures of the same images.

    Attributes
    ----------
    evidences : tuple of Evidence
        Evidence of each run.
    names : tuple of str
        Name of each run, with the step if the name occurs twice.
    excluded : tuple of str
        Names of runs with other images than the first, or beyond the eighth.
    n : int
        Number of images of which every run has a picture.
    """

    evidences: tuple[Evidence, ...]
    names: tuple[str, ...]
    excluded: tuple[str, ...]
    n: int

    @property
    def first(self) -> Evidence:
        """The evidence of the first run."""
        return self.evidences[0]

    @property
    def num_images(self) -> int:
        """Number of images of the first run, with or without pictures."""
        return max(self.n, self.first.num_images)

    def classes(self) -> tuple[str, ...]:
        """Return the class of each of the n images; empty without labels."""
        labels = None if self.first.labels is None else self.first.labels[: self.n]
        return class_names(labels, self.first.names, self.n)

    def psnr(self) -> np.ndarray:
        """Return the PSNR of each image and run in dB, float of shape (n, runs)."""
        columns = [psnr_db(image_errors(evidence)[0][: self.n]) for evidence in self.evidences]
        return np.stack(columns, axis=1)

    def disagreement(self) -> np.ndarray:
        """Return the mean squared difference of two runs' reconstructions of each image.

        It is the mean over all pairs of runs, with pixels in [0, 1], float of shape (n,); 0 for
        one run. The mean over pairs is twice the sample variance, so no pair is formed.
        """
        result = np.zeros(self.n)
        if len(self.evidences) < 2:
            return result
        for start in range(0, self.n, IMAGES_PER_BATCH):
            batch = slice(start, min(self.n, start + IMAGES_PER_BATCH))
            stack = np.stack([_pixels(e.reconstructions, batch) for e in self.evidences])
            variance = stack.var(axis=0, ddof=1)
            result[batch] = 2 * variance.reshape(len(variance), -1).mean(axis=1)
            report_progress(batch.stop, self.n)
        return result

    def pictures(self, indices: np.ndarray) -> np.ndarray:
        """Return originals and reconstructions, uint8 of shape (m, 1 + runs, h, w, c)."""
        arrays = [self.first.images, *(evidence.reconstructions for evidence in self.evidences)]
        return np.stack([np.asarray(array)[indices] for array in arrays if array is not None], 1)


def picture_set(evidences: Sequence[Evidence], purpose: str) -> PictureSet:
    """Choose the runs with pictures of the same images as the first run with pictures.

    Parameters
    ----------
    evidences : sequence of Evidence
        Runs without reconstructions, such as generators, are ignored.
    purpose : str
        Name of the analysis, for the error message.

    Returns
    -------
    PictureSet

    Raises
    ------
    NotApplicable
        If no run has images and reconstructions.
    """
    with_pictures = [e for e in evidences if _has_pictures(e)]
    if not with_pictures:
        raise NotApplicable(
            f"{purpose} needs images and reconstructions; no selected run has both."
        )
    key = _image_key(with_pictures[0])
    same = [evidence for evidence in with_pictures if _image_key(evidence) == key][:MAX_RUNS]
    excluded = [e.run_name for e in with_pictures if not any(e is other for other in same)]
    counts = [len(e.reconstructions) for e in same if e.reconstructions is not None]
    return PictureSet(
        evidences=tuple(same),
        names=distinct_names(same),
        excluded=tuple(excluded),
        n=min(counts),
    )


def worst_patches(errors: np.ndarray, side: int) -> np.ndarray:
    """Find the square patch with the largest mean error of each image.

    Parameters
    ----------
    errors : ndarray of float, shape (m, h, w)
        Error of each pixel.
    side : int
        Side of a patch in pixels, at most h and w.

    Returns
    -------
    ndarray of int, shape (m, 2)
        Row and column of the patch's upper left corner. Among equal patches the first is returned.

    Examples
    --------
    >>> errors = np.zeros((1, 5, 5))
    >>> errors[0, 3, 4] = 1
    >>> worst_patches(errors, 2).tolist()
    [[2, 3]]
    """
    sums = np.pad(errors, ((0, 0), (1, 0), (1, 0))).cumsum(axis=1).cumsum(axis=2)
    patches = (
        sums[:, side:, side:] - sums[:, :-side, side:] - sums[:, side:, :-side]
        + sums[:, :-side, :-side]
    )  # fmt: skip
    # Cumulative sums of equal patches differ by rounding.
    flat = patches.reshape(len(errors), -1).round(9).argmax(axis=1)
    return np.stack(np.unravel_index(flat, patches.shape[1:]), axis=1)


def patch_side(height: int, width: int) -> int:
    """Return the side of the outlined patches of an image, in pixels."""
    return max(1, min(height, width) // PATCHES_PER_SIDE)


def shrink(pictures: np.ndarray) -> np.ndarray:
    """Shrink pictures by a whole factor until all of them have at most `MAX_PIXELS` pixels.

    Parameters
    ----------
    pictures : ndarray of uint8, shape (..., h, w, c)
        Pictures of one size.

    Returns
    -------
    ndarray of uint8, shape (..., h', w', c)
    """
    h, w, c = pictures.shape[-3:]
    num_pixels = pictures.size // c
    block = int(np.ceil(np.sqrt(num_pixels / MAX_PIXELS))) if num_pixels > MAX_PIXELS else 1
    block = min(block, h, w)
    if block == 1:
        return pictures
    rows, columns = h // block, w // block
    cut = pictures[..., : rows * block, : columns * block, :]
    blocks = cut.reshape(*pictures.shape[:-3], rows, block, columns, block, c)
    return blocks.mean(axis=(-4, -2)).round().astype(np.uint8)


def describe_excluded(names: Sequence[str]) -> str:
    """Return a sentence about runs that are not compared; empty if there are none."""
    if not names:
        return ""
    return f" Not shown, because their images differ or there are too many: {', '.join(names)}."


def _pixels(array: np.ndarray | None, batch: slice) -> np.ndarray:
    assert array is not None
    return np.asarray(array[batch], np.float32) / 255


def _has_pictures(evidence: Evidence) -> bool:
    images, reconstructions = evidence.images, evidence.reconstructions
    return images is not None and reconstructions is not None and len(reconstructions) > 0


def _image_key(evidence: Evidence) -> tuple[object, tuple[int, ...]]:
    """Return what is equal for two runs that were measured on the same images."""
    assert evidence.images is not None
    return evidence.provenance.get("fingerprint"), evidence.images.shape[1:]
