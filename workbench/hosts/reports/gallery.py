"""A page over many reports: a picture or the headline numbers of each, sorted and filtered without a server."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from workbench.core.errors import UserError
from workbench.hosts.reports import manifest as manifests
from workbench.storage.atomic import write_text

HERE = Path(__file__).parent
SORTS = {
    "made": "newest",
    "name": "name",
    "psnr": "PSNR",
    "tokens": "tokens",
    "seconds": "time taken",
}
LONGEST = 180  # characters of a summary on a card


def gallery(folder: str | Path) -> Path:
    """Write `index.html` over all reports in a folder and its folders; returns its path.

    It needs no network and links to the reports by relative paths. Raises UserError where there is no report.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give one that holds reports.")
    reports = reports_in(folder)
    if not reports:
        raise UserError(
            f"{folder} holds no report. Make one with: workbench report tokenizer --run {folder}/NAME"
        )
    out = folder / "index.html"
    write_text(out, _page(folder, reports))
    return out


def reports_in(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The pages of a folder and its folders that have a manifest, and those; the newest first."""
    pages = (
        p.with_name(p.name.removesuffix(".manifest.json") + ".html")
        for p in folder.rglob("*.manifest.json")
    )
    found = [(page, manifests.read(page)) for page in pages if page.exists()]
    return sorted(
        ((p, told) for p, told in found if told),
        key=lambda pair: str(pair[1].get("made")),
        reverse=True,
    )


def _page(folder: Path, reports: Sequence[tuple[Path, dict[str, Any]]]) -> str:
    style, script = (
        (HERE / name).read_text(encoding="utf-8") for name in ("gallery.css", "gallery.js")
    )
    templates = sorted({str(told["template"]) for _, told in reports})
    name = html.escape(folder.resolve().name)
    cards = "\n".join(_card(folder, page, told) for page, told in reports)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>Reports: {name}</title>'
        f'<link rel="icon" href="data:,"><style>{style}</style></head>\n<body><header><h1>Reports: {name}</h1><form>'
        '<label>Find <input type="search" name="find" placeholder="words, or codebook_size=64"></label>'
        f'<label>Template <select name="template"><option value="">all</option>{_options(templates)}</select></label>'
        f'<label>Sort by <select name="sort">{_options(SORTS, SORTS.values())}</select></label>'
        f'<output aria-live="polite">{len(reports)} reports</output></form></header>\n'
        f"<main>{cards}</main><script>{script}</script></body></html>\n"
    )


def _options(values: Any, labels: Any = None) -> str:
    pairs = zip(values, labels or values, strict=True)
    return "".join(
        f'<option value="{html.escape(v, quote=True)}">{html.escape(label)}</option>'
        for v, label in pairs
    )


def _card(folder: Path, page: Path, told: dict[str, Any]) -> str:
    runs, picture = told.get("runs") or [{}], manifests.beside(page)[2]
    names = ", ".join(str(run.get("name")) for run in runs) if runs[0] else page.stem
    keys = {
        "made": told.get("made"),
        "name": names,
        "template": told["template"],
        "seconds": told.get("seconds"),
    }
    keys |= {"psnr": runs[0].get("psnr"), "tokens": runs[0].get("tokens")}
    data = "".join(
        f' data-{k}="{html.escape(str(v), quote=True)}"' for k, v in keys.items() if v is not None
    )
    link = quote(page.relative_to(folder).as_posix())
    shown = f'<img src="{quote(picture.relative_to(folder).as_posix())}" alt="" loading="lazy">'
    if not picture.exists():
        shown = f'<span class="number">{html.escape(_number(runs))}</span>'
    facts = (_headline(runs), _state(told), f"{str(told.get('made'))[:16].replace('T', ' ')} UTC")
    lines = "".join(f"<li>{html.escape(fact)}</li>" for fact in facts if fact)
    return (
        f'<article{data}><a href="{link}"><div class="picture">{shown}</div><h2>{html.escape(names)}</h2></a>'
        f'<p class="template">{html.escape(str(told["template"]))}</p><p class="asked">{html.escape(_asked(told))}</p>'
        f"<ul>{lines}</ul><p>{html.escape(_said(told))}</p></article>"
    )


def _number(runs: Sequence[dict[str, Any]]) -> str:
    best = max((run.get("psnr") or 0 for run in runs), default=0)
    return f"{len(runs)} runs" if len(runs) > 1 else f"{best:.1f} dB" if best else "–"


def _headline(runs: Sequence[dict[str, Any]]) -> str:
    run = runs[0]
    if len(runs) > 1:
        best = max((one.get("psnr") or 0 for one in runs), default=0)
        return f"best {best:.2f} dB" if best else ""
    facts = [run.get("kind"), f"{run['tokens']} tokens" if run.get("tokens") else None]
    facts += [f"{run['psnr']:.2f} dB" if run.get("psnr") else None]
    return " · ".join(fact for fact in facts if fact)


def _state(told: dict[str, Any]) -> str:
    failed = f", {told['failed']} failed ✖" if told.get("failed") else ""
    return f"{told.get('done', 0)} of {len(told.get('sections', ()))} sections done{failed}"


def _asked(told: dict[str, Any]) -> str:
    """The parameters that tell this report from others: codebook_size=64 num_tokens=4."""
    flat: dict[str, Any] = {}
    for name, value in told.get("parameters", {}).items():
        flat |= value if isinstance(value, dict) else {name: value}
    left_out = ("run", "others", "folder")
    return " ".join(
        f"{n}={v}" for n, v in flat.items() if n not in left_out and v not in ("", 0, None, [])
    )


def _said(told: dict[str, Any]) -> str:
    said = next(
        (s["said"] for s in told.get("sections", ()) if s["state"] in ("done", "failed")), ""
    )
    return said if len(said) <= LONGEST else said[: LONGEST - 1].rsplit(" ", 1)[0] + "…"
