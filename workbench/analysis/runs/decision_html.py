"""A decision as HTML: the sentence, the table of the runs and the images, in any width and theme.

It needs neither scripts nor plotly.js, so that it is the same in a notebook, in the dashboard, in a
report and on paper.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.analysis.runs.candidates import CANDIDATE_METRICS
from workbench.analysis.runs.decision_text import metric_label, value_text
from workbench.core.html_templates import render
from workbench.core.image_url import png_url
from workbench.core.result_columns import column_tooltip

if TYPE_CHECKING:
    from workbench.analysis.runs.decision import Decision, Strip

TEMPLATE = Path(__file__).parent / "templates" / "decision.html.j2"
CODE = re.compile("`([^`]+)`")


@dataclass(frozen=True, kw_only=True)
class MetricColumn:
    """The column of a metric in the table."""

    metric: str
    title: str
    details: str
    higher_is_better: bool


def to_html(result: Decision) -> str:
    """Return the card of a decision."""
    answer, _, rest = result.summary().partition(": ")
    rows = result.candidates
    return render(
        TEMPLATE,
        answer=_text_and_code(answer),
        rest=_text_and_code(rest),
        rows=rows,
        has_bits=not all(math.isnan(row.bits) for row in rows),
        metrics=_metric_columns(result),
        has_codes=any(row.codes_used is not None for row in rows),
        has_choice=result.versus is not None,
        run_colors=result.run_colors,
        legend=_legend(result),
        pictures=_pictures(result.strip),
        captions=", ".join(result.strip.captions),
        strip_caption=_strip_caption(result),
        value_text=value_text,
        tooltip=column_tooltip,
        png_url=png_url,
    )


def _text_and_code(text: str) -> list[tuple[str, bool]]:
    """Return the parts of a text, and whether each is code: it is between backticks."""
    return [(part, index % 2 == 1) for index, part in enumerate(CODE.split(text))]


def _metric_columns(result: Decision) -> list[MetricColumn]:
    """Return the metrics that a run has, and that of generation in any case."""
    columns = []
    for metric, info in CANDIDATE_METRICS.items():
        if metric != "gfd" and not any(metric in row.measurements for row in result.candidates):
            continue
        name, _, details = metric_label(metric, result.feature_extractor).partition(" (")
        columns.append(
            MetricColumn(
                metric=metric,
                title=f"{name}, {info.unit}" if info.unit else name,
                details=details.rstrip(")"),
                higher_is_better=info.higher_is_better,
            )
        )
    return columns


def _legend(result: Decision) -> str:
    parts = [f"{result.n:,} {result.image_kind}"]
    if result.samples:
        parts.append(f"gFD of {result.samples:,} samples")
    parts.append("below each value its 95 % interval")
    if result.versus is not None:
        parts += ["★ best", "≈ not significantly different from the best"]
        parts.insert(0, f"Goal: {result.goal}")
    return " · ".join(parts)


def _pictures(strip: Strip) -> list[tuple[str, np.ndarray]]:
    """Return the name and the picture of each row."""
    if not strip.rows or not strip.mosaic.size:
        return []
    return list(zip(strip.rows, np.split(strip.mosaic, len(strip.rows)), strict=True))


def _strip_caption(result: Decision) -> str:
    """Describe the images below the table."""
    strip = result.strip
    if not strip.captions or not strip.captions[0]:
        return "The first samples"
    images = f"images {', '.join(strip.captions)}"
    where = " in each class" if strip.is_by_class else ""
    if result.versus is None:
        return f"Where the error is largest{where}: {images}"
    return f"Where the two runs differ most{where}: {images}"
