"""A step has the same result however its batch is divided into parts and processes."""

import json
from functools import partial
from pathlib import Path

import forked_python
import pytest
import torch
from torch import Tensor

from workbench.core.batch_shares import (
    BatchShares,
    NotMeasuredError,
    batch_draws,
    batch_items,
    batch_mean,
    batch_total,
    item_draws,
    item_noise,
    masked_batch_mean,
)
from workbench.launch.in_process import prepare_training
from workbench.launch.recipes import GENERATORS, SYSTEMS
from workbench.quantizers.soft import entropy_gap
from workbench.quantizers.vector import VectorQuantizer
from workbench.storage.checkpoint import read_tensors
from workbench.storage.run import Run
from workbench.training import fit

PARTS = 4
SCHEDULE = {"steps": 3, "save_every": 3, "log_every": 1, "warmup_steps": 1, "batch_size": 16}
# Settings that are off by default, and whose loss depends on the whole batch.
VARIANTS = {
    "karl": {
        "codebook_size": 16,
        "balance": "balanced",
        "halt_estimate": True,
        "ends": 0.5,
        "labels": "smallest",
    },
    "maetok": {"mask": "sample", "adversarial_weight": 0.5, "adversarial_start": 0.0},
    "softvq": {
        "num_codebooks": 2,
        "perceptual_weight": 1.0,
        "adversarial_weight": 0.5,
        "adversarial_start": 0.0,
        "discriminator_augmentation": 1.0,
        "consistency_weight": 1.0,
    },
    "unicode2": {"mode": "online", "revive": 0.5},
    "vavae": {"noise": 0.1, "adversarial_weight": 0.5, "adversarial_start": 0.0},
    "vqvae": {"learn": "gradient", "cosine": False},
}
CASES = {system: (system, {}) for system in SYSTEMS}
# AdamW's second step amplifies the rounding of gradients that are almost zero.
CASES |= {f"{s} with more": (s, settings | {"steps": 1}) for s, settings in VARIANTS.items()}
# Trains every case in one group of processes.
TRAINER = """
import json, sys
from workbench.launch.in_process import train
for recipe, out, settings in json.loads(sys.argv[1]):
    train(recipe, out, collect=False, **settings)
"""


def in_parts(shares: BatchShares, compute, seed: int = 0) -> list:
    """Compute every part, after measuring the statistics of the whole batch."""
    shares.start_step(seed)
    for part in range(shares.parts if shares.parts > 1 else 0):
        with shares.computing(part, measuring=True):
            compute(part)
    results = []
    for part in range(shares.parts):
        with shares.computing(part):
            results.append(compute(part))
    return results


def test_gradient_of_a_mean_of_parts_is_that_of_the_batch():
    logits = torch.randn(2, 24, 8, generator=torch.Generator().manual_seed(0)) * 3
    whole = logits.clone().requires_grad_()
    entropy_gap(whole).backward()
    divided = logits.clone().requires_grad_()
    chunks = divided.chunk(PARTS, dim=1)
    losses = in_parts(BatchShares(parts=PARTS), lambda part: entropy_gap(chunks[part]))
    torch.stack(losses).mean().backward()
    torch.testing.assert_close(torch.stack(losses).mean(), entropy_gap(logits))
    torch.testing.assert_close(divided.grad, whole.grad, rtol=1e-4, atol=1e-7)
    local = logits.clone().requires_grad_()
    torch.stack([entropy_gap(chunk) for chunk in local.chunk(PARTS, dim=1)]).mean().backward()
    assert (local.grad - whole.grad).abs().max() > 0.01 * whole.grad.abs().max()


def test_mean_of_selected_values_counts_those_of_all_parts():
    values = torch.arange(12.0)
    mask = torch.arange(12) > 4
    parts = in_parts(
        BatchShares(parts=PARTS),
        lambda part: masked_batch_mean(values.chunk(PARTS)[part], mask.chunk(PARTS)[part]),
    )
    assert torch.stack(parts).mean().item() == pytest.approx(values[mask].mean().item())
    assert masked_batch_mean(values, torch.zeros(12, dtype=torch.bool)).item() == 0


def test_parts_divide_the_draws_of_the_batch():
    def draw(size: int) -> tuple[Tensor, Tensor, Tensor]:
        integers = item_draws(partial(torch.randint, 0, 100), (size,))
        permuted = torch.empty(size, 5, 20).transpose(1, 2)
        return integers, batch_draws(torch.rand, (1,)), item_noise(permuted)

    torch.manual_seed(5)
    integers, shared, normal = draw(12)
    drawn = in_parts(BatchShares(parts=PARTS), lambda part: draw(3), seed=5)
    assert torch.equal(torch.cat([part[0] for part in drawn]), integers)
    assert all(torch.equal(part[1], shared) for part in drawn)
    assert torch.equal(torch.cat([part[2] for part in drawn]), normal)
    other = BatchShares(rank=1, world_size=2, parts=2)
    other.start_step(5)
    with other.computing(1):
        assert torch.equal(draw(3)[0], integers[1::2][3:])


def test_other_draws_differ_between_shares():
    drawn = in_parts(BatchShares(parts=PARTS), lambda part: torch.rand(()).item())
    assert len(set(drawn)) == PARTS


