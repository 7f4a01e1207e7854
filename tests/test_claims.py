import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
import psutil
import pytest

from benchmarks.claims import lightningdit, page, prediction, work
from benchmarks.claims.arms import Arm, Scale
from benchmarks.claims.claim import Claim, judged, least
from benchmarks.claims.lab import Lab
from benchmarks.claims.results import save
from benchmarks.claims.scales import LAPTOP, SCALES
from workbench.core.errors import UserError
from workbench.launch.in_process import _class, _typed
from workbench.launch.recipes import SYSTEMS, recipe_settings

TINY = Scale(
    name="tiny",
    data="digits",
    images={"limit": 60, "side": 8, "channels": 1},
    vit={"side": 8, "patch": 4, "num_tokens": 2, "dim": 2, "width": 8, "depth": 1, "heads": 2},
    grid={},
    plan={"steps": 2, "batch_size": 8, "save_every": 2},
    network={"width": 8, "depth": 1, "heads": 2},
    generator_plan={"steps": 2, "batch_size": 8, "save_every": 2},
    teacher="hog",
    feature_extractor="hog",
    drawn=40,
)


def test_an_effect_is_shown_only_where_every_seed_and_two_standard_errors_are_above_zero():
    assert judged([1.0, 1.1, 0.9]) == "shown"
    assert judged([1.0, 1.1]) == "weak"  # too few seeds
    assert judged([3.0, 0.1, -0.1]) == "weak"  # one seed against it
    assert judged([10.0, 0.1, 0.1]) == "weak"  # a mean of one standard error
    assert judged([1.0, -2.0, 0.5]) == "not shown"
    assert judged([1.0, np.nan, 1.0]) == "not shown"
    assert judged([0.0, 0.0, 0.0]) == "not shown"


def test_a_claim_is_as_good_as_the_least_of_its_effects():
    assert least(["shown", "weak"]) == "weak"
    assert least(["shown", "not shown", "weak"]) == "not shown"
    assert least(["shown", "shown"]) == "shown"
    assert least([]) == "not shown"


@pytest.mark.parametrize("scale", SCALES.values(), ids=list(SCALES))
def test_every_arm_of_every_claim_is_a_recipe_with_settings_that_it_has(scale):
    arms = [arm for claim in work.claims([]) for arm in claim.arms(scale).values()]
    for one in {need for arm in arms for need in (arm, *arm.needs)}:
        _typed(one.recipe, json.loads(one.changes))


@pytest.mark.parametrize("scale", SCALES.values(), ids=list(SCALES))
def test_every_tokenizer_of_every_scale_can_be_built(scale):
    """Sizes that do not fit each other would end a long run in its middle."""
    scale = replace(
        scale,
        teacher="random:3",
        vit=scale.vit | {"channels": 3},
        grid=scale.grid | {"channels": 3},
    )
    arms = [
        one for claim in work.claims([]) for arm in claim.arms(scale).values() for one in arm.chain
    ]
    for arm in {one for one in arms if one.tokenizer is None}:
        system, data = arm.recipe.split("-")
        made_of, told = (
            _class(SYSTEMS[system]),
            recipe_settings(system, data) | _typed(arm.recipe, json.loads(arm.changes)),
        )
        mine = {
            name: tuple(value) if isinstance(value, list) else value for name, value in told.items()
        }
        made_of(
            made_of.Config(
                **{name: mine[name] for name in mine if name in get_type_hints(made_of.Config)}
            )
        )


def test_claims_share_runs_and_the_last_one_has_a_dozen_tokenizers():
    by_key = {claim.key: claim.arms(LAPTOP) for claim in work.claims([])}
    assert by_key["maetok-generation"]["AE"] == by_key["maetok-parts"]["AE"]
    assert (
        by_key["vavae-dilemma"]["many channels"].tokenizer
        == by_key["lightningdit-bundle"]["all on"].tokenizer
    )
    tokenizers = {arm.tokenizer for arm in prediction.arms(LAPTOP).values()}
    assert len(tokenizers) >= prediction.LEAST
    everything = {arm.name for arms in by_key.values() for arm in arms.values()}
    assert len(everything) < sum(map(len, by_key.values()))


