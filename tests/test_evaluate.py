"""Evaluation of models from elsewhere: the run, loading it again, and what is refused."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import conv_reference
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import workbench as wb
from workbench import analysis
from workbench.collect import collect
from workbench.core.errors import NotApplicable, RunError, UserError
from workbench.explore.loaded_run import LoadedRun
from workbench.launch.evaluate import evaluate
from workbench.launch.in_process import train
from workbench.launch.latent_dataset import load_encoded
from workbench.storage.imported import digests
from workbench.storage.run_search import find_runs
from workbench.tokenizers import pretrained
from workbench.tokenizers.pretrained.base import LatentScale, Pretrained
from workbench.tokenizers.pretrained.wrapped import wrap
from workbench.workspace.lens import lens
from workbench.workspace.live import LiveModel
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

ROOT = Path(__file__).parent.parent
MODULE = """
import torch
import torch.nn.functional as F
import workbench as wb


def make():
    return wb.wrap(lambda x: F.avg_pool2d(x, 2), lambda z: F.interpolate(z, scale_factor=2.0),
                   channels=1)


table = torch.tensor([[-1.0], [0.0], [1.0]])


def codes(codebook=table):
    return wb.wrap(lambda x: (F.avg_pool2d(x, 4)[:, 0] + 1).round().long().clamp(0, 2),
                   lambda c: F.interpolate(table[c].movedim(-1, 1), scale_factor=4.0),
                   channels=1, codebook=codebook)


def counted_codes():
    return codes(codebook=3)


def other():
    return 3
