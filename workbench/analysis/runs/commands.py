"""Commands that train what a comparison lacks, as text."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.core.trusted import MAIN, PACKAGE
from workbench.storage.evidence import Evidence

# Datasets with recipes of generators, by the last part of a recipe's name.
GENERATOR_DATA = ("digits", "photos", "shapes", "cifar10", "imagenet256")
GENERATOR_CLASS = "workbench.generators.transformer:SiT"


def generator_command(tokenizer: Evidence) -> str:
    """Return the command that trains a small generator on a tokenizer.

    Returns
    -------
    str
        Empty if no command can train one, because the model was not stored or its class is that
        of a notebook, or because only the number of its codewords is known.

    Examples
    --------
    >>> generator_command(Evidence({"run": "a", "step": 1, "recipe": "softvq-photos"}))
    'workbench train sit-photos --tokenizer runs/a --out runs/sit-a'
    """
    # Of a tokenizer that was trained here, no `dim` means the channels of its feature extractor.
    is_imported = tokenizer.provenance.get("imported") is not None
    has_vectors = tokenizer.provenance.get("settings", {}).get("dim", 1) is not None
    if not tokenizer.is_model_stored or (is_imported and not has_vectors):
        return ""
    if (tokenizer.provenance.get("class") or "").startswith(f"{MAIN}:"):
        return ""  # a notebook has the class, and no command can import it
    recipe = tokenizer.provenance.get("recipe") or ""
    data = recipe.rpartition("-")[2] or tokenizer.provenance.get("data")
    model = f"sit-{data}" if data in GENERATOR_DATA else f"--class {GENERATOR_CLASS}"
    folder = Path(tokenizer.run_path)
    source = shlex.quote(str(folder))
    out = shlex.quote(str(folder.parent / f"sit-{tokenizer.run_name}"))
    return f"workbench train {model} --tokenizer {source} --out {out}{_trust(tokenizer)}"


def _trust(evidence: Evidence) -> str:
    """Return the option that names the module outside this package with the model's code."""
    imported = evidence.provenance.get("imported")
    if imported is None:
        path = evidence.provenance.get("class") or ""
    else:
        family, _, path = (imported.get("address") or "").partition(":")
        if family != "python":  # no other family runs code of the user
            return ""
    package = path.partition(":")[0].partition(".")[0]
    return "" if package in ("", PACKAGE) else f" --trust {shlex.quote(package)}"


def retrain_command(evidence: Evidence, changes: Mapping[str, str]) -> str:
    """Return the command that trains a run again with changed settings.

    Parameters
    ----------
    evidence : Evidence
        Evidence of the run.
    changes : mapping of str to str
        Settings as on the command line.

    Returns
    -------
    str
        Empty if the run was not trained from a recipe.

    Examples
    --------
    >>> run = Evidence({"run": "a", "step": 1, "recipe": "ae-digits", "changes": {"steps": 9}})
    >>> retrain_command(run, {"num_tokens": "4"})
    'workbench train ae-digits --out runs/a-2 --steps 9 --num-tokens 4'
    """
    recipe = evidence.provenance.get("recipe")
    if recipe is None:
        return ""
    stored = evidence.provenance.get("changes", {})
    settings = {name: as_word(value) for name, value in stored.items() if value is not None}
    out = shlex.quote(f"{evidence.run_path}-2")
    return f"workbench train {recipe} --out {out} {options(settings | dict(changes))}"


def options(settings: Mapping[str, str]) -> str:
    """Return settings as options of a command."""
    return " ".join(
        f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in settings.items()
    )


def as_word(value: Any) -> str:
    """Return a setting as it is written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ",".join(map(as_word, value))
    return str(value)
