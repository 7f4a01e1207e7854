"""Published checkpoints that can be loaded, with their published figures.

The table is `published_models.csv`, one row per checkpoint. Empty cells are not published, or were
not found in a source. The column `verified` names what of a row was compared with the paper, the
README, the license file, the model card or the issue that is its source; for `license` this
includes that none is stated. A value that was not compared does not belong in the table.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

TABLE = Path(__file__).with_suffix(".csv")
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
TEXT_COLUMNS = ("address", "name", "license", "images", "resize", "notes", "verified", "source")
MODEL_COLUMNS = (
    *("address", "side", "num_tokens", "dim", "codebook_size", "license"),
    *("rfid", "psnr", "ssim", "lpips", "usage", "gfid", "gfid_guided", "images"),
)
FIGURES = ("rfid", "psnr", "ssim", "lpips", "usage", "gfid", "gfid_guided")


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A published checkpoint and its published figures.

    Attributes
    ----------
    address : str
        `family:location`.
    name : str
        The name that papers use.
    side : int
        The side of the images in pixels.
    license : str
        The license of the weights, or of their repository; empty if none is stated.
    figures : dict of str to float
        rfid, psnr (dB), ssim, lpips, usage (a fraction of the codes), gfid and gfid_guided, as far
        as they are published. gfid is that of the generator that the source names.
    images : str
        The images of the figures.
    num_images : int
        Their number.
    resize : str
        How they are brought to the side; empty if the source does not state it.
    notes, source : str
        Remarks on the figures, and where they were published.
    """

    address: str
    name: str
    side: int
    license: str
    figures: dict[str, float]
    images: str
    num_images: int
    resize: str
    notes: str
    source: str


def models() -> "pd.DataFrame":
    """Return the published checkpoints that can be loaded, with their published figures.

    Returns
    -------
    DataFrame
        One row per checkpoint; figures that are not published are NaN. rFID, PSNR and others are
        those of the source: compare them only with numbers of the same protocol (`images`,
        `num_images`, `resize`, `notes`).
    """
    return _table().copy()


def known_addresses() -> tuple[str, ...]:
    """Return the addresses of all published checkpoints of the table."""
    return tuple(_table()["address"])


def find_published(address: str) -> PublishedModel | None:
    """Return the published checkpoint of an address.

    Parameters
    ----------
    address : str
        The address of a checkpoint. A local folder or file belongs to the checkpoint of the same
        name and family.

    Returns
    -------
    PublishedModel or None
        None if the checkpoint is not in the table.

    Examples
    --------
    >>> find_published("softvq:/models/softvq-l-64").figures["rfid"]
    0.61
    """
    table = _table()
    matches = table[[_key(listed) == _key(address) for listed in table["address"]]]
    if matches.empty:
        return None
    row = matches.iloc[0]
    return PublishedModel(
        address=row["address"],
        name=row["name"],
        side=int(row["side"]),
        license=row["license"],
        figures={name: float(row[name]) for name in FIGURES if row[name] == row[name]},
        images=row["images"],
        num_images=0 if row["num_images"] != row["num_images"] else int(row["num_images"]),
        resize=row["resize"],
        notes=row["notes"],
        source=row["source"],
    )


@cache
def _table() -> "pd.DataFrame":
    import pandas as pd

    table = pd.read_csv(TABLE)
    for name in TEXT_COLUMNS:
        table[name] = table[name].fillna("").astype(object)
    return table.astype({"num_tokens": "Int64", "dim": "Int64", "codebook_size": "Int64"})


def _key(address: str) -> tuple[str, str]:
    """Return the family and the name of the last folder or file, without the suffix of weights."""
    family, _, location = address.partition(":")
    name = location.rstrip("/").rpartition("/")[2]
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return family, name.lower()
