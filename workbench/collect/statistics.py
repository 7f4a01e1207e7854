"""Statistics of reference sets, streamed through a feature extractor."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from workbench.collect.images import extractor_outputs
from workbench.core.errors import UserError
from workbench.core.image_size import AnySide
from workbench.core.moments import Moments
from workbench.core.printable import printable
from workbench.data import Pixels, load
from workbench.features import FeatureExtractor, get_feature_extractor
from workbench.storage import adm
from workbench.storage.files import file_digest

ADM_PREFIX = "VIRTUAL_"  # of the names of ADM's reference files
DIGEST_DIGITS = 8


def image_statistics(
    blocks: Iterable[np.ndarray], extractor: FeatureExtractor, device: torch.device
) -> adm.ReferenceStatistics:
    """Compute the moments of the features of a stream of images.

    Parameters
    ----------
    blocks : iterable of ndarray of uint8, shape (n, height, width, channels)
        The images. Only one block at a time is in memory.
    extractor : FeatureExtractor
        The network.
    device : torch.device
        Device of the computation.

    Returns
    -------
    ReferenceStatistics
        The moments, with those of spatial features if the network has them.

    Raises
    ------
    UserError
        If there is no image.
    """
    moments: dict[str, Moments] = {}
    for block in blocks:
        for name, rows in extractor_outputs(extractor, block, device, skip=["logits"]).items():
            part = Moments.from_rows(rows)
            moments[name] = moments[name].merge(part) if name in moments else part
    if not moments:
        raise UserError("Statistics need at least one image; there is none.")
    return adm.ReferenceStatistics(
        moments["features"], moments.get("spatial_features"), extractor.name
    )


def reference_statistics(
    path: Path, extractor: FeatureExtractor, device: torch.device
) -> adm.ReferenceStatistics:
    """Return the statistics of a reference file for a feature extractor.

    Statistics in the file are used if they have the dimension of the extractor, and its name if the
    file states one. Otherwise they are computed from the images in the file.

    Parameters
    ----------
    path : Path
        An archive with `mu` and `sigma`, or with images in `arr_0`.
    extractor : FeatureExtractor
        The network.
    device : torch.device
        Device of the computation.

    Raises
    ------
    UserError
        If the file is damaged, or its statistics belong to another network and it has no images.
    """
    if adm.has_images(path) and not _fits(path, extractor):
        return image_statistics(adm.read_images(path), extractor, device)
    statistics = adm.read_statistics(path)
    if statistics.features.dim != extractor.pooled_dim:
        raise UserError(
            f"The statistics in {printable(path)} have {statistics.features.dim:,} features, and "
            f"{extractor.title} has {extractor.pooled_dim:,}. Use a reference of this network."
        )
    if statistics.feature_extractor not in ("", extractor.name):
        raise UserError(
            f"The statistics in {printable(path)} are those of"
            f" {printable(statistics.feature_extractor)}, not of {extractor.name}. Use a reference"
            " of this network."
        )
    return statistics


def reference_name(path: Path) -> str:
    """Return the name of a reference set in text, with the hash of its file."""
    kind = "ADM reference" if path.name.startswith(ADM_PREFIX) else "reference"
    return f"{kind} {path.stem}, sha256 {file_digest(path)[:DIGEST_DIGITS]}"


def write_statistics(
    source: str,
    out: str | Path,
    *,
    feature_extractor: str = "inception",
    split: str = "all",
    side: AnySide | None = None,
    resize: str = "adm",
    limit: int | None = None,
) -> adm.ReferenceStatistics:
    """Compute the statistics of a set of images, and write them as ADM's evaluator reads them.

    Parameters
    ----------
    source : str
        An archive with images in `arr_0`, or images of a source for `workbench.data.load`.
    out : path
        The `.npz` file to write.
    feature_extractor : str
        Name of the network; only the statistics of `inception` can be compared with published ones.
    split : {"train", "test", "all"}
        The split of the source.
    side : int, str or pair of int, optional
        Height and width of the images; by default their own. See `workbench.data.load`.
    resize : {"adm", "bicubic", "lanczos"}
        How image files are brought to this size; see `workbench.data.resize`. Published tokenizers
        are evaluated with adm or bicubic, and those that are trained here with lanczos.
    limit : int, optional
        Largest number of images.

    Returns
    -------
    ReferenceStatistics
        The statistics that were written.

    Raises
    ------
    UserError
        If the images cannot be read, or the weights of the network are missing.

    Warns
    -----
    UserWarning
        If there are no more images than features.
    """
    path = Path(source)
    if path.suffix == ".npz":
        blocks = adm.read_images(path)
    else:
        images = load(
            source, split=split, side=side, channels=3, limit=limit, resize=resize
        ).readable()
        blocks = array_blocks(images.pixels)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    statistics = image_statistics(blocks, get_feature_extractor(feature_extractor), device)
    if side is not None and path.suffix != ".npz":
        statistics = replace(statistics, resize=resize)
    count, dim = statistics.features.count, statistics.features.dim
    if count is not None and count <= dim:
        warnings.warn(
            f"{count:,} images are no more than the {dim:,} features: the covariance is singular,"
            f" and distances to it are far too high. Use at least {2 * dim:,} images.",
            stacklevel=2,
        )
    adm.write_statistics(Path(out), statistics)
    return statistics


def array_blocks(images: Pixels) -> Iterator[np.ndarray]:
    """Yield an array of images in the blocks in which archives are written."""
    for start in range(0, len(images), adm.BLOCK_IMAGES):
        yield np.asarray(images[start : start + adm.BLOCK_IMAGES])


def _fits(path: Path, extractor: FeatureExtractor) -> bool:
    try:
        statistics = adm.read_statistics(path)
    except UserError:
        return False
    has_name = statistics.feature_extractor in ("", extractor.name)
    return has_name and statistics.features.dim == extractor.pooled_dim
