"""claims.json to claims.html and to the README's tables: nothing is retyped, and nothing else is read."""

import html
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.analysis.plotting.style import COLORS, TOOLBAR_CONFIG, apply_theme
from workbench.core.errors import UserError
from workbench.hosts.js import dark_figures
from workbench.storage.atomic import write_text

from . import claim as rule

BEGIN, END = "<!-- claims -->", "<!-- /claims -->"  # in the README, of one table
TABLES = {
    "claims": ("laptop",),
    "bundled": ("photos", "digits"),
    "gpu": ("gpu",),
}  # the scales of each
FOUND = Path(__file__).parent / "found"  # kept with the code: what the README's tables are made of
LEARNED = ", which was trained with these classes, so that what tells of them is in part its own"
DIGITS = 6  # of a number that is kept
SIGNS = {"shown": "✓ shown", "weak": "~ weak", "not shown": "✗ not shown"}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: .8rem 0; display: block; overflow-x: auto;
 font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; } td.n, th.n, td.v, td.a { white-space: nowrap; }
.shown { color: #00684a; font-weight: 600; } .weak { color: #8a5a00; font-weight: 600; }
.not { color: #a12a00; font-weight: 600; } .shown, .weak, .not { white-space: nowrap; } small, .told { color: #555; }
section { margin-top: 2.5rem; border-top: 2px solid #eee; }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #ddd; } th, td { border-color: #3a3d42; }
 section { border-color: #2a2d32; } small, .told { color: #aaa; } .shown { color: #5fd3a8; } .weak { color: #f0b84a; }
 .not { color: #ff8c66; } a { color: #8ab4f8; } }
@media print { section { break-inside: avoid; } }
"""


def write(out: Path, readme: Path | None = None, found: Path = FOUND) -> None:
    """Write claims.html beside claims.json; with a readme, keep the results in `found` and fill its tables.

    Runs of more steps or arms, in folders beside as laptop-4x and laptop-full or kept before, are what else was tried.
    Raises UserError where the readme has no place for a table.
    """
    told = _read(out / "claims.json")
    beside = {
        path.parent.name: path for path in sorted(out.parent.glob(f"{out.name}-*/claims.json"))
    }
    write_text(out / "claims.html", page(_with_tried(out.name, told, found, beside)))
    if readme is not None:
        keep(out, found)
        fill(readme, found)


def keep(out: Path, found: Path = FOUND) -> None:
    """Put what a scale's claims.json says into `found`; of claims that it leaves out, what is there stays."""
    path = found / f"{out.name}.json"
    told = _renewed(path, out / "claims.json")
    found.mkdir(exist_ok=True)
    write_text(path, json.dumps(_shortened(told), separators=(",", ":"), ensure_ascii=False) + "\n")


def fill(readme: Path, found: Path = FOUND) -> None:
    """Write a README's tables anew, of what is kept alone. Raises UserError where it has no place for one."""
    for name, scales in TABLES.items():
        kept = {scale: found / f"{scale}.json" for scale in scales}
        told = [
            _with_tried(scale, _read(path), found) for scale, path in kept.items() if path.exists()
        ]
        if told:
            _put(readme, markdown(*told) if len(scales) == 1 else side_by_side(told), name)


def _with_tried(
    name: str, told: dict[str, Any], found: Path, beside: dict[str, Path] | None = None
) -> dict[str, Any]:
    kept, beside = {path.stem: path for path in found.glob(f"{name}-*.json")}, beside or {}
    names = sorted({*kept, *beside})
    return {**told, "tried": [_renewed(kept.get(one), beside.get(one)) for one in names]}


def _renewed(kept: Path | None, path: Path | None) -> dict[str, Any]:
    """What was kept, with every claim that another claims.json has put in its place; one of the two may be missing."""
    known = [_read(one) for one in (kept, path) if one is not None and one.exists()]
    claims = {claim["key"]: claim for told in known for claim in told["claims"]}
    minutes = (
        known[-1]["minutes"] if len(known[-1]["claims"]) == len(claims) else None
    )  # not a sum: claims share runs
    return {**known[-1], "minutes": minutes, "claims": list(claims.values())}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _shortened(told: Any) -> Any:
    """The same with numbers of DIGITS digits."""
    if isinstance(told, dict):
        return {key: _shortened(value) for key, value in told.items()}
    if isinstance(told, list):
        return [_shortened(value) for value in told]
    return float(f"{told:.{DIGITS}g}") if isinstance(told, float) else told


def _put(readme: Path, table: str, name: str) -> None:
    text, (begin, end) = (
        readme.read_text(encoding="utf-8"),
        (mark.replace("claims", name) for mark in (BEGIN, END)),
    )
    if begin not in text or end not in text:
        raise UserError(f"{readme} has no {begin} ... {end} to write the table between.")
    before, after = text.split(begin)[0], text.split(end)[1]
    write_text(readme, f"{before}{begin}\n{table}\n{end}{after}")


def markdown(told: dict[str, Any]) -> str:
    """The table of claims, with every effect's mean and deviation over seeds."""
    lines = [
        "| system | claim | effect (mean ± deviation over seeds) | verdict |",
        "| --- | --- | --- | --- |",
    ]
    for claim in _every(told):
        effects = "<br>".join(
            f"{e['name']}: {spread(e['values'], sign=True)}" for e in claim["effects"]
        )
        cells = (claim["system"], claim["says"], effects, "<br>".join(_judged(claim, told)))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    beware = [
        f"- {claim['system']}, “{claim['says']}” {claim['note']}"
        for claim in _every(told)
        if claim["note"]
    ]
    return "\n".join(
        ["", about(told), "", *lines, "", *(["Beware:", "", *beware, ""] if beware else [])]
    )


def side_by_side(scales: list[dict[str, Any]]) -> str:
    """A table of verdicts alone, a column for each scale."""
    heads = "".join(f" on {told['scale']} |" for told in scales)
    lines = [f"| system | claim |{heads}", "| --- | --- |" + " --- |" * len(scales)]
    every = {claim["key"]: claim for told in scales for claim in told["claims"]}
    verdicts = [
        {claim["key"]: "<br>".join(_judged(claim, told)) for claim in told["claims"]}
        for told in scales
    ]
    for key, claim in every.items():
        lines.append(
            f"| {claim['system']} | {claim['says']} |"
            + "".join(f" {of.get(key, '–')} |" for of in verdicts)
        )
    return "\n".join(["", *(f"- {about(told)}" for told in scales), "", *lines, ""])


def about(told: dict[str, Any]) -> str:
    """Under which setting all this was measured."""
    known = told["minutes"] is not None
    minutes = (
        f" {told['minutes']:.0f} minutes of one core (of a GPU: of time) in all." if known else ""
    )
    return (
        f"{told['data']}, {told['seeds']} seeds, scale `{told['scale']}`, {told['machine']}, {told['date']}:"
        f" `{told['command']}`. Distances are Fréchet distances at {told['drawn']:,} images in the features of a"
        " contrastive network trained on these images (rFD, gFD), and of an untrained one (free). The floor is that"
        " from training to held-out images; rFD, from images to their own reconstructions, may be lower. The teacher"
        f" is {told['teacher']}{LEARNED * (told['teacher'] == 'resnet56')}. Seeds share images, teacher and"
        f" feature extractor.{minutes} A claim's own minutes count shared runs again."
    )


def page(told: dict[str, Any]) -> str:
    """One HTML file that needs no network: a table of verdicts, then each claim with its figure and numbers."""
    from plotly.offline import get_plotlyjs

    rows = "".join(
        f"<tr><td>{_said(c['system'])}</td><td><a href='#{_said(c['key'])}'>{_said(c['says'])}</a></td>"
        f"<td class=v>{_verdicts(c, told)}</td><td class=n>{c['minutes']:.1f}</td></tr>"
        for c in _every(told)
    )
    head = "<tr><th>system</th><th>claim</th><th>verdict</th><th class=n>minutes</th></tr>"
    counts = ", ".join(
        f"{sum(c['verdict'] == v for c in told['claims'])} {v}" for v in reversed(rule.VERDICTS)
    )
    sections = "".join(_section(claim, told) for claim in _every(told))
    words = rule.__doc__.split("\n", 2)[2].replace("*", "")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>The papers' claims, re-run</title>"
        f"<style>{STYLE}{dark_figures('@media screen and (prefers-color-scheme: dark)')}</style>"
        f"<meta name=viewport content='width=device-width'><script>{get_plotlyjs()}</script>"
        f"<h1>The papers' claims, re-run</h1><p>{_said(about(told)).replace('`', '')}</p><p><b>{counts}.</b></p>"
        f"<table>{head}{rows}</table><h2>The rule</h2><p class=told>{_said(words)}</p>"
        f"{sections}</html>"
    )


def spread(values: list[float], *, sign: bool = False) -> str:
    """Mean ± deviation over seeds, four digits at most."""
    x = _known(values)
    mean = f"{x.mean():+.3g}" if sign else f"{x.mean():.4g}"
    return "–" if math.isnan(x.mean()) else f"{mean} ± {x.std(ddof=1):.2g}" if len(x) > 1 else mean


def _known(values: list[float | None]) -> np.ndarray:
    """A number a seed, NaN where it has none: what is undefined is null in JSON."""
    return np.array(values, np.float64)  # which makes NaN of None


def _every(told: dict[str, Any]) -> list[dict[str, Any]]:
    """The claims of a table, and after its system's those that were only tried beside, with more arms."""
    found = list(told["claims"])
    for claim in (c for run in told.get("tried", []) for c in run["claims"]):
        if all(claim["key"] != known["key"] for known in found):
            last = max(
                (i for i, known in enumerate(found) if known["system"] == claim["system"]),
                default=len(found),
            )
            found.insert(last + 1, claim)
    return found


def _tried(claim: dict[str, Any], told: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The same claim where it was trained for so many times the steps, or with every arm; and which.

    What was judged by another rule is not the same.
    """
    same = (claim["key"], claim["rule"])
    return [
        (_how(run), c)
        for run in told.get("tried", [])
        for c in run["claims"]
        if (c["key"], c["rule"]) == same
    ]


def _judged(claim: dict[str, Any], told: dict[str, Any]) -> list[str]:
    """A claim's verdict, where it has one at this scale itself, and those of what else was tried."""
    own = [claim["verdict"]] if claim in told["claims"] else []
    return [*own, *(f"{how}: {c['verdict']}" for how, c in _tried(claim, told))]


def _how(run: dict[str, Any]) -> str:
    longer = f"{run['longer']} x the steps" if run["longer"] > 1 else ""
    wider = f"{run['wider']} x the width" if run.get("wider", 1) > 1 else ""
    return ", ".join(
        said for said in (longer, wider, "every arm" if run.get("full") else "") if said
    )


def _verdicts(claim: dict[str, Any], told: dict[str, Any]) -> str:
    """A claim's verdict, and under it what else was tried."""
    own = [("", claim)] if claim in told["claims"] else []
    return "<br>".join(
        f"<span class='{c['verdict'].split()[0]}'>{SIGNS[c['verdict']]}</span> <small>{how}</small>"
        for how, c in (*own, *_tried(claim, told))
    )


def _effects(claim: dict[str, Any]) -> str:
    """The effects of a claim as rows of a table."""
    return "".join(
        f"<tr><td>{_said(e['name'])}</td><td class=n>{spread(e['values'], sign=True)}</td>"
        f"<td class=n>{', '.join('–' if v is None else f'{v:+.3g}' for v in e['values'])}</td>"
        f"<td class='{e['verdict'].split()[0]}'>{SIGNS[e['verdict']]}</td></tr>"
        for e in claim["effects"]
    )


def _arms(claim: dict[str, Any]) -> str:
    """The arms of a claim, and what was measured of each, as a table."""
    shows = [
        name
        for name in claim["shows"]
        if any(name in arm["numbers"] for arm in claim["arms"].values())
    ]
    head = "".join(f"<th class=n>{_said(name)}</th>" for name in shows)
    rows = "".join(
        f"<tr><td class=a>{_said(label)}<br><small>{_said(arm['recipe'])}</small></td>"
        + "".join(f"<td class=n>{spread(arm['numbers'].get(name, [None]))}</td>" for name in shows)
        + "</tr>"
        for label, arm in claim["arms"].items()
    )
    return f"<table><tr><th>arm</th>{head}</tr>{rows}</table>"


def _section(claim: dict[str, Any], told: dict[str, Any]) -> str:
    figure = apply_theme(effect_figure(claim, told["seeds"])).to_html(
        full_html=False,
        include_plotlyjs=False,
        config=TOOLBAR_CONFIG,
        div_id=f"figure-{claim['key']}",
    )
    head = "<tr><th>effect, to be above 0</th><th class=n>mean ± deviation</th><th class=n>each seed</th><th>verdict</th>"
    more = "".join(
        f"<h3>Tried: {how}</h3><table>{head}{_effects(c)}</table>{_arms(c)}{_details(c)}"
        for how, c in _tried(claim, told)
        if c is not claim
    )
    only = "".join(
        f", {how}" for how, c in _tried(claim, told) if c is claim
    )  # not among this scale's own claims
    note = f"<p class=told><b>Beware:</b> {_said(claim['note'])}</p>" if claim["note"] else ""
    return (
        f"<section id='{_said(claim['key'])}'><h2>{_said(claim['system'])}: {_said(claim['says'])}</h2>"
        f"<p class='{claim['verdict'].split()[0]}'>{SIGNS[claim['verdict']]}{only}</p>"
        f"<p class=told>{_said(claim['source'])}. To pass: {_said(claim['rule'])}</p>{note}"
        f"<table>{head}{_effects(claim)}</table>{figure}{_arms(claim)}{_details(claim)}{more}</section>"
    )


def _details(claim: dict[str, Any]) -> str:
    """How each diagnostic goes with gFD, the closest first; nothing for claims that tell none."""
    each = sorted(claim["details"].items(), key=lambda item: -abs(_known(item[1]).mean()))
    lines = "".join(
        f"<tr><td>{_said(n)}</td><td class=n>{spread(v, sign=True)}</td></tr>" for n, v in each
    )
    return (
        f"<table><tr><th>diagnostic</th><th class=n>rho with gFD</th></tr>{lines}</table>"
        if lines
        else ""
    )


def effect_figure(claim: dict[str, Any], seeds: int) -> go.Figure:
    """Each effect's seeds as points, in units of its largest; above 0 the claim holds."""
    figure = go.Figure()
    names = [e["name"] for e in claim["effects"]]
    for place, effect in enumerate(claim["effects"]):
        values = _known(effect["values"])
        scale = np.abs(values[~np.isnan(values)]).max(initial=0.0) or 1.0
        look = {"mode": "markers", "showlegend": False}
        dots = {"size": 11, "color": COLORS[0], "symbol": "circle-open", "line": {"width": 2}}
        told = {
            "text": [f"{value:.4g}" for value in values],
            "hovertemplate": "%{text}<extra></extra>",
        }
        figure.add_scatter(x=values / scale, y=[place] * len(values), marker=dots, **told, **look)
        bar = {"size": 13, "color": COLORS[5], "symbol": "line-ns-open", "line": {"width": 3}}
        told = {"hovertemplate": f"mean {values.mean():.4g}<extra></extra>"}
        figure.add_scatter(x=[values.mean() / scale], y=[place], marker=bar, **told, **look)
    figure.add_vline(x=0, line={"color": "grey", "dash": "dot"})
    figure.update_xaxes(
        title="effect, in units of its largest; above 0 the claim holds", range=[-1.15, 1.15]
    )
    ticks = {
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": [_wrapped(n) for n in names],
    }
    figure.update_yaxes(**ticks, range=[len(names) - 0.4, -0.6], automargin=True)
    title = {"text": "Effects by seed", "subtitle": {"text": f"{seeds} seeds; bars are means"}}
    return figure.update_layout(title=title, height=220 + 50 * len(names))


def _wrapped(text: str, width: int = 44) -> str:
    import textwrap

    return "<br>".join(textwrap.wrap(text, width))


def _said(text: str) -> str:
    return html.escape(str(text), quote=True)
