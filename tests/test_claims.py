import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
import psutil
import pytest

from benchmarks.claims import comparison, lightningdit, page, prediction, tables, work
from benchmarks.claims.arms import Arm, Scale
from benchmarks.claims.claim import Claim, judge_effect, worst_verdict
from benchmarks.claims.lab import Lab
from benchmarks.claims.results import summarize
from benchmarks.claims.scales import DIGITS, LAPTOP, SCALES
from benchmarks.claims.store import read_results, write_results
from workbench.core.errors import UserError
from workbench.launch.in_process import coerce_settings
from workbench.launch.recipes import SYSTEMS, recipe_settings
from workbench.launch.trainables import load_class

TINY = Scale(
    name="tiny",
    data="digits",
    images={"limit": 150, "side": 8, "channels": 1},
    vit={"side": 8, "patch": 4, "num_tokens": 2, "dim": 2, "width": 8, "depth": 1, "heads": 2},
    grid={},
    plan={"steps": 2, "batch_size": 8, "save_every": 2},
    network={"width": 8, "depth": 1, "heads": 2},
    generator_plan={"steps": 2, "batch_size": 8, "save_every": 2},
    teacher="hog",
    feature_extractor="hog",
    num_samples=100,
)
RELEASED = [replace(scale, released=True) for scale in (LAPTOP, DIGITS)]
ALL_SCALES = {**SCALES, **{f"{scale.name}-released": scale for scale in RELEASED}}


def test_effect_is_shown_above_zero_in_every_seed():
    assert judge_effect([1.0, 1.1, 0.9]) == "shown"
    assert judge_effect([1.0, 1.1]) == "weak"  # too few seeds
    assert judge_effect([3.0, 0.1, -0.1]) == "weak"  # one seed against it
    assert judge_effect([10.0, 0.1, 0.1]) == "weak"  # a mean of one standard error
    assert judge_effect([1.0, -2.0, 0.5]) == "not shown"
    assert judge_effect([1.0, np.nan, 1.0]) == "not shown"
    assert judge_effect([0.0, 0.0, 0.0]) == "not shown"


def test_claim_has_the_verdict_of_its_worst_effect():
    assert worst_verdict(["shown", "weak"]) == "weak"
    assert worst_verdict(["shown", "not shown", "weak"]) == "not shown"
    assert worst_verdict(["shown", "shown"]) == "shown"
    assert worst_verdict([]) == "not shown"


@pytest.mark.parametrize("scale", ALL_SCALES.values(), ids=list(ALL_SCALES))
def test_arms_are_recipes_with_known_settings(scale):
    arms = [arm for claim in work.all_claims() for arm in claim.arms(scale).values()]
    for one in {need for arm in arms for need in (arm, *arm.needs) if need.is_recipe}:
        coerce_settings(one.recipe, json.loads(one.changes))


@pytest.mark.slow
@pytest.mark.parametrize("scale", ALL_SCALES.values(), ids=list(ALL_SCALES))
def test_tokenizers_of_every_scale_can_be_built(scale):
    """Sizes that do not fit each other would end a long run in its middle."""
    scale = replace(
        scale,
        teacher="random:3",
        vit=scale.vit | {"channels": 3},
        grid=scale.grid | {"channels": 3},
    )
    arms = {
        part
        for claim in work.all_claims()
        for arm in claim.arms(scale).values()
        for part in arm.chain
    }
    for arm in (arm for arm in arms if arm.tokenizer is None and arm.is_recipe):
        system, data = arm.recipe.split("-")
        model_class = load_class(SYSTEMS[system])
        changes = coerce_settings(arm.recipe, json.loads(arm.changes))
        settings = recipe_settings(system, data) | changes
        names = settings.keys() & get_type_hints(model_class.Config).keys()
        model_settings = {
            name: tuple(settings[name]) if isinstance(settings[name], list) else settings[name]
            for name in names
        }
        model_class(model_class.Config(**model_settings))


