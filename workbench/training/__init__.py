"""One loop that trains anything with an `objective`, one step at a time, and can be killed at any of them.

The batch, the learning rate and the seed are functions of the step: a run that was interrupted and resumed has equal
weights to one that was not. On several processes (`accelerate launch`, `torchrun`) each takes its share of a batch.
"""

from workbench.training.config import TrainConfig, learning_rate
from workbench.training.dataloading import MapDataset, Rank, StreamDataset
from workbench.training.loop import fit
from workbench.training.recorder import TrainRecord
from workbench.training.state import TrainState

__all__ = [
    "MapDataset",
    "Rank",
    "StreamDataset",
    "TrainConfig",
    "TrainRecord",
    "TrainState",
    "fit",
    "learning_rate",
]
