"""pyproject.toml, the locks and environment.yml declare the same packages."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def normalized(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def locked_packages(name: str) -> dict[str, list[str]]:
    """Return the lines of a lock by package: first version and marker, then the hashes."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    packages: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            package, _, rest = line.partition("==")
            packages.setdefault(normalized(package), []).append(rest)
    return packages


def versions(name: str) -> dict[str, set[str]]:
    """Return the versions of each package; it may depend on the version of Python."""
    locked = locked_packages(name)
    return {package: {line.split()[0] for line in lines} for package, lines in locked.items()}


def declared(*lines: str) -> list[Requirement]:
    """Return requirements, with extras of this package replaced by theirs."""
    result = []
    for requirement in map(Requirement, lines):
        if normalized(requirement.name) == PROJECT["name"]:
            result += declared(*(line for name in requirement.extras for line in EXTRAS[name]))
        else:
            result.append(requirement)
    return result


def requirements() -> list[Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    return [r for r in map(Requirement, lines) if normalized(r.name) != PROJECT["name"]]


@pytest.mark.parametrize(("lock", "extra"), [("requirements", "all"), ("requirements-dev", "dev")])
def test_every_requirement_is_locked(lock, extra):
    locked = versions(f"{lock}.lock") | versions("requirements-torch.lock")
    for requirement in declared(*PROJECT["dependencies"], *EXTRAS[extra]):
        for version in locked[normalized(requirement.name)]:
            assert version in requirement.specifier, requirement


def test_every_locked_package_has_hashes():
    names = ("requirements", "requirements-dev", "requirements-torch", "requirements-cuda")
    locks = {name: locked_packages(f"{name}.lock") for name in names}
    for lock in locks.values():
        for package, lines in lock.items():
            for line in lines:
                assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), package
    assert set(locks["requirements-torch"]) == {"torch"}
    only_for_cuda = set(locks["requirements-cuda"])
    assert {"triton", "nvidia-cublas"} <= only_for_cuda
    assert not only_for_cuda & {"torch", *locks["requirements"], *locks["requirements-dev"]}


def test_advisories_of_a_local_folder_are_compared(tmp_path):
    def advisory(package: str, events: list[dict[str, str]]) -> None:
        folder = tmp_path / "vulns" / package
        folder.mkdir(parents=True)
        affected = [{"package": {"name": package}, "ranges": [{"events": events}]}]
        (folder / "a.yaml").write_text(yaml.safe_dump({"id": package, "affected": affected}))

    def audit() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, ROOT / ".ci" / "audit.py", tmp_path]
        return subprocess.run(command, capture_output=True, text=True)

    assert audit().returncode == 1  # not a copy of the database
    advisory("jinja2", [{"introduced": "0"}, {"fixed": "3.1.6"}])
    advisory("torch", [{"introduced": "99"}])
    assert audit().returncode == 0
    advisory("nvidia-nccl-cu13", [{"introduced": "0"}, {"last_affected": "2.29.7"}])
    result = audit()
    assert result.returncode == 1 and result.stdout.startswith("nvidia-nccl-cu13 2.29.7:")


def test_locks_have_the_same_versions():
    development = versions("requirements-dev.lock")
    for package, numbers in versions("requirements.lock").items():
        assert development[package] == numbers


def test_build_system_is_locked():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    for requirement in map(Requirement, build):
        assert versions("requirements.lock")[requirement.name] <= set(
            requirement.specifier.filter(versions("requirements.lock")[requirement.name])
        )


def test_conda_environment_has_a_supported_python():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(
        d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python=")
    )
    assert (
        python.removeprefix("python=")
        in Requirement(f"python{PROJECT['requires-python']}").specifier
    )
    assert "pip" in environment["dependencies"]


def test_viewer_needs_no_training_stack():
    viewer = {normalized(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert not viewer & {"torch", "accelerate", "datasets", "jupyterlab", "panel", "papermill"}
    assert Requirement(EXTRAS["all"][0]).extras == EXTRAS.keys() - {"all", "dev", "docs", "bench"}


def test_citation_has_the_version_of_the_package():
    import workbench

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert "version" in PROJECT["dynamic"]
    assert str(citation["version"]) == workbench.__version__


def test_imports_are_declared():
    import ast

    modules = {
        "faiss": "faiss-cpu",
        "sklearn": "scikit-learn",
        "skimage": "scikit-image",
        "PIL": "pillow",
        "yaml": "pyyaml",
        "umap": "umap-learn",
    }
    modules |= {
        "IPython": "ipykernel",
        "nbformat": "nbconvert",
        "threadpoolctl": "scikit-learn",
        "pyarrow": "datasets",
    }
    modules |= {"huggingface_hub": "datasets", "packaging": "datasets", "markupsafe": "jinja2"}
    declared = {normalized(r.name) for r in requirements()} | {"workbench", PROJECT["name"]}
    for path in (ROOT / "workbench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            tops = []
            if isinstance(node, ast.Import):
                tops = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                tops = [node.module.split(".")[0]]
            for top in tops:
                assert (
                    top in sys.stdlib_module_names or normalized(modules.get(top, top)) in declared
                ), f"{path}: {top}"