def test_claims_share_runs():
    by_key = {claim.key: claim.arms(LAPTOP) for claim in work.all_claims()}
    assert by_key["maetok-generation"]["AE"] == by_key["maetok-parts"]["AE"]
    assert (
        by_key["vavae-dilemma"]["many channels"].tokenizer
        == by_key["lightningdit-bundle"]["all on"].tokenizer
    )
    tokenizers = {arm.tokenizer for arm in prediction.arms(LAPTOP).values()}
    assert len(tokenizers) >= prediction.MIN_TOKENIZERS
    everything = {arm.name for arms in by_key.values() for arm in arms.values()}
    assert len(everything) < sum(map(len, by_key.values()))


def test_different_arms_have_different_folders(tmp_path):
    a = TINY.tokenizer("ae")
    others = [
        TINY.tokenizer("ae", dim=3),
        TINY.tokenizer("klvae"),
        Arm(a.recipe, a.changes, start=a),
    ]
    folders = {arm.folder(tmp_path, 0) for arm in (a, *others, TINY.generator(a))} | {
        a.folder(tmp_path, 1)
    }
    assert len(folders) == 6
    assert a.folder(tmp_path, 0) == TINY.tokenizer("ae").folder(tmp_path, 0)


def test_name_of_an_arm_is_independent_of_the_checkout():
    first, second = (
        TINY.tokenizer("maetok", teacher=f"standardised:{folder}/means.x:hog")
        for folder in ("/a b/c", "/d")
    )
    assert first.name == second.name
    assert TINY.generator(first).name == TINY.generator(second).name
    assert first.name != TINY.tokenizer("maetok", teacher="standardised:/d/others.x:hog").name


def test_speed_up_is_interpolated_between_measurements():
    steps = np.array([100, 200, 300, 400])
    assert lightningdit._reached(steps, np.array([8.0, 4.0, 3.0, 2.0]), 6.0) == pytest.approx(150)
    assert lightningdit._reached(steps, np.array([8.0, 4.0, 3.0, 2.0]), 9.0) == 100
    assert lightningdit._reached(steps, np.array([8.0, 4.0, 3.0, 2.0]), 1.0) == 800  # never


@pytest.mark.slow
def test_claim_is_trained_measured_judged_and_resumed(tmp_path, monkeypatch):
    claim = Claim(
        key="tiny",
        system="AE",
        statement="Two are <not> one.",
        source="ours",
        rule="more",
        columns=("PSNR", "gFD"),
        arms=lambda scale: {
            "AE": scale.tokenizer("ae"),
            "on AE": scale.generator(scale.tokenizer("ae")),
        },
        effects=lambda rows: {
            "PSNR above 0": rows["AE"]["PSNR"],
            "gFD below 0": -rows["on AE"]["gFD"],
            "undefined": float("nan"),
        },
        details=lambda rows: {"undefined": float("nan")},
    )
    monkeypatch.setattr(work, "all_claims", lambda: [claim])
    monkeypatch.setattr(work, "select_claims", lambda names: [claim])
    monkeypatch.setattr(comparison, "all_claims", lambda: [claim])
    steps = [work.Step(arm, 0, claim.key) for arm in claim.arms(TINY).values()]
    order = list(work.with_needs(steps))
    assert len(order) == 4
    assert all(order.index(need) < order.index(step) for step in order for need in step.needs)
    out = tmp_path / "tiny"
    for step in order:
        work.run_step(step, TINY, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    for step in order:
        work.run_step(step, TINY, out)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}

    write_results(out / "results", summarize(out, TINY, [claim], seeds=1))
    (result,) = read_results(out / "results", [])["claims"]
    verdicts = [effect["verdict"] for effect in result["effects"]]
    assert verdicts == ["weak", "not shown", "not shown"]
    assert result["verdict"] == "not shown"
    assert result["effects"][2]["values"] == result["details"]["undefined"] == [None]

    page.write_page(out, stored=tmp_path / "kept")
    html = (out / "claims.html").read_text()
    psnr = result["arms"]["AE"]["numbers"]["PSNR"][0]
    assert "Two are &lt;not&gt; one." in html and "<not>" not in html
    assert f"{psnr:.4g}" in html and ">nan<" not in html


