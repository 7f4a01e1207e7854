"""pyproject.toml says what is needed, requirements.lock which versions, environment.yml the same for conda: in step."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name(package): version for package, version in pairs}


def needed() -> list[Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    return [r for r in map(Requirement, lines) if name(r.name) != PROJECT["name"]]


def test_everything_needed_is_locked_at_a_version_that_is_allowed():
    versions = locked()
    for requirement in needed():
        assert versions[name(requirement.name)] in requirement.specifier, requirement


def test_the_lock_is_plain_versions_from_a_package_index():
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(
            r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line
        ), line
    assert not [
        package for package in locked() if package.startswith("nvidia") or package == "torchvision"
    ]


def test_conda_installs_the_same_versions_of_the_same_things():
    told = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(d for d in told["dependencies"] if isinstance(d, str) and d.startswith("python="))
    assert (
        python.removeprefix("python=")
        in Requirement(f"python{PROJECT['requires-python']}").specifier
    )
    pip = next(d["pip"] for d in told["dependencies"] if isinstance(d, dict))
    assert pip == ["--constraint requirements.lock", "--editable .[dev]"]


def test_a_viewer_needs_no_training_stack_and_all_is_the_sum_of_the_parts():
    viewer = {name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert not viewer & {"torch", "accelerate", "datasets", "jupyterlab", "panel", "papermill"}
    assert Requirement(EXTRAS["all"][0]).extras == EXTRAS.keys() - {"all", "dev", "docs", "bench"}


def test_citation_has_the_version_of_the_package():
    import workbench

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert "version" in PROJECT["dynamic"]
    assert str(citation["version"]) == workbench.__version__


def test_what_the_package_imports_is_declared():
    import ast
    import sys

    modules = {
        "faiss": "faiss-cpu",
        "sklearn": "scikit-learn",
        "skimage": "scikit-image",
        "PIL": "pillow",
        "umap": "umap-learn",
    }
    modules |= {
        "IPython": "ipykernel",
        "nbformat": "nbconvert",
        "threadpoolctl": "scikit-learn",
        "pyarrow": "datasets",
    }
    modules |= {"faiss": "faiss-cpu", "huggingface_hub": "datasets", "packaging": "datasets"}
    declared = {name(r.name) for r in needed()} | {"workbench", PROJECT["name"]}
    for path in (ROOT / "workbench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            tops = []
            if isinstance(node, ast.Import):
                tops = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                tops = [node.module.split(".")[0]]
            for top in tops:
                assert top in sys.stdlib_module_names or name(modules.get(top, top)) in declared, (
                    f"{path}: {top}"
                )
