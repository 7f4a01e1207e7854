"""Gallery: one page over many reports, which sorts and filters them without a server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from workbench.core.counted import counted
from workbench.core.errors import UserError
from workbench.hosts.reports.manifest import read_manifest, thumbnail_path
from workbench.hosts.reports.rendering import asset, render
from workbench.storage.atomic import write_text

SORT_KEYS = {
    "created": "newest",
    "name": "name",
    "psnr": "PSNR",
    "tokens": "tokens",
    "seconds": "computing time",
}
MAX_SUMMARY_CHARACTERS = 180
COMMON_PARAMETERS = ("run", "compare_with", "folder", "title", "views")
DEFAULT_VALUES: tuple[Any, ...] = ("", 0, None, [], {})  # parameters with these are not shown


@dataclass(frozen=True, kw_only=True)
class Card:
    """One report on the page, as the template shows it."""

    title: str
    template: str
    link: str  # relative, quoted
    thumbnail: str  # relative, quoted; empty if there is none
    headline_number: str  # shown instead of a thumbnail
    parameters: str
    facts: tuple[str, ...]
    summary: str
    sort_values: dict[str, str]


def gallery(folder: str | Path) -> Path:
    """Write `index.html` over all reports in a folder and its subfolders.

    The page makes no request and links to the reports by relative paths.

    Parameters
    ----------
    folder : str or Path
        Folder that holds reports.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    UserError
        If the folder does not exist or holds no report.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Give a folder that holds reports.")
    reports = find_reports(folder)
    if not reports:
        raise UserError(
            f"{folder} holds no report. Create one with: "
            f"workbench report tokenizer --run {folder}/NAME"
        )
    page = folder / "index.html"
    content = _page_html(folder, reports)
    # Names of runs may contain bytes that are not UTF-8.
    write_text(page, content.encode("utf-8", "backslashreplace").decode())
    return page


def find_reports(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return page and manifest of every report in a folder and its subfolders, newest first."""
    reports = []
    for path in folder.rglob("*.manifest.json"):
        page = path.with_name(path.name.removesuffix(".manifest.json") + ".html")
        manifest = read_manifest(page) if page.exists() else {}
        if manifest:
            reports.append((page, manifest))
    return sorted(reports, key=lambda report: str(report[1].get("created")), reverse=True)


def _page_html(folder: Path, reports: Sequence[tuple[Path, dict[str, Any]]]) -> str:
    return render(
        "gallery",
        name=folder.resolve().name,
        example="codebook_size=64",
        templates=sorted({str(manifest["template"]) for _, manifest in reports}),
        sort_keys=SORT_KEYS,
        cards=[_card(folder, page, manifest) for page, manifest in reports],
        style=asset("gallery.css"),
        script=asset("gallery.js"),
    )


def _card(folder: Path, page: Path, manifest: Mapping[str, Any]) -> Card:
    runs = manifest.get("runs") or []
    primary = runs[0] if runs else {}
    title = ", ".join(str(run.get("name")) for run in runs) or page.stem
    picture = thumbnail_path(page)
    created = str(manifest.get("created"))
    sort_values = {
        "created": manifest.get("created"),
        "name": title,
        "template": manifest["template"],
        "seconds": manifest.get("seconds"),
        "psnr": primary.get("psnr"),
        "tokens": primary.get("num_tokens"),
    }
    facts = (_headline(runs), _progress(manifest), f"{created[:16].replace('T', ' ')} UTC")
    return Card(
        title=title,
        template=str(manifest["template"]),
        link=_relative_link(folder, page),
        thumbnail=_relative_link(folder, picture) if picture.exists() else "",
        headline_number=_headline_number(runs),
        parameters=_parameters(manifest),
        facts=tuple(fact for fact in facts if fact),
        summary=_summary(manifest),
        sort_values={name: str(value) for name, value in sort_values.items() if value is not None},
    )


def _relative_link(folder: Path, path: Path) -> str:
    return quote(path.relative_to(folder).as_posix())


def _best_psnr(runs: Sequence[Mapping[str, Any]]) -> float | None:
    values = [run["psnr"] for run in runs if run.get("psnr")]
    return max(values, default=None)


def _headline_number(runs: Sequence[Mapping[str, Any]]) -> str:
    psnr = _best_psnr(runs)
    if len(runs) > 1:
        return f"{len(runs)} runs"
    return "no image" if psnr is None else f"{psnr:.1f} dB"


def _headline(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return kind, number of tokens and PSNR of a run, or the best PSNR of several."""
    psnr = _best_psnr(runs)
    if len(runs) > 1:
        return "" if psnr is None else f"best PSNR {psnr:.2f} dB"
    facts = []
    for run in runs:
        facts.append(str(run["kind"]) if run.get("kind") else "")
        facts.append(counted(run["num_tokens"], "token") if run.get("num_tokens") else "")
    facts.append("" if psnr is None else f"PSNR {psnr:.2f} dB")
    return " · ".join(fact for fact in facts if fact)


def _progress(manifest: Mapping[str, Any]) -> str:
    progress = f"{manifest.get('done', 0)} of {len(manifest.get('sections', ()))} sections done"
    if manifest.get("failed"):
        progress += f", {manifest['failed']} failed ✖"
    return progress


def _parameters(manifest: Mapping[str, Any]) -> str:
    """Return the parameters that distinguish a report: codebook_size=64 num_tokens=4."""
    values: dict[str, Any] = {}
    for name, value in manifest.get("parameters", {}).items():
        values |= value if isinstance(value, dict) else {name: value}
    return " ".join(
        f"{name}={value}"
        for name, value in values.items()
        if name not in COMMON_PARAMETERS and value not in DEFAULT_VALUES
    )


def _summary(manifest: Mapping[str, Any]) -> str:
    """Return the summary of the first section that was computed, shortened at a word."""
    for section in manifest.get("sections", ()):
        if section["state"] in ("done", "failed"):
            summary = str(section["summary"])
            break
    else:
        return ""
    if len(summary) <= MAX_SUMMARY_CHARACTERS:
        return summary
    return summary[: MAX_SUMMARY_CHARACTERS - 1].rsplit(" ", 1)[0] + "…"
