"""Notes of a person about runs: tags, a note, and whether a run is pinned or hidden.

They are stored in the folder of runs and not in the runs: a finished run is never written to.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from workbench.core.errors import RunError, UserError, unknown
from workbench.storage.atomic import read_json, write_text

FILE_NAME = "annotations.json"  # in the folder of runs
MAX_TAGS = 20
MAX_TAG_LENGTH = 40
MAX_NOTE_LENGTH = 500
FIELDS = ("tags", "note", "pinned", "hidden")


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """Notes of a person about one run.

    Attributes
    ----------
    tags : tuple of str
        Words by which runs are found.
    note : str
        Free text.
    pinned : bool
        Whether the run is listed before the others.
    hidden : bool
        Whether the run is left out of the table.
    """

    tags: tuple[str, ...] = ()
    note: str = ""
    pinned: bool = False
    hidden: bool = False

    @property
    def tag_text(self) -> str:
        """The tags as one text."""
        return ", ".join(self.tags)


class RunAnnotations:
    """The annotations of a folder of runs, by the name of the run.

    Parameters
    ----------
    folder : Path
        The folder of runs.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE_NAME

    def read(self) -> dict[str, Annotation]:
        """Return all annotations as they are on disk now; a damaged entry is left out."""
        try:
            stored: Any = read_json(self._file, {})
        except RunError:  # it exists and cannot be read
            return {}
        if not isinstance(stored, dict):
            return {}
        return {name: _parse(entry) for name, entry in stored.items() if isinstance(entry, dict)}

    def change(self, run: str, field: str, value: str | bool) -> Annotation:
        """Change one field of the annotation of a run, and store it.

        Parameters
        ----------
        run : str
            The name of the run.
        field : {"tags", "note", "pinned", "hidden"}
            The field to change.
        value : str or bool
            Tags are separated by commas.

        Raises
        ------
        UserError
            If a text is too long, the field does not exist, or the file cannot be written.
        """
        annotations = self.read()
        changed = _changed(annotations.get(run, Annotation()), field, value)
        annotations[run] = changed
        stored = {
            name: asdict(annotation)
            for name, annotation in annotations.items()
            if annotation != Annotation()
        }
        try:
            write_text(self._file, json.dumps(stored, indent=1))
        except OSError as error:
            raise UserError(
                f"{self._file} cannot be written: {error.strerror or error}. Make the folder of"
                " runs writable."
            ) from None
        return changed


def _changed(annotation: Annotation, field: str, value: str | bool) -> Annotation:
    if field == "tags":
        return replace(annotation, tags=_tags(str(value)))
    if field == "note":
        note = str(value).strip()
        if len(note) > MAX_NOTE_LENGTH:
            raise UserError(f"A note has at most {MAX_NOTE_LENGTH} characters, got {len(note)}.")
        return replace(annotation, note=note)
    if field == "pinned":
        return replace(annotation, pinned=bool(value))
    if field == "hidden":
        return replace(annotation, hidden=bool(value))
    raise unknown("field", field[:60], FIELDS, within="of an annotation")


def _tags(text: str) -> tuple[str, ...]:
    tags = tuple(dict.fromkeys(tag.strip() for tag in text.split(",") if tag.strip()))
    if len(tags) > MAX_TAGS or any(len(tag) > MAX_TAG_LENGTH for tag in tags):
        raise UserError(
            f"A run has at most {MAX_TAGS} tags of at most {MAX_TAG_LENGTH} characters each."
        )
    return tags


def _parse(entry: dict[str, Any]) -> Annotation:
    tags = entry.get("tags", ())
    is_list = isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)
    note = entry.get("note", "")
    return Annotation(
        tags=tuple(tags) if is_list else (),
        note=note if isinstance(note, str) else "",
        pinned=entry.get("pinned") is True,
        hidden=entry.get("hidden") is True,
    )
