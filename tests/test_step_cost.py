"""The memory and time of a step, estimated before a training starts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from workbench.core.errors import UserError
from workbench.launch import step_cost
from workbench.launch.in_process import train
from workbench.launch.step_cost import ForwardCost, check_step, extrapolate, measure_forward


class Codebook(nn.Module):
    """Scores of items by normalized codewords, which are saved once for any number of items."""

    def __init__(self) -> None:
        super().__init__()
        self.codewords = nn.Parameter(torch.randn(1000, 10))

    def forward(self, x):
        return x @ F.normalize(self.codewords).T


def read(count: int) -> tuple[torch.Tensor]:
    return (torch.randn(count, 10),)


def test_saved_tensors_are_the_inputs_of_layers():
    network = nn.Sequential(nn.Linear(10, 1000), nn.GELU(), nn.Linear(1000, 10))
    cost = measure_forward(network, lambda batch: network(*batch).sum(), read(4))
    assert cost.saved_bytes == 4 * 4 * (10 + 1000 + 1000) and cost.seconds > 0


def test_extrapolation_counts_what_all_items_share_once():
    few = ForwardCost(items=2, seconds=3.0, saved_bytes=1020)
    more = ForwardCost(items=4, seconds=5.0, saved_bytes=1040)
    cost = extrapolate(few, more, 64)
    assert (cost.seconds, cost.saved_bytes) == (1 + 64, 1000 + 640)


def test_large_codebook_does_not_refuse_a_large_batch(monkeypatch):
    book = Codebook()
    cost = measure_forward(book, lambda batch: book(*batch).sum(), read(2))
    items = 10_000
    proportional = cost.saved_bytes * items / 2
    # Less than if the codebook were saved for each item, and more than enough for one.
    monkeypatch.setattr(step_cost, "available_bytes", lambda: proportional / 10)
    check_step(book, lambda batch: book(*batch).sum(), read, items=items)
    monkeypatch.setattr(step_cost, "available_bytes", lambda: 3 * 40_000 + 40 * items)
    with pytest.raises(UserError):
        check_step(book, lambda batch: book(*batch).sum(), read, items=items)


def test_training_that_does_not_fit_into_memory_is_refused(tmp_path):
    with pytest.raises(UserError, match="GB"):
        train("ae-digits", tmp_path / "a", batch_size=10**8)
    assert not (tmp_path / "a").exists()
