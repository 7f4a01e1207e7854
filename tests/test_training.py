"""The training loop: resuming, one writer, control by commands, overrides, and damage."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forked_python import ForkedPython
from polling import wait_until
from safetensors.torch import load_file, save_file
from torch import nn

from workbench.core.errors import RunError, UserError
from workbench.core.types import Objective
from workbench.launch.in_process import prepare_training, train
from workbench.launch.recipes import GENERATORS, SYSTEMS
from workbench.storage.checkpoint import read_tensors
from workbench.storage.control import make_command, read_commands
from workbench.storage.jsonl import append_record
from workbench.storage.run import Run
from workbench.training import TrainConfig, fit, learning_rate
from workbench.training.control_listener import ControlListener
from workbench.training.overrides import Override, WeightOverrides
from workbench.training.state import _parameter_state

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


def start(folder: Path, *, code: str = TRAINER, **changes) -> ForkedPython:
    settings = json.dumps(SMALL | {"steps": 40, "save_every": 10} | changes)
    process = ForkedPython(code, str(folder), settings)
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


@pytest.mark.slow
def test_killed_run_ends_with_equal_weights(tmp_path):
    """A process that is killed repeatedly gives the weights and the log of an undisturbed one."""
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
            time.sleep(0.005)
        if kills >= 8:
            break
        if kills % 2:  # every other time, only after some progress
            while process.poll() is None and max(Run(killed).steps, default=0) <= min(begun, 40):
                time.sleep(0.005)
        process.kill()
        process.wait()
        kills += 1
        assert not list(killed.glob("step-*.tmp*"))
        for step in Run(killed).steps:
            read_tensors(
                Run(killed).checkpoint(step)
            )  # a checkpoint with its final name is complete
    assert process.wait() == 0 and kills >= 7
    assert_equal(alone, Run(killed))
    assert alone.history().drop(columns="time").equals(Run(killed).history().drop(columns="time"))


@pytest.mark.slow
def test_seed_determines_the_weights(tmp_path):
    one, same = trained(tmp_path / "one"), trained(tmp_path / "same")
    assert_equal(one, same)
    other = trained(tmp_path / "other", seed=1)
    assert any(not torch.equal(tensors(one)[n], t) for n, t in tensors(other).items())


@pytest.mark.slow
def test_closed_iterator_resumes_to_equal_weights(tmp_path):
    whole = trained(tmp_path / "whole")
    job = prepare_training("softvq-digits", tmp_path / "cut", **SMALL, steps=40, save_every=10)
    records = fit(job.model, job.data, job.train_config, job.run)
    assert next(records).step == 10
    records.close()
    assert job.run.status()["state"] == "stopped" and job.run.steps == [10]
    assert_equal(whole, trained(tmp_path / "cut"))


@pytest.fixture(scope="module")
def codes(tmp_path_factory) -> Path:
    """Return a tokenizer with codes, which every generator can be trained on."""
    folder = tmp_path_factory.mktemp("codes") / "vqvae"
    train_system("vqvae", folder)
    return folder


class Killed(BaseException):
    """Ends a training as a kill does: no checkpoint is written."""


def train_system(system: str, folder: Path, *, kill: bool = False, **settings) -> Run:
    """Train a system on digits for 8 steps, or until it is killed between two checkpoints."""
    schedule = {"steps": 8, "save_every": 4, "log_every": 2, "warmup_steps": 2}
    limit = None if system in GENERATORS else 64
    job = prepare_training(
        f"{system}-digits", folder, batch_size=8, limit=limit, **schedule, **settings
    )
    records = fit(job.model, job.data, job.train_config, job.run)
    if kill:
        assert [next(records).step for _ in range(3)] == [2, 4, 6]
        with pytest.raises(Killed):
            records.throw(Killed())
    for _ in records:
        pass
    return job.run


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_resumes_to_equal_weights(system, codes, tmp_path):
    """The systems use every optimizer: `unicode2` and `ar` have sparse tables."""
    settings = {"tokenizer": codes} if system in GENERATORS else {}
    whole = train_system(system, tmp_path / "whole", **settings)
    cut = train_system(system, tmp_path / "cut", kill=True, **settings)
    assert cut.steps == [4] and cut.history()["step"].max() == 6
    assert_equal(whole, train_system(system, tmp_path / "cut", **settings))
    assert whole.history().drop(columns="time").equals(cut.history().drop(columns="time"))


@pytest.mark.slow
def test_second_writer_is_refused(tmp_path):
    process = start(tmp_path / "a", steps=100_000)
    process.stdout.readline()
    try:
        with pytest.raises(RunError, match=f"process {process.pid}"):
            trained(tmp_path / "a", steps=100_000)
    finally:
        process.kill()
        process.wait()
    assert Run(tmp_path / "a").status()["state"] == "interrupted"
    Run(tmp_path / "a").ask("stop")


@pytest.mark.slow
def test_commands_are_applied_and_logged(tmp_path):
    process = start(tmp_path / "a", steps=100_000, save_every=50_000)
    run = Run(tmp_path / "a")
    assert (
        process.stdout.readline() == "10\n"
    )  # commands that were sent before the start are ignored
    try:
        run.ask("pause")
        wait_until(lambda: run.status()["state"] == "paused")
        step = run.status()["step"]
        time.sleep(0.5)
        assert run.status()["step"] == step
        run.ask("resume")
        wait_until(lambda: run.status()["state"] == "running" and run.status()["step"] > step)
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


@pytest.mark.slow
def test_sample_command_marks_one_record(tmp_path):
    job = prepare_training(
        "softvq-digits", tmp_path / "a", **SMALL, steps=100_000, save_every=100_000
    )
    job.run.ask("sample")  # ignored, as it was sent before the start
    records = fit(job.model, job.data, job.train_config, job.run)
    assert not next(records).sample
    job.run.ask("sample")
    record = next(record for record in records if record.sample)
    assert not record.saved and not next(records).sample  # once, and without a checkpoint
    records.close()


@pytest.mark.slow
def test_unknown_command_is_refused(tmp_path):
    with pytest.raises(UserError, match="`pause`"):
        trained(tmp_path / "a", steps=10).ask("paus")


@pytest.mark.slow
def test_loss_that_is_not_finite_stops_training(tmp_path):
    job = prepare_training("softvq-digits", tmp_path / "a", **SMALL, steps=40, save_every=10)
    records = fit(job.model, job.data, job.train_config, job.run)
    next(records)
    with torch.no_grad():
        job.model.decoder.decoder.to_patches.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="pixel .*nan .*20.* 10"):
        list(records)
    assert job.run.steps == [10] and job.run.status()["state"] == "failed"
    assert all(torch.isfinite(t).all() for t in tensors(job.run).values())


@pytest.mark.slow
def test_full_disk_leaves_no_partial_checkpoint(tmp_path):
    """A limit of the file size fails in the same way as a full disk."""
    script = TRAINER + "\n"
    limited = (
        "import resource, signal, sys\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "sys.dont_write_bytecode = True  # it would be cut off, and break later imports\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        f"import workbench.cli as cli, types\nsource = {script!r}\n"
        "cli.app = lambda: exec(compile(source, 'trainer', 'exec'), {'__name__': 'x'})\n"
        "cli.main()\n"
    )
    settings = json.dumps(SMALL | {"steps": 40, "save_every": 10})
    done = subprocess.run(
        [sys.executable, "-c", limited, str(tmp_path / "a"), settings],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "step-000010.safetensors" in done.stderr
    assert not list((tmp_path / "a").glob(".step*")) and Run(tmp_path / "a").steps == []


@pytest.mark.slow
def test_damaged_checkpoint_is_named(tmp_path):
    run = trained(tmp_path / "a", steps=20)
    path = run.checkpoint()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"step-000020\.safetensors"):
        trained(tmp_path / "a", steps=20)
    path.unlink()
    assert_equal(trained(tmp_path / "a", steps=20), trained(tmp_path / "b", steps=20))
    tensors = load_file(path)
    del tensors[next(name for name in tensors if name.endswith("exp_avg"))]
    save_file(tensors, path)
    with pytest.raises(RunError, match=r"step-000020\.safetensors"):
        trained(tmp_path / "a", steps=25)


def test_steps_of_optimizers_keep_their_type_and_device():
    """The device `meta` stands for a GPU."""
    stored = {
        "dense.weight.step": torch.tensor(3.0),
        "dense.weight.exp_avg": torch.zeros(2),
        "table.weight.step": torch.tensor(3),
    }
    device = torch.device("meta")
    dense = _parameter_state(stored, "dense.weight", device)
    assert dense["step"].device == dense["exp_avg"].device == device
    assert _parameter_state(stored, "table.weight", device) == {"step": 3}


@pytest.mark.parametrize("value", [1e300, 10**400, -1, float("nan"), True])
def test_absurd_multiplier_is_refused(value):
    with pytest.raises(UserError, match="multiplier"):
        make_command("lr", value=value)


@pytest.mark.parametrize("apart", [False, True])
def test_gradient_of_a_discriminator_can_be_clipped_apart(apart, tmp_path):
    """AdamW's first moments m give the clipped gradient of step 2: 10 m_2 - 9 m_1."""
    settings = {"steps": 2, "save_every": 1, "log_every": 1, "clip": 1e-4, "clip_apart": apart}
    # The discriminator starts where progress is above 0, which is after the first step.
    run = trained(tmp_path / "run", **settings, adversarial_weight=0.5, adversarial_start=0.0)
    first, second = (read_tensors(run.checkpoint(step))["optimizer"] for step in (1, 2))
    squares = {False: 0.0, True: 0.0}
    for name in second:
        if name.endswith(".exp_avg"):
            gradient = 10 * second[name] - 9 * first[name]
            squares["adversary" in name] += gradient.square().sum().item()
    rest, discriminator = (squares[key] ** 0.5 for key in (False, True))
    total = (rest**2 + discriminator**2) ** 0.5
    expected = 2**0.5 * 1e-4 if apart else 1e-4
    assert total == pytest.approx(expected, rel=1e-2)
    assert (rest == pytest.approx(discriminator, rel=1e-2)) == apart