"""


def pooling(**options):
    return wrap(
        lambda x: F.avg_pool2d(x, 2),
        lambda z: F.interpolate(z, scale_factor=2.0),
        channels=1,
        **options,
    )


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module of the user in the current folder."""
    (tmp_path / "users_tokenizer.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "users_tokenizer"
    sys.modules.pop("users_tokenizer", None)


@pytest.fixture
def family(tmp_path, monkeypatch):
    """A family of checkpoints with one number: the factor of the latents."""
    family = type(sys)("family_of_a_test")

    def load(
        address, *, revision=None, factor: float = 1.0, posterior: str = "mean", seed: int = 0
    ):
        path = Path(address.location)
        if not path.exists():
            raise UserError(f"{path} does not exist.")
        from safetensors.torch import load_file

        scale = float(load_file(path)["scale"]) * factor
        tokenizer = wrap(
            lambda x: F.avg_pool2d(x, 2) * scale,
            lambda z: F.interpolate(z / scale, scale_factor=2.0),
            channels=1,
            side=8,
        )
        return Pretrained(
            tokenizer=tokenizer,
            files=(path,),
            side=8,
            channels=1,
            resize="adm",
            scale=LatentScale(std=(scale,)),
            license="MIT",
            notes=("One tensor is not used.",),
        )

    family.load = load
    monkeypatch.setitem(sys.modules, "family_of_a_test", family)
    monkeypatch.setitem(pretrained.FAMILIES, "pooled", "family_of_a_test")
    path = tmp_path / "weights.safetensors"
    save_file({"scale": torch.tensor(2.0)}, path)
    return path


def test_python_objects_give_an_ordinary_run(tmp_path):
    run = evaluate(pooling(), "digits", tmp_path / "own", limit=40)
    evidence = run.evidence()
    assert (run.status()["state"], run.steps, run.evidence_steps) == ("imported", [0], [0])
    assert evidence.images.shape == (40, 8, 8, 1) and evidence.latents.shape == (40, 16, 1)
    assert evidence.run_name == "own" and evidence.grid == (4, 4)
    assert run.config.settings == {"side": 8, "channels": 1, "num_tokens": 16, "dim": 1}
    assert run.history().empty and run.events() == []
    row = Workspace(tmp_path).table().iloc[0]
    assert (row["state"], row["tokens"], row["dim"]) == ("imported", 16, 1)
    assert row["PSNR (dB)"] > 10
    assert not LiveModel(run).has_records and LiveModel(run).is_finished
    with pytest.raises(RunError, match="Python objects"):
        run.load()
    with pytest.raises(RunError):
        run.build()
    with pytest.raises(RunError, match="step 5"):
        run.find_step(5)


def test_evidence_shows_what_was_not_collected(tmp_path):
    run = evaluate(pooling(), "digits", tmp_path / "own", limit=40)
    evidence = run.evidence()
    assert evidence.prefixes is None and evidence.untrained_latents is None
    budget = wb.analysis.token_budget([evidence])
    assert [point.kind for point in budget.points] == ["all tokens"]
    assert "always uses all tokens" in budget.summary()
    with pytest.raises(NotApplicable, match="always uses all tokens"):
        evidence.kwargs_for(wb.analysis.marginal_token_value)


def test_model_is_loaded_again_from_its_address(tmp_path, family):
    run = evaluate(f"pooled:{family}", "digits", tmp_path / "a", limit=20, factor="3")
    imported = run.config.imported
    assert imported.address == f"pooled:{family}" and imported.options == {"factor": "3"}
    assert imported.files == digests([family]) and imported.license == "MIT"
    assert imported.scale.std == (6.0,) and imported.notes == ("One tensor is not used.",)
    assert run.config.data.resize is None  # digits are not resized by the family's policy
    x = torch.rand(2, 1, 8, 8)
    assert torch.allclose(run.load().encode(x).latents.flatten(), 6 * F.avg_pool2d(x, 2).flatten())
    again = collect(run, limit=20)
    assert np.array_equal(again.latents, run.evidence().latents)
    assert again.provenance["imported"]["license"] == "MIT"


def test_seed_is_that_of_samples_of_the_posterior(tmp_path, family):
    arguments = {"limit": 10, "only": ["encoding"], "seed": 3}
    run = evaluate(f"pooled:{family}", "digits", tmp_path / "a", posterior="sample", **arguments)
    assert run.config.imported.options == {"posterior": "sample", "seed": 3}
    run = evaluate(f"pooled:{family}", "digits", tmp_path / "b", **arguments)
    assert run.config.imported.options == {}


def test_changed_and_moved_files_are_named(tmp_path, family):
    run = evaluate(f"pooled:{family}", "digits", tmp_path / "a", limit=20)
    save_file({"scale": torch.tensor(4.0)}, family)
    with pytest.raises(RunError, match="weights.safetensors"):
        run.load()
    family.rename(tmp_path / "moved.safetensors")
    with pytest.raises(RunError, match="does not exist"):
        run.load()
    assert run.evidence().latents.shape == (20, 16, 1)  # it needs no model


def test_generator_is_trained_on_an_imported_tokenizer(tmp_path, family):
    run = evaluate(f"pooled:{family}", "digits", tmp_path / "a", limit=20)
    with pytest.raises(RunError, match="imported"):
        train("ae-digits", run.folder, steps=2)
    with pytest.raises(RunError, match="imported"):
        run.ask("pause")
    small = {"width": 16, "depth": 1, "heads": 2, "steps": 4, "save_every": 4, "batch_size": 8}
    flow = train("sit-digits", tmp_path / "flow", tokenizer=run.folder, collect=False, **small)
    assert flow.status()["state"] == "finished" and flow.config.settings["rows"] == 4
    assert len(list((run.folder / "latents").glob("*/*.safetensors"))) == 1
    evidence = collect(flow, limit=10)
    assert evidence.samples.shape == (10, 8, 8, 1)
    again = evaluate(flow.load(), out=tmp_path / "again", tokenizer=run.folder, limit=10)
    assert again.kind == "SiT" and again.tokenizer.folder == run.folder
    assert np.array_equal(again.evidence().samples, evidence.samples)
    assert set(Workspace(tmp_path).table()["state"]) == {"imported", "finished"}
    with pytest.raises(UserError, match="tokenizer"):
        evaluate(flow.load(), "digits", tmp_path / "b")


def test_codes_of_wrapped_functions_are_those_of_generators(tmp_path, module):
    options = {"limit": 8, "only": ["encoding"], "trust": [module]}
    run = evaluate(f"python:{module}:codes", "digits", tmp_path / "codes", **options)
    data = load_encoded(run, None, "codes", trust=[module])
    assert data.rows.shape[1:] == (4,) and data.codebook.shape == (1, 3, 1)
    run = evaluate(f"python:{module}:counted_codes", "digits", tmp_path / "n", **options)
    for quantity in ("codes", "latents"):
        with pytest.raises(UserError, match="codewords"):
            load_encoded(run, None, quantity, trust=[module])
    with pytest.raises(RunError, match="--trust"):
        run.load()


@pytest.mark.slow
def test_training_starts_from_a_published_checkpoint(tmp_path):
    """The settings of an imported run of the same class are the defaults, so all weights fit."""
    weights = conv_reference.random_weights(quantized=False)
    save_file({name: w.contiguous() for name, w in weights.items()}, tmp_path / "kl.safetensors")
    address = f"ldm:{tmp_path / 'kl.safetensors'}"
    source = evaluate(address, "photos", tmp_path / "kl", side=16, limit=4, only=["encoding"])
    options = {"steps": 1, "batch_size": 2, "limit": 4, "collect": False}
    run = train("vavae-photos", tmp_path / "tuned", start=source.folder, **options)
    assert next(e for e in run.events() if e["event"] == "started from")["new"] == []
    first = run.load(0).state_dict()
    assert all(torch.equal(first[name], w) for name, w in source.load().state_dict().items())
    with pytest.warns(UserWarning, match="of kl"):
        train("vavae-photos", tmp_path / "wide", start=source.folder, z_channels=8, **options)


def test_source_without_splits_is_evaluated_as_a_whole(tmp_path):
    from PIL import Image

    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (10, 14), np.uint8)
        (tmp_path / "val" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "val" / "ab"[number % 2] / f"{number}.png")
    run = evaluate(pooling(), tmp_path / "val", tmp_path / "own", side=8)
    evidence = run.evidence()
    assert len(evidence.images) == 12 and evidence.provenance["split"] == "all"
    assert "all 12 images" in run.config.data.summary
    assert evidence.train_images is None and run.config.data.resize == "lanczos"
    assert evidence.names == ("a", "b") and evidence.provenance["of"] == 12
    about = Workspace(tmp_path).about(ViewState(runs=("own",)))
    assert "Python objects" in about and "12 of 12 images" in about
    decision = analysis.decision([evidence])
    shown = [
        decision._repr_html_(),
        decision.figure().layout.title.subtitle.text,
        analysis.token_budget([evidence]).summary(),
        analysis.fidelity(**evidence.kwargs_for(analysis.fidelity)).summary(),
    ]
    assert all("evaluated images" in text for text in shown)
    # Definitions of columns, in tooltips, are those of every run.
    assert not any("held-out" in re.sub(r'title="[^"]*"', "", text) for text in shown)


