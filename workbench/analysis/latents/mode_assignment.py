"""Who is in each mode: images near its middle and at random, and how far modes agree with classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workbench.analysis.plotting import image_grid
from workbench.analysis.stats.mixtures import Mixture

IMAGES_PER_MODE, MAX_GALLERY_MODES = 6, 12  # images of each kind a mode shows, and modes shown
SHUFFLES = 10


@dataclass(frozen=True, eq=False)
class ModeGallery:
    """Mosaics of the largest modes, a row each: the images nearest to the mean, and others at random."""

    nearest: np.ndarray  # uint8 (height, width, 4)
    random: np.ndarray | None  # uint8 (height, width, 4); None where no mode has more images
    rows: int


@dataclass(frozen=True, eq=False)
class ClassAgreement:
    """How far assignments say the class, for each number of modes, beside the same with the labels shuffled."""

    nmi: np.ndarray  # (m,) normalised mutual information, 0 to 1
    shuffled_nmi: np.ndarray
    rand: np.ndarray  # (m,) adjusted Rand index, 0 by chance, 1 for the same partition
    shuffled_rand: np.ndarray


def class_agreement(
    assignments: Sequence[np.ndarray], labels: np.ndarray, seed: int
) -> ClassAgreement:
    """Compare assignments (n,), one for each number of modes, with labels (n,)."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    random, scores = (
        np.random.default_rng(seed),
        (normalized_mutual_info_score, adjusted_rand_score),
    )
    orders = [np.arange(len(labels)), *(random.permutation(len(labels)) for _ in range(SHUFFLES))]
    found = np.array(
        [[[score(labels[o], a) for a in assignments] for score in scores] for o in orders]
    )
    (nmi, rand), (shuffled_nmi, shuffled_rand) = found[0], found[1:].mean(axis=0)
    return ClassAgreement(nmi, shuffled_nmi, rand, shuffled_rand)


def order_by_size(mixture: Mixture, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each point's mode, int (n,), the largest being 0, and the log-density (n,) of that mode there."""
    joint = mixture.joint(points)
    assignment = joint.argmax(axis=0)
    order = np.argsort(-np.bincount(assignment, minlength=len(joint)), kind="stable")
    return np.argsort(order)[assignment], joint.max(axis=0)


def mode_gallery(
    images: np.ndarray, assignment: np.ndarray, density: np.ndarray, seed: int
) -> ModeGallery:
    """The images of uint8 (n, h, w, c) to show for each mode; nearest to its mean is where its density is highest."""
    random, nearest, others = np.random.default_rng(seed), [], []
    for mode in range(min(int(assignment.max()) + 1, MAX_GALLERY_MODES)):
        members = np.flatnonzero(assignment == mode)
        members = members[np.argsort(-density[members], kind="stable")]
        nearest.append(np.asarray(images[members[:IMAGES_PER_MODE]]))
        left = members[IMAGES_PER_MODE:]
        others.append(np.asarray(images[np.sort(random.permutation(left)[:IMAGES_PER_MODE])]))
    return ModeGallery(
        image_grid.compose(nearest),
        image_grid.compose(others) if any(map(len, others)) else None,
        len(nearest),
    )
