"""The house keeps its shape: who may import whom, how large a room is, and what a newcomer pays to look."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "workbench"
FILES = sorted(PACKAGE.rglob("*.py"))
# Who may import whom, at any depth of a file. Arrows point one way: no room is reached from a room it may import.
MAY_IMPORT = {
    "core": set(),
    "storage": {"core"},
    "data": {"core"},
    "nn": {"core"},
    "quantizers": {"core"},
    "generators": {"nn", "core"},
    "training": {"storage", "core"},
    "features": {"training", "storage", "nn", "core"},
    "tokenizers": {"features", "generators", "quantizers", "nn", "core"},
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
    "hosts": {"explore", "analysis", "launch", "storage", "core", "workspace"},
    "cli": {"hosts", "collect", "launch", "storage", "core", "workspace"},
    "__main__": {"cli"},
}
HOSTS = {
    "ipywidgets",
    "panel",
    "panel_material_ui",
    "papermill",
    "nbconvert",
    "IPython",
    "anywidget",
}
NO_ROOM = {"utils", "misc", "common", "helpers"}


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize(
    "path", [p for p in FILES if room(p) != "__init__"], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_a_room_imports_only_what_it_may(path):
    used = {name.split(".")[1] for name in imports(path) if name.startswith("workbench.")} - {
        room(path),
        "__version__",
    }
    assert used <= MAY_IMPORT[room(path)]


def test_the_allowed_arrows_hold_no_circle():
    left = dict(MAY_IMPORT)
    while left:
        free = [name for name, used in left.items() if not used & left.keys()]
        assert free, f"a circle among {sorted(left)}"
        left = {name: used for name, used in left.items() if name not in free}


def test_only_views_import_the_hosts_and_analysis_needs_no_torch():
    for path in FILES:
        tops = {name.split(".")[0] for name in imports(path)}
        if room(path) != "hosts":
            assert not tops & (HOSTS - {"IPython"}), path
        if room(path) in ("analysis", "workspace", "hosts", "cli") or path.name in (
            "evidence.py",
            "errors.py",
        ):
            torch = tops & {"torch", "einops", "jaxtyping", "accelerate", "safetensors"}
            assert not torch or (room(path) == "cli" and path.name == "cli.py"), (
                path
            )  # doctor asks which GPU there is


def test_no_module_is_a_drawer_for_odds_and_ends():
    for path in FILES:
        assert path.stem not in NO_ROOM


def test_nothing_loads_a_pickle_or_runs_code_from_a_file():
    forbidden = (
        "pickle.load",
        "torch.load(",
        "allow_pickle=True",
        "weights_only=False",
        "trust_remote_code=True",
        "shell=True",
    )
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in forbidden if word in text], path
        calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        assert not [f for f in calls if isinstance(f, ast.Name) and f.id in ("eval", "exec")], path


def test_classes_are_abstract_or_final():
    """To vary, compose: no class of ours inherits from a class of ours that can itself be made."""
    abstract = {
        "ABC",
        "Protocol",
        "Generic",
        "Generator",
        "HasInitialCodebook",
        "LoadedRun",
        "SupportsErrorTarget",
        "SupportsPosterior",
        "Tokenizer",
        "TrainableTokenizer",
        "FeatureExtractor",
        "Result",
        "ViTConfig",
        "ConvConfig",
        "PerceptualAdversarialConfig",
        "UserError",
        "AnyWidget",
        "Module",
        "Sequential",
        "StaticFileHandler",
        "ValueError",
    }
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).split(".")[-1].split("[")[0] for base in node.bases}
                assert bases <= abstract, f"{path}: {node.name}"


def run(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_importing_the_package_imports_nothing_heavy():
    heavy = (
        "('torch', 'numpy', 'pandas', 'plotly', 'sklearn', 'panel', 'ipywidgets', 'umap', 'typer')"
    )
    assert (
        run(f"import workbench, sys; print([m for m in {heavy} if m in sys.modules])").strip()
        == "[]"
    )


def test_the_command_lines_help_needs_no_torch():
    code = (
        "import sys\nfrom workbench.cli import app\nsys.argv = ['workbench', 'train', '--help']\n"
    )
    code += "try:\n    app()\nexcept SystemExit:\n    pass\nassert 'torch' not in sys.modules"
    assert "softvq-digits" in run(code)


def test_every_public_name_of_the_package_can_be_had():
    import workbench

    assert all(getattr(workbench, name) is not None for name in workbench.__all__)
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        _ = workbench.opne