SETTING = {
    "scale": "laptop",
    "data": "cifar10, 16 x 16 pixels",
    "samples": 1000,
    "teacher": "resnet56",
    "seeds": 3,
    "longer": 1,
    "wider": 1,
    "full": False,
    "command": "c",
    "machine": "m",
    "date": "2026-01-01",
    "minutes": 1.0,
}
KEYS = ("softvq-tokens", "maetok-generation", "maetok-probe")


def stored(folder: Path, verdicts: dict[str, str], **setting) -> Path:
    """Write results with given verdicts by key."""
    effect = {"name": "an effect", "values": [1.0, 1.0, 1.1], "verdict": "shown"}
    claims = [
        {
            "key": key,
            "verdict": verdict,
            "effects": [effect],
            "arms": {},
            "details": {},
            "minutes": 1.0,
        }
        for key, verdict in verdicts.items()
    ]
    write_results(folder, {**SETTING, **setting, "claims": claims})
    return folder


def labels(compared: comparison.Comparison) -> dict[str, list[str]]:
    return {row.claim.key: [outcome.label for outcome in row.outcomes] for row in compared.rows}


def test_variants_stand_next_to_the_verdict_of_their_scale(tmp_path):
    first, second, third = KEYS
    stored(tmp_path / "laptop", {second: "not shown", first: "weak"})
    stored(tmp_path / "laptop-4x-2w", {first: "shown"}, longer=4, wider=2)
    stored(tmp_path / "laptop-full", {third: "shown"}, full=True)
    compared = comparison.Comparison.stored("laptop", tmp_path)
    assert labels(compared) == {
        first: ["weak", "4 x the steps, 2 x the width: shown"],
        second: ["not shown"],
        third: ["every arm: shown"],
    }
    assert [compared.count(verdict) for verdict in ("shown", "weak", "not shown")] == [0, 1, 1]


def test_newer_results_of_a_variant_replace_only_their_claims(tmp_path):
    first, second, _ = KEYS
    own = stored(tmp_path / "laptop", {first: "weak", second: "weak"})
    old = stored(tmp_path / "old", {first: "not shown", second: "not shown"}, longer=3)
    new = stored(tmp_path / "new", {second: "shown"}, longer=3)
    assert labels(comparison.Comparison.read(own, [old, new])) == {
        first: ["weak", "3 x the steps: not shown"],
        second: ["weak", "3 x the steps: shown"],
    }


def test_storing_a_claim_keeps_other_claims(tmp_path):
    first, second, _ = KEYS
    minutes = []
    for keys in ((first,), (second,), (first, second)):
        stored(tmp_path / "laptop", dict.fromkeys(keys, "weak"))
        results = read_results(tmp_path / "laptop", list(KEYS))
        minutes.append(results["minutes"])
    assert [claim["key"] for claim in results["claims"]] == [first, second]
    assert minutes == [1.0, None, 1.0]


def test_stored_numbers_have_six_digits(tmp_path):
    claim = {"key": "a", "effects": [{"name": "b", "values": [0.123456789, None, -2e-7]}]}
    write_results(tmp_path, {**SETTING, "claims": [claim]})
    text = (tmp_path / "a.json").read_text()
    assert '"values": [ 0.123457, null, -2e-07 ]' in text
    assert json.loads(text)["effects"][0]["values"] == [0.123457, None, -2e-7]


