"""Reports: a papermill template, checked parameters, one HTML file that draws every figure without a network."""

import ast
import html
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workbench import analysis
from workbench.errors import UserError, unknown
from workbench.runs import Run
from workbench.views.bench import Bench
from workbench.views.state import ViewState

HERE = Path(__file__).parent
HOMES = (HERE.parents[1] / "reports", HERE / "reports")  # of templates: a checkout's, an installed package's
LARGEST = 8_000_000  # bytes an HTML report may have
KINDS = {"str": str, "int": int, "float": float, "bool": bool, "list": list}


@dataclass(frozen=True)
class Parameter:
    """One line of a template's parameters cell: `name: kind = default  # help`."""

    name: str
    kind: str
    default: Any

    def accept(self, value: Any) -> Any:
        """The value in the parameter's type. Raises UserError."""
        try:
            if self.kind == "list":
                words = value.split(",") if isinstance(value, str) else value
                return [word.strip() if isinstance(word, str) else word for word in words]
            if self.kind == "bool":
                return {"true": True, "false": False}[str(value).lower()]
            if self.kind == "str":
                return str(value)
            number = float(value)
            if self.kind == "int" and number != int(number):
                raise ValueError
            return int(number) if self.kind == "int" else number
        except (ValueError, KeyError, TypeError, OverflowError):
            raise UserError(f"parameter {self.name} is of type {self.kind}; got `{value}`.") from None


def report(template: str, out: str | Path | None = None, **parameters: Any) -> Path:
    """Execute a template with parameters and write its HTML; returns the file's path.

    Parameters are checked by name and type, and the runs they name are opened, before anything runs. Raises UserError.
    """
    import papermill

    source = find_template(template)
    values = check_parameters(source, parameters)
    if out is None:
        out = Path(values.get("run") or ".") / "reports" / f"{source.stem}.html"
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"{out.parent} cannot be written to; give --out a path in a folder that can.")
    executed = out.with_name(f".{out.stem}.{os.getpid()}.ipynb")
    try:
        papermill.execute_notebook(
            str(source), str(executed), values, kernel_name="python3", language="python", cwd=str(Path.cwd())
        )
        page = to_html(executed, title=f"{source.stem}: {Path(str(values.get('run', ''))).name}")
    except papermill.PapermillExecutionError as error:
        raise UserError(f"section {error.exec_count} of {source.stem} failed: {error.ename}: {error.evalue}") from None
    finally:
        executed.unlink(missing_ok=True)
    if len(page.encode()) > LARGEST:
        raise UserError(
            f"{out} would take {len(page) / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}; report on fewer images."
        )
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    aside.write_text(page, encoding="utf-8")
    aside.replace(out)
    return out


def find_template(name: str) -> Path:
    """The notebook of a template's name, or the notebook at a path. Raises UserError with the nearest name."""
    if name.endswith(".ipynb"):
        if not Path(name).is_file():
            raise UserError(f"{name} does not exist; give a notebook's path, or a template's name.")
        return Path(name)
    known = {path.stem: path for home in reversed(HOMES) for path in home.glob("*.ipynb")}
    if name not in known:
        raise unknown("report", name, known)
    return known[name]


