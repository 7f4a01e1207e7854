"""The memory and time of a step, measured before a training starts."""

import pytest
import torch
from torch import nn

from workbench.core.errors import UserError
from workbench.launch.in_process import train
from workbench.launch.step_cost import (
    ForwardCost,
    check_memory,
    long_step_warning,
    measured_forward,
)


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 1000), nn.GELU(), nn.Linear(1000, 10))


def test_saved_tensors_are_the_inputs_of_layers(network):
    with measured_forward(network) as cost:
        network(torch.randn(4, 10)).sum()
    assert cost.saved_bytes == 4 * 4 * (10 + 1000 + 1000) and cost.seconds > 0


def test_memory_grows_with_the_items_and_the_weights(network):
    cost = ForwardCost(saved_bytes=1000)
    weights = 4 * (10 * 1000 + 1000 + 1000 * 10 + 10)
    needed = 3 * weights + 1000 * 64 / 2
    check_memory(cost, network, measured=2, items=64, available_bytes=needed)
    with pytest.raises(UserError):
        check_memory(cost, network, measured=2, items=64, available_bytes=needed - 1)


def test_only_long_steps_have_a_warning():
    assert long_step_warning(ForwardCost(seconds=0.1), measured=2, items=64) is None
    assert "2 minutes" in long_step_warning(ForwardCost(seconds=1.25), measured=2, items=64)


def test_training_that_does_not_fit_into_memory_is_refused(tmp_path):
    with pytest.raises(UserError, match="GB"):
        train("ae-digits", tmp_path / "a", batch_size=10**8)
    assert not (tmp_path / "a").exists()