def test_trusted_module_of_the_current_folder(tmp_path, module):
    address = f"python:{module}:make"
    with pytest.raises(UserError, match=f"--trust {module}"):
        evaluate(address, "digits", tmp_path / "own")
    assert module not in sys.modules and not (tmp_path / "own").exists()
    run = evaluate(address, "digits", tmp_path / "own", limit=20, trust=[module])
    assert run.config.imported.options == {"side": 8}
    with pytest.raises(RunError, match="--trust"):
        run.load()
    decoded = run.load(trust=[module]).decode
    assert collect(run, limit=20, trust=[module]).latents.shape == (20, 16, 1)
    assert callable(decoded)
    with pytest.raises(UserError, match="`mak`.*`make`"):
        evaluate(f"python:{module}:mak", "digits", tmp_path / "b", trust=[module])
    with pytest.raises(UserError, match="int"):
        evaluate(f"python:{module}:other", "digits", tmp_path / "b", trust=[module])
    with pytest.raises(UserError, match="cannot be imported"):
        evaluate("python:nowhere_at_all:make", "digits", tmp_path / "b", trust=["nowhere_at_all"])


def test_errors_of_the_users_code_name_their_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "users_faults.py").write_text("def make():\n    return {}['key']\n\n\nnumber = 3\n")
    (tmp_path / "users_exit.py").write_text("raise SystemExit(3)\n")
    for path, word in (
        ("users_faults:make", "KeyError: 'key' .users_faults.py, line 2"),
        ("users_faults:number", "function"),
        ("users_exit:make", "users_exit.py, line 1"),
    ):
        with pytest.raises(UserError, match=word):
            evaluate(f"python:{path}", "digits", tmp_path / "own", trust=[path.partition(":")[0]])
    assert not (tmp_path / "own").exists()


def test_lens_shows_what_the_model_allows(tmp_path, family):
    run = evaluate(f"pooled:{family}", "digits", tmp_path / "a", limit=20)
    assert LoadedRun.load(run).axes == ("token swapped", "modes")
    own = evaluate(pooling(), "digits", tmp_path / "own", limit=20)
    view = lens(own)
    assert view.axes == ("run",) and "Python objects" in view.image_grid.note


def test_failed_evaluation_leaves_nothing(tmp_path):
    def decode(z):
        if len(z) > 2:
            raise ValueError("too many")
        return F.interpolate(z, scale_factor=2.0)

    tokenizer = wrap(lambda x: F.avg_pool2d(x, 2), decode, channels=1)
    with pytest.raises(ValueError, match="too many"):
        evaluate(tokenizer, "digits", tmp_path / "runs" / "own", limit=20)
    assert not any((tmp_path / "runs").iterdir())