def test_names_of_arms_contain_no_local_folder():
    changes = {"cache": "/home/me/features", "teacher": "standardised:/a b/means.x:hog:/data/net.x"}
    assert json.loads(Arm("ae", json.dumps(changes)).changes_without_folders) == {
        "cache": "features",
        "teacher": "standardised:means.x:hog:net.x",
    }


def test_tables_in_the_repository_match_the_results(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(tables.README.read_text(encoding="utf-8"), encoding="utf-8")
    tables.write_tables(tmp_path / "claims.md", readme)
    assert readme.read_text(encoding="utf-8") == tables.README.read_text(encoding="utf-8")
    page_text = tables.PAGE.read_text(encoding="utf-8")
    assert (tmp_path / "claims.md").read_text(encoding="utf-8") == page_text


def test_readme_without_markers_is_refused_and_left_alone(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    with pytest.raises(UserError):
        tables.write_tables(tmp_path / "claims.md", readme)
    assert readme.read_text() == "no markers"
    assert not (tmp_path / "claims.md").exists()


def test_variants_of_a_scale_multiply_steps_and_widths():
    stretched = LAPTOP.stretched(4)
    assert stretched.plan["steps"] == 4 * LAPTOP.plan["steps"]
    assert stretched.plan["lr"] == LAPTOP.plan["lr"]
    assert stretched.extra["karl"]["save_every"] == 4 * LAPTOP.extra["karl"]["save_every"]
    wide = stretched.widened(2)
    assert wide.vit["width"] == 2 * LAPTOP.vit["width"]
    assert wide.longer == 4
    assert wide.plan == stretched.plan


def test_networks_as_released_train_other_runs():
    plain, released = (
        {
            arm.name
            for claim in work.select_claims(["softvq", "maetok", "vavae"])
            for arm in claim.arms(scale).values()
        }
        for scale in (LAPTOP, RELEASED[0])
    )
    assert not plain & released


def test_some_arms_are_run_only_with_every_arm():
    (claim,) = work.select_claims(["vavae-parts"])
    assert not claim.arms(LAPTOP)
    arms = claim.arms(replace(LAPTOP, full=True))
    assert len({arm.name for arm in arms.values()}) == 5


ORPHANS = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from benchmarks.claims.work import follow_parent

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), follow_parent)
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 600).result()
"""


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path):
    (tmp_path / "orphans.py").write_text(ORPHANS)
    paths = os.pathsep.join(
        [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "orphans.py"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    end = time.monotonic() + 30
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_probe_is_fitted_to_training_images(tmp_path):
    arm = TINY.tokenizer("ae")
    run, lab = arm.train(tmp_path, 0), Lab(TINY, tmp_path)
    result = lab.probe(run)
    assert 0.1 < result["probe accuracy"] < 1  # chance is 0.1
    assert json.loads((run.folder / "claims" / "probe.json").read_text()) == result
    assert lab.probe(run) == result
    # Workers that measure two generators of one tokenizer at a time need its evidence.
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lab.evidence, (run, run))
    assert np.array_equal(first.latents, second.latents)


@pytest.mark.slow
def test_generation_is_stored_per_time_shift(tmp_path):
    plan = {
        "steps": 20,
        "batch_size": 8,
        "save_every": 20,
        "lr": 0.02,
        "warmup_steps": 0,
        "ema_decay": 0.0,
    }
    scale = replace(TINY, generator_plan=plan)
    arm = scale.generator(scale.tokenizer("ae"), "lightningdit")
    arm.tokenizer.train(tmp_path, 0)
    run, lab = arm.train(tmp_path, 0), Lab(scale, tmp_path)
    assert run.config.settings["by_channel"] and len(run.config.settings["std"]) == 2
    own, even = lab.generation(run), lab.generation(run, shift=1.0)
    assert own["floor"] == even["floor"] and own["gFD"] != even["gFD"]
    assert lab.generation(run, shift=run.config.settings["shift"])["gFD"] == own["gFD"]
    assert len(list((run.folder / "claims").glob("generation-*.json"))) == 3
