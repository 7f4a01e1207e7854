"""Report templates: notebooks whose cell tagged `parameters` declares parameters by annotation.

A line `name: type = default  # help` declares a parameter. The type is `str`, `int`, `float`,
`bool`, `list`, `Literal[...]` or `Annotated[int, Range(low, high)]`, as for the controls of an
analysis, or `dict`, which receives every value whose name is not declared.
"""

import ast
import io
import json
import math
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from workbench.core.coerce import coerce
from workbench.core.errors import RunError, UserError, unknown
from workbench.hosts.reports.images import images_of
from workbench.storage.evidence import verify_evidence
from workbench.storage.files import parse_json, read_bytes
from workbench.storage.run import Run

PACKAGE_FOLDER = Path(__file__).parent
# Templates of a checkout take precedence over those of an installed package.
TEMPLATE_FOLDERS = (PACKAGE_FOLDER.parents[2] / "reports", PACKAGE_FOLDER / "templates")
RUN_KINDS = ("tokenizer", "generator")
TYPES: dict[str, type] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list": list,
    "dict": dict,
}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A declared parameter of a template.

    Attributes
    ----------
    name : str
        Name of the variable in the notebook.
    type : type
        Python type or `Literal`.
    default : object
        Value that the notebook declares.
    low, high : float
        Bounds of a number, inclusive.
    description : str
        The comment behind the declaration.
    """

    name: str
    type: Any
    default: Any
    low: float = -math.inf
    high: float = math.inf
    description: str = ""

    def accept(self, value: Any) -> Any:
        """Return a value in the parameter's type, as JSON stores it.

        Parameters
        ----------
        value : object
            Value from Python or text from a command line. Text becomes a list at its commas, except
            at those in the name of an existing folder or file.

        Raises
        ------
        UserError
            If the value has another type or is out of bounds.
        """
        if self.type is dict:
            if not isinstance(value, Mapping):
                raise UserError(f"{self.name} must map names to values, got `{value}`.")
            return {str(name): _plain(entry) for name, entry in value.items()}
        if self.type is list:
            return self._accept_list(value)
        return coerce(self.type, self.name, _plain(value), low=self.low, high=self.high)

    def _accept_list(self, value: Any) -> list[Any]:
        if isinstance(value, str):
            return split_at_commas(value)
        if isinstance(value, Mapping) or not np.iterable(value):
            raise UserError(f"{self.name} must be a list, got `{value}`.")
        return [_plain(entry) for entry in value]


def split_at_commas(text: str) -> list[str]:
    """Split text at its commas, but not within the name of an existing folder or file.

    Programs that sweep over settings name folders like `lr=0.001,codes=64`.

    Examples
    --------
    >>> split_at_commas("runs/a, runs/b")
    ['runs/a', 'runs/b']
    """
    pieces = text.split(",")
    parts = []
    start = 0
    while start < len(pieces):
        ends = range(len(pieces), start, -1)
        joined = {end: ",".join(pieces[start:end]).strip() for end in ends}
        # The longest name that exists; a word without a comma need not exist.
        end = next(end for end in ends if end == start + 1 or _exists(joined[end]))
        parts.append(joined[end])
        start = end
    return parts


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # many pieces together are too long for a name
        return False


def template_names() -> list[str]:
    """Return the names of the templates of this package."""
    return sorted(_templates())


def _templates() -> dict[str, Path]:
    return {
        path.stem: path for folder in reversed(TEMPLATE_FOLDERS) for path in folder.glob("*.ipynb")
    }


def find_template(name: str) -> Path:
    """Return the notebook of a template.

    Parameters
    ----------
    name : str
        Name of a template, such as `tokenizer`, or path of a notebook.

    Raises
    ------
    UserError
        If there is no such template or file.
    """
    if name.endswith(".ipynb"):
        if not Path(name).is_file():
            raise UserError(
                f"{name} does not exist. Give the path of a notebook or the name of a template."
            )
        return Path(name)
    templates = _templates()
    if name not in templates:
        raise unknown("report", name, templates)
    return templates[name]


def parameters_of(template: Path) -> list[Parameter]:
    """Return the parameters that a template declares.

    Nothing of the template is executed.

    Parameters
    ----------
    template : Path
        Notebook.

    Raises
    ------
    UserError
        If the file is not a notebook, has no cell tagged `parameters`, or declares a parameter in
        another way.
    """
    source = _parameters_source(template)
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise UserError(
            f"{template.name}: line {error.lineno} of the parameters cell is not valid Python."
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes, deep nesting
        raise UserError(
            f"{template.name}: the parameters cell is not valid Python ({error})."
        ) from None
    comments = _comments(source)
    return [
        replace(
            _parameter(template, statement.target.id, statement.annotation, statement.value),
            description=comments.get(statement.end_lineno or 0, ""),
        )
        for statement in statements
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and statement.value is not None
    ]


def check_parameters(template: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of a template: checked values, and defaults of the others.

    Parameters
    ----------
    template : Path
        Notebook.
    values : mapping
        Values by name.

    Returns
    -------
    dict
        A value for every declared parameter.

    Raises
    ------
    UserError
        If a name is unknown, a value has the wrong type, or a run does not exist.
    """
    parameters = {parameter.name: parameter for parameter in parameters_of(template)}
    undeclared = {name: value for name, value in values.items() if name not in parameters}
    collector = next((p for p in parameters.values() if p.type is dict), None)
    if undeclared and collector is None:
        within = f"of the template {template.stem}"
        raise unknown("parameter", next(iter(undeclared)), parameters, within=within)
    checked = {}
    for name, parameter in parameters.items():
        checked[name] = parameter.accept(values[name]) if name in values else parameter.default
    if collector is not None:
        checked[collector.name] = checked[collector.name] | collector.accept(undeclared)
    _check_training(template.stem, checked)
    _check_runs(template, checked)
    return checked


