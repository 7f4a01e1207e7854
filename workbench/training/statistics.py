"""Statistics of training that are not minimized: use of the codebook, held-out loss, memory.

They are logged with the terms of the loss, to the file `statistics.jsonl` of the run.
"""

import sys

import torch
from torch import Tensor, nn

from workbench.core.types import HasCodebook, Trainable
from workbench.training.config import TrainConfig

MAX_HELD_OUT_EVALUATIONS = 50  # of one training, approximately
KIBIBYTE = 1024
HELD_OUT_PREFIX = "held_out_"


class CodeUsage:
    """Counts how often each code was selected since the last record.

    Each step adds to counts on the device of the codes, so that only a record waits for it. With
    several processes, the counts are those of the main process.

    Parameters
    ----------
    model : Module
        The model. One without a codebook has no counts.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._counts: Tensor | None = None  # (codebooks, codes)

    @torch.no_grad()
    def add(self, codes: Tensor) -> None:
        """Count the codes of one batch, shape (batch, tokens); -1 is padding."""
        if self._counts is None:
            if not isinstance(self._model, HasCodebook) or self._model.codebook is None:
                return
            shape = self._model.codebook.shape[:2]
            self._counts = torch.zeros(shape, device=codes.device)
        num_books, size = self._counts.shape
        # Codebook i serves the i-th of equal blocks of tokens.
        blocks = codes.reshape(len(codes), num_books, -1)
        offsets = size * torch.arange(num_books, device=codes.device)[:, None]
        is_code = (blocks >= 0).to(self._counts.dtype)
        indices = (blocks.clamp(min=0) + offsets).flatten()
        self._counts.view(-1).index_add_(0, indices, is_code.flatten())

    def take(self) -> dict[str, float]:
        """Return the used codes and the perplexity, and start counting again.

        Both are means over the codebooks. Without counts, nothing is returned.
        """
        if self._counts is None or not self._counts.any():
            return {}
        shares = self._counts / self._counts.sum(dim=1, keepdim=True).clamp(min=1)
        entropy = torch.special.entr(shares).sum(dim=1)
        used = (self._counts > 0).float().sum(dim=1)
        values = torch.stack([used.mean(), entropy.exp().mean()]).tolist()
        self._counts.zero_()
        return {"codes_used": values[0], "perplexity": values[1]}


class HeldOutLoss:
    """The loss of one fixed batch of held-out items, with the averaged weights.

    Parameters
    ----------
    batch : tuple of Tensor
        The arguments of the objective.
    config : TrainConfig
        The training settings: their seed fixes the random draws of the loss.
    """

    def __init__(self, batch: tuple[Tensor, ...], config: TrainConfig) -> None:
        self._batch = batch
        self._seed = config.seed
        self._steps = config.steps
        # A multiple of log_every, so that a resumed run evaluates the same steps.
        num_records = config.steps // config.log_every
        self._interval = config.log_every * max(1, num_records // MAX_HELD_OUT_EVALUATIONS)

    @torch.no_grad()
    def compute(self, step: int, model: nn.Module) -> dict[str, float]:
        """Return the terms of the loss, with a prefix; nothing if it is not due yet.

        Parameters
        ----------
        step : int
            The finished steps.
        model : Module
            The model with the moving average of the weights, in evaluation mode.
        """
        is_due = step % self._interval == 0 or step == self._steps
        if not is_due or not isinstance(model, Trainable):
            return {}
        device = next(model.parameters()).device
        batch = [tensor.to(device) for tensor in self._batch]
        with torch.random.fork_rng():
            torch.manual_seed(self._seed)
            terms = model.objective(*batch).terms
        return {f"{HELD_OUT_PREFIX}{name}": float(value) for name, value in terms.items()}


def peak_memory_bytes() -> int:
    """Return the largest memory so far: of the GPU if there is one, otherwise of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        return 0  # the standard library has no such number there
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * KIBIBYTE)
