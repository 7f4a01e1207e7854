"""The interface of collectors: functions from a model and held-out images to named arrays."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from workbench.collect.images import batch_slices
from workbench.collect.training_latents import TrainingLatents, encode_training_images
from workbench.core.errors import NotApplicable
from workbench.core.progress import report_progress
from workbench.data import ImageSet
from workbench.features import FeatureExtractor
from workbench.storage.run import Run
from workbench.tokenizers.base import Tokenizer

ModelKind = Literal["tokenizer", "generator"]
Arrays = dict[str, np.ndarray]
Part = TypeVar("Part")
PROGRESS_UNITS = 100  # per collector


@dataclass
class CollectContext:
    """Everything but the model and the images that a collector may need.

    Attributes
    ----------
    run : Run
        The run of the model.
    step : int
        The training step of its checkpoint.
    source : Run
        The tokenizer's run, which has the images; the same as `run` for a tokenizer.
    tokenizer : Tokenizer
        The tokenizer; for a tokenizer's run, the model itself.
    feature_extractor : FeatureExtractor
        The network whose features compare sets of images.
    device : torch.device
        Device of the model.
    limit : int
        Maximum number of held-out images, training images or samples.
    seed : int
        Seed of all random choices.
    guidance : float
        Scale of classifier-free guidance of samples.
    trust : sequence of str
        Modules outside this package from which classes may be imported.
    reference : Path, optional
        A file with statistics or images of a reference set.
    arrays : dict of str to ndarray
        The arrays that earlier collectors have returned.
    not_collected : dict of str to str
        The reason why arrays are missing, by the names of the arrays.
    index, count : int
        The position of the running collector among all, for the progress.
    """

    run: Run
    step: int
    source: Run
    tokenizer: Tokenizer
    feature_extractor: FeatureExtractor
    device: torch.device
    limit: int
    seed: int
    guidance: float
    trust: Sequence[str] = ()
    reference: Path | None = None
    arrays: Arrays = field(default_factory=dict)
    not_collected: dict[str, str] = field(default_factory=dict)
    index: int = 0
    count: int = 1

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        settings = self.source.config.settings
        return settings["channels"], settings["side"], settings["side"]

    @cached_property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the tokens; None if they have no position in the image."""
        return token_grid(self.tokenizer, self.source, self.device)

    @cached_property
    def training_latents(self) -> TrainingLatents:
        """The latents of a sample of the training images, encoded once for all collectors.

        Raises
        ------
        NotApplicable
            If the training images cannot be drawn, or have differing numbers of tokens.
        """
        return encode_training_images(self)

    @property
    def is_imported(self) -> bool:
        """True if the tokenizer was trained elsewhere."""
        return self.source.config.imported is not None

    def batches(self, images: ImageSet) -> Iterator[tuple[slice, Tensor]]:
        """Yield slices of the images with the images, float32 in [-1, 1], on the device."""
        for part in self.track(list(self.image_slices(len(images)))):
            yield part, images.images(part).to(self.device)

    @property
    def latents(self) -> np.ndarray:
        """The latents of the collected images.

        Raises
        ------
        NotApplicable
            If the tokenizer has only codes.
        """
        if "latents" not in self.arrays:
            raise NotApplicable(f"{self.source.name} has codes, but no latents.")
        return self.arrays["latents"]

    def image_slices(self, count: int) -> Iterator[slice]:
        """Yield slices of a number of images, as many as a batch may have."""
        return batch_slices(count, pixels=self.source.config.settings["side"] ** 2)

    def track(self, parts: Sequence[Part]) -> Iterator[Part]:
        """Iterate over parts of the running collector's work and report the progress."""
        for number, part in enumerate(parts):
            self.report(number / len(parts))
            yield part

    def report(self, fraction: float) -> None:
        """Report that a fraction of the running collector's work is done."""
        done = PROGRESS_UNITS * (self.index + fraction)
        report_progress(int(done), PROGRESS_UNITS * self.count)


def token_grid(tokenizer: Tokenizer, run: Run, device: torch.device) -> tuple[int, int] | None:
    """Return the rows and columns of a run's tokens; None if they have no position in the image."""
    settings = run.config.settings
    shape = (1, settings["channels"], settings["side"], settings["side"])
    return tokenizer.encode(torch.zeros(shape, device=device)).grid


CollectFunction = Callable[[Any, ImageSet, CollectContext], Arrays]


@dataclass(frozen=True)
class Collector:
    """A function that measures one quantity, and what it needs.

    Attributes
    ----------
    name : str
        Name of the function; `collect(only=..., skip=...)` uses it.
    function : callable
        Takes the model, the held-out images and a `CollectContext`; returns arrays by their names
        in `workbench.storage.evidence.Evidence`. It raises NotApplicable if the model does not
        have the quantity.
    models : tuple of {"tokenizer", "generator"}
        The kinds of models it is for.
    provides : tuple of str
        Names of the arrays that it may return.
    requires : tuple of str
        Names of the collectors whose arrays it reads from `context.arrays`.
    on_request : bool
        It is expensive, or few analyses need it: it runs only if it is named.
    """

    name: str
    function: CollectFunction
    models: tuple[ModelKind, ...]
    provides: tuple[str, ...]
    requires: tuple[str, ...]
    on_request: bool = False

    def __call__(self, model: Any, images: ImageSet, context: CollectContext) -> Arrays:
        """Collect the arrays."""
        return self.function(model, images, context)

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]


def collector(
    *models: ModelKind,
    provides: Sequence[str],
    requires: Sequence[str] = (),
    on_request: bool = False,
) -> Callable[[CollectFunction], Collector]:
    """Declare a function as a collector.

    Parameters
    ----------
    *models : {"tokenizer", "generator"}
        The kinds of models it is for.
    provides : sequence of str
        Names of the arrays that it may return.
    requires : sequence of str
        Names of the collectors whose arrays it reads from `context.arrays`.
    on_request : bool
        Run it only if it is named by `collect(also=...)` or `collect(only=...)`.

    Examples
    --------
    >>> @collector("tokenizer", provides=["complexity"])
    ... def complexity(model, images, context):
    ...     return {"complexity": images.complexity}
    >>> complexity.name, complexity.provides
    ('complexity', ('complexity',))
    """

    def declare(function: CollectFunction) -> Collector:
        return Collector(
            name=function.__name__,
            function=function,
            models=models,
            provides=tuple(provides),
            requires=tuple(requires),
            on_request=on_request,
        )

    return declare