def test_folder_in_use_is_refused(tmp_path, trained):
    run = evaluate(pooling(), "digits", tmp_path / "own", limit=10)
    with pytest.raises(RunError, match="overwrite"):
        evaluate(pooling(), "digits", run.folder, limit=10)
    again = evaluate(pooling(), "digits", run.folder, limit=12, overwrite=True)
    assert len(again.evidence().images) == 12
    copy = Path(shutil.copytree(trained / "plain", tmp_path / "plain"))
    with pytest.raises(RunError, match="holds a run"):
        evaluate(pooling(), "digits", copy, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="other files"):
        evaluate(pooling(), "digits", tmp_path / "mine", overwrite=True)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"model": "pooled"}, "FAMILY:LOCATION"),
        ({"model": "softqv:a/b"}, "softvq"),
        ({"data": None}, "data"),
        ({"out": None}, "out"),
        ({"data": "digts"}, "digits"),
        ({"only": ["encodings"]}, "encoding"),
        ({"config": "model.yaml"}, "config"),
        ({"tokenizer": "runs/a"}, "tokenizer"),
        ({"model": 3}, "int"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, arguments, word):
    arguments = {"model": pooling(), "data": "digits", "out": tmp_path / "own"} | arguments
    with pytest.raises(UserError, match=word):
        evaluate(**arguments)
    assert not (tmp_path / "own").exists()


def test_images_must_have_the_side_of_the_checkpoint(tmp_path, family):
    with pytest.raises(UserError, match="8 pixels, got side=16"):
        evaluate(f"pooled:{family}", "digits", tmp_path / "a", side=16)
    with pytest.raises(UserError, match="factr.*factor"):
        evaluate(f"pooled:{family}", "digits", tmp_path / "a", factr=2)


def test_damaged_section_is_refused(tmp_path):
    run = evaluate(pooling(), "digits", tmp_path / "own", limit=10)
    path = run.folder / "config.json"
    config = json.loads(path.read_text())
    config["imported"]["kind"] = "something"
    path.write_text(json.dumps(config))
    runs, refused = find_runs(tmp_path)
    assert runs == [] and "imported.kind" in refused[0]


def test_facts_of_a_pretrained_tokenizer_may_be_given(tmp_path, module):
    with (tmp_path / "users_tokenizer.py").open("a") as file:
        file.write(
            "\n\ndef with_facts():\n"
            "    from workbench.tokenizers.pretrained import Pretrained\n"
            "    return Pretrained(tokenizer=make(), side=8, channels=1, license='MIT')\n"
        )
    run = evaluate(
        f"python:{module}:with_facts", "digits", tmp_path / "own", limit=10, trust=[module]
    )
    assert run.config.imported.license == "MIT"
    assert dataclasses.asdict(LatentScale())["mean"] == (0.0,)


VIEWER = """
import importlib.metadata, re, sys
from importlib.machinery import PathFinder
from packaging.requirements import Requirement

def normalized(name):
    return re.sub("[-_.]+", "-", name).lower()

installed, waiting = set(), [(Requirement(line), ("",)) for line in sys.argv[2:]]
while waiting:  # the packages that pip installs for these requirements
    requirement, extras = waiting.pop()
    name = normalized(requirement.name)
    marker = requirement.marker
    wanted = not marker or any(marker.evaluate({"extra": extra}) for extra in extras)
    if not wanted or (name, *sorted(requirement.extras)) in installed:
        continue
    installed |= {(name, *sorted(requirement.extras)), (name,)}
    inner = tuple(requirement.extras) or ("",)
    waiting += [(Requirement(line), inner) for line in importlib.metadata.requires(name) or ()]
outside = {
    module
    for module, packages in importlib.metadata.packages_distributions().items()
    if module != "workbench" and not any((normalized(name),) in installed for name in packages)
}
assert {"torch", "safetensors", "anywidget"} <= outside and "panel" not in outside

class Viewer(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        is_absent = name.partition(".")[0] in outside
        return None if is_absent else super().find_spec(name, path, target)

sys.meta_path[:] = [Viewer if finder is PathFinder else finder for finder in sys.meta_path]

import workbench as wb
from workbench.hosts.dashboard.app import Session
from workbench.core.errors import UserError
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace
workspace = Workspace(sys.argv[1])
state = ViewState(runs=("own",), analysis="reconstruction")
print(workspace.about(state), workspace.result(state).summary())
print(wb.lens(workspace.runs["own"]).axes)
print(type(Session(sys.argv[1]).page()).__name__)
run = workspace.runs["own"]
needs_torch = (lambda: wb.wrap, lambda: wb.train("softvq-digits", "unused"), run.load)
for use in (lambda: wb.open, *needs_torch):
    try:
        use()
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
def test_viewer_without_torch_opens_an_imported_run(tmp_path):
    """Only the packages are importable that the extras dashboard and report install."""
    evaluate(pooling(), "digits", tmp_path / "own", limit=20)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *extras["dashboard"], *extras["report"]]
    command = [sys.executable, "-c", VIEWER, str(tmp_path), *requirements]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "PSNR" in done.stdout and "('run',)" in done.stdout
    assert done.stdout.count("[lab]") == 1 and done.stdout.count("[train]") == 3