def _check_training(template_name: str, values: Mapping[str, Any]) -> None:
    """Raise UserError unless a template that trains has a folder and a known recipe."""
    if values.get("folder") == "":
        raise UserError(f"{template_name} needs a folder for its run: --folder runs/NAME.")
    if "recipe" in values:
        from workbench.launch.trainables import load_class, recipe_names, unknown_recipe

        recipe = values["recipe"]
        if ":" in recipe:
            load_class(recipe, values.get("trust", ()))
        elif recipe not in recipe_names():
            raise unknown_recipe(recipe)


def _check_runs(template: Path, values: Mapping[str, Any]) -> None:
    """Raise UserError unless every named run has evidence and a name of its own."""
    if "run" not in values:
        return
    requirements = requirements_of(template)
    template_name = template.stem
    if values["run"] == "":
        raise UserError(f"{template_name} needs a run: --run runs/NAME.")
    folders: dict[str, Path] = {}
    for folder in [values["run"], *values.get("compare_with", [])]:
        run = Run(folder)
        if folder == values["run"]:
            _check_kind(template_name, requirements.get("run"), run)
        step = values.get("step") if folder == values["run"] else None
        if folder == values["run"]:
            evidence = run.evidence(step or None)
            verify_evidence(run.evidence_folder(evidence.step))
        elif not run.evidence_steps:
            run.evidence()  # raises the reason; damaged evidence is named in the report instead
        resolved = run.folder.resolve()
        if folders.setdefault(run.name, resolved) != resolved:
            raise UserError(
                f"Two of the runs are called {run.name}. "
                "Rename one: a report identifies runs by name."
            )
    if requirements.get("same_images"):
        _check_images(template_name, values["run"], values.get("compare_with", []))


def requirements_of(template: Path) -> dict[str, Any]:
    """Return what a template requires of its runs, from the metadata of its notebook.

    Parameters
    ----------
    template : Path
        Notebook, whose metadata may have a dictionary `workbench` with these entries: `run`
        ("tokenizer" or "generator", the kind of the first run) and `same_images` (true if the
        template is about runs on the same images).

    Returns
    -------
    dict
        Those entries.
    """
    metadata = parse_json(read_bytes(template)).get("metadata", {})
    requirements = metadata.get("workbench", {})
    return requirements if isinstance(requirements, dict) else {}


def _check_kind(template_name: str, kind: Any, run: Run) -> None:
    actual = "tokenizer" if run.tokenizer is None else "generator"
    if kind not in RUN_KINDS or kind == actual:
        return
    raise UserError(
        f"The report {template_name} is about a {kind}, and {run.folder} is a {actual} "
        f"({run.kind}). Use: workbench report {actual} --run {run.folder}"
    )


def _check_images(template_name: str, first: str, other_folders: Sequence[str]) -> None:
    """Raise UserError if none of the other runs was measured on the images of the first."""
    images = images_of(Run(first))
    if not other_folders or any(images_of(Run(other)) == images for other in other_folders):
        return
    raise UserError(
        f"The report {template_name} is about runs on the same images, and no other run was "
        f"measured on those of {first}. Compare runs that were trained on the same data."
    )


def _comments(source: str) -> dict[int, str]:
    """Return the comment at the end of each line that has one, by the number of the line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokens
        if token.type == tokenize.COMMENT
    }


def _parameters_source(template: Path) -> str:
    """Return the text of the cell tagged `parameters`."""
    try:
        cells = parse_json(read_bytes(template))["cells"]
        sources = [
            "".join(cell["source"])
            for cell in cells
            if "parameters" in cell.get("metadata", {}).get("tags", ())
        ]
    except RunError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{template} is not a notebook. A report template is a .ipynb file."
        ) from None
    if not sources:
        raise UserError(f"{template.name} has no cell tagged `parameters`.")
    return sources[0]


def _parameter(template: Path, name: str, annotation: ast.expr, value: ast.expr) -> Parameter:
    """Return a parameter from its declaration. Only literals are evaluated."""
    try:
        default = ast.literal_eval(value)
    except ValueError:
        raise UserError(
            f"{template.name}: the default of parameter {name} must be a literal such as 0 or "
            f"'text', got `{ast.unparse(value)}`."
        ) from None
    match annotation:
        case ast.Name(id=type_name) if type_name in TYPES:
            return Parameter(name=name, type=TYPES[type_name], default=default)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            values = ast.literal_eval(choices)
            choice_type = Literal[values]  # a tuple becomes several choices
            return Parameter(name=name, type=choice_type, default=default)
        case ast.Subscript(
            value=ast.Name(id="Annotated"),
            slice=ast.Tuple(elts=[ast.Name(id=type_name), ast.Call(args=bounds)]),
        ) if type_name in TYPES:
            low, high = (ast.literal_eval(bound) for bound in bounds[:2])
            return Parameter(name=name, type=TYPES[type_name], default=default, low=low, high=high)
    raise UserError(
        f"{template.name}: parameter {name} is declared `{ast.unparse(annotation)}`; "
        f"write one of {', '.join(TYPES)}."
    )


def _plain(value: Any) -> Any:
    """Return a value as papermill can write it into a notebook."""
    return json.loads(json.dumps(value, default=_to_json))


def _to_json(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
