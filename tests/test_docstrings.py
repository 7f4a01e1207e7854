"""Docstrings of the public API are complete, and their examples run."""

import doctest
import importlib
from pathlib import Path

import pytest
from numpydoc.validate import validate

import workbench
from workbench import analysis

PACKAGE = Path(workbench.__file__).parent
ANALYSES = [f"{analysis.get(name).__module__}.{name}" for name in analysis.analyses()]
PUBLIC = [
    f"{value.__module__}.{name}"
    for name, value in ((name, getattr(workbench, name)) for name in workbench._MODULES)
    if name != "Evidence"  # its fields are described by `ARRAYS`
]
# Undocumented parameters, parameters without a type, missing return sections, missing docstring.
REQUIRED = {"PR01", "PR02", "PR03", "PR04", "RT01", "RT03", "GL08"}
WITH_EXAMPLES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", [*ANALYSES, *PUBLIC])
def test_public_docstring_documents_parameters_and_returns(name):
    errors = [error for error in validate(name)["errors"] if error[0] in REQUIRED]
    assert errors == []


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_run(module):
    results = doctest.testmod(
        importlib.import_module(module),
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
    )
    assert results.failed == 0
