"""Tokenizers from outside of the package: training, trust, recipes and the contract."""

import importlib
import os
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest

import workbench as wb
from workbench import cli
from workbench.collect import collect
from workbench.core.errors import UserError
from workbench.launch import trainables
from workbench.launch.trainables import find_trainable, parse_target
from workbench.storage.run import Run
from workbench.workspace.compute import ComputeQueue
from workbench.workspace.tab_content import build_tab
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

PAIR = '''
"""An autoencoder of average colors with one weight."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from workbench.core.types import Objective, Tokens
from workbench.tokenizers.base import TrainableTokenizer

Path(__file__).with_name("imported").touch()  # shows that the code was run


class Pair(TrainableTokenizer):
    @dataclass(frozen=True, kw_only=True)
    class Config:
        side: int = 8
        channels: int = 1
        patch: int = 2
        scale: float = 0.5

    def __init__(self, config):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.full((), config.scale))

    @property
    def grid(self):
        rows = self.config.side // self.config.patch
        return rows, rows

    def encode(self, images):
        pooled = F.avg_pool2d(images, self.config.patch)
        return Tokens(pooled.flatten(2).transpose(1, 2) * self.weight, grid=self.grid)

    def decode(self, tokens):
        maps = tokens.latents.transpose(1, 2).unflatten(2, self.grid)
        return F.interpolate(maps, scale_factor=float(self.config.patch))

    def objective(self, images):
        reconstruction = self.decode(self.encode(images))
        return Objective({"pixel": F.mse_loss(reconstruction, images)}, reconstruction)


class Leaky(Pair):
    """Every image sees the others, and a counter is not part of the state."""

    count = 0

    def encode(self, images):
        self.count += 1
        tokens = super().encode(images - images.mean(dim=0, keepdim=True) + 0 * self.count)
        return Tokens(tokens.latents, grid=self.grid)

    def objective(self, images):
        return Objective({"pixel": super().objective(images).total * self.count})


class Plain:
    """Not a tokenizer."""
'''
STEPS = {"steps": 4, "batch_size": 8, "save_every": 2, "warmup_steps": 1}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module in a folder of its own, which is not imported yet."""
    folder = tmp_path / "code"
    folder.mkdir()
    name = f"own_pair_{tmp_path.name}".replace("-", "_")
    (folder / f"{name}.py").write_text(textwrap.dedent(PAIR), encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    yield name
    sys.modules.pop(name, None)


def was_imported(tmp_path: Path) -> bool:
    return (tmp_path / "code" / "imported").exists()


def command_line(*words: object, monkeypatch) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["workbench", *map(str, words)])
    with pytest.raises(SystemExit) as exit_request:
        cli.main()
    return exit_request.value.code


# Training


@pytest.mark.slow
def test_config_of_a_class_is_trained_and_collected(module, tmp_path):
    kind = importlib.import_module(module).Pair
    run = wb.train(kind.Config(scale=0.25), tmp_path / "own", data="digits", **STEPS)
    assert run.status()["state"] == "finished"
    assert (run.config.class_path, run.config.recipe) == (f"{module}:Pair", None)
    assert run.config.settings["scale"] == 0.25 and run.config.changes["scale"] == 0.25
    assert "patch" not in run.config.changes
    assert run.evidence().latents.shape[1:] == (16, 1)


def test_class_and_path_resume_the_same_run(module, tmp_path):
    kind = importlib.import_module(module).Pair
    folder = tmp_path / "own"
    options = {"data": "digits", "scale": 0.25, "collect": False, **STEPS}
    first = wb.train(kind, folder, **options)
    for target in (kind, f"{module}:Pair", kind.Config(scale=0.25)):
        if not isinstance(target, str | type):
            options.pop("scale")
        again = wb.train(target, folder, trust=[module], **options)
        assert again.config == first.config
    with pytest.raises(UserError) as error:
        wb.train(kind.Config(scale=0.3), folder, data="digits", collect=False, **STEPS)
    assert "scale" in str(error.value)


def test_generator_is_trained_on_latents_of_an_own_tokenizer(module, tmp_path):
    kind = importlib.import_module(module).Pair
    wb.train(kind, tmp_path / "own", data="digits", collect=False, **STEPS)
    flow = {"tokenizer": tmp_path / "own", "width": 16, "depth": 1, "heads": 2, **STEPS}
    with pytest.raises(UserError) as error:
        wb.train("sit-digits", tmp_path / "flow", **flow)
    assert module in str(error.value) and not (tmp_path / "flow").exists()
    run = wb.train("sit-digits", tmp_path / "flow", trust=[module], collect=False, **flow)
    assert run.config.settings["rows"] == 4
    evidence = collect(run, limit=10, only=["samples"], trust=[module])
    assert evidence.samples.shape == (10, 8, 8, 1)


@pytest.mark.parametrize(
    ("target", "options", "fragment"),
    [
        ("Pair", {}, "data"),
        ("Pair", {"data": "digits", "scael": 1}, "scale"),
        ("Plain", {"data": "digits"}, "TrainableTokenizer"),
        ("Pear", {"data": "digits"}, "Pair"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(
    module, tmp_path, target, options, fragment
):
    with pytest.raises(UserError) as error:
        wb.train(f"{module}:{target}", tmp_path / "own", trust=[module], **options)
    assert fragment in str(error.value) and not (tmp_path / "own").exists()


def test_setting_of_the_config_is_not_set_twice(module, tmp_path):
    kind = importlib.import_module(module).Pair
    with pytest.raises(UserError) as error:
        wb.train(kind.Config(scale=0.25), tmp_path / "own", data="digits", scale=0.3)
    assert "scale" in str(error.value)


def test_config_that_is_not_nested_in_its_class_is_refused():
    from workbench.nn.vit import ViTConfig

    for target in (ViTConfig(), 3, object()):
        with pytest.raises(UserError):
            parse_target(target)


def test_class_inside_a_function_is_refused():
    class Inner:
        pass

    with pytest.raises(UserError) as error:
        parse_target(Inner)
    assert "top level" in str(error.value)


# Trust


def test_nothing_is_imported_without_trust(module, tmp_path, monkeypatch, capsys):
    out = tmp_path / "own"
    words = ["train", "--class", f"{module}:Pair", "--data", "digits", "--out", out, "--steps", 2]
    code = command_line(*words, monkeypatch=monkeypatch)
    assert isinstance(code, str) and f"--trust {module}" in code
    assert not was_imported(tmp_path) and not out.exists()
    words += ["--trust", module, "--no-collect", "--scale", "0.3", "--batch-size", 8]
    assert command_line(*words, monkeypatch=monkeypatch) == 0
    assert Run(out).config.settings["scale"] == 0.3


@pytest.mark.slow
def test_run_of_an_untrusted_class_is_viewed_from_its_evidence(module, tmp_path):
    """In another process, which may not import the class."""
    kind = importlib.import_module(module).Pair
    folder = tmp_path / "runs"
    wb.train(kind, folder / "own", data="digits", **STEPS)
    (tmp_path / "code" / "imported").unlink()
    code = f"""