def test_state_changes_once_per_step():
    rows = torch.arange(8.0)[:, None]
    chunks = rows.chunk(PARTS)
    results = in_parts(
        BatchShares(parts=PARTS),
        lambda part: (batch_items(chunks[part]), batch_total(chunks[part].sum())),
    )
    assert torch.equal(results[0][0], rows) and [r[0] for r in results[1:]] == [None] * 3
    assert [r[1] for r in results[:3]] == [None] * 3 and results[3][1].item() == 28


def test_statistic_must_be_measured():
    shares = BatchShares(parts=2)
    shares.start_step(0)
    with pytest.raises(NotMeasuredError), shares.computing(0):
        batch_mean(torch.ones(()))
    assert shares.needs_measuring and batch_mean(torch.ones(())) == 1


def test_codebook_does_not_depend_on_the_parts():
    tokens = torch.randn(16, 4, 8, generator=torch.Generator().manual_seed(0))

    def quantizer() -> VectorQuantizer:
        torch.manual_seed(1)
        return VectorQuantizer(codebook_size=12, dim=8, learn="ema", revive=0.5)

    whole, divided = quantizer(), quantizer()
    shares = BatchShares(parts=PARTS)
    for step in range(3):
        torch.manual_seed(step)
        whole(tokens)
        in_parts(shares, lambda part: divided(tokens.chunk(PARTS)[part]), seed=step)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(divided.state_dict()[name], value)


# Every system


@pytest.fixture(scope="module")
def codes(tmp_path_factory) -> Path:
    """A tokenizer with codes, on which every generator can be trained."""
    folder = tmp_path_factory.mktemp("codes") / "vqvae"
    return run_system("vqvae", folder, {}).folder


def all_settings(system: str, settings: dict, codes: Path | None) -> dict:
    data = {"tokenizer": str(codes)} if system in GENERATORS else {"limit": 64}
    return SCHEDULE | data | settings


def run_system(system: str, folder: Path, settings: dict, codes: Path | None = None) -> Run:
    job = prepare_training(f"{system}-digits", folder, **all_settings(system, settings, codes))
    for _ in fit(job.model, job.data, job.train_config, job.run):
        pass
    return job.run


@pytest.fixture(scope="module")
def whole_runs(codes, tmp_path_factory) -> dict[str, Run]:
    """Every case, trained by one process in one part."""
    folder = tmp_path_factory.mktemp("whole")
    return {
        name: run_system(system, folder / name, settings, codes)
        for name, (system, settings) in CASES.items()
    }


@pytest.fixture(scope="module")
def process_runs(codes, tmp_path_factory) -> dict[str, Run]:
    """Every case, trained by two processes."""
    folder = tmp_path_factory.mktemp("processes")
    jobs = [
        (f"{system}-digits", str(folder / name), all_settings(system, settings, codes))
        for name, (system, settings) in CASES.items()
    ]
    processes = forked_python.start_group(TRAINER, json.dumps(jobs))
    assert [process.wait(900) for process in processes] == [0, 0], "see the captured stderr"
    return {name: Run(folder / name) for name in CASES}


def assert_close(one: Run, other: Run) -> None:
    """Compare the logged terms, AdamW's first moments, and codebooks and other running averages.

    In other weights, AdamW amplifies the rounding of gradients that are almost zero.
    """
    columns = [name for name in one.history() if name not in ("time", "lr")]
    torch.testing.assert_close(
        torch.tensor(other.history()[columns].to_numpy()),
        torch.tensor(one.history()[columns].to_numpy()),
        rtol=1e-4,
        atol=1e-6,
    )
    model = one.build()
    buffers = {name for name, _ in model.named_buffers()}
    expected = read_tensors(one.checkpoint())
    actual = read_tensors(other.checkpoint())
    names = [("optimizer", name) for name in expected["optimizer"] if name.endswith("exp_avg")]
    names += [("model", name) for name in expected["model"] if name in buffers]
    for group, name in names:
        scale = expected[group][name].abs().max().item()
        torch.testing.assert_close(
            actual[group][name],
            expected[group][name],
            rtol=1e-3,
            atol=1e-4 * scale + 1e-7,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_four_parts_equal_one(name, whole_runs, codes, tmp_path):
    system, settings = CASES[name]
    parts = run_system(system, tmp_path / "parts", settings | {"accumulation_steps": PARTS}, codes)
    assert_close(whole_runs[name], parts)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(name, whole_runs, process_runs):
    assert_close(whole_runs[name], process_runs[name])


@pytest.mark.slow
@pytest.mark.parametrize("system", VARIANTS)
def test_gradients_do_not_depend_on_the_parts(system, tmp_path):
    """In the middle of training, where every term has its full weight."""
    job = prepare_training(f"{system}-digits", tmp_path / "run", limit=64, **VARIANTS[system])
    model = job.model.train()
    model.set_progress(0.5)
    (images,) = job.data.batch(torch.arange(16))
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def step(parts: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        model.load_state_dict(state)
        model.zero_grad()
        chunks = images.chunk(parts)
        terms = in_parts(BatchShares(parts=parts), lambda p: model.objective(chunks[p]).total)
        torch.stack(terms).mean().backward()
        gradients = {
            name: parameter.grad.to_dense().clone()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
        return gradients, {name: value.clone() for name, value in model.state_dict().items()}

    expected = step(1)
    gradients, state_after = step(PARTS)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[0][name], rtol=1e-3, atol=1e-5, msg=name)
    for name, value in state_after.items():
        torch.testing.assert_close(value, expected[1][name], rtol=1e-4, atol=1e-6, msg=name)
