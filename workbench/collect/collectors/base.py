"""The interface of collectors: functions that compute named arrays of the evidence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from workbench.collect.batches import HeldOutImages
from workbench.collect.training_latents import TrainingLatents, encode_training_images
from workbench.core.errors import NotApplicable
from workbench.features import FeatureExtractor
from workbench.storage.evidence_writer import EvidenceWriter
from workbench.storage.run import Run
from workbench.tokenizers.base import Tokenizer

ModelKind = Literal["tokenizer", "generator"]
Axis = Literal["images", "samples"]
Arrays = dict[str, np.ndarray]
Built = TypeVar("Built")


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
    images : HeldOutImages
        The held-out images.
    feature_extractor : FeatureExtractor
        The network whose features compare sets of images.
    device : torch.device
        Device of the model.
    writer : EvidenceWriter
        The arrays that earlier collectors have written.
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
    """

    run: Run
    step: int
    source: Run
    tokenizer: Tokenizer
    images: HeldOutImages
    feature_extractor: FeatureExtractor
    device: torch.device
    writer: EvidenceWriter
    limit: int
    seed: int
    guidance: float
    trust: Sequence[str] = ()
    reference: Path | None = None
    _resources: dict[Callable[..., Any], Any] = field(default_factory=dict)

    @property
    def num_pictures(self) -> int:
        """Number of the first images whose pictures are stored."""
        return self.images.num_pictures

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.source.config.image_shape

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

    def resource(self, build: "Callable[[CollectContext], Built]") -> Built:
        """Return what a function of this context builds, built once for all batches.

        Parameters
        ----------
        build : callable
            Builds a network, for example. It may raise NotApplicable.
        """
        if build not in self._resources:
            self._resources[build] = build(self)
        return self._resources[build]

    def latents(self, rows: slice = slice(None)) -> np.ndarray:
        """Return the latents of some of the collected images.

        Raises
        ------
        NotApplicable
            If the tokenizer has only codes.
        """
        if "latents" not in self.writer:
            raise NotApplicable(f"{self.source.name} has codes, but no latents.")
        return self.writer.read("latents", rows)


def token_grid(tokenizer: Tokenizer, run: Run, device: torch.device) -> tuple[int, int] | None:
    """Return the rows and columns of a run's tokens; None if they have no position in the image."""
    return tokenizer.encode(torch.zeros(1, *run.config.image_shape, device=device)).grid


CollectFunction = Callable[[Any, Any, CollectContext], Arrays]


@dataclass(frozen=True)
class Collector:
    """A function that measures one quantity, and what it needs.

    Attributes
    ----------
    name : str
        Name of the function; `collect(only=..., skip=...)` uses it.
    function : callable
        Takes the model, images and a `CollectContext`; returns arrays by their names in
        `workbench.storage.evidence.Evidence`. It raises NotApplicable if the model does not have
        the quantity.
    models : tuple of {"tokenizer", "generator"}
        The kinds of models it is for.
    provides : tuple of str
        Names of the arrays that it may return.
    requires : tuple of str
        Names of the collectors whose arrays it reads from `context.writer`.
    over : {"images", "samples"} or None
        "images": called for every `ImageBatch`, and returns its rows. "samples": called for every
        `SampleBatch`. None: called once, with all `HeldOutImages`.
    on_request : bool
        It is expensive, or few analyses need it: it runs only if it is named.
    """

    name: str
    function: CollectFunction
    models: tuple[ModelKind, ...]
    provides: tuple[str, ...]
    requires: tuple[str, ...]
    over: Axis | None
    on_request: bool = False

    def __call__(self, model: Any, images: Any, context: CollectContext) -> Arrays:
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
    over: Axis | None = None,
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
        Names of the collectors whose arrays it reads from `context.writer`.
    over : {"images", "samples"}, optional
        Call the function for every batch of images or samples. By default it is called once.
    on_request : bool
        Run it only if it is named by `collect(also=...)` or `collect(only=...)`.

    Examples
    --------
    >>> @collector("tokenizer", provides=["complexity"], over="images")
    ... def complexity(model, batch, context):
    ...     return {"complexity": batch.complexity}
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
            over=over,
            on_request=on_request,
        )

    return declare
