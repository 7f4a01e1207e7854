"""Published figures of known checkpoints next to those that were measured here."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Result
from workbench.analysis.codebook.usage import codebook_usage
from workbench.analysis.images.reconstruction import image_errors, psnr_db
from workbench.analysis.images.structure import ssim
from workbench.analysis.plotting import table as table_figure
from workbench.core.errors import NotApplicable, UserError
from workbench.core.image_size import ImageSize
from workbench.storage.evidence import Evidence
from workbench.storage.published_models import PublishedModel, find_published

LABELS = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "rfid": "rFID",
    "usage": "codebook usage",
}
WIDTHS = (16, 14, 10, 10, 46)
SMALL_SET = 10_000  # images; the bias of a FID is large for fewer


@dataclass(frozen=True)
class PublishedFigure:
    """A published figure, and what was measured in its place."""

    run: str
    model: str  # name of the checkpoint
    metric: str
    published: float
    measured: float  # NaN if this was not measured
    protocol: str  # differences in protocol, separated by semicolons; empty if there are none
    source: str

    @property
    def label(self) -> str:
        """Name of the metric with its unit."""
        return LABELS[self.metric]


@dataclass(frozen=True, kw_only=True)
class PublishedFigures(Result):
    """Published and measured figures of the runs that are known checkpoints.

    Attributes
    ----------
    figures : tuple of PublishedFigure
        One entry per run and published figure.
    """

    figures: tuple[PublishedFigure, ...]

    def table(self) -> pd.DataFrame:
        """Return one row per run and published figure."""
        return pd.DataFrame([asdict(figure) for figure in self.figures])

    def summary(self) -> str:
        """State each published figure with the measured one, and what differs."""
        sentences = []
        for run in dict.fromkeys(figure.run for figure in self.figures):
            measured = [figure for figure in self.figures if figure.run == run]
            values = ", ".join(f"{f.label} {_pair(f)}" for f in measured)
            sentences.append(f"{run} ({measured[0].model}), measured and published: {values}.")
            differences = dict.fromkeys(
                part for figure in measured for part in figure.protocol.split("; ") if part
            )
            if differences:
                sentences.append(f"The protocols differ: {'; '.join(differences)}.")
        return " ".join(sentences)

    def figure(self) -> go.Figure:
        """Draw the figures as a table."""
        columns = {
            "run": [figure.run for figure in self.figures],
            "metric": [figure.label for figure in self.figures],
            "published": [_number(figure.published) for figure in self.figures],
            "measured": [_number(figure.measured) for figure in self.figures],
            "differences in protocol": [figure.protocol or "none known" for figure in self.figures],
        }
        sources = dict.fromkeys(figure.source for figure in self.figures)
        return table_figure.draw(
            columns,
            WIDTHS,
            title="Published and measured figures",
            subtitle="; ".join(sources),
        )


def published_figures(evidences: Sequence[Evidence]) -> PublishedFigures:
    """Compare what was measured with the published figures of the same checkpoint.

    Parameters
    ----------
    evidences : sequence of Evidence
        Evidence of imported runs. Runs whose checkpoint is not in the table of published figures
        (`wb.models()`) are left out.

    Returns
    -------
    PublishedFigures
        Every published figure with the measured one, and the differences in protocol: number and
        kind of images, how they are resized, and the network of Fréchet distances.

    Raises
    ------
    NotApplicable
        If no run is a known checkpoint with published figures of reconstructions.
    """
    figures = [figure for evidence in evidences for figure in _figures_of(evidence)]
    if not figures:
        raise NotApplicable(
            "Published figures are known for the checkpoints that wb.models() lists; no selected "
            "run is one of them."
        )
    return PublishedFigures(figures=tuple(figures))


def _figures_of(evidence: Evidence) -> list[PublishedFigure]:
    imported = evidence.provenance.get("imported") or {}
    model = find_published(imported.get("address") or "")
    if model is None or not evidence.num_images:
        return []
    return [
        PublishedFigure(
            run=evidence.run_name,
            model=model.name,
            metric=metric,
            published=model.figures[metric],
            measured=MEASUREMENTS[metric](evidence),
            protocol="; ".join(_differences(evidence, model, metric)),
            source=model.source,
        )
        for metric in LABELS
        if metric in model.figures
    ]


def _differences(evidence: Evidence, model: PublishedModel, metric: str) -> list[str]:
    provenance = evidence.provenance
    n = evidence.num_images
    differences = [
        f"{n:,} images of {provenance.get('data', 'unnamed data')} instead of"
        f" {model.num_images:,} of {model.images}"
    ]
    side = 0 if evidence.images is None else ImageSize(*evidence.images.shape[1:3]).side
    if side != model.side:
        differences.append(f"{side} instead of {model.side} pixels")
    resize = provenance.get("resize")
    if not model.resize:
        differences.append(f"resized by {resize or 'the dataset'}, not stated in the source")
    elif resize != model.resize:
        differences.append(f"resized by {resize or 'the dataset'} instead of {model.resize}")
    if metric == "lpips":
        differences.append("LPIPS on VGG-16, whereas the source does not state the network")
    if metric == "ssim" and evidence.ssim is None:
        differences.append("SSIM with a uniform window of 7, because SSIM was not collected")
    if metric == "rfid":
        network = evidence.feature_extractor
        if network != "inception":
            differences.append(f"no FID, because the features are those of {network}")
        elif n < SMALL_SET:
            differences.append(f"a FID of {n:,} images is biased upwards")
    if model.notes:
        differences.append(model.notes.rstrip("."))
    return differences


def _measured_psnr(evidence: Evidence) -> float:
    try:
        mse, _ = image_errors(evidence)
    except NotApplicable:
        return math.nan
    return float(psnr_db(mse).mean())


def _measured_ssim(evidence: Evidence) -> float:
    # Papers use the Gaussian window of the collected index.
    if evidence.ssim is not None:
        return float(np.mean(evidence.ssim))
    if evidence.images is None or evidence.reconstructions is None:
        return math.nan
    return float(ssim(evidence.images, evidence.reconstructions).mean())


def _measured_rfid(evidence: Evidence) -> float:
    from workbench.analysis.tokens.metrics import reconstruction_quality

    if evidence.feature_extractor != "inception":
        return math.nan
    try:
        return reconstruction_quality(evidence, "rfd")[0]
    except UserError:
        return math.nan


def _measured_usage(evidence: Evidence) -> float:
    if evidence.codes is None or evidence.codebook is None:
        return math.nan
    usage = codebook_usage(evidence.codes, evidence.codebook, evidence.active)
    return float(np.mean([codebook.used / codebook.size for codebook in usage.codebooks]))


def _measured_lpips(evidence: Evidence) -> float:
    return math.nan if evidence.lpips_vgg is None else float(np.mean(evidence.lpips_vgg))


MEASUREMENTS: dict[str, Callable[[Evidence], float]] = {
    "psnr": _measured_psnr,
    "ssim": _measured_ssim,
    "lpips": _measured_lpips,
    "rfid": _measured_rfid,
    "usage": _measured_usage,
}


def _pair(figure: PublishedFigure) -> str:
    measured = "not measured" if math.isnan(figure.measured) else _number(figure.measured)
    return f"{measured} and {_number(figure.published)}"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"