def test_learning_rate_schedule():
    config = TrainConfig(steps=1000, lr=1.0, warmup_steps=100, final_lr=0.1)
    assert learning_rate(config, 0) == pytest.approx(0.01)
    assert learning_rate(config, 99) == pytest.approx(1, abs=0.03)
    assert learning_rate(config, 500) == pytest.approx(0.55)
    assert learning_rate(config, 1000) == pytest.approx(0.1)


@pytest.mark.slow
def test_ema_follows_its_decay(tmp_path):
    job = prepare_training(
        "softvq-digits", tmp_path / "a", **SMALL, steps=3, save_every=1, log_every=1
    )
    name = "encoder.embed.weight"
    expected = job.model.state_dict()[name].clone()
    for step, _ in enumerate(fit(job.model, job.data, job.train_config, job.run)):
        decay = min(0.995, (1 + step) / (10 + step))
        expected = (
            decay * expected
            + (1 - decay) * read_tensors(job.run.checkpoint(step + 1))["model"][name]
        )
    torch.testing.assert_close(job.run.load().state_dict()[name], expected)


def test_every_item_occurs_once_per_epoch(tmp_path):
    from workbench.training.dataloading import Rank, batch_indices

    class Items:
        def __len__(self) -> int:
            return 50

        def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor]:
            return (indices,)

    config = TrainConfig(batch_size=20)
    seen = torch.cat([batch_indices(Items(), config, Rank(), step) for step in range(5)])
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
def test_invalid_training_setting_is_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        TrainConfig(**settings)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.slow
def test_ctrl_c_saves_a_checkpoint(tmp_path):
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
    wait_until(
        lambda: (
            (tmp_path / "a" / "log.jsonl").exists() and Run(tmp_path / "a").status()["step"] > 10
        ),
        60,
    )
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in stderr
    assert Run(tmp_path / "a").steps[-1] == Run(tmp_path / "a").status()["step"]


