"""Assignment of images to modes: agreement with classes, and example images per mode."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workbench.analysis.plotting import image_grid
from workbench.analysis.stats.mixtures import Mixture

IMAGES_PER_MODE = 6  # of each kind
MAX_GALLERY_MODES = 12
NUM_SHUFFLES = 10


@dataclass(frozen=True, eq=False)
class ModeGallery:
    """Example images of the largest modes, one row per mode.

    Attributes
    ----------
    nearest : ndarray of uint8, shape (height, width, 4)
        Grid of the images with the highest density under the mode.
    random : ndarray of uint8, shape (height, width, 4), or None
        Grid of random other images; None if no mode has more images.
    rows : int
        Number of modes.
    """

    nearest: np.ndarray
    random: np.ndarray | None
    rows: int


@dataclass(frozen=True, eq=False)
class ClassAgreement:
    """Agreement between assignments and classes, for each number of modes.

    Attributes
    ----------
    nmi : ndarray of float, shape (m,)
        Normalized mutual information, from 0 to 1.
    shuffled_nmi : ndarray of float, shape (m,)
        The mean over shuffled labels.
    rand : ndarray of float, shape (m,)
        Adjusted Rand index: 0 by chance, 1 for equal partitions.
    shuffled_rand : ndarray of float, shape (m,)
        The mean over shuffled labels.
    """

    nmi: np.ndarray
    shuffled_nmi: np.ndarray
    rand: np.ndarray
    shuffled_rand: np.ndarray


def class_agreement(
    assignments: Sequence[np.ndarray], labels: np.ndarray, seed: int
) -> ClassAgreement:
    """Compare assignments with classes, and with shuffled classes as the null.

    Parameters
    ----------
    assignments : sequence of ndarray of int, each of shape (n,)
        One assignment per number of modes.
    labels : ndarray of int, shape (n,)
        Class of each image.
    seed : int
        Seed of the shuffles.

    Returns
    -------
    ClassAgreement

    Examples
    --------
    >>> labels = np.array([0, 0, 1, 1])
    >>> class_agreement([1 - labels], labels, seed=0).nmi
    array([1.])
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    random = np.random.default_rng(seed)
    shuffles = [random.permutation(len(labels)) for _ in range(NUM_SHUFFLES)]
    measures = (normalized_mutual_info_score, adjusted_rand_score)
    # Axes: order of the labels, measure, number of modes.
    scores = np.array(
        [
            [[measure(labels[order], a) for a in assignments] for measure in measures]
            for order in (np.arange(len(labels)), *shuffles)
        ]
    )
    shuffled = scores[1:].mean(axis=0)
    return ClassAgreement(
        nmi=scores[0, 0], shuffled_nmi=shuffled[0], rand=scores[0, 1], shuffled_rand=shuffled[1]
    )


def order_by_size(mixture: Mixture, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Assign points to modes that are numbered by size.

    Parameters
    ----------
    mixture : Mixture
        The fitted mixture.
    points : ndarray of float, shape (n, d)
        One point per row.

    Returns
    -------
    assignment : ndarray of int, shape (n,)
        Mode of each point; mode 0 is the largest.
    density : ndarray of float, shape (n,)
        Log of weight times density of that mode at the point, in nats.
    """
    joint = mixture.joint(points)
    assignment = joint.argmax(axis=0)
    order = np.argsort(-np.bincount(assignment, minlength=len(joint)), kind="stable")
    return np.argsort(order)[assignment], joint.max(axis=0)


def mode_gallery(
    images: np.ndarray,
    indices: np.ndarray,
    assignment: np.ndarray,
    density: np.ndarray,
    seed: int,
) -> ModeGallery | None:
    """Select example images of the largest modes.

    Parameters
    ----------
    images : ndarray of uint8, shape (m, h, w, c)
        The pictures of the first images.
    indices : ndarray of int, shape (n,)
        The images that were measured. Those without a picture are left out.
    assignment : ndarray of int, shape (n,)
        Mode of each image; mode 0 is the largest.
    density : ndarray of float, shape (n,)
        Log-density of the image under its mode, in nats.
    seed : int
        Seed of the random examples.

    Returns
    -------
    ModeGallery or None
        None if no image of a large mode has a picture.
    """
    has_picture = indices < len(images)
    indices, assignment, density = (
        values[has_picture] for values in (indices, assignment, density)
    )
    if not len(indices):
        return None
    random = np.random.default_rng(seed)
    nearest, random_rows = [], []
    for mode in range(min(int(assignment.max()) + 1, MAX_GALLERY_MODES)):
        members = np.flatnonzero(assignment == mode)
        members = members[np.argsort(-density[members], kind="stable")]
        nearest.append(np.asarray(images[indices[members[:IMAGES_PER_MODE]]]))
        sampled = random.permutation(members[IMAGES_PER_MODE:])[:IMAGES_PER_MODE]
        random_rows.append(np.asarray(images[indices[np.sort(sampled)]]))
    has_others = any(len(row) for row in random_rows)
    return ModeGallery(
        nearest=image_grid.compose(nearest),
        random=image_grid.compose(random_rows) if has_others else None,
        rows=len(nearest),
    )
