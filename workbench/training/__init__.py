"""Training of any model with an `objective`, one step at a time, resumable at every step.

The batch, the learning rate and the seed are functions of the step, so a run that was interrupted
and resumed has equal weights to a run that was not. With several processes (`accelerate launch`,
`torchrun`) each process computes an equal part of every batch.
"""

from workbench.core.types import Dataset, MapDataset, StreamDataset
from workbench.training.config import TrainConfig, learning_rate
from workbench.training.dataloading import Rank
from workbench.training.loop import fit
from workbench.training.recorder import TrainRecord
from workbench.training.state import TrainState

__all__ = [
    "Dataset",
    "MapDataset",
    "Rank",
    "StreamDataset",
    "TrainConfig",
    "TrainRecord",
    "TrainState",
    "fit",
    "learning_rate",
]