def parameters_of(template: Path) -> list[Parameter]:
    """The parameters a template declares, in the cell tagged `parameters`. Raises UserError if it has none."""
    try:
        cells = json.loads(template.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{template} is not a notebook; a report's template is a .ipynb file.") from None
    tagged = [c for c in cells if "parameters" in c.get("metadata", {}).get("tags", ())]
    if not tagged:
        raise UserError(f"{template.name} has no cell tagged `parameters`; a template needs one.")
    found = []
    for line in ast.parse("".join(tagged[0]["source"])).body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
            try:
                default = ast.literal_eval(line.value)  # literals alone: nothing of a template runs before its checks
            except ValueError:
                said = f"{template.name}: parameter {line.target.id} must start as a plain value"
                raise UserError(f"{said}, such as 0 or a text; got `{ast.unparse(line.value)}`.") from None
            found.append(Parameter(line.target.id, ast.unparse(line.annotation), default))
    return found


def check_parameters(template: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The template's parameters with the given values. Raises UserError: unknown name, wrong type, no such run."""
    known = {parameter.name: parameter for parameter in parameters_of(template)}
    for name in given:
        if name not in known:
            raise UserError(str(unknown("parameter", name, known)).replace("there is", f"{template.name} has", 1))
    values = {n: p.accept(given[n]) if n in given else p.default for n, p in known.items()}
    for folder in [values.get("run"), *values.get("others", [])]:
        if folder == "":
            raise UserError(f"{template.stem} reports on a run: give --run runs/NAME.")
        if folder is not None:
            Run(folder).evidence()
    return values


class Pages:
    """What a template's cells call: `show("codebook_usage")` puts a heading, the result, and what it says."""

    def __init__(self, run: str, others: Sequence[str] = (), step: int = 0) -> None:
        from IPython.display import Markdown, display

        leading = Run(run)
        self.bench = Bench(leading.folder.parent)
        names = [Run(folder) for folder in others]
        for other in (leading, *names):
            self.bench.runs[other.name] = other
        self.state = ViewState(runs=(leading.name, *(other.name for other in names)), step=step or None)
        evidence = leading.evidence(step or None)
        made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        told = evidence.provenance
        lines = [
            f"# {leading.kind} · {leading.name}",
            f"Step {evidence.step:,} · {told['n']:,} {'images held out of' if 'of' in told else 'samples after'} "
            f"`{told['data']}` · seed {told['seed']} · torch {told['versions']['torch']} · made {made}",
        ]
        display(Markdown("\n\n".join(lines)))
        self.shown: set[str] = set()

    def show(self, name: str, **controls: Any) -> None:
        """One analysis: its figure, summary and table, or the sentence that says why there is none."""
        from IPython.display import Markdown, display

        self.shown.add(name)
        display(Markdown(f"## {name.replace('_', ' ').capitalize()}"))
        try:
            display(self.bench.result(self.state.change(analysis=name, controls=controls)))
        except UserError as error:
            display(Markdown(f"*{error}*"))

    def rest(self) -> None:
        """Every analysis that has not been shown yet: a new one appears here by existing."""
        for name in analysis.analyses():
            if name not in self.shown:
                self.show(name)


def to_html(notebook: Path, title: str) -> str:
    """An executed notebook as one page: code hidden, figures drawn by a plotly.js inside, nothing from outside."""
    import nbformat
    from nbconvert import HTMLExporter
    from plotly.offline import get_plotlyjs

    pages = nbformat.read(notebook, as_version=4)
    pages.metadata.pop("widgets", None)
    for cell in pages.cells:
        for output in cell.get("outputs", []):
            _draw_in_place(output.get("data", {}))
    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_anchor_links=True)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    body, _ = exporter.from_notebook_node(pages)
    heads = [text for _, text in re.findall(r"<h2([^>]*)>(.*?)</h2>", body)]
    numbers = itertools.count()
    body = re.sub(r"<h2[^>]*>", lambda _: f'<h2 id="section-{next(numbers)}">', body)
    contents = "".join(f'<li><a href="#section-{i}">{text}</a></li>' for i, text in enumerate(heads))
    style = (HERE / "report.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><style>{style}</style>'
        f"<script>{get_plotlyjs()}</script></head>\n"
        f'<body><nav aria-label="contents"><ol>{contents}</ol></nav><main>{body}</main></body></html>\n'
    )


def _draw_in_place(data: dict[str, Any]) -> None:
    """Turn a figure's JSON into a fragment that draws it, with its title as the text for those who cannot see it."""
    import plotly.graph_objects as go

    told = data.pop("application/vnd.plotly.v1+json", None)
    if told is None:
        return
    figure = go.Figure(data=told["data"], layout=told["layout"], skip_invalid=False)
    drawn = figure.to_html(full_html=False, include_plotlyjs=False, config=told.get("config"))
    text = re.sub(r"<[^>]+>", " ", figure.layout.title.text or "figure")
    data["text/html"] = f'<figure role="img" aria-label="{html.escape(text, quote=True)}">{drawn}</figure>'
