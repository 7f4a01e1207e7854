"""Files of the evaluator of ADM (guided-diffusion): reference statistics and batches of samples.

A file is an `.npz` archive. It has the statistics `mu` and `sigma` of pooled Inception features
and `mu_s` and `sigma_s` of spatial ones, or a batch of images `arr_0`, or both. A batch of
50,000 images is larger than memory, so that it is read and written in blocks. Nothing is unpickled.

Reference: Dhariwal and Nichol, arXiv 2105.05233.
"""

import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from workbench.core.archive_errors import ZIP_ERRORS
from workbench.core.errors import UserError
from workbench.core.moments import Moments
from workbench.core.printable import printable
from workbench.storage.atomic import atomic_path
from workbench.storage.files import HEADER_ERRORS, open_regular

BLOCK_IMAGES = 256
POOLED = ("mu", "sigma")
SPATIAL = ("mu_s", "sigma_s")
BATCH = "arr_0"
# Written by this package; the evaluator of ADM ignores them.
COUNT = "n"
NETWORK = "feature_extractor"
RESIZE = "resize"


@dataclass(frozen=True, eq=False)
class ReferenceStatistics:
    """The moments of a reference set.

    Attributes
    ----------
    features : Moments
        Of pooled features, for FID.
    spatial_features : Moments or None
        Of spatial features, for sFID.
    feature_extractor : str
        Name of the network; empty if the file does not state it, as those of ADM.
    resize : str
        How the images were resized; empty if they had their own size, or the file does not state
        it.
    """

    features: Moments
    spatial_features: Moments | None
    feature_extractor: str = ""
    resize: str = ""


def read_statistics(path: Path) -> ReferenceStatistics:
    """Read `mu`, `sigma`, and `mu_s`, `sigma_s` if they exist.

    Raises
    ------
    UserError
        If the file is missing or damaged, has no statistics, or their shapes do not fit.
    """
    with _archive(path) as archive:
        names = _names(archive)
        if not names.issuperset(POOLED):
            has_images = " It has images (arr_0)." if BATCH in names else ""
            raise UserError(
                f"{printable(path)} has no statistics mu and sigma.{has_images} Compute them with: "
                f"workbench statistics {printable(path)} --out FILE.npz"
            )
        count = int(_read(archive, COUNT).item()) if COUNT in names else None
        spatial = None
        if names.issuperset(SPATIAL):
            spatial = _moments(path, archive, SPATIAL, count)
        network, resize = (
            _text(path, archive, name) if name in names else "" for name in (NETWORK, RESIZE)
        )
        moments = _moments(path, archive, POOLED, count)
        return ReferenceStatistics(moments, spatial, network, resize)


def write_statistics(path: Path, statistics: ReferenceStatistics) -> None:
    """Write statistics that the evaluator of ADM can read.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    pooled, spatial = statistics.features, statistics.spatial_features
    arrays = {"mu": pooled.mean, "sigma": pooled.covariance}
    if spatial is not None:
        arrays |= {"mu_s": spatial.mean, "sigma_s": spatial.covariance}
    if pooled.count is not None:
        arrays[COUNT] = np.array(pooled.count)
    if statistics.feature_extractor:
        arrays[NETWORK] = np.array(statistics.feature_extractor)
    if statistics.resize:
        arrays[RESIZE] = np.array(statistics.resize)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_images(path: Path, block: int = BLOCK_IMAGES) -> Iterator[np.ndarray]:
    """Yield the images of a batch, uint8 (n, height, width, 3), in blocks.

    Parameters
    ----------
    path : Path
        The archive.
    block : int
        Number of images per block.

    Raises
    ------
    UserError
        If the file is missing or damaged, or has no images.
    """
    with _archive(path) as archive:
        if BATCH not in _names(archive):
            raise UserError(f"{printable(path)} has no images (arr_0).")
        with archive.open(f"{BATCH}.npy") as member:
            shape, dtype = _header(path, member)
            if len(shape) != 4 or dtype != np.uint8:
                raise UserError(
                    f"arr_0 in {printable(path)} must be uint8 images (n, height, width, 3), got "
                    f"{dtype} {shape}."
                )
            image_bytes = int(np.prod(shape[1:]))
            for start in range(0, shape[0], block):
                count = min(block, shape[0] - start)
                content = member.read(count * image_bytes)
                if len(content) < count * image_bytes:
                    raise UserError(f"{printable(path)} is damaged: arr_0 ends too early.")
                yield np.frombuffer(content, np.uint8).reshape(count, *shape[1:])


def write_images(path: Path, blocks: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """Write a batch of images as `arr_0`, block by block.

    Parameters
    ----------
    path : Path
        The archive.
    blocks : iterable of ndarray of uint8, shape (n, height, width, channels)
        The images. Gray images are repeated in three channels.
    shape : tuple of int
        Number of all images, height, and width.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": (*shape[:3], 3)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", allowZip64=True) as archive,
        archive.open(f"{BATCH}.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(member, header)
        for block in blocks:
            rgb = np.broadcast_to(block, (*block.shape[:3], 3))
            member.write(np.ascontiguousarray(rgb, np.uint8).tobytes())


def has_images(path: Path) -> bool:
    """Return True if an archive has a batch of images; see `read_images` for the errors."""
    with _archive(path) as archive:
        return BATCH in _names(archive)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive, and report every kind of damage in one sentence."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except FileNotFoundError:
        raise UserError(f"{printable(path)} does not exist.") from None
    except UserError:
        raise
    except (*ZIP_ERRORS, *HEADER_ERRORS) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{printable(path)} is not a complete .npz archive ({reason}).") from None


def _names(archive: zipfile.ZipFile) -> set[str]:
    return {name.removesuffix(".npy") for name in archive.namelist()}


def _header(path: Path, member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(member)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise UserError(f"arr_0 in {printable(path)} has an unknown version {version}.")
    shape, is_fortran, dtype = read(member)
    if is_fortran:
        raise UserError(f"arr_0 in {printable(path)} must be in C order.")
    return shape, dtype


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _text(path: Path, archive: zipfile.ZipFile, name: str) -> str:
    array = _read(archive, name)
    if array.dtype.kind != "U" or array.size != 1:
        raise UserError(
            f"{name} in {printable(path)} must be a text, got {array.dtype} {array.shape}."
        )
    return str(array.item())


def _moments(
    path: Path, archive: zipfile.ZipFile, names: tuple[str, str], count: int | None
) -> Moments:
    mean, covariance = (_read(archive, name) for name in names)
    is_square = mean.ndim == 1 and covariance.shape == (len(mean), len(mean))
    if not is_square or mean.dtype.kind != "f" or covariance.dtype.kind != "f":
        raise UserError(
            f"{names[0]} and {names[1]} in {printable(path)} must be a mean (dim,) and a covariance"
            f" (dim, dim), got {mean.dtype} {mean.shape} and {covariance.dtype} {covariance.shape}."
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{names[0]} and {names[1]} in {printable(path)} contain NaN or infinity.")
    return Moments(mean.astype(np.float64), covariance.astype(np.float64), count)
