"""A model with its optimisers and its running average: all that a checkpoint holds."""

import copy

import torch
from torch import Tensor, nn

from workbench.storage.atomic import read_tensors
from workbench.storage.run import Run
from workbench.training.config import TrainConfig, learning_rate


class TrainState:
    """AdamW for what is dense. A sparse table's rows move when they are hit, and are never pulled or pushed else."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.model, self.config = model, config
        self.ema = copy.deepcopy(model).eval().requires_grad_(False)
        # Gathered once, as every step moves them.
        self._averaged = list(self.ema.parameters()), list(model.parameters())
        tables = {
            id(m.weight): m.weight
            for m in model.modules()
            if isinstance(m, nn.Embedding) and m.sparse
        }
        dense = {name: p for name, p in model.named_parameters() if id(p) not in tables}
        matrices = [p for n, p in dense.items() if n.endswith("weight") and p.ndim > 1]
        others = [p for n, p in dense.items() if not (n.endswith("weight") and p.ndim > 1)]
        groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        self.dense = [*matrices, *others]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                groups,
                lr=config.lr,
                betas=config.betas,
                weight_decay=config.weight_decay,
                fused=True,
            )
        ]
        if tables := [p for p in tables.values() if p.requires_grad]:
            # Dense Adam's momentum and decay would go on moving rows long after their last hit.
            self.optimizers.append(
                torch.optim.SparseAdam(
                    tables, lr=config.lr * config.sparse_lr_scale, betas=config.betas
                )
            )

    def set_rate(self, step: int, multiplier: float = 1.0) -> None:
        """Give every optimiser the learning rate of a step, times a multiplier."""
        for optimizer, share in zip(
            self.optimizers, (1.0, self.config.sparse_lr_scale), strict=False
        ):
            for group in optimizer.param_groups:
                group["lr"] = multiplier * share * learning_rate(self.config, step)

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the average towards the weights."""
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(*self._averaged, 1 - decay)
        for mine, its in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            mine.copy_(its)

    def state(self) -> dict[str, Tensor]:
        """Everything, flat: model.*, average.*, optimizer.<parameter>.*."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
        return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}

    def restore(self, run: Run) -> int:
        """Go on from the run's last checkpoint; returns its step, or 0 if there is none."""
        if not run.steps:
            return 0
        state = read_tensors(run.checkpoint())
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        for name, parameter in self.model.named_parameters():
            prefix = f"{name}."
            found = {
                k.removeprefix(prefix): v
                for k, v in state["optimizer"].items()
                if k.startswith(prefix)
            }
            kept = {
                k: v if k == "step" else v.to(parameter.device)
                for k, v in found.items()
                if "." not in k
            }
            if kept:
                self._optimizer_of(parameter).state[parameter] = kept
        return run.steps[-1]

    def _optimizer_of(self, parameter: nn.Parameter) -> torch.optim.Optimizer:
        mine = (
            o
            for o in self.optimizers
            if any(parameter is p for g in o.param_groups for p in g["params"])
        )
        return next(mine, self.optimizers[0])
