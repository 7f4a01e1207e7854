"""An analysis of one run for several runs in one figure, and codes of selected images."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

from workbench.analysis.base import Result
from workbench.analysis.plotting.selected_codes import show_selected_codes
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.side_by_side import SideBySide

RED = "#D55E00"


@dataclass(frozen=True)
class Example(Result):
    """A curve next to a heat map of codes, with a legend below."""

    top: float
    height: int = 400

    def figure(self) -> go.Figure:
        figure = make_subplots(rows=1, cols=2)
        figure.add_scatter(x=[0, 1], y=[0, self.top], line_color=COLORS[0], name="a", row=1, col=1)
        figure.add_scatter(x=[0, 1], y=[1, 1], line_color=RED, name="b", row=1, col=1)
        figure.add_heatmap(
            z=[[1.0, 2.0]],
            customdata=[[[0, 9], [1, 99]]],
            colorscale=[[0, COLORS[0]], [1, RED]],
            colorbar_title="tokens",
            meta="code",
            row=1,
            col=2,
        )
        legend = {"orientation": "h", "y": -0.2, "yanchor": "top"}
        figure.add_hline(y=2, row=1, col=1)
        title = {"text": "Example", "subtitle": {"text": "n = 2"}}
        figure.update_layout(height=self.height, legend=legend, title=title)
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        return pd.DataFrame({"top": [self.top]})

    def summary(self) -> str:
        return f"The top is {self.top:g}. More is known of a single run."


PAIR = SideBySide(
    runs=("low", "high"),
    results=(Example(3), Example(7, height=600)),
    not_applicable=("flow",),
).with_run_colors({"low": COLORS[0], "high": RED})


def test_panels_keep_their_geometry_and_share_ranges():
    figure = PAIR.figure()
    layout = figure.layout
    assert layout.height == 1000
    plot_height = layout.height - layout.margin.t - layout.margin.b
    (low, high), (bottom, top) = layout.yaxis.domain, layout.yaxis3.domain
    assert high == pytest.approx(1) and bottom == pytest.approx(0) and low > top
    # As high as each figure is alone: without its margins and its legend.
    margins = layout.margin.t + layout.margin.b
    assert (high - low) * plot_height == pytest.approx(400 - margins)
    assert (top - bottom) * plot_height == pytest.approx(600 - margins)
    assert layout.yaxis3.matches == "y" and layout.xaxis3.matches == "x"
    assert layout.yaxis4.matches is None  # cells of a heat map
    assert layout.xaxis3.anchor == "y3" and figure.data[3].yaxis == "y3"
    assert layout.shapes[1].yref == "y3" and layout.shapes[1].xref == "x3 domain"
    assert figure.data[3].legend == "legend2" and layout.legend.y > layout.legend2.y
    bar = figure.data[5].colorbar
    assert [bar.y - bar.len / 2, bar.y + bar.len / 2] == pytest.approx([bottom, top])
    assert [a.text.split(" · ")[0].endswith(f"{run}</b>") for a, run in zip(
        layout.annotations, PAIR.runs, strict=True)] == [True, True]  # fmt: skip


@dataclass(frozen=True)
class CurveExample(Example):
    """A curve and a null value."""

    def figure(self) -> go.Figure:
        figure = go.Figure()
        figure.add_scatter(x=[0, 1], y=[0, self.top], line_color=COLORS[0], mode="lines")
        figure.add_scatter(x=[0, 1], y=[1, 1], line_color="gray", name="null", mode="lines")
        subtitle = {"text": f"top {self.top} · n = 2"}
        figure.update_layout(title={"text": f"Curve: {self.top}", "subtitle": subtitle})
        return apply_theme(figure)


def test_curves_of_runs_are_overlaid():
    figure = replace(PAIR, results=(CurveExample(3), CurveExample(7))).with_run_colors(
        {"low": COLORS[0], "high": RED}
    ).figure()  # fmt: skip
    null, low, high = figure.data
    assert (null.name, low.name, high.name) == ("null", "low", "high")
    assert [null.line.color, low.line.color, high.line.color] == ["gray", COLORS[0], RED]
    assert [(label.x, label.y) for label in figure.layout.annotations] == [(1, 3), (1, 7)]
    assert figure.layout.title.text == "Curve" and figure.layout.title.subtitle.text == "n = 2"


def test_each_panel_has_the_color_of_its_run():
    curves = PAIR.figure().data
    assert [curves[i].line.color for i in (0, 1, 3, 4)] == [COLORS[0], RED, RED, COLORS[0]]
    assert curves[5].colorscale == curves[2].colorscale
    # A code of one run is another code in the next run.
    assert curves[2].meta == "code" and curves[5].meta is None


def test_table_and_summary_name_the_runs():
    assert PAIR.table().to_dict("list") == {"run": ["low", "high"], "top": [3, 7]}
    lines = PAIR.summary().split("\n")
    assert lines[:2] == ["low: The top is 3.", "high: The top is 7."] and "flow" in lines[2]
    assert replace(PAIR, not_applicable=()).summary().count("\n") == 1


def test_heat_map_shows_the_codes_of_selected_images():
    figure = show_selected_codes(Example(1).figure(), np.array([4]), "3 selected images")
    heatmap = figure.data[2]
    assert heatmap.z[0, 0] == pytest.approx(np.log10(5)) and np.isnan(heatmap.z[0, 1])
    assert heatmap.customdata[0].tolist() == [[0, 9, 4], [1, 99, 0]]
    assert "3 selected images" in heatmap.colorbar.title.text