def test_arms_that_differ_lie_in_different_folders(tmp_path):
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


def test_an_arm_is_called_the_same_wherever_a_checkout_lies():
    here, there = (
        TINY.tokenizer("maetok", teacher=f"standardised:{place}/means.x:hog")
        for place in ("/a b/c", "/d")
    )
    assert (here.name, TINY.generator(here).name) == (there.name, TINY.generator(there).name)
    assert here.name != TINY.tokenizer("maetok", teacher="standardised:/d/others.x:hog").name


def test_a_speed_up_is_read_off_between_two_measurements():
    steps = np.array([100, 200, 300, 400])
    assert lightningdit._reached(steps, np.array([8.0, 4.0, 3.0, 2.0]), 6.0) == pytest.approx(150)
    assert lightningdit._reached(steps, np.array([8.0, 4.0, 3.0, 2.0]), 9.0) == 100
    assert lightningdit._reached(steps, np.array([8.0, 4.0, 3.0, 2.0]), 1.0) == 800  # never


def test_a_claim_is_trained_measured_judged_and_written_and_goes_on_where_it_was(
    tmp_path, monkeypatch
):
    claim = Claim(
        key="tiny", system="AE", says="Two are <not> one.", source="ours", rule="more", shows=("PSNR", "gFD"),
        arms=lambda scale: {"AE": scale.tokenizer("ae"), "on AE": scale.generator(scale.tokenizer("ae"))},
        effects=lambda rows: {"PSNR above 0": rows["AE"]["PSNR"], "gFD below 0": -rows["on AE"]["gFD"],
                              "undefined": float("nan")},
        details=lambda rows: {"undefined": float("nan")},
    )  # fmt: skip
    monkeypatch.setattr(work, "claims", lambda only: [claim])
    steps = [work.Step(arm, 0, claim.key) for arm in claim.arms(TINY).values()]
    order = list(work._with_needs(steps))
    assert len(order) == 4
    assert all(order.index(need) < order.index(step) for step in order for need in step.needs)
    for step in order:
        work._do(step, TINY, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    for step in order:
        work._do(step, TINY, tmp_path)
    assert before == {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()
    }
    save(tmp_path, TINY, [claim], seeds=1)
    told = json.loads((tmp_path / "claims.json").read_text())["claims"][0]
    assert [e["verdict"] for e in told["effects"]] == ["weak", "not shown", "not shown"]
    assert told["verdict"] == "not shown"
    assert told["effects"][2]["values"] == told["details"]["undefined"] == [None]
    readme = tmp_path / "README.md"
    readme.write_text(f"above\n{page.BEGIN}\nold\n{page.END}\nbelow")
    (tmp_path / "laptop").mkdir()
    (tmp_path / "claims.json").rename(tmp_path / "laptop" / "claims.json")
    page.write(tmp_path / "laptop", readme, tmp_path / "found")
    text, shown = readme.read_text(), (tmp_path / "laptop" / "claims.html").read_text()
    assert text.startswith("above\n") and text.endswith("\nbelow") and "old" not in text
    psnr = told["arms"]["AE"]["numbers"]["PSNR"][0]
    assert f"PSNR above 0: {psnr:+.3g}" in text and "undefined: –" in text and "nan" not in text
    assert "Two are &lt;not&gt; one." in shown and f"{psnr:.4g}" in shown and "<not>" not in shown


def test_what_was_tried_with_more_steps_or_wider_models_stands_beside(tmp_path):
    stretched = LAPTOP.stretched(4)
    assert (
        stretched.plan["steps"] == 4 * LAPTOP.plan["steps"]
        and stretched.plan["lr"] == LAPTOP.plan["lr"]
    )
    assert stretched.extra["karl"]["save_every"] == 4 * LAPTOP.extra["karl"]["save_every"]
    wide = stretched.widened(2)
    assert (wide.vit["width"], wide.longer) == (
        2 * LAPTOP.vit["width"],
        4,
    ) and wide.plan == stretched.plan
    told = {
        "scale": "laptop", "longer": 1, "data": "d", "seeds": 3, "machine": "m", "date": "t", "command": "c",
        "drawn": 1, "teacher": "t", "minutes": 1,
    }  # fmt: skip
    claim = {
        "key": "k", "system": "AE", "says": "It is so.", "source": "ours", "rule": "r", "note": "", "minutes": 1.0,
        "arms": {}, "shows": [], "details": {},
    }  # fmt: skip
    for folder, more, values, verdict in (
        ("laptop", {}, [-1.0, 1.0, -2.0], "not shown"),
        ("laptop-4x-2w", {"longer": 4, "wider": 2}, [1.5, 1.6, 1.7], "shown"),
    ):
        effects = [{"name": "so", "values": values, "verdict": verdict}]
        (tmp_path / folder).mkdir()
        one = {**claim, "effects": effects, "verdict": verdict}
        (tmp_path / folder / "claims.json").write_text(
            json.dumps({**told, **more, "claims": [one]})
        )
    readme = tmp_path / "README.md"
    readme.write_text(f"{page.BEGIN}{page.END}")
    found = tmp_path / "found"
    page.write(tmp_path / "laptop", readme, found)
    shown = (tmp_path / "laptop" / "claims.html").read_text()
    assert "| so: -0.667 ± 1.5 | not shown |" in readme.read_text()  # the README is of what is kept
    page.write(tmp_path / "laptop-4x-2w", readme, found)
    assert (
        "| so: -0.667 ± 1.5 | not shown<br>4 x the steps, 2 x the width: shown |"
        in readme.read_text()
    )
    assert "Tried: 4 x the steps, 2 x the width" in shown and "+1.6 ± 0.1" in shown
    beside = tmp_path / "laptop-4x-2w" / "claims.json"
    beside.write_text(
        beside.read_text().replace('"rule": "r"', '"rule": "another"')
    )  # of a checkout before this one
    page.write(tmp_path / "laptop-4x-2w", readme, found)
    page.write(tmp_path / "laptop", readme, found)
    assert (
        "2 x the width"
        not in readme.read_text() + (tmp_path / "laptop" / "claims.html").read_text()
    )


@pytest.mark.parametrize("verdict", ["shown", "not shown"])
def test_what_to_beware_of_is_said_whatever_the_verdict(verdict):
    claim = {
        "key": "k", "system": "AE", "says": "It is so.", "source": "ours", "rule": "r", "note": "Mind <this>.",
        "minutes": 1.0, "arms": {}, "shows": [], "details": {}, "verdict": verdict,
        "effects": [{"name": "so", "values": [1.0, 1.0, 1.1], "verdict": verdict}],
    }  # fmt: skip
    told = {
        "scale": "laptop", "longer": 1, "data": "d", "seeds": 3, "machine": "m", "date": "t", "command": "c",
        "drawn": 1, "teacher": "resnet56", "minutes": 1, "claims": [claim],
    }  # fmt: skip
    assert "- AE, “It is so.” Mind <this>." in page.markdown(told)
    assert "Beware" not in page.markdown({**told, "claims": [claim | {"note": ""}]})
    assert "<b>Beware:</b> Mind &lt;this&gt;." in page.page(told)
    assert "trained with these classes" in page.about(told)
    assert "trained with these classes" not in page.about({**told, "teacher": "hog"})


def test_a_trial_of_some_claims_stands_beside_what_was_tried_of_the_others_before(tmp_path):
    told = {
        "scale": "laptop", "longer": 1, "data": "d", "seeds": 3, "machine": "m", "date": "t", "command": "c",
        "drawn": 1, "teacher": "t", "minutes": 1,
    }  # fmt: skip
    claim = {
        "system": "AE", "source": "ours", "rule": "r", "note": "", "minutes": 1.0, "arms": {}, "shows": [],
        "details": {}, "effects": [{"name": "so", "values": [1.0, 1.0, 1.1], "verdict": "shown"}],
    }  # fmt: skip
    a, b = (claim | {"key": key, "says": f"{key} is so."} for key in "ab")
    no, yes = {"verdict": "not shown"}, {"verdict": "shown"}
    for folder, more, claims in (
        (
            "found/laptop-3x",
            {"longer": 3},
            [a | yes, b | no],
        ),  # of another day, and another checkout
        ("laptop", {}, [a | no, b | no]),
        ("laptop-3x", {"longer": 3}, [b | yes]),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "claims.json").write_text(
            json.dumps({**told, **more, "claims": claims})
        )
    (tmp_path / "found" / "laptop-3x" / "claims.json").rename(tmp_path / "found" / "laptop-3x.json")
    page.write(tmp_path / "laptop", found=tmp_path / "found")
    once = {**told, "claims": [a | no]}
    again = {**once, "tried": [{"longer": 3, "claims": [a | yes]}]}
    assert "| not shown<br>3 x the steps: shown | not shown |" in page.side_by_side([again, once])
    shown = (tmp_path / "laptop" / "claims.html").read_text()
    assert shown.count("✗ not shown</span> <small></small>") == 2
    assert shown.count("✓ shown</span> <small>3 x the steps</small>") == 2
    assert shown.count("<h3>Tried: 3 x the steps</h3>") == 2


def test_a_claim_that_only_every_arm_tells_stands_with_its_system(tmp_path):
    assert not any(
        claim.arms(LAPTOP) for claim in work.claims(["vavae"]) if claim.key == "vavae-parts"
    )
    every = replace(LAPTOP, full=True)
    arms = next(claim for claim in work.claims(["vavae"]) if claim.key == "vavae-parts").arms(every)
    assert len(arms) == 5 and len({arm.name for arm in arms.values()}) == 5
    told = {
        "scale": "laptop", "longer": 1, "data": "d", "seeds": 3, "machine": "m", "date": "t", "command": "c",
        "drawn": 1, "teacher": "t", "minutes": 1,
    }  # fmt: skip
    claim = {
        "source": "ours", "rule": "r", "note": "", "minutes": 1.0, "arms": {}, "shows": [], "details": {},
        "effects": [{"name": "so", "values": [1.0, 1.0, 1.1], "verdict": "shown"}], "verdict": "shown",
    }  # fmt: skip
    a, b, c = (
        claim | {"key": key, "system": system, "says": f"{key} is so."}
        for key, system in (("a", "AE"), ("b", "VQ"), ("c", "AE"))
    )
    for folder, full, claims in (("laptop", False, [a, b]), ("laptop-full", True, [c])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "claims.json").write_text(
            json.dumps({**told, "full": full, "claims": claims})
        )
    readme = tmp_path / "README.md"
    readme.write_text(f"{page.BEGIN}{page.END}")
    found = tmp_path / "found"
    page.write(tmp_path / "laptop-full", readme, found)
    page.write(tmp_path / "laptop", readme, found)
    rows = [line for line in readme.read_text().splitlines() if " is so. " in line]
    assert [row.split("|")[2].strip() for row in rows] == ["a is so.", "c is so.", "b is so."]
    assert [row.split("|")[4].strip() for row in rows] == ["shown", "every arm: shown", "shown"]
    shown = (tmp_path / "laptop" / "claims.html").read_text()
    assert "✓ shown, every arm" in shown and "Tried" not in shown


def test_bundled_images_have_a_table_of_their_own_with_a_column_each(tmp_path):
    told = {
        "longer": 1, "seeds": 3, "machine": "m", "date": "t", "command": "c", "drawn": 1, "teacher": "hog",
        "minutes": 1,
    }  # fmt: skip
    claim = {
        "key": "k", "system": "AE", "says": "It is so.", "source": "ours", "rule": "r", "note": "", "minutes": 1.0,
        "arms": {}, "shows": [], "details": {}, "effects": [{"name": "so", "values": [1.0], "verdict": "weak"}],
    }  # fmt: skip
    readme = tmp_path / "README.md"
    readme.write_text(f"{page.BEGIN}of cifar10{page.END}<!-- bundled -->old<!-- /bundled -->")
    for scale, verdict in (("photos", "weak"), ("digits", "shown")):
        (tmp_path / scale).mkdir()
        one = {**told, "scale": scale, "data": scale, "claims": [{**claim, "verdict": verdict}]}
        (tmp_path / scale / "claims.json").write_text(json.dumps(one))
        page.write(tmp_path / scale, readme, tmp_path / "found")
    text = readme.read_text()
    assert (
        "| system | claim | on photos | on digits |" in text
        and "| AE | It is so. | weak | shown |" in text
    )
    assert text.startswith(f"{page.BEGIN}of cifar10{page.END}") and "old" not in text


def test_a_readme_without_markers_is_left_alone_and_named(tmp_path):
    (tmp_path / "laptop").mkdir()
    (tmp_path / "laptop" / "claims.json").write_text(json.dumps({
        "scale": "laptop", "data": "d", "seeds": 1, "machine": "m", "date": "t", "command": "c", "drawn": 1,
        "teacher": "t", "minutes": 1, "claims": [],
    }))  # fmt: skip
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    with pytest.raises(UserError, match="README.md has no <!-- claims -->"):
        page.write(tmp_path / "laptop", readme, tmp_path / "found")
    assert readme.read_text() == "no markers"


ORPHANS = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from benchmarks.claims.work import follow_parent

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), follow_parent)
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 600).result()
"""


def test_workers_end_with_a_run_that_is_killed(tmp_path):
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


def test_results_that_are_kept_name_no_place_and_a_run_of_some_claims_leaves_the_others(tmp_path):
    claim = {"key": "a", "verdict": "weak", "effects": [{"name": "so", "values": [0.123456789]}]}
    (tmp_path / "laptop").mkdir()
    minutes = []
    for keys in ("a", "b", "ab"):
        told = {"scale": "laptop", "minutes": 2.0, "claims": [claim | {"key": key} for key in keys]}
        (tmp_path / "laptop" / "claims.json").write_text(json.dumps(told))
        page.keep(tmp_path / "laptop", tmp_path / "found")
        kept = json.loads((tmp_path / "found" / "laptop.json").read_text())
        minutes.append(kept["minutes"])
    assert [one["key"] for one in kept["claims"]] == ["a", "b"]
    assert minutes == [2.0, None, 2.0]  # claims share runs: no sum is right
    assert kept["claims"][0]["effects"][0]["values"] == [0.123457]
    told = json.dumps(
        {"cache": "/home/me/features", "teacher": "standardised:/a b/means.x:resnet56:/data/net.x"}
    )
    assert json.loads(Arm("ae", told).told) == {
        "cache": "features", "teacher": "standardised:means.x:resnet56:net.x",
    }  # fmt: skip


def test_the_readmes_tables_are_those_of_the_results_that_are_kept(tmp_path):
    readme = Path(__file__).parent.parent / "README.md"
    copied = tmp_path / "README.md"
    copied.write_text(readme.read_text(encoding="utf-8"), encoding="utf-8")
    page.fill(copied)
    assert copied.read_text(encoding="utf-8") == readme.read_text(encoding="utf-8")


def test_a_probe_is_fitted_to_training_images_and_asked_of_held_out_ones(tmp_path):
    arm = TINY.tokenizer("ae")
    run, lab = arm.train(tmp_path, 0), Lab(TINY, tmp_path)
    found = lab.probe(run)
    assert 0.1 < found["probe accuracy"] < 1  # ten classes; even an untrained encoder tells some
    assert json.loads((run.folder / "claims" / "probe.json").read_text()) == found == lab.probe(run)


def test_a_generator_is_also_drawn_from_at_other_times_and_each_is_kept_apart(tmp_path):
    plan = {"steps": 20, "batch_size": 8, "save_every": 20, "lr": 0.02, "warmup_steps": 0, "ema_decay": 0.0}
    scale = replace(TINY, generator_plan=plan)
    arm = scale.generator(scale.tokenizer("ae"), "lightningdit")
    arm.tokenizer.train(tmp_path, 0)
    run, lab = arm.train(tmp_path, 0), Lab(scale, tmp_path)
    assert run.config["settings"]["by_channel"] and len(run.config["settings"]["std"]) == 2
    own, even = lab.generation(run), lab.generation(run, shift=1.0)
    assert own["floor"] == even["floor"] and own["gFD"] != even["gFD"]
    assert lab.generation(run, shift=run.config["settings"]["shift"])["gFD"] == own["gFD"]
    assert len(list((run.folder / "claims").glob("generation-*.json"))) == 3
