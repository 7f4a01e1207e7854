"""Tokenizers whose generation was measured: published ones, and those of the stored claims.

The tables are `calibration_tokenizers.csv` (pretrained tokenizers with the gFID of generators that
were trained on them), `calibration_correlations.csv` (correlations of metrics of latents with
generation, by generator and family of tokenizers) and `calibration_claims.csv` (the tokenizers of
`benchmarks/claims`, written by `python -m benchmarks.claims --tables`). Every row has a source.
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
TOKENIZERS = FOLDER / "calibration_tokenizers.csv"
CORRELATIONS = FOLDER / "calibration_correlations.csv"
CLAIMS = FOLDER / "calibration_claims.csv"
SEPARATOR = ";"  # of the values of several seeds in one cell
CLAIM_COLUMNS = ("scale", "images", "family", "tokenizer", "steps", "seconds", "gfd", "gfd_free")
# The protocol of the published table, from the code next to it (evalvae.py and generate.py).
REGIME = (
    "ImageNet at 256 pixels, SiT after 400,000 steps of batches of 128 (about 40 epochs), without"
    " guidance, 50,000 samples"
)
IFID_PROTOCOL = {
    "network": "inception",
    "images": "ImageNet validation",
    "number of images": "50,000",
    "side": "256",
    "partners": "one of the ten nearest latents of the whole training set by cosine, unscaled,"
    " drawn by the softmax of minus the mean squared difference",
}


@dataclass(frozen=True, kw_only=True)
class CalibrationTokenizer:
    """A pretrained tokenizer with published generation.

    Attributes
    ----------
    name : str
        Name of the checkpoint in the source.
    address : str
        Address in `wb.models()`; empty if the checkpoint is not in that table, or is not named.
    latents : str
        `grid` or `one-dimensional`.
    generators : str
        The two generators, whose patch sizes depend on the latents.
    gfid_xl, gfid_b : float
        gFID of SiT-XL and of SiT-B; NaN if it is not published.
    ifid : float
        FID of decoded interpolations between near latents.
    rfid, psnr : float
        Published reconstruction of the 50,000 validation images of ImageNet at 256 pixels, in dB;
        NaN if it is not published, or only for other images, or the table of generation does not
        name one of several checkpoints.
    quality_source : str
        Source of `rfid` and `psnr`.
    source : str
        Source of the other numbers.
    """

    name: str
    address: str
    latents: str
    generators: str
    gfid_xl: float
    gfid_b: float
    ifid: float
    rfid: float
    psnr: float
    quality_source: str
    source: str


@dataclass(frozen=True, kw_only=True)
class PublishedCorrelation:
    """A published correlation of a metric of latents with generation, within one family.

    Attributes
    ----------
    metric, target : str
        For example `VIV` and `gFID`.
    generator : str
        Empty if the source does not name it.
    tokenizers : str
        Architecture and shape of the family.
    n : int
        Number of tokenizers.
    guidance : str
        `none` or `best`.
    abs_r : float
        Absolute value of Pearson's correlation; no interval is published.
    certain : bool
        False if the value, or what it belongs to, was read from a figure or inferred.
    source : str
        Source of the correlation.
    """

    metric: str
    target: str
    generator: str
    tokenizers: str
    n: int
    guidance: str
    abs_r: float
    certain: bool
    source: str


@dataclass(frozen=True, kw_only=True)
class MeasuredTokenizer:
    """A tokenizer of the stored claims.

    Attributes
    ----------
    scale : str
        The scale of the claims with its variant, for example `laptop-full`.
    images : str
        Data and size of the images.
    group : str
        The claim that the tokenizer is from, the column `family` of the table: `MAETok`, `VA-VAE`,
        `SoftVQ` or `linear maps`. Tokenizers of one group can have latents of several sizes.
    tokenizer : str
        Name of the tokenizer.
    steps : int
        Steps of the generator.
    seconds : float
        CPU-seconds to train the generator and to measure it, mean over seeds; NaN if unknown.
    gfd, gfd_free : tuple of float
        Distance of samples by seed, in the features of a trained and of an untrained network.
    metrics : mapping of str to float
        Diagnostics and other numbers, means over seeds.
    """

    scale: str
    images: str
    group: str
    tokenizer: str
    steps: int
    seconds: float
    gfd: tuple[float, ...]
    gfd_free: tuple[float, ...]
    metrics: Mapping[str, float]

    @property
    def family(self) -> str:
        """Tokenizers of one group with latents of one size, between which ranks are comparable."""
        return f"{self.group}, {self.metrics['numbers per image']:.0f} numbers per image"


@cache
def calibration_tokenizers() -> tuple[CalibrationTokenizer, ...]:
    """Return the pretrained tokenizers with published generation.

    Examples
    --------
    >>> len(calibration_tokenizers()), calibration_tokenizers()[6].gfid_xl
    (14, 8.57)
    """
    return tuple(
        CalibrationTokenizer(
            name=row["name"],
            address=row["address"],
            latents=row["latents"],
            generators=row["generators"],
            gfid_xl=_number(row["gfid_sit_xl"]),
            gfid_b=_number(row["gfid_sit_b"]),
            ifid=_number(row["ifid"]),
            rfid=_number(row["rfid"]),
            psnr=_number(row["psnr"]),
            quality_source=row["quality_source"],
            source=row["source"],
        )
        for row in _rows(TOKENIZERS)
    )


@cache
def published_correlations() -> tuple[PublishedCorrelation, ...]:
    """Return the published correlations of metrics of latents with generation."""
    return tuple(
        PublishedCorrelation(
            metric=row["metric"],
            target=row["target"],
            generator=row["generator"],
            tokenizers=row["tokenizers"],
            n=int(row["n"]),
            guidance=row["guidance"],
            abs_r=float(row["abs_r"]),
            certain=row["certain"] == "yes",
            source=row["source"],
        )
        for row in _rows(CORRELATIONS)
    )


@cache
def measured_tokenizers() -> tuple[MeasuredTokenizer, ...]:
    """Return the tokenizers of the stored claims that generators were trained on."""
    return tuple(
        MeasuredTokenizer(
            scale=row["scale"],
            images=row["images"],
            group=row["family"],
            tokenizer=row["tokenizer"],
            steps=int(row["steps"]),
            seconds=_number(row["seconds"]),
            gfd=_numbers(row["gfd"]),
            gfd_free=_numbers(row["gfd_free"]),
            metrics={
                name: float(value)
                for name, value in row.items()
                if name not in CLAIM_COLUMNS and value
            },
        )
        for row in _rows(CLAIMS)
    )


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _number(text: str) -> float:
    return float(text) if text else math.nan


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(value) for value in text.split(SEPARATOR))
