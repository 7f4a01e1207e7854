"""The loop: interrupted and resumed it gives equal weights, one writer at a time, steered through files, and honest."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_processes import together

from workbench.core.errors import RunError, UserError
from workbench.launch.in_process import prepare_training
from workbench.storage.checkpoint import read_tensors
from workbench.storage.jsonl import append_record
from workbench.storage.run import Run
from workbench.training import TrainConfig, fit, learning_rate
from workbench.training.overrides import Override, WeightOverrides

SMALL = {
    "num_tokens": 4,
    "width": 16,
    "depth": 1,
    "codebook_size": 16,
    "batch_size": 16,
    "warmup_steps": 5,
}
TRAINER = """
import sys, json
from workbench.launch.in_process import prepare_training
from workbench.training import fit
job = prepare_training("softvq-digits", sys.argv[1], **json.loads(sys.argv[2]))
print("ready", flush=True)
for record in fit(job.model, job.data, job.train_config, job.run):
    print(record.step, flush=True)
"""


def trained(folder: Path, **changes) -> Run:
    job = prepare_training(
        "softvq-digits", folder, **(SMALL | {"steps": 40, "save_every": 10} | changes)
    )
    for _ in fit(job.model, job.data, job.train_config, job.run):
        pass
    return job.run


def start(folder: Path, **changes) -> subprocess.Popen:
    settings = json.dumps(SMALL | {"steps": 40, "save_every": 10} | changes)
    command = [sys.executable, "-c", TRAINER, str(folder), settings]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def tensors(run: Run) -> dict[str, torch.Tensor]:
    return {
        f"{g}.{k}": v
        for g, group in read_tensors(run.checkpoint()).items()
        for k, v in group.items()
    }


def assert_equal(one: Run, other: Run) -> None:
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


def test_a_run_killed_at_random_moments_ends_with_equal_weights(tmp_path):
    """SIGKILL to a real process, again and again, until the run is done; nothing differs from one left alone."""
    alone, killed, kills = trained(tmp_path / "alone", steps=60), tmp_path / "killed", 0
    chance = random.Random(0)
    while True:
        process = start(killed, steps=60)
        begun = max(Run(killed).steps, default=0)
        while (
            kills < 8 and process.poll() is None and max(Run(killed).steps, default=0) == begun < 60
        ):
            if chance.random() < 0.01:  # at any moment, between saves or in the middle of one
                break
            time.sleep(0.001)
        if kills >= 8:
            break
        if kills % 2:  # every other time, only after some progress
            while process.poll() is None and max(Run(killed).steps, default=0) <= min(begun, 40):
                time.sleep(0.001)
        process.kill()
        process.wait()
        kills += 1
        assert not list(killed.glob("step-*.tmp*"))
        for step in Run(killed).steps:
            read_tensors(Run(killed).checkpoint(step))  # what has the name is whole
    assert process.wait() == 0 and kills >= 7
    assert_equal(alone, Run(killed))
    assert alone.history().drop(columns="time").equals(Run(killed).history().drop(columns="time"))


def test_one_seed_gives_one_run_and_another_seed_another(tmp_path):
    one, same = trained(tmp_path / "one"), trained(tmp_path / "same")
    assert_equal(one, same)
    other = trained(tmp_path / "other", seed=1)
    assert any(not torch.equal(tensors(one)[n], t) for n, t in tensors(other).items())


def test_closing_the_iterator_keeps_a_checkpoint_and_the_run_goes_on_to_equal_weights(tmp_path):
    whole, job = (
        trained(tmp_path / "whole"),
        prepare_training("softvq-digits", tmp_path / "cut", **SMALL, steps=40, save_every=10),
    )
    job = prepare_training("softvq-digits", tmp_path / "cut", **SMALL, steps=40, save_every=10)
    records = fit(job.model, job.data, job.train_config, job.run)
    assert next(records).step == 10
    records.close()
    assert job.run.status()["state"] == "stopped" and job.run.steps == [10]
    assert_equal(whole, trained(tmp_path / "cut"))


def test_a_second_writer_is_refused_with_a_sentence(tmp_path):
    process = start(tmp_path / "a", steps=100_000)
    process.stdout.readline()
    try:
        with pytest.raises(
            RunError, match=rf"is being trained by process {process.pid}. Stop that one, or wait"
        ):
            trained(tmp_path / "a", steps=100_000)
    finally:
        process.kill()
        process.wait()
    assert Run(tmp_path / "a").status()["state"] == "interrupted"  # and its claim died with it:
    Run(tmp_path / "a").ask("stop")


def wait_for(what, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_pause_resume_sample_and_stop_are_answered_and_recorded(tmp_path):
    process = start(tmp_path / "a", steps=100_000, save_every=50_000)
    run = Run(tmp_path / "a")
    assert (
        process.stdout.readline() == "10\n"
    )  # it is under way: what was asked before is not for it
    try:
        run.ask("pause")
        wait_for(lambda: run.status()["state"] == "paused")
        step = run.status()["step"]
        time.sleep(0.5)
        assert run.status()["step"] == step
        run.ask("resume")
        wait_for(lambda: run.status()["state"] == "running" and run.status()["step"] > step)
        run.ask("sample")
        number = run.ask("stop")
        assert process.wait(20) == 0
    finally:
        process.kill()
    status = run.status()
    assert status["state"] == "stopped" and status["answered"] == number
    assert run.steps == [status["step"]]  # stopped with a checkpoint
    assert [e["event"] for e in run.events()] == [
        "started",
        "pause",
        "resume",
        "sample",
        "stop",
        "saved",
        "stopped",
    ]


def test_a_request_for_pictures_is_passed_on_to_who_draws_them(tmp_path):
    job = prepare_training(
        "softvq-digits", tmp_path / "a", **SMALL, steps=100_000, save_every=100_000
    )
    job.run.ask("sample")  # before the start: not for this session
    records = fit(job.model, job.data, job.train_config, job.run)
    assert not next(records).sample
    job.run.ask("sample")
    asked = next(record for record in records if record.sample)
    assert not asked.saved and not next(records).sample  # once, and without a checkpoint
    records.close()


def test_what_pause_asks_in_an_unknown_way_is_refused(tmp_path):
    with pytest.raises(UserError, match="Did you mean `pause`"):
        trained(tmp_path / "a", steps=10).ask("paus")


def test_a_loss_that_is_not_finite_stops_training_names_the_term_and_keeps_the_last_checkpoint(
    tmp_path,
):
    job = prepare_training("softvq-digits", tmp_path / "a", **SMALL, steps=40, save_every=10)
    records = fit(job.model, job.data, job.train_config, job.run)
    next(records)
    with torch.no_grad():
        job.model.decoder.decoder.to_patches.bias.fill_(float("nan"))
    with pytest.raises(
        UserError, match="The pixel term became nan by step 20; the checkpoint of step 10 is kept"
    ):
        list(records)
    assert job.run.steps == [10] and job.run.status()["state"] == "failed"
    assert all(torch.isfinite(t).all() for t in tensors(job.run).values())


def test_a_full_disk_ends_in_a_sentence_and_leaves_nothing_half_written(tmp_path):
    """The kernel refuses to let any file grow beyond a limit, as a full disk would."""
    script = TRAINER + "\n"
    limited = (
        "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        f"import workbench.cli as cli, types\nsource = {script!r}\n"
        "cli.app = lambda: exec(compile(source, 'trainer', 'exec'), {'__name__': 'x'})\ncli.main()\n"
    )
    settings = json.dumps(SMALL | {"steps": 40, "save_every": 10})
    ended = subprocess.run(
        [sys.executable, "-c", limited, str(tmp_path / "a"), settings],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert (
        "step-000010.safetensors could not be written" in ended.stderr
        and "Traceback" not in ended.stderr
    )
    assert (
        not [p for p in (tmp_path / "a").iterdir() if p.name.startswith(".step")]
        and Run(tmp_path / "a").steps == []
    )


def test_a_damaged_checkpoint_is_named_with_the_way_out(tmp_path):
    run = trained(tmp_path / "a", steps=20)
    path = run.checkpoint()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        RunError, match="step-000020.safetensors is damaged .* go on from the checkpoint before"
    ):
        trained(tmp_path / "a", steps=20)
    path.unlink()
    assert_equal(trained(tmp_path / "a", steps=20), trained(tmp_path / "b", steps=20))


def test_the_learning_rate_warms_up_then_falls_along_a_cosine():
    plan = TrainConfig(steps=1000, lr=1.0, warmup_steps=100, final_lr=0.1)
    assert learning_rate(plan, 0) == pytest.approx(0.01)
    assert learning_rate(plan, 99) == pytest.approx(1, abs=0.03)
    assert learning_rate(plan, 500) == pytest.approx(0.55)
    assert learning_rate(plan, 1000) == pytest.approx(0.1)


def test_the_average_follows_the_weights_by_its_decay(tmp_path):
    job = prepare_training(
        "softvq-digits", tmp_path / "a", **SMALL, steps=3, save_every=1, log_every=1
    )
    expected, name = None, "encoder.embed.weight"
    expected = job.model.state_dict()[name].clone()
    for step, _ in enumerate(fit(job.model, job.data, job.train_config, job.run)):
        decay = min(0.995, (1 + step) / (10 + step))
        expected = (
            decay * expected
            + (1 - decay) * read_tensors(job.run.checkpoint(step + 1))["model"][name]
        )
    torch.testing.assert_close(job.run.load().state_dict()[name], expected)


def test_every_image_is_seen_once_an_epoch(tmp_path):
    from workbench.training.dataloading import Rank, batch_indices

    class Items:
        def __len__(self) -> int:
            return 50

        def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor]:
            return (indices,)

    plan = TrainConfig(batch_size=20)
    seen = torch.cat([batch_indices(Items(), plan, Rank(), step) for step in range(5)])
    assert sorted(seen[:50].tolist()) == list(range(50)) == sorted(seen[50:].tolist())
    assert seen[:50].tolist() != seen[50:].tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"batch_size": -1},
        {"lr": 0.0},
        {"precision": "half"},
        {"ema_decay": 2.0},
        {"clip": 0.0},
        {"warmup_steps": -1},
    ],
)
def test_a_plan_that_cannot_be_is_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        TrainConfig(**settings)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_stops_with_a_checkpoint_and_an_exit_code(tmp_path):
    command = [
        sys.executable,
        "-m",
        "workbench",
        "train",
        "ae-digits",
        "--out",
        str(tmp_path / "a"),
        "--steps",
        "100000",
    ]
    process = subprocess.Popen([*command, "--width", "16"], stderr=subprocess.PIPE, text=True)
    wait_for(
        lambda: (
            (tmp_path / "a" / "log.jsonl").exists() and Run(tmp_path / "a").status()["step"] > 10
        ),
        60,
    )
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    assert (
        process.returncode == 130
        and "the same command goes on from there" in said
        and "Traceback" not in said
    )
    assert Run(tmp_path / "a").steps[-1] == Run(tmp_path / "a").status()["step"]


# Steering: what is asked on the way is an event, and the run replays its events

GIVEN = [
    {"event": "weight", "step": 5, "term": "entropy", "value": 0.25},
    {"event": "lr", "step": 21, "value": 0.5},
    {"event": "weight", "step": 27, "term": "pixel", "value": 2.0},
]


def told(folder: Path, events: list[dict], **changes) -> Run:
    """A run that was left alone, but for events given before it began."""
    job = prepare_training(
        "softvq-digits", folder, **(SMALL | {"steps": 40, "save_every": 10} | changes)
    )
    for event in events:
        append_record(job.run.folder / "events.jsonl", event)
    for _ in fit(job.model, job.data, job.train_config, job.run):
        pass
    return job.run


PATIENT = TRAINER.replace(
    "print(record.step, flush=True)", "print(record.step, flush=True); sys.stdin.readline()"
)


def test_a_killed_run_repeats_what_was_asked_of_it_and_ends_with_equal_weights(tmp_path):
    """Asked of a real process at steps we do not choose, one of them lost by the kill; the events alone tell them."""
    settings = json.dumps(SMALL | {"steps": 40, "save_every": 20})
    command, run = [sys.executable, "-c", PATIENT, str(tmp_path / "killed"), settings], None
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    asked = {"10": ("weight", {"term": "entropy", "value": 0.25}), "20": ("lr", {"value": 0.5})}
    assert process.stdout.readline() == "ready\n"
    while (step := process.stdout.readline().strip()) != "30":
        run = Run(tmp_path / "killed")
        number = run.ask(asked[step][0], **asked[step][1])
        wait_for(lambda: run.status()["answered"] >= number, 2)  # noqa: B023  while the step stands still
        process.stdin.write("\n")
        process.stdin.flush()
    process.kill()
    process.wait()
    events = [event for event in run.events() if event["event"] in ("weight", "lr")]
    assert [event["step"] for event in events] == [11, 21] and run.steps == [
        20
    ]  # the second was after the last save
    killed, alone = (
        trained(tmp_path / "killed", save_every=20),
        told(tmp_path / "alone", events, save_every=20),
    )
    assert_equal(killed, alone)
    assert killed.history().drop(columns="time").equals(alone.history().drop(columns="time"))
    plain = trained(tmp_path / "plain")
    assert any(
        not torch.equal(tensors(plain)[name], tensor) for name, tensor in tensors(alone).items()
    )


def test_half_the_multiplier_is_half_the_setting(tmp_path):
    """Powers of two are exact in floating point, so the two ways to say it give the same bits."""
    steered = told(tmp_path / "steered", [{"event": "lr", "step": 0, "value": 0.5}])
    assert_equal(steered, trained(tmp_path / "set", lr=1e-3))
    steered = told(
        tmp_path / "calm", [{"event": "weight", "step": 0, "term": "entropy", "value": 0.5}]
    )
    weight = Run(tmp_path / "calm").config["settings"]["entropy_weight"]
    assert_equal(steered, trained(tmp_path / "half", entropy_weight=weight / 2))


def test_the_log_holds_what_the_optimiser_saw(tmp_path):
    plain, steered = (
        trained(tmp_path / "plain", log_every=1),
        told(tmp_path / "told", GIVEN, log_every=1),
    )
    before, after = plain.history(), steered.history()
    assert after["entropy"][5] == pytest.approx(
        0.25 * before["entropy"][5]
    )  # of the sixth step, the first after five
    assert (
        after["lr"][21] == pytest.approx(0.5 * before["lr"][21])
        and after["lr"][20] == before["lr"][20]
    )
    assert after["pixel"][4] == before["pixel"][4]
    assert (
        steered.status()["weights"] == {"pixel": 2.0, "entropy": 0.25}
        and steered.status()["lr"] == 0.5
    )


def test_a_later_word_overrules_what_an_earlier_life_had_heard_for_later_steps():
    overrides = WeightOverrides([*GIVEN, {"event": "saved", "step": 30}])
    assert [overrides.multiplier(None, step) for step in (20, 21)] == [1.0, 0.5]
    overrides.add(
        Override(20, "pixel", 3.0)
    )  # after a kill at 30 the run is at 20 again, and is asked anew
    assert [overrides.multiplier("pixel", step) for step in (19, 20, 27, 40)] == [
        1.0,
        3.0,
        3.0,
        3.0,
    ]
    assert overrides.multiplier("entropy", 27) == 0.25


def test_a_request_is_acknowledged_while_a_step_takes_its_time_and_a_paused_run_evaluates(tmp_path):
    """Nobody moves the loop on: what answers is not the loop."""
    job = prepare_training(
        "softvq-digits", tmp_path / "a", **SMALL, steps=100_000, save_every=100_000
    )
    records = fit(job.model, job.data, job.train_config, job.run)
    assert next(records).step == 10
    numbers = [job.run.ask("pause"), job.run.ask("evaluate")]
    wait_for(lambda: job.run.status()["answered"] == numbers[-1], 2)
    record = next(records)
    assert (
        record.step == 11 and record.evaluate and job.run.steps == [11]
    )  # saved first, at the step it paused at
    assert job.run.status()["state"] == "paused"
    job.run.ask("stop")
    assert [r.step for r in records] == [11] and job.run.status()["state"] == "stopped"
    assert job.run.history()["step"].tolist() == [10, 11]


def test_what_cannot_be_asked_is_refused_where_it_is_asked_or_else_in_the_events(tmp_path):
    job = prepare_training("softvq-digits", tmp_path / "a", **SMALL, steps=40, save_every=40)
    records, run = fit(job.model, job.data, job.train_config, job.run), job.run
    next(records)
    (run.folder / "control.json").write_text(
        '[{"id": 1, "command": "weight", "term": "pixl", "value": 1}]'
    )
    wait_for(lambda: run.status()["answered"] == 1, 2)
    next(records)
    assert "There is no term `pixl`; there is entropy, pixel." in run.events()[-1]["why"]
    with pytest.raises(
        UserError, match="no term `pixl`; there is entropy, pixel. Did you mean `pixel`"
    ):
        run.ask("weight", term="pixl", value=1)
    records.close()


def test_evidence_is_collected_on_the_way_and_changes_nothing(tmp_path):
    from threading import Thread

    from workbench.launch.in_process import train

    settings = SMALL | {"steps": 300, "save_every": 300, "collect": False}
    thread = Thread(target=train, args=("softvq-digits", tmp_path / "a"), kwargs=settings)
    thread.start()
    wait_for(
        lambda: (tmp_path / "a" / "log.jsonl").exists() and Run(tmp_path / "a").status()["step"]
    )
    run = Run(tmp_path / "a")
    run.ask("evaluate")
    thread.join()
    (step,) = [event["step"] for event in run.events() if event["event"] == "evaluated"]
    assert 0 < step < 300 and run.steps == [step, 300] and run.evidence().step == step
    assert_equal(run, train("softvq-digits", tmp_path / "alone", **settings))


def test_two_processes_follow_requests_at_the_same_step(tmp_path):
    """The log holds means over both: the term is exactly 0 only if both multiply it by 0."""
    process = together(
        "softvq-digits", tmp_path / "run", steps=100_000, save_every=100_000, codebook_size=16
    )
    try:
        wait_for(
            lambda: (tmp_path / "run" / "log.jsonl").exists() or process.poll() is not None, 60
        )
        run = Run(tmp_path / "run")
        run.ask("pause")
        wait_for(lambda: run.status()["state"] == "paused")
        run.ask("weight", term="entropy", value=0)
        run.ask("resume")
        wait_for(lambda: "entropy" in run.history() and (run.history()["entropy"] == 0).any())
        run.ask("stop")
        process.communicate(timeout=60)
    finally:
        process.kill()
    (change,) = [event["step"] for event in run.events() if event["event"] == "weight"]
    history = run.history()
    assert run.status()["state"] == "stopped" and change % 3 == 0  # log_every: where they agree
    assert (history["entropy"][history["step"] > change] == 0).all()
    assert (history["entropy"][history["step"] <= change] != 0).all()
