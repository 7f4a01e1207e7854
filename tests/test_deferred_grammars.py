"""Notebook packages are imported without the grammars of `iri`, which still work when used."""

import subprocess
import sys

IMPORT_AND_CHECK = """
import sys
from workbench.hosts.deferred_grammars import GRAMMARS
import workbench.hosts.notebook.explorer
import nbformat
from jsonschema import Draft7Validator
assert f"{GRAMMARS}.syntax_helpers" not in sys.modules
checker = Draft7Validator.FORMAT_CHECKER
texts = ["https://example.org/é", "https://example.org/ ", "::"]
print([checker.conforms(text, "iri") for text in texts])
import rfc3987_syntax
print(rfc3987_syntax.is_valid_syntax_iri(texts[0]))
""".strip()


def test_grammars_are_loaded_when_a_text_is_checked():
    process = subprocess.run(
        [sys.executable, "-c", IMPORT_AND_CHECK], capture_output=True, text=True
    )
    assert process.stdout.splitlines() == ["[True, False, False]", "True"], process.stderr
