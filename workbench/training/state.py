"""The state of training: a model, the moving average of its weights, and the optimizers."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from workbench.core.errors import RunError
from workbench.core.types import HasAdversary
from workbench.storage.checkpoint import read_tensors
from workbench.storage.run import Run
from workbench.training.config import TrainConfig, learning_rate

MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # state of a parameter in AdamW and SparseAdam


class TrainState:
    """Everything that a checkpoint holds.

    AdamW optimizes the dense parameters. Rows of sparse embedding tables are updated only on steps
    that select them; no momentum or weight decay is applied otherwise.

    Attributes
    ----------
    model : Module
        The model that is trained.
    ema : Module
        A copy of the model with the moving average of the weights.
    clip_groups : list of list of Parameter
        The parameters that AdamW optimizes, in groups whose gradients are clipped separately.
    optimizers : list of Optimizer
        AdamW and, for trainable sparse tables, SparseAdam.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.model = model
        self.config = config
        self.ema = copy.deepcopy(model).eval().requires_grad_(False)
        # Gathered once, as every step updates them.
        self._ema_parameters: list[Tensor] = list(self.ema.parameters())
        self._parameters: list[Tensor] = list(model.parameters())
        sparse = {
            id(module.weight): module.weight
            for module in model.modules()
            if isinstance(module, nn.Embedding) and module.sparse
        }
        matrices: list[nn.Parameter] = []
        vectors: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if id(parameter) in sparse:
                continue
            is_matrix = name.endswith("weight") and parameter.ndim > 1
            (matrices if is_matrix else vectors).append(parameter)
        self.clip_groups = _clip_groups(model, [*matrices, *vectors], apart=config.clip_apart)
        groups: list[dict[str, Any]] = [
            {"params": matrices},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                groups,
                lr=config.lr,
                betas=config.betas,
                weight_decay=config.weight_decay,
                fused=True,
            )
        ]
        tables = [table for table in sparse.values() if table.requires_grad]
        if tables:
            # The momentum and decay of AdamW would move rows long after they were last selected.
            sparse_lr = config.lr * config.sparse_lr_scale
            self.optimizers.append(torch.optim.SparseAdam(tables, lr=sparse_lr, betas=config.betas))

    def set_learning_rate(self, step: int, multiplier: float = 1.0) -> None:
        """Set the learning rate of a step, times a multiplier, in every optimizer."""
        scales = (1.0, self.config.sparse_lr_scale)
        for optimizer, scale in zip(self.optimizers, scales, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = multiplier * scale * learning_rate(self.config, step)

    @torch.no_grad()
    def update_ema(self, step: int) -> None:
        """Move the moving average towards the weights. Buffers are copied."""
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._ema_parameters, self._parameters, 1 - decay)
        for averaged, current in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            averaged.copy_(current)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors by name: model.*, ema.*, optimizer.<parameter>.*."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
        stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return _without_shared_memory(stored)

    def restore(self, run: Run) -> int:
        """Load the last checkpoint of a run and return its step; 0 if there is no checkpoint.

        Raises
        ------
        RunError
            If the checkpoint is damaged.
        """
        if not run.steps:
            return 0
        stored = read_tensors(run.checkpoint())
        self.model.load_state_dict(stored["model"])
        self.ema.load_state_dict(stored["ema"])
        for name, parameter in self.model.named_parameters():
            state = _parameter_state(stored["optimizer"], name, parameter.device)
            if state and state.keys() != MOMENTS:
                raise RunError(
                    f"{run.checkpoint()} is damaged (the optimizer state of {name} is "
                    f"{', '.join(sorted(state))} instead of {', '.join(sorted(MOMENTS))}). Delete "
                    "it to resume from the checkpoint before it."
                )
            if state:
                self._optimizer_of(parameter).state[parameter] = state
        return run.steps[-1]

    def _optimizer_of(self, parameter: nn.Parameter) -> torch.optim.Optimizer:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if any(parameter is candidate for candidate in group["params"]):
                    return optimizer
        return self.optimizers[0]


def _clip_groups(
    model: nn.Module, parameters: list[nn.Parameter], *, apart: bool
) -> list[list[nn.Parameter]]:
    """Separate the parameters of an adversary from the others, if there is one."""
    adversary = model.adversary if apart and isinstance(model, HasAdversary) else None
    if adversary is None:
        return [parameters]
    adversarial = {id(parameter) for parameter in adversary.parameters()}
    return [
        [parameter for parameter in parameters if id(parameter) not in adversarial],
        [parameter for parameter in parameters if id(parameter) in adversarial],
    ]


def _parameter_state(
    stored: dict[str, Tensor], name: str, device: torch.device
) -> dict[str, Tensor | int]:
    """Select the optimizer state of one parameter, in the types that its optimizer uses.

    SparseAdam counts steps in a Python integer, stored as an integer tensor. With a tensor,
    `beta ** step` would be rounded to single precision, and training would not resume to equal
    weights. Fused AdamW counts steps in a float tensor on the device of the parameter.
    """
    prefix = f"{name}."
    state: dict[str, Tensor | int] = {}
    for stored_name, value in stored.items():
        key = stored_name.removeprefix(prefix)
        # A dot in the key belongs to a parameter with a longer name.
        if stored_name.startswith(prefix) and "." not in key:
            if key == "step" and not value.is_floating_point():
                state[key] = int(value)
            else:
                state[key] = value.to(device)
    return state


def _without_shared_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share memory with an earlier one, as tied weights do."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return separate
