"""A decision as HTML: the sentence, the table of the runs and the images, in any width and theme.

It needs neither scripts nor plotly.js, so that it is the same in a notebook, in the dashboard, in a
report and on paper.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
from typing import TYPE_CHECKING

import numpy as np

from workbench.analysis.runs.candidates import CANDIDATE_METRICS
from workbench.analysis.runs.decision_text import metric_label, value_text

if TYPE_CHECKING:
    from workbench.analysis.runs.candidates import Candidate, Measurement
    from workbench.analysis.runs.decision import Decision, Strip

MARKS = {"best": "★", "tied": "≈", "": ""}
MARK_TITLES = {"best": "best", "tied": "not significantly different from the best", "": ""}
SEVERITY_SYMBOLS = {"error": "✖", "warning": "▲", "info": "●"}
NOT_MEASURED = "–"
CODE = re.compile("`([^`]+)`")
STYLE = """
.wb-decision { color: inherit; line-height: 1.45; margin: 0 0 16px; }
.wb-decision p.wb-answer { font-size: 17px; margin: 0 0 10px; max-width: 75em; }
.wb-decision .wb-scroll { overflow-x: auto; }
.wb-decision table { border-collapse: collapse; font-size: 13.5px; margin: 0; background: none; }
.wb-decision tr, .wb-decision tr:hover, .wb-decision tr:nth-child(odd) { background: none; }
.wb-decision th, .wb-decision td { text-align: left; vertical-align: top; padding: 5px 12px 5px 0;
  border: 0; border-bottom: 1px solid rgba(127, 127, 127, 0.35); white-space: nowrap;
  color: inherit; font-variant-numeric: tabular-nums; max-width: none; }