from workbench.workspace.workspace import Workspace
workspace = Workspace({str(folder)!r})
print(workspace.table().to_dict("records")[0]["kind"])
print(workspace.runs["own"].evidence().reconstructions.shape)
import sys
import workbench as wb
print(wb.lens(workspace.runs["own"]).axes, {module!r} in sys.modules)
lens = wb.lens(workspace.runs["own"], trust=[{module!r}])
print(lens.axes[0])
try:
    wb.lens(workspace.runs["own"], over="token swapped")
except Exception as error:
    print({module!r} in str(error))
"""
    source = Path(wb.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{source}{os.pathsep}{tmp_path / 'code'}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        "Pair",
        "(360, 8, 8, 1)",
        "('run',) False",
        "token swapped",
        "True",
    ], done.stderr


# Recipes of installed packages


@pytest.fixture
def installed(module, tmp_path, monkeypatch):
    """An entry point of an installed distribution that names the class."""
    folder = tmp_path / "code" / "own_pair-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: own-pair\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        f"[{trainables.ENTRY_POINTS}]\nown-pair = {module}:Pair\n"
    )
    importlib.invalidate_caches()
    trainables.installed_systems.cache_clear()
    yield module
    trainables.installed_systems.cache_clear()


def test_entry_points_are_recipes(installed, tmp_path):
    assert "own-pair-digits" in trainables.recipe_names() and not was_imported(tmp_path)
    with pytest.raises(UserError) as error:
        find_trainable("own-pair-digits")
    assert installed in str(error.value) and not was_imported(tmp_path)
    run = wb.train("own-pair-digits", tmp_path / "own", trust=[installed], collect=False, **STEPS)
    assert run.config.recipe == "own-pair-digits"
    assert run.config.settings == {"side": 8, "channels": 1, "patch": 2, "scale": 0.5}


# The contract


def test_contract_of_a_tokenizer(module):
    table = wb.check(f"{module}:Pair", trust=module, scale="0.5")
    assert not (table["result"] == "FAIL").any()
    absent = table[table["result"] == "no"]
    assert set(absent["promise"]) == {
        "hidden tokens are not read",
        "images of another size are refused",
    }
    kind = importlib.import_module(module).Pair
    assert wb.check(kind.Config(scale=0.5)).equals(table)


def test_contract_names_what_fails(module):
    table = wb.check(f"{module}:Leaky", trust=[module])
    failed = table[table["result"] == "FAIL"]
    assert {
        "images do not influence each other",
        "a resumed training gives equal weights",
    } <= set(failed["promise"])
    assert failed["reason"].all()


def test_check_command(module, monkeypatch, capsys):
    words = ["check", f"{module}:Pair", "--trust", module, "--scale", "0.4"]
    assert command_line(*words, monkeypatch=monkeypatch) == 0
    assert "FAIL" not in capsys.readouterr().out
    words = ["check", f"{module}:Leaky", "--trust", module]
    code = command_line(*words, monkeypatch=monkeypatch)
    assert isinstance(code, str) and "Leaky" in code
    assert "FAIL" in capsys.readouterr().out


# Surfaces


@pytest.fixture
def runs(module, tmp_path):
    """A folder with a run of the class, with evidence."""
    kind = importlib.import_module(module).Pair
    wb.train(kind, tmp_path / "runs" / "own", data="digits", **STEPS)
    return tmp_path / "runs"


@pytest.mark.slow
def test_surfaces_load_the_model_only_with_trust(module, runs):
    view = ViewState(runs=("own",), tab="lens")
    assert build_tab(Workspace(runs), view).axes == ("run",)
    assert "token swapped" in build_tab(Workspace(runs, [module]), view).axes
    with closing(ComputeQueue(runs, trust=[module])) as queue:  # in a worker process
        content = queue.submit("lens", view, "test").future.result(timeout=120)
    assert content.content.axes == build_tab(Workspace(runs, [module]), view).axes


@pytest.mark.slow
@pytest.mark.kernel
def test_reports_load_the_model_only_with_trust(module, runs, tmp_path, monkeypatch):
    code = tmp_path / "code"
    monkeypatch.setenv("PYTHONPATH", f"{Path(wb.__file__).parents[1]}{os.pathsep}{code}")
    options = {"run": runs / "own", "progress": False}
    imported = code / "imported"
    imported.unlink()
    plain = wb.report("adaptive", tmp_path / "plain.html", **options)
    assert plain.stat().st_size > 0 and not imported.exists()
    trusted = wb.report("adaptive", tmp_path / "trusted.html", trust=module, **options)
    assert trusted.stat().st_size > 0 and imported.exists()
