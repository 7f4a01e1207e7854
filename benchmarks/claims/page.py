"""The results of a scale as one HTML page that needs no network."""

from pathlib import Path

import jinja2
import numpy as np
import plotly.graph_objects as go

from workbench.analysis.plotting.style import COLORS, TOOLBAR_CONFIG, apply_theme
from workbench.hosts.js import dark_figures
from workbench.storage.atomic import write_text

from . import claim as rule
from .comparison import Comparison, Outcome, describe_setting, format_spread, stored_variants
from .store import SETTING, STORED_RESULTS

SIGNS = {"shown": "✓ shown", "weak": "~ weak", "not shown": "✗ not shown"}
# The distance of draws from one Gaussian per class is shown next to that of samples.
GAUSSIAN_COLUMNS = {"gFD": "class Gaussians", "gFD free": "class Gaussians free"}
TEMPLATES = Path(__file__).parent / "templates"


def write_page(out: Path, stored: Path = STORED_RESULTS) -> None:
    """Write `claims.html` into a scale's folder from the results in it.

    Variants come from the repository and from folders next to this one, such as `laptop-3x`.
    """
    local = sorted(path.parent for path in out.parent.glob(f"{out.name}-*/results/{SETTING}"))
    variants = [*stored_variants(out.name, stored), *local]
    comparison = Comparison.read(out / "results", variants)
    write_text(out / "claims.html", render(comparison))


def render(comparison: Comparison) -> str:
    """Return the page: a table of verdicts, then each claim with its figure and numbers."""
    from plotly.offline import get_plotlyjs

    assert rule.__doc__ is not None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True
    )
    counts = [f"{comparison.count(verdict)} {verdict}" for verdict in reversed(rule.VERDICTS)]
    return environment.get_template("claims.html.j2").render(
        comparison=comparison,
        setting=describe_setting(comparison.setting).replace("`", ""),
        counts=", ".join(counts),
        rule=rule.__doc__.split("\n", 2)[2].replace("*", ""),
        signs=SIGNS,
        spread=format_spread,
        figure=_figure_html,
        columns=_columns,
        details=_details,
        plotly=get_plotlyjs(),
        dark=dark_figures("@media screen and (prefers-color-scheme: dark)"),
    )


def _figure_html(outcome: Outcome) -> str:
    return apply_theme(effect_figure(outcome)).to_html(
        full_html=False,
        include_plotlyjs=False,
        config=TOOLBAR_CONFIG,
        div_id=f"figure-{outcome.claim.key}",
    )


def _columns(outcome: Outcome) -> list[str]:
    """Return the columns of the table of arms that at least one arm has."""
    arms = outcome.results["arms"].values()
    columns = []
    for name in dict.fromkeys(outcome.claim.columns):
        columns.append(name)
        if name in GAUSSIAN_COLUMNS:
            columns.append(GAUSSIAN_COLUMNS[name])
    names = dict.fromkeys(columns)
    return [name for name in names if any(name in arm["numbers"] for arm in arms)]


def _details(outcome: Outcome) -> list[tuple[str, list[float | None]]]:
    """Return the correlations of diagnostics with gFD, the strongest first."""
    details = outcome.results["details"].items()
    return sorted(details, key=lambda item: -abs(np.array(item[1], np.float64).mean()))


def effect_figure(outcome: Outcome) -> go.Figure:
    """Draw every seed's effect as a point, relative to the largest of that effect."""
    figure = go.Figure()
    effects = outcome.results["effects"]
    point = {"size": 11, "color": COLORS[0], "symbol": "circle-open", "line": {"width": 2}}
    bar = {"size": 13, "color": COLORS[5], "symbol": "line-ns-open", "line": {"width": 3}}
    for index, effect in enumerate(effects):
        values = np.array(effect["values"], np.float64)
        scale = np.abs(values[~np.isnan(values)]).max(initial=0.0) or 1.0
        figure.add_scatter(
            x=values / scale,
            y=[index] * len(values),
            mode="markers",
            marker=point,
            text=[f"{value:.4g}" for value in values],
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
        figure.add_scatter(
            x=[values.mean() / scale],
            y=[index],
            mode="markers",
            marker=bar,
            hovertemplate=f"mean {values.mean():.4g}<extra></extra>",
            showlegend=False,
        )
    figure.add_vline(x=0, line={"color": "grey", "dash": "dot"})
    figure.update_xaxes(
        title="effect relative to its largest value; the claim predicts values above 0",
        range=[-1.15, 1.15],
    )
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(effects))),
        ticktext=[_wrapped(effect["name"]) for effect in effects],
        range=[len(effects) - 0.4, -0.6],
        automargin=True,
    )
    count = len(effects[0]["values"])
    title = {"text": "Effects by seed", "subtitle": {"text": f"{count} seeds; bars are means"}}
    return figure.update_layout(title=title, height=220 + 50 * len(effects))


def _wrapped(text: str, width: int = 44) -> str:
    import textwrap

    return "<br>".join(textwrap.wrap(text, width))
