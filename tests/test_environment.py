"""pyproject.toml, requirements.lock and environment.yml declare the same packages."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def normalized(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def locked_versions() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {normalized(package): version for package, version in pairs}


def requirements() -> list[Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    return [r for r in map(Requirement, lines) if normalized(r.name) != PROJECT["name"]]


def test_every_requirement_is_locked():
    versions = locked_versions()
    for requirement in requirements():
        assert versions[normalized(requirement.name)] in requirement.specifier, requirement


def test_lock_has_plain_versions():
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(
            r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line
        ), line
    assert not [
        package
        for package in locked_versions()
        if package.startswith("nvidia") or package == "torchvision"
    ]


def test_conda_environment_uses_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(
        d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python=")
    )
    assert (
        python.removeprefix("python=")
        in Requirement(f"python{PROJECT['requires-python']}").specifier
    )
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["--constraint requirements.lock", "--editable .[dev]"]


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
    import sys

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