class Tied(nn.Module):
    """A model of two layers with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embedding.weight

    def objective(self, item: torch.Tensor) -> Objective:
        logits = self.head(self.embedding(item))
        return Objective({"class": nn.functional.cross_entropy(logits, item)})


class Numbers:
    """The items 0 to 9."""

    def __len__(self) -> int:
        return 10

    def batch(self, indices):
        return (torch.as_tensor(indices),)


def test_tied_weights_are_saved_and_resumed(tmp_path):
    run = Run.create(tmp_path / "a", {"class": "m:Tied", "settings": {}})
    config = TrainConfig(steps=4, batch_size=2, save_every=2, log_every=1)
    for _ in fit(Tied(), Numbers(), config, run):
        pass
    weights = read_tensors(run.checkpoint())["model"]
    assert torch.equal(weights["head.weight"], weights["embedding.weight"])
    model = Tied()
    for _ in fit(model, Numbers(), replace(config, steps=6), run):
        pass
    assert run.steps[-1] == 6 and model.head.weight is model.embedding.weight


def test_launcher_does_not_divide_the_loss_again(tmp_path, monkeypatch):
    settings = SMALL | {"steps": 2, "log_every": 1, "collect": False}
    alone = train("vqvae-digits", tmp_path / "alone", **settings).history()
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    launched = train("vqvae-digits", tmp_path / "launched", **settings).history()
    assert launched["gradient"].tolist() == alone["gradient"].tolist()


def test_trainings_of_one_process_have_their_own_precision(tmp_path):
    for precision in ("no", "bf16"):
        settings = SMALL | {"steps": 2, "precision": precision}
        run = train("vqvae-digits", tmp_path / precision, collect=False, **settings)
        assert run.status()["state"] == "finished"


# Overrides: commands are logged as events, which a resumed run repeats

OVERRIDES = [
    {"event": "weight", "step": 5, "term": "entropy", "value": 0.25},
    {"event": "lr", "step": 21, "value": 0.5},
    {"event": "weight", "step": 27, "term": "pixel", "value": 2.0},
]


def trained_with_events(folder: Path, events: list[dict], **changes) -> Run:
    """Train without interruption, with events that are in the run before it starts."""
    job = prepare_training(
        "softvq-digits", folder, **(SMALL | {"steps": 40, "save_every": 10} | changes)
    )
    for event in events:
        append_record(job.run.folder / "events.jsonl", event)
    for _ in fit(job.model, job.data, job.train_config, job.run):
        pass
    return job.run


WAITING_TRAINER = TRAINER.replace(
    "print(record.step, flush=True)", "print(record.step, flush=True); sys.stdin.readline()"
)


@pytest.mark.slow
def test_killed_run_repeats_its_overrides(tmp_path):
    """The kill loses the step of one override; the events restore it."""
    process = start(tmp_path / "killed", code=WAITING_TRAINER, save_every=20)
    commands = {"10": ("weight", {"term": "entropy", "value": 0.25}), "20": ("lr", {"value": 0.5})}
    while (step := process.stdout.readline().strip()) != "30":
        run = Run(tmp_path / "killed")
        number = run.ask(commands[step][0], **commands[step][1])
        wait_until(lambda: run.status()["answered"] >= number, 2)  # noqa: B023  the loop waits for it
        process.stdin.write("\n")
        process.stdin.flush()
    process.kill()
    process.wait()
    events = [event for event in run.events() if event["event"] in ("weight", "lr")]
    assert [event["step"] for event in events] == [11, 21] and run.steps == [
        20
    ]  # the second override follows the last checkpoint
    killed, alone = (
        trained(tmp_path / "killed", save_every=20),
        trained_with_events(tmp_path / "alone", events, save_every=20),
    )
    assert_equal(killed, alone)
    assert killed.history().drop(columns="time").equals(alone.history().drop(columns="time"))
    plain = trained(tmp_path / "plain")
    assert any(
        not torch.equal(tensors(plain)[name], tensor) for name, tensor in tensors(alone).items()
    )


@pytest.mark.slow
def test_multiplier_equals_the_scaled_setting(tmp_path):
    """Powers of two are exact in floating point, so the results are bit-identical."""
    overridden = trained_with_events(
        tmp_path / "overridden", [{"event": "lr", "step": 0, "value": 0.5}]
    )
    assert_equal(overridden, trained(tmp_path / "set", lr=1e-3))
    overridden = trained_with_events(
        tmp_path / "calm", [{"event": "weight", "step": 0, "term": "entropy", "value": 0.5}]
    )
    weight = Run(tmp_path / "calm").config.settings["entropy_weight"]
    assert_equal(overridden, trained(tmp_path / "half", entropy_weight=weight / 2))


@pytest.mark.slow
def test_log_contains_weighted_terms(tmp_path):
    plain, overridden = (
        trained(tmp_path / "plain", log_every=1),
        trained_with_events(tmp_path / "told", OVERRIDES, log_every=1),
    )
    before, after = plain.history(), overridden.history()
    assert after["entropy"][5] == pytest.approx(
        0.25 * before["entropy"][5]
    )  # the sixth step is the first after five updates
    assert (
        after["lr"][21] == pytest.approx(0.5 * before["lr"][21])
        and after["lr"][20] == before["lr"][20]
    )
    assert after["pixel"][4] == before["pixel"][4]
    assert (
        overridden.status()["weights"] == {"pixel": 2.0, "entropy": 0.25}
        and overridden.status()["lr"] == 0.5
    )


def test_latest_override_wins():
    overrides = WeightOverrides([*OVERRIDES, {"event": "saved", "step": 30}])
    assert [overrides.multiplier(None, step) for step in (20, 21)] == [1.0, 0.5]
    overrides.add(Override(20, "pixel", 3.0))  # as after a kill at step 30 and a resume at step 20
    assert [overrides.multiplier("pixel", step) for step in (19, 20, 27, 40)] == [
        1.0,
        3.0,
        3.0,
        3.0,
    ]
    assert overrides.multiplier("entropy", 27) == 0.25


@pytest.mark.slow
def test_paused_run_answers_and_evaluates(tmp_path):
    """The iterator is not advanced: a thread answers."""
    job = prepare_training(
        "softvq-digits", tmp_path / "a", **SMALL, steps=100_000, save_every=100_000
    )
    records = fit(job.model, job.data, job.train_config, job.run)
    assert next(records).step == 10
    numbers = [job.run.ask("pause"), job.run.ask("evaluate")]
    wait_until(lambda: job.run.status()["answered"] == numbers[-1], 2)
    record = next(records)
    assert (
        record.step == 11 and record.evaluate and job.run.steps == [11]
    )  # the checkpoint is of the step at which it paused
    assert job.run.status()["state"] == "paused"
    job.run.ask("stop")
    assert [r.step for r in records] == [11] and job.run.status()["state"] == "stopped"
    assert job.run.history()["step"].tolist() == [10, 11]


@pytest.mark.slow
def test_unknown_term_is_refused_and_logged(tmp_path):
    job = prepare_training("softvq-digits", tmp_path / "a", **SMALL, steps=40, save_every=40)
    records, run = fit(job.model, job.data, job.train_config, job.run), job.run
    next(records)
    (run.folder / "control.json").write_text(
        '[{"id": 1, "command": "weight", "term": "pixl", "value": 1}]'
    )
    wait_until(lambda: run.status()["answered"] == 1, 2)
    next(records)
    assert "`pixl`" in run.events()[-1]["why"]
    with pytest.raises(UserError, match="`pixl`.*`pixel`"):
        run.ask("weight", term="pixl", value=1)
    records.close()


def test_listener_outlives_errors(tmp_path, monkeypatch):
    run = Run.create(tmp_path / "a", {"class": "workbench.tests:Table", "settings": {}})
    run.ask("stop")  # before the start
    listener = ControlListener(run)
    listener.report("running", 1)
    errors = [OSError("stale file handle"), RecursionError("too deep"), MemoryError("no memory")]

    def commands() -> list[dict]:
        if errors:
            raise errors.pop()
        return read_commands(run.folder)

    monkeypatch.setattr(run, "commands", commands)
    number = run.ask("pause")
    wait_until(lambda: run.status().get("answered") == number, 5)
    listener.close()
    assert [command["command"] for command in listener.drain()] == ["pause"]
    names = [reason.partition(":")[0] for reason in listener.drain_failures()]
    assert names == ["MemoryError", "RecursionError", "OSError"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="named pipes")
def test_damaged_commands_do_not_stop_training(tmp_path):
    process = start(tmp_path / "a", steps=100_000)
    run = Run(tmp_path / "a")
    try:
        process.stdout.readline()
        control = run.folder / "control"
        control.mkdir()
        contents = [
            f'{{"id": 1, "command": "lr", "value": 1{"0" * 400}}}',
            '{"id": 2, "command": "lr", "value": NaN}',
            '{"id": 3, "command": "lr", "value": true}',
            '{"id": 4, "command": "weight", "term": ["pixel"], "value": 1}',
            '{"id": 5, "command": ["stop"]}',
            '{"id": 6, "command": "stop", "time": NaN}',
            "[" * 100_000,
            "torn",
        ]
        for number, content in enumerate(contents, 1):
            (control / f"{number:06d}.json").write_text(content)
        os.mkfifo(control / "000009.json")
        (control / "000010.json").mkdir()
        (run.folder / "control.json").mkdir()
        number = run.ask("pause")
        wait_until(lambda: run.status()["state"] == "paused", 10)
        assert number == 11 and run.status()["answered"] == 11
        refused = [event["id"] for event in run.events() if event["event"] == "refused"]
        assert refused == [1, 2, 3, 4]
        shutil.rmtree(control)
        run.ask("stop")
        wait_until(lambda: run.status()["state"] == "stopped", 10)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_evaluation_does_not_change_the_weights(tmp_path):
    from threading import Thread

    from workbench.launch.in_process import train

    settings = SMALL | {"steps": 300, "save_every": 300, "collect": False}
    thread = Thread(target=train, args=("softvq-digits", tmp_path / "a"), kwargs=settings)
    thread.start()
    wait_until(
        lambda: (tmp_path / "a" / "log.jsonl").exists() and Run(tmp_path / "a").status()["step"]
    )
    run = Run(tmp_path / "a")
    run.ask("evaluate")
    thread.join()
    (step,) = [event["step"] for event in run.events() if event["event"] == "evaluated"]
    assert 0 < step < 300 and run.steps == [step, 300] and run.evidence().step == step
    assert_equal(run, train("softvq-digits", tmp_path / "alone", **settings))
