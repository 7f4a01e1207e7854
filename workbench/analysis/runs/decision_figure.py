"""Figure of a decision: a table of the runs above the images on which they differ most."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from workbench.analysis.plotting import image_grid
from workbench.analysis.plotting.style import apply_theme
from workbench.analysis.plotting.table import RULE_COLOR, TRANSPARENT
from workbench.analysis.runs.candidates import CANDIDATE_METRICS
from workbench.analysis.runs.decision_text import metric_label, value_text

if TYPE_CHECKING:
    from workbench.analysis.runs.candidates import Candidate, Measurement
    from workbench.analysis.runs.decision import Decision

MARKS = {"best": "★ ", "tied": "≈ ", "": ""}
CHOSEN_COLOR = "rgba(0,158,115,0.18)"
NOT_MEASURED = "–"
HEADER_HEIGHT_PX = 44
ROW_HEIGHT_PX = 42
STRIP_ROW_HEIGHT_PX = 64
CAPTION_HEIGHT_PX = 34
TITLE_HEIGHT_PX = 76
GAP_PX = 12
RUN_WIDTH = 2.0  # of the column of names; the others have 1


def draw(result: Decision) -> go.Figure:
    """Draw the table, and the strip of images below it."""
    strip_height = STRIP_ROW_HEIGHT_PX * len(result.strip.rows) + CAPTION_HEIGHT_PX
    table_height = HEADER_HEIGHT_PX + ROW_HEIGHT_PX * len(result.candidates) + GAP_PX
    if not result.strip.rows:
        strip_height = 0
    plot_height = table_height + strip_height
    figure = go.Figure()
    if result.strip.rows:
        figure = image_grid.draw(
            result.strip.mosaic,
            result.strip.rows,
            (len(result.strip.rows), max(1, len(result.strip.captions))),
            row_height=STRIP_ROW_HEIGHT_PX,
        )
        figure.update_yaxes(domain=[0, (strip_height - CAPTION_HEIGHT_PX) / plot_height])
        _add_captions(figure, result)
    figure.add_trace(_table(result, 1 - table_height / plot_height))
    title = f"Choose {result.recommended.run}" if result.versus else result.recommended.run
    figure.update_layout(
        title={"text": html.escape(title), "subtitle": {"text": _subtitle(result)}},
        height=plot_height + TITLE_HEIGHT_PX,
    )
    apply_theme(figure)
    return figure.update_layout(margin={"t": TITLE_HEIGHT_PX, "b": 0, "l": 8, "r": 8})


def _table(result: Decision, bottom: float) -> go.Table:
    columns = _columns(result)
    colors = [TRANSPARENT] * len(result.candidates)
    if result.versus is not None:
        colors[0] = CHOSEN_COLOR
    style = {"align": "left", "line_color": RULE_COLOR, "font_size": 13}
    return go.Table(
        domain={"x": [0, 1], "y": [bottom, 1]},
        columnwidth=[RUN_WIDTH] + [1] * (len(columns) - 1),
        header={
            "values": [f"<b>{name}</b>" for name in columns],
            "height": HEADER_HEIGHT_PX,
            "fill_color": TRANSPARENT,
            **style,
        },
        cells={
            "values": list(columns.values()),
            "height": ROW_HEIGHT_PX,
            "fill_color": [colors] * len(columns),
            **style,
        },
    )


def _columns(result: Decision) -> dict[str, list[str]]:
    """Return header and cells of each column; a metric that no run has is left out."""
    rows = result.candidates
    columns = {
        "run": [_run_cell(result, row) for row in rows],
        "tokens": [f"{row.tokens:,.4g}" for row in rows],
    }
    if not all(math.isnan(row.bits) for row in rows):
        columns["bits"] = [_optional(row.bits) for row in rows]
    for metric in CANDIDATE_METRICS:
        cells = [row.measurements.get(metric) for row in rows]
        if any(cells) or metric == "gfd":
            unit = {"psnr": ", dB", "probe": ", %"}.get(metric, "")
            label = metric_label(metric, result.feature_extractor)
            columns[f"{label}{unit}"] = [_metric_cell(metric, cell) for cell in cells]
    if any(row.codes_used is not None for row in rows):
        columns["codes used"] = [_codes_cell(row) for row in rows]
    columns["findings"] = [_findings_cell(row) for row in rows]
    return columns


def _run_cell(result: Decision, row: Candidate) -> str:
    name = html.escape(row.run, quote=False)
    if result.versus is not None and row is result.recommended:
        name = f"<b>{name}</b>"
    details = ", ".join(row.generators)
    if row.tokenizer != row.run:
        details = f"on {row.tokenizer}"
    return f"{name}{_small(html.escape(details, quote=False))}" if details else name


def _metric_cell(metric: str, measurement: Measurement | None) -> str:
    if measurement is None:
        return NOT_MEASURED
    value = f"{MARKS[measurement.standing]}{value_text(metric, measurement.value)}"
    if measurement.standing == "best":
        value = f"<b>{value}</b>"
    low, high = value_text(metric, measurement.low), value_text(metric, measurement.high)
    return f"{value}{_small(f'{low} to {high}')}"


def _codes_cell(row: Candidate) -> str:
    if row.codes_used is None:
        return NOT_MEASURED
    text = f"{row.codes_used:,} of {row.codebook_size:,}"
    return f"{text}{_small(row.codebook_verdict)}"


def _findings_cell(row: Candidate) -> str:
    symbols = {"error": "✖", "warning": "▲", "info": "●"}
    counts = [f"{symbols[severity]} {n}" for severity, n in row.findings.items() if n]
    return " ".join(counts) or "✓ none"


def _small(text: str) -> str:
    return f"<br><span style='font-size:11px'>{text}</span>"


def _optional(value: float) -> str:
    return NOT_MEASURED if math.isnan(value) else f"{value:,.4g}"


def _add_captions(figure: go.Figure, result: Decision) -> None:
    """Write the index of each image above its column."""
    width = result.strip.mosaic.shape[1] / max(1, len(result.strip.captions))
    for i, caption in enumerate(result.strip.captions):
        figure.add_annotation(
            x=(i + 0.5) * width,
            y=0,
            text=caption,
            yanchor="bottom",
            showarrow=False,
            font_size=11,
        )


def _subtitle(result: Decision) -> str:
    parts = [f"n = {result.n:,} {result.image_kind}"]
    if result.samples:
        parts.append(f"gFD of {result.samples:,} samples")
    if result.versus is not None:
        parts = [
            f"goal: {result.goal}",
            *parts,
            "★ best, ≈ not significantly different from the best",
        ]
    parts.append("small: 95 % intervals")
    return " · ".join(parts)