.wb-decision th { font-weight: 600; }
.wb-decision tr.wb-recommended td { background: rgba(0, 158, 115, 0.16); }
.wb-decision td:first-child, .wb-decision th:first-child { padding-left: 8px; }
.wb-decision small { display: block; font-size: 11.5px; opacity: 0.8; }
.wb-decision .wb-note { font-size: 12.5px; opacity: 0.85; margin: 6px 0 12px; }
.wb-decision .wb-strip td { border: 0; padding: 0 12px 4px 0; vertical-align: middle; }
.wb-decision .wb-strip td:first-child { padding-left: 0; }
.wb-decision .wb-strip img { display: block; width: 100%; image-rendering: pixelated; }
.wb-decision .wb-bad { color: color-mix(in srgb, currentColor 40%, #d55e00); font-weight: 600; }
.wb-decision code { font-size: 0.88em; overflow-wrap: anywhere; }
"""


def to_html(result: Decision) -> str:
    """Return the card of a decision."""
    answer, _, rest = result.summary().partition(": ")
    sentence = f"<strong>{_marked(answer)}:</strong> {_marked(rest)}"
    return (
        f'<section class="wb-decision" aria-label="Decision"><style>{STYLE}</style>'
        f'<p class="wb-answer">{sentence}</p>'
        f'<div class="wb-scroll">{_table(result)}</div>'
        f'<p class="wb-note">{_legend(result)}</p>'
        f"{_strip(result.strip, result)}</section>"
    )


def _marked(text: str) -> str:
    """Return a text as HTML: escaped, and parts in backticks as code."""
    return CODE.sub(r"<code>\1</code>", html.escape(text))


def _table(result: Decision) -> str:
    """Return the table; a column that no run has is left out, except that of generation."""
    rows = result.candidates
    columns: dict[str, list[str]] = {
        "run": [_run_cell(row, result.run_colors.get(row.run, "")) for row in rows],
        "tokens": [f"{row.tokens:,.4g}" for row in rows],
    }
    if not all(math.isnan(row.bits) for row in rows):
        columns["bits"] = [_optional(row.bits) for row in rows]
    for metric in CANDIDATE_METRICS:
        cells = [row.measurements.get(metric) for row in rows]
        if any(cells) or metric == "gfd":
            columns[_header(result, metric)] = [_metric_cell(metric, cell) for cell in cells]
    if any(row.codes_used is not None for row in rows):
        columns["codes used"] = [_codes_cell(row) for row in rows]
    columns["findings"] = [_findings_cell(row) for row in rows]
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    body = []
    for i in range(len(rows)):
        is_chosen = i == 0 and result.versus is not None
        start = '<tr class="wb-recommended">' if is_chosen else "<tr>"
        cells_html = "".join(f"<td>{cells[i]}</td>" for cells in columns.values())
        body.append(f"{start}{cells_html}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _header(result: Decision, metric: str) -> str:
    info = CANDIDATE_METRICS[metric]
    name, _, network = metric_label(metric, result.feature_extractor).partition(" (")
    unit = f", {info.unit}" if info.unit else ""
    arrow = "↑" if info.higher_is_better else "↓"
    direction = "higher is better" if info.higher_is_better else "lower is better"
    details = f"<small>{html.escape(network.rstrip(')'))}</small>" if metric[1:] == "fd" else ""
    return f'{name}{unit} <span title="{direction}">{arrow}</span>{details}'


def _run_cell(row: Candidate, color: str) -> str:
    """Return the name with the color of the run in the other figures, and its generators."""
    dot = f'<span style="color: {html.escape(color)}" aria-hidden="true">●</span> ' if color else ""
    name = f"{dot}<b>{html.escape(row.run)}</b>"
    details = f"with {', '.join(row.generators)}" if row.generators else ""
    if row.tokenizer != row.run:
        details = f"on {row.tokenizer}"
    return f"{name}<small>{html.escape(details)}</small>"


def _metric_cell(metric: str, measurement: Measurement | None) -> str:
    if measurement is None:
        return NOT_MEASURED
    value = value_text(metric, measurement.value)
    if measurement.standing:
        title = MARK_TITLES[measurement.standing]
        value += f' <span title="{title}">{MARKS[measurement.standing]}</span>'
    if measurement.standing == "best":
        value = f"<b>{value}</b>"
    low, high = value_text(metric, measurement.low), value_text(metric, measurement.high)
    return f"{value}<small>{low} to {high}</small>"


def _codes_cell(row: Candidate) -> str:
    if row.codes_used is None:
        return NOT_MEASURED
    style = ' class="wb-bad"' if row.codebook_verdict == "collapsed" else ""
    verdict = f"<small{style}>{row.codebook_verdict}</small>"
    return f"{row.codes_used:,} of {row.codebook_size:,}{verdict}"


def _findings_cell(row: Candidate) -> str:
    parts = []
    for severity, count in row.findings.items():
        if count:
            noun = severity if count == 1 or severity == "info" else f"{severity}s"
            parts.append(f"{SEVERITY_SYMBOLS[severity]} {count} {noun}")
    return "<br>".join(parts) or "✓ none"


def _optional(value: float) -> str:
    return NOT_MEASURED if math.isnan(value) else f"{value:,.4g}"


def _legend(result: Decision) -> str:
    parts = [f"{result.n:,} held-out images"]
    if result.samples:
        parts.append(f"gFD of {result.samples:,} samples")
    parts.append("below each value its 95 % interval")
    if result.versus is not None:
        parts += ["★ best", "≈ not significantly different from the best"]
        parts.insert(0, f"Goal: {result.goal}")
    return " · ".join(parts)


def _strip(strip: Strip, result: Decision) -> str:
    """Return one row of images per name."""
    if not strip.rows or not strip.mosaic.size:
        return ""
    pictures = np.split(strip.mosaic, len(strip.rows))
    rows = "".join(
        f'<tr><td>{html.escape(name)}</td><td><img src="{_png(picture)}" alt="{html.escape(name)}:'
        f' {", ".join(strip.captions)}" style="max-width: {picture.shape[1]}px"></td></tr>'
        for name, picture in zip(strip.rows, pictures, strict=True)
    )
    caption = "The first samples"
    if strip.captions[0]:
        images = f"images {', '.join(strip.captions)}"
        where = " in each class" if strip.is_by_class else ""
        caption = f"Where the two runs differ most{where}: {images}"
        if result.versus is None:
            caption = f"Where the error is largest{where}: {images}"
    return f'<table class="wb-strip"><tbody>{rows}</tbody></table><p class="wb-note">{caption}</p>'


def _png(picture: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
