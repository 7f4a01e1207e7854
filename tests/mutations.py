"""Strategies of damaged files: structured changes of JSON, and changes of bytes."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

# JSON that Python's encoder does not write, in place of a value.
LITERALS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-0.0",
    "1" + 400 * "0",
    "1" + 5000 * "0",
    str(2**63),
    str(-(2**63) - 1),
    '"\\u0000"',
    '"\\ud800"',
    '"../../../etc/passwd"',
    '"<script>alert(1)</script>"',
    '"' + 20_000 * "x" + '"',
    2000 * "[" + 2000 * "]",
    100_000 * "[",
    400 * '{"a":' + "1" + 400 * "}",
)
PLACEHOLDER = "\N{REPLACEMENT CHARACTER}"
VALUES = st.one_of(
    st.sampled_from([None, True, False, 0, 1, -1, 3, 0.5, 1e300, "", "a", "3", "true"]),
    st.sampled_from([[], {}, [[]], [1, "a"], [None], {"a": 1}, {"": None}, {"run": 3}]),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
)
UNKNOWN_KEYS = st.sampled_from(["unknown", "", "format", "step", "__class__", "n", "digests"])


@st.composite
def json_files(draw, original: Any) -> bytes:
    """Draw the text of JSON in which one or two values were replaced, removed or added."""
    document = json.loads(json.dumps(original))
    literal = "null"
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from(["value", "value", "literal", "remove", "add", "all"]))
        value = copy.deepcopy(draw(VALUES))
        if kind == "literal":
            literal = draw(st.sampled_from(LITERALS))
            value = PLACEHOLDER
        if kind == "all":
            document = value
        else:
            document = _changed(draw, document, kind, value)
    text = json.dumps(document, ensure_ascii=True)
    return text.replace(json.dumps(PLACEHOLDER), literal).encode()


def _changed(draw, document: Any, kind: str, value: Any) -> Any:
    """Change one value at any depth of JSON."""
    if not isinstance(document, dict | list) or not document:
        return value
    keys = sorted(document) if isinstance(document, dict) else range(len(document))
    key = draw(st.sampled_from(keys))
    inner = document[key]
    if isinstance(inner, dict | list) and inner and draw(st.booleans()):
        document[key] = _changed(draw, inner, kind, value)
    elif kind == "remove":
        del document[key]
    elif kind == "add" and isinstance(document, dict):
        document[draw(UNKNOWN_KEYS)] = value
    else:
        document[key] = value
    return document


@st.composite
def bytes_of(draw, original: bytes) -> bytes:
    """Draw the content of a file that was truncated, in which bits were flipped, and the like."""
    kind = draw(st.sampled_from(["flip", "flip", "cut", "insert", "overwrite", "junk", "other"]))
    place = draw(st.integers(0, max(0, len(original) - 1)))
    if kind == "flip":
        content = bytearray(original)
        content[place] ^= 1 << draw(st.integers(0, 7))
        return bytes(content)
    if kind == "cut":
        return original[:place]
    junk = draw(st.sampled_from([b"\0", b"\xff\xfe", b"\xc3", 300 * b"\0", b"\n", b'"', b"}"]))
    if kind == "insert":
        return original[:place] + junk + original[place:]
    if kind == "overwrite":
        return original[:place] + junk + original[place + len(junk) :]
    if kind == "junk":
        return draw(st.binary(max_size=60))
    encoded = original.decode("latin-1").encode("utf-16")
    return draw(st.sampled_from([b"", b"\0", b"\xef\xbb\xbf" + original, encoded, 3 * original]))


def json_lines(records: list[Any]) -> st.SearchStrategy[bytes]:
    """Draw a log in which one line is damaged."""
    lines = [json.dumps(record).encode() for record in records]

    def replaced(place: int, line: bytes) -> bytes:
        return b"\n".join([*lines[:place], line, *lines[place + 1 :]]) + b"\n"

    damaged = st.sampled_from(records).flatmap(json_files)
    return st.builds(replaced, st.integers(0, len(lines) - 1), damaged)


def json_or_bytes(original: Any) -> st.SearchStrategy[bytes]:
    """Draw a damaged JSON file, more often by its structure than by its bytes."""
    content = json.dumps(original).encode()
    return st.one_of(json_files(original), json_files(original), bytes_of(content))
