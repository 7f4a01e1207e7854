"""Lists of parameter sets in files."""

import csv
import io
from pathlib import Path
from typing import Any

from workbench.core.errors import RunError, UserError, missing_extra
from workbench.storage.files import parse_json, read_bytes


def read_parameter_list(path: Path) -> list[dict[str, Any]]:
    """Return the parameter sets in a file.

    Parameters
    ----------
    path : Path
        A `.csv` file with names in the first row, or a `.json`, `.yaml` or `.yml` file with a list
        of objects. An empty cell leaves the parameter at its default.

    Returns
    -------
    list of dict
        The sets, in the order of the file. Values of a `.csv` file are text.

    Raises
    ------
    UserError
        If the file cannot be read or holds no parameter set.
    """
    try:
        content = read_bytes(path)
        rows = _rows(content, path.suffix)
    except RunError:
        raise
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as a list of parameters: {reason}.") from None
    # csv.DictReader stores surplus cells under None.
    is_valid = isinstance(rows, list) and all(
        isinstance(row, dict) and None not in row for row in rows
    )
    if not is_valid or not rows:
        raise UserError(
            f"{path} is not a list of parameters. A .csv file needs names above values, a .json "
            "file [{...}, ...], a .yaml file a list of `- name: value`."
        )
    return [{name: value for name, value in row.items() if value not in ("", None)} for row in rows]


def _rows(content: bytes, suffix: str) -> Any:
    """Parse a file by its extension.

    Raises
    ------
    ValueError
        If the content is not of this type.
    """
    if suffix == ".json":
        return parse_json(content)
    if suffix in (".yaml", ".yml"):
        return _read_yaml(content)
    lines = io.StringIO(content.decode("utf-8"), newline="")
    return list(csv.DictReader(lines, strict=True))


def _read_yaml(content: bytes) -> Any:
    try:
        import yaml
    except ImportError:
        raise missing_extra("pyyaml", "train", "Reading a YAML file") from None
    try:
        return yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
