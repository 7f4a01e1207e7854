"""The origin of evidence, and the key by which an interrupted collection is recognized."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from workbench.collect.collectors import CollectContext, Collector
from workbench.collect.models import LoadedModels
from workbench.collect.options import CollectOptions
from workbench.collect.statistics import reference_name
from workbench.collect.versions import versions
from workbench.data import ImageSet
from workbench.features import FeatureExtractor
from workbench.storage.run import Run


def collection_key(
    run: Run,
    models: LoadedModels,
    options: CollectOptions,
    *,
    step: int,
    images: ImageSet,
    collectors: Sequence[Collector],
    extractor: FeatureExtractor,
    device: torch.device,
) -> dict[str, Any]:
    """Return everything that decides the arrays of a collection, as JSON stores it.

    Parameters
    ----------
    run : Run
        The run that receives the evidence.
    models : LoadedModels
        The models of the run.
    options : CollectOptions
        What to collect.
    step : int
        Training step of the checkpoint.
    images : ImageSet
        The held-out images.
    collectors : sequence of Collector
        The collectors to run.
    extractor : FeatureExtractor
        The network whose features are compared.
    device : torch.device
        The device of the models.

    Returns
    -------
    dict
        An interrupted collection with an equal key is resumed.
    """
    source = models.source
    return {
        "class": run.config.class_path,
        "settings": run.config.settings,
        "imported": None if run.config.imported is None else run.config.imported.model_dump(),
        "checkpoints": [
            _checkpoint_version(run, step),
            None if run is source else _checkpoint_version(source, run.tokenizer_step),
        ],
        "digest": models.digest,
        "options": asdict(options),
        "images": images.fingerprint,
        "n": len(images),
        "collectors": [c.name for c in collectors],
        "feature_extractor": extractor.name,
        "protocol": extractor.protocol,
        "device": device.type,
        "versions": versions(),
    }


def _checkpoint_version(run: Run, step: int | None) -> list[Any]:
    """Identify the weights of a checkpoint; those of an imported model are in its config."""
    if step is None or run.config.imported is not None:
        return [step]
    status = run.checkpoint(step).stat()
    return [step, status.st_size, status.st_mtime_ns]


def make_provenance(
    context: CollectContext,
    models: LoadedModels,
    *,
    feature_extractor_reason: str,
    not_collected: dict[str, str],
) -> dict[str, Any]:
    """Return the origin of the collected arrays.

    Parameters
    ----------
    context : CollectContext
        The context of the collection.
    models : LoadedModels
        The models that produced the arrays.
    feature_extractor_reason : str
        Why this network was used.
    not_collected : dict of str to str
        The reason why arrays are missing, by the names of the arrays.
    """
    run = context.run
    if models.generator is None:
        provenance = _of_tokenizer(context)
    else:
        provenance = _of_generator(context, models.generator.sampling_config())
    if context.num_pictures < len(context.images):
        provenance["pictures"] = context.num_pictures
    provenance |= {
        "run": run.name,
        "step": context.step,
        "class": run.config.class_path,
        "recipe": run.config.recipe,
        "changes": run.config.changes,
        "seed": context.seed,
        "feature_extractor": context.feature_extractor.name,
        "feature_extractor_reason": feature_extractor_reason,
        "protocol": context.feature_extractor.protocol,
        "reference": None if context.reference is None else reference_name(context.reference),
        "settings": run.config.settings,
        "versions": versions(),
        "training": run.config.training,
        "not_collected": not_collected,
    }
    if run.config.imported is not None:
        provenance["imported"] = run.config.imported.model_dump(mode="json")
    return provenance


def _of_tokenizer(context: CollectContext) -> dict[str, Any]:
    tokenizer = context.tokenizer
    images = context.images.image_set
    data = context.source.config.data
    return {
        "resize": None if data is None else data.resize,
        "data": images.source,
        "split": images.split,
        "names": images.names,
        "fingerprint": images.fingerprint,
        "n": len(images),
        "of": images.total,
        "excluded": list(images.skipped),
        "discrete": tokenizer.discrete and tokenizer.codebook is not None,
        "grid": context.grid,
        "teacher": context.feature_extractor.name,
    }


def _of_generator(context: CollectContext, sampling: dict[str, Any]) -> dict[str, Any]:
    data = context.source.config.data
    reference = context.run.config.tokenizer
    assert data is not None  # its images were loaded
    assert reference is not None  # its tokenizer was loaded
    has_samples = "samples" in context.writer
    return {
        "data": data.source,
        "names": data.names,
        # An imported generator was not trained on the part of a dataset without splits that
        # takes the place of its training images.
        "has_training_images": context.run.config.imported is None or data.split != "all",
        "tokenizer": reference.model_dump(),
        "n": context.writer.lengths["sample"] if has_samples else 0,
        "sampling": sampling | {"guidance": context.guidance, "seed": context.seed},
    }
