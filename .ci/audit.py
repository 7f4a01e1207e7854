"""Compare the locks and the lower bounds of pyproject.toml with advisories in a local folder.

The folder is a copy of https://github.com/pypa/advisory-database, whose files
`vulns/PACKAGE/*.yaml` have the format of OSV. Nothing is downloaded.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).parent.parent


def locked_versions() -> Iterator[tuple[str, str]]:
    """Yield the name and version of every package in the locks."""
    for lock in sorted(ROOT.glob("requirements*.lock")):
        for match in re.finditer(r"^([\w.-]+)==([^\s;\\]+)", lock.read_text(), re.MULTILINE):
            yield match[1], match[2]


def lower_bounds() -> Iterator[tuple[str, str]]:
    """Yield the name and the oldest version of every requirement."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    for line in [*project["dependencies"], *(line for extra in extras for line in extra)]:
        requirement = Requirement(line)
        for specifier in requirement.specifier:
            if specifier.operator in (">=", "=="):
                yield requirement.name, specifier.version


def affects(advisory: dict[str, Any], package: str, version: Version) -> bool:
    """Return whether an advisory holds for a version."""
    for affected in advisory.get("affected", ()):
        if normalized(affected["package"]["name"]) != package:
            continue
        if str(version) in affected.get("versions", ()):
            return True
        if any(is_in(version, entry["events"]) for entry in affected.get("ranges", ())):
            return True
    return False


def is_in(version: Version, events: list[dict[str, str]]) -> bool:
    """Return whether a version is between the events of a range; commits are no versions."""
    inside = False
    for event in events:
        (kind, text), *_ = event.items()
        try:
            boundary = Version(text)
        except InvalidVersion:
            continue
        if kind == "introduced" and version >= boundary:
            inside = True
        if kind == "fixed" and version >= boundary:
            inside = False
        if kind == "last_affected" and version > boundary:
            inside = False
    return inside


def normalized(name: str) -> str:
    """Return the name of a package as folders of the database have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main(folder: Path) -> int:
    """Print the advisories that hold, and return how many there are."""
    packages = folder / "vulns"
    if not packages.is_dir():
        sys.exit(f"{folder} has no folder vulns; give a copy of pypa/advisory-database.")
    checked = {*locked_versions(), *lower_bounds()}
    count = 0
    for name, version in sorted(checked):
        for file in sorted((packages / normalized(name)).glob("*.yaml")):
            advisory = yaml.safe_load(file.read_text())
            if "withdrawn" in advisory:
                continue
            if affects(advisory, normalized(name), Version(version)):
                names = ", ".join([advisory["id"], *advisory.get("aliases", ())])
                print(f"{name} {version}: {names}")  # noqa: T201
                count += 1
    print(f"{len(checked):,} versions compared, {count} advisories hold.")  # noqa: T201
    return count


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) > 0)
