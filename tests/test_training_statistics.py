"""Statistics that training logs next to the loss: codes in use, held-out loss, memory."""

import math

import pytest
import torch
from PIL import Image
from seeded_weights import seeded_images
from torch import nn

from workbench.launch.in_process import prepare_training, train
from workbench.launch.setup import load_held_out
from workbench.storage.checkpoint import read_tensors
from workbench.training import fit
from workbench.training.statistics import CodeUsage

SMALL = {"num_tokens": 4, "width": 16, "depth": 1, "codebook_size": 16, "batch_size": 16}


class TwoCodebooks(nn.Module):
    codebook = torch.zeros(2, 4, 3)


def test_usage_of_codes_is_that_of_all_batches_since_the_last_record():
    usage = CodeUsage(TwoCodebooks())
    # Four tokens: the first two have codebook 0, the last two codebook 1. -1 is padding.
    usage.add(torch.tensor([[0, 0, 3, 3], [1, 1, 3, -1]]))
    usage.add(torch.tensor([[2, 2, 3, 3], [3, 3, 3, 3]]))
    # Codebook 0 uses its four codes evenly, and codebook 1 only one code.
    assert usage.take() == {"codes_used": pytest.approx(2.5), "perplexity": pytest.approx(2.5)}
    assert usage.take() == {}


@pytest.mark.parametrize(
    ("held_out", "labels"), [("abcd", {0, 1}), ("", None)], ids=["more classes", "no classes"]
)
def test_held_out_items_are_of_the_classes_of_the_generator(tmp_path, held_out, labels):
    folders = [f"train/{name}" for name in "ab"] + ([f"val/{n}" for n in held_out] or ["val"])
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        for i, image in enumerate(seeded_images(4, 16, 16)):
            Image.fromarray(image).save(tmp_path / folder / f"{i}.png")
    settings = {"width": 16, "depth": 1, "batch_size": 4, "steps": 2, "collect": False}
    train("ae-photos", tmp_path / "ae", data=tmp_path, side=16, num_tokens=4, **settings)
    run = train("sit-photos", tmp_path / "sit", tokenizer=tmp_path / "ae", **settings)
    assert run.config.settings["classes"] == 2
    items = load_held_out(run)
    assert (None if items is None else set(items[1].tolist())) == labels


def test_held_out_loss_is_logged_and_does_not_change_training(tmp_path):
    runs = []
    for name in ("with", "without"):
        settings = {**SMALL, "steps": 20, "warmup_steps": 5}
        job = prepare_training("vqvae-digits", tmp_path / name, **settings)
        held_out = load_held_out(job.run) if name == "with" else None
        for _ in fit(job.model, job.data, job.train_config, job.run, held_out):
            pass
        runs.append(job.run)
    first, second = (read_tensors(run.checkpoint())["model"] for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    statistics = runs[0].statistics()
    assert statistics["step"].tolist() == [10, 20]
    assert statistics["held_out_pixel"].between(0, math.inf, inclusive="neither").all()
    assert (statistics["perplexity"] <= statistics["codes_used"]).all()
    assert "held_out_pixel" not in runs[1].statistics()
    runs[0].rewind(10)
    assert runs[0].statistics()["step"].tolist() == [10]
