"""A report's template: a notebook whose cell tagged `parameters` says, by annotation, what it may be given.

A line `name: kind = default  # help` is a parameter. Kinds are str, int, float, bool, list, `Literal[...]`,
`Annotated[int, Range(low, high)]`, as an analysis's controls; and dict, which takes every name the others do not.
"""

import ast
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.core.errors import UserError, unknown
from workbench.storage.run import Run

HERE = Path(__file__).parent
HOMES = (
    HERE.parents[2] / "reports",
    HERE / "templates",
)  # of templates: a checkout's, an installed package's
KINDS = ("str", "int", "float", "bool", "list", "dict")


@dataclass(frozen=True)
class Parameter:
    """One line of a template's parameters cell."""

    name: str
    kind: str
    default: Any
    choices: tuple[Any, ...] = ()
    low: float = -math.inf
    high: float = math.inf

    def accept(self, value: Any) -> Any:
        """The value in the parameter's type, as JSON keeps it. Raises UserError."""
        try:
            found = self._typed(value)
        except (ValueError, KeyError, TypeError, OverflowError):
            raise UserError(
                f"parameter {self.name} is of type {self.kind}; got `{value}`."
            ) from None
        if self.choices and found not in self.choices:
            raise unknown(self.name, str(value), map(str, self.choices))
        if self.kind in ("int", "float") and not self.low <= found <= self.high:
            raise UserError(
                f"parameter {self.name} takes {self.low:g} to {self.high:g}; got `{value}`."
            )
        return found

    def _typed(self, value: Any) -> Any:
        if self.kind == "list":
            words = value.split(",") if isinstance(value, str) else value
            return [word.strip() if isinstance(word, str) else _plain(word) for word in words]
        if self.kind == "dict":
            return (
                {str(name): _plain(one) for name, one in value.items()}
                if isinstance(value, Mapping)
                else value[""]
            )
        if self.kind == "bool":
            return {"true": True, "false": False}[str(value).lower()]
        if self.kind == "str":
            return str(value)
        number = float(value)
        if not math.isfinite(number) or (self.kind == "int" and number != int(number)):
            raise ValueError
        return int(number) if self.kind == "int" else number


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
        tagged = [c for c in cells if "parameters" in c.get("metadata", {}).get("tags", ())]
        lines = ast.parse("".join(tagged[0]["source"])).body if tagged else []
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{template} is not a notebook; a report's template is a .ipynb file."
        ) from None
    except SyntaxError as error:
        raise UserError(
            f"{template.name}: line {error.lineno} of its parameters is not Python."
        ) from None
    if not tagged:
        raise UserError(f"{template.name} has no cell tagged `parameters`; a template needs one.")
    return [
        _declared(template, line)
        for line in lines
        if isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and line.value is not None
    ]


def check_parameters(template: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The template's parameters with the given values. Raises UserError: unknown name, wrong type, no such run."""
    known = {parameter.name: parameter for parameter in parameters_of(template)}
    rest = next((name for name, parameter in known.items() if parameter.kind == "dict"), None)
    more = {name: value for name, value in given.items() if name not in known}
    if more and rest is None:
        raise UserError(
            str(unknown("parameter", next(iter(more)), known)).replace(
                "there is", f"{template.name} has", 1
            )
        )
    values = {n: p.accept(given[n]) if n in given else p.default for n, p in known.items()}
    if rest is not None:
        values[rest] = values[rest] | known[rest].accept(more)
    _check_recipe(template.stem, values)
    _check_runs(template.stem, values)
    return values


def _check_recipe(name: str, values: Mapping[str, Any]) -> None:
    if values.get("folder") == "":
        raise UserError(f"{name} trains into a folder: give --folder runs/NAME.")
    if "recipe" in values:
        from workbench.launch.recipes import RECIPES

        if values["recipe"] not in RECIPES:
            raise unknown("recipe", values["recipe"], RECIPES)


def _check_runs(name: str, values: Mapping[str, Any]) -> None:
    """Every run that is named has evidence, and a name of its own."""
    if "run" not in values:
        return
    if values["run"] == "":
        raise UserError(f"{name} reports on a run: give --run runs/NAME.")
    seen: dict[str, Path] = {}
    for folder in [values["run"], *values.get("others", [])]:
        run = Run(folder)
        run.evidence((values.get("step") or None) if folder == values["run"] else None)
        if seen.setdefault(run.name, run.folder.resolve()) != run.folder.resolve():
            raise UserError(
                f"Two of the runs are called {run.name}; a report tells them apart by name. Rename one."
            )


def _declared(template: Path, line: ast.AnnAssign) -> Parameter:
    """A parameter from its line: literals alone, so that nothing of a template runs before its checks."""
    name, said = ast.unparse(line.target), f"{template.name}: parameter {ast.unparse(line.target)}"
    try:
        default = ast.literal_eval(line.value or line.target)
    except ValueError:
        start = f"{said} must start as a plain value, such as 0 or a text"
        raise UserError(f"{start}; got `{ast.unparse(line.value or line.target)}`.") from None
    match line.annotation:
        case ast.Name(id=kind) if kind in KINDS:
            return Parameter(name, kind, default)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            values = ast.literal_eval(choices)
            return Parameter(
                name,
                type(default).__name__,
                default,
                values if isinstance(values, tuple) else (values,),
            )
        case ast.Subscript(
            value=ast.Name(id="Annotated"),
            slice=ast.Tuple(elts=[ast.Name(id=kind), ast.Call(args=a)]),
        ):
            low, high = (ast.literal_eval(bound) for bound in a[:2])
            return Parameter(name, kind, default, (), low, high)
    raise UserError(
        f"{said} is declared `{ast.unparse(line.annotation)}`; write one of {', '.join(KINDS)}."
    )


def _plain(value: Any) -> Any:
    """A value as papermill can write it into a notebook."""
    return json.loads(
        json.dumps(value, default=lambda one: one.item() if hasattr(one, "item") else str(one))
    )
