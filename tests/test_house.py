"""The structure of the package: allowed imports, no cycles, and cheap imports."""

import ast
import importlib
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "workbench"
FILES = sorted(PACKAGE.rglob("*.py"))
# The packages that each package may import, at any depth of a file.
MAY_IMPORT = {
    "core": set(),
    "storage": {"core"},
    "data": {"core"},
    "nn": {"core"},
    "quantizers": {"core"},
    "generators": {"nn", "storage", "core"},
    "training": {"storage", "core"},
    "features": {"training", "storage", "nn", "core"},
    "tokenizers": {"features", "generators", "quantizers", "nn", "storage", "core"},
    "collect": {"tokenizers", "generators", "features", "data", "storage", "core"},
    "launch": {
        "collect",
        "tokenizers",
        "generators",
        "features",
        "training",
        "data",
        "storage",
        "core",
    },
    "analysis": {"storage", "core"},
    "explore": {"analysis", "collect", "generators", "tokenizers", "storage", "core"},
    "workspace": {"explore", "analysis", "storage", "core"},
    "hosts": {"explore", "analysis", "launch", "data", "storage", "core", "workspace"},
    "cli": {"hosts", "collect", "launch", "storage", "core", "workspace"},
    "__main__": {"cli"},
}
HOST_LIBRARIES = {
    "ipywidgets",
    "panel",
    "panel_material_ui",
    "papermill",
    "nbconvert",
    "anywidget",
}
TORCH_LIBRARIES = {"torch", "einops", "jaxtyping", "accelerate", "safetensors"}
WITHOUT_TORCH = {"analysis", "workspace", "hosts"}
FILES_WITHOUT_TORCH = {
    "analysis_arguments.py",
    "errors.py",
    "evidence.py",
    "evidence_arrays.py",
    "evidence_files.py",
    "provenance_file.py",
}
VAGUE_NAMES = {"utils", "misc", "common", "helpers"}


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def package_of(path: Path) -> str:
    """The package of a file, or the name of a module at the top."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def import_nodes(tree: ast.AST, *, with_type_checking: bool = True) -> list[ast.AST]:
    """All import statements, at any depth."""
    nodes = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            nodes.append(node)
        elif with_type_checking or not is_type_checking(node):
            nodes += import_nodes(node, with_type_checking=with_type_checking)
    return nodes


def imported_names(path: Path, *, with_type_checking: bool = True) -> set[str]:
    """The dotted names that a file imports."""
    names = set()
    for node in import_nodes(tree_of(path), with_type_checking=with_type_checking):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: use absolute imports"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        else:
            names |= {alias.name for alias in node.names}
    return names


def imported_modules(path: Path) -> set[str]:
    """The modules of this package that a file imports when it runs."""
    modules = set()
    for name in imported_names(path, with_type_checking=False):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        if name.startswith("workbench."):
            modules.add(name)
    return modules - {module_name(path)}


def test_packages_import_only_what_they_may():
    for path in FILES:
        package = package_of(path)
        if package == "__init__":
            continue
        names = [name for name in imported_names(path) if name.startswith("workbench.")]
        used = {name.split(".")[1] for name in names} - {package, "__version__"}
        assert used <= MAY_IMPORT[package], f"{path} imports {used - MAY_IMPORT[package]}"


def test_allowed_imports_have_no_cycle():
    TopologicalSorter(MAY_IMPORT).prepare()


def test_modules_have_no_import_cycle():
    """Imports inside functions count, imports for type checking do not."""
    graph = {name: imported_modules(path) for name, path in MODULES.items() if name != "workbench"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_only_hosts_import_host_libraries():
    for path in FILES:
        if package_of(path) != "hosts":
            libraries = {name.split(".")[0] for name in imported_names(path)}
            assert not libraries & HOST_LIBRARIES, path


def test_analysis_and_viewers_need_no_torch():
    for path in FILES:
        if package_of(path) in WITHOUT_TORCH or path.name in FILES_WITHOUT_TORCH:
            libraries = {name.split(".")[0] for name in imported_names(path)}
            assert not libraries & TORCH_LIBRARIES, path


def test_modules_have_specific_names():
    for path in FILES:
        assert path.stem not in VAGUE_NAMES


def test_pickles_and_code_in_files_are_not_executed():
    forbidden = (
        "pickle.load",
        "allow_pickle=True",
        "weights_only=False",
        "trust_remote_code=True",
        "shell=True",
    )
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not [call for call in forbidden if call in text], path
        for call in text.split("torch.load(")[1:]:
            assert "weights_only=True" in call[: call.index(")")], path
        calls = [node.func for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
        names = {function.id for function in calls if isinstance(function, ast.Name)}
        assert not names & {"eval", "exec"}, path


# Classes of this package that others may inherit from: interfaces, and sets of settings or fields.
EXTENSIBLE = {
    "AdversarialTokenizer",
    "CodebookConfig",
    "ConvConfig",
    "Discriminator",
    "EvidenceArrays",
    "ExtendedViTConfig",
    "FeatureExtractor",
    "Generator",
    "HasInitialCodebook",
    "LatentDisturbanceConfig",
    "LatentRegularizerConfig",
    "LatentsResult",
    "LoadedRun",
    "MapDataset",
    "NeedsPreparation",
    "PerceptualAdversarialConfig",
    "PerspectiveResult",
    "Result",
    "SupportsErrorTarget",
    "SupportsPosterior",
    "Tokenizer",
    "TracksProgress",
    "TrainableTokenizer",
    "UserError",
    "ViTConfig",
    "_Section",
}


def test_results_are_constructed_with_keywords():
    """Another order of the fields of a result can then not exchange their values."""
    for path in (PACKAGE / "analysis").rglob("*.py"):
        for node in ast.walk(tree_of(path)):
            bases = [ast.unparse(base) for base in getattr(node, "bases", ())]
            decorators = [ast.unparse(item) for item in getattr(node, "decorator_list", ())]
            if any(base.endswith("Result") for base in bases):
                for decorator in decorators:
                    assert "kw_only=True" in decorator or "dataclass" not in decorator, node.name


def test_classes_are_extensible_or_final():
    """No class inherits from another concrete class of this package."""
    classes = {
        node: path
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef)
    }
    own_names = {node.name for node in classes}
    for node, path in classes.items():
        bases = {ast.unparse(base).split("[")[0] for base in node.bases}
        final = bases & own_names - EXTENSIBLE
        assert not final, f"{path}: {node.name} inherits from {final}"


def test_package_is_typed():
    assert (PACKAGE / "py.typed").exists()


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_importing_the_package_is_light():
    heavy = (
        "('torch', 'numpy', 'pandas', 'plotly', 'sklearn', 'panel', 'ipywidgets', 'umap', 'typer')"
    )
    code = f"import workbench, sys; print([name for name in {heavy} if name in sys.modules])"
    assert run_python(code).strip() == "[]"


@pytest.mark.slow
def test_help_of_the_command_line_needs_no_torch():
    code = (
        "import sys\nfrom workbench.cli import app\nsys.argv = ['workbench', 'train', '--help']\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\nassert 'torch' not in sys.modules"
    )
    assert "softvq-digits" in run_python(code)


def test_public_names_exist():
    import workbench

    assert all(getattr(workbench, name) is not None for name in workbench.__all__)
    assert workbench.analysis is importlib.import_module("workbench.analysis")
    assert callable(workbench.analysis.codebook_usage)
    with pytest.raises(AttributeError, match="opne"):
        _ = workbench.opne
