"""Runs the collectors of a model and saves their arrays."""

from collections.abc import Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.collect.collectors import CollectContext, Collector, ModelKind, collectors
from workbench.collect.images import load_images
from workbench.collect.models import LoadedModels, load_models
from workbench.collect.sampling import guidance_scale
from workbench.collect.statistics import reference_name
from workbench.collect.versions import versions
from workbench.core.errors import NotApplicable, UserError, unknown
from workbench.data import ImageSet
from workbench.features import get_feature_extractor
from workbench.features.default import AUTO, choose_feature_extractor
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run


def collect(
    run: Run,
    *,
    step: int | None = None,
    limit: int = 2000,
    seed: int = 0,
    guidance: float = 2.0,
    feature_extractor: str = AUTO,
    reference: str | Path | None = None,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    also: Iterable[str] = (),
    trust: Sequence[str] = (),
) -> Evidence:
    """Run a model on held-out images, and save the arrays as the evidence of its checkpoint.

    The progress is reported to `workbench.core.progress.progress_listener`. Evidence that the
    checkpoint already has is replaced.

    Parameters
    ----------
    run : Run
        The run of a tokenizer or a generator.
    step : int, optional
        Training step of the checkpoint; None uses the last one.
    limit : int
        Maximum number of held-out images, of training images and of samples. A generator draws at
        most 64 samples per class.
    seed : int
        Seed of all random choices.
    guidance : float
        Scale of classifier-free guidance of a generator's samples.
    feature_extractor : str
        Name of the network whose features compare sets of images: inception, dinov2,
        efficientnet, hog, ... `auto` uses the first of these that needs no download.
    reference : path, optional
        A file of reference statistics or images, such as those of ADM's evaluator.
    only, skip : iterable of str
        Names of collectors: run only these (and those whose arrays they need), or leave these out.
        `workbench.collect.collectors.collectors()` has all of them.
    also : iterable of str
        Names of collectors that run only on request, to run besides the others.
    trust : sequence of str
        Modules outside this package from which the run's classes may be imported.

    Returns
    -------
    Evidence
        The saved evidence, opened.

    Raises
    ------
    RunError
        If the run has no such checkpoint, its images have changed, or another process is collecting
        the same evidence.
    UserError
        If a collector or a feature extractor does not exist.
    """
    step = run.find_step(step)
    models = load_models(run, step, trust)
    return collect_from(
        run,
        models,
        step=step,
        limit=limit,
        seed=seed,
        guidance=guidance,
        feature_extractor=feature_extractor,
        reference=reference,
        only=only,
        skip=skip,
        also=also,
        trust=trust,
    )


def collect_from(
    run: Run,
    models: LoadedModels,
    *,
    step: int,
    limit: int = 2000,
    seed: int = 0,
    guidance: float = 2.0,
    feature_extractor: str = AUTO,
    reference: str | Path | None = None,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    also: Iterable[str] = (),
    trust: Sequence[str] = (),
) -> Evidence:
    """Collect the evidence of models that are in memory.

    Parameters
    ----------
    run : Run
        The run that receives the evidence.
    models : LoadedModels
        Its models.
    step : int
        Training step of the checkpoint.
    limit, seed, guidance, feature_extractor, reference, only, skip, also, trust
        As for `collect`.

    Returns
    -------
    Evidence
        The saved evidence, opened.
    """
    with run.collecting(step):
        return _collect(
            run,
            models,
            step=step,
            limit=limit,
            seed=seed,
            guidance=guidance,
            feature_extractor=feature_extractor,
            reference=None if reference is None else Path(reference),
            only=only,
            skip=skip,
            also=also,
            trust=trust,
        )


def _collect(
    run: Run,
    models: LoadedModels,
    *,
    step: int,
    limit: int,
    seed: int,
    guidance: float,
    feature_extractor: str,
    reference: Path | None,
    only: Iterable[str],
    skip: Iterable[str],
    also: Iterable[str],
    trust: Sequence[str],
) -> Evidence:
    """Collect the evidence of a checkpoint under its lock."""
    kind: ModelKind = "tokenizer" if models.generator is None else "generator"
    selected = select_collectors(kind, only=only, skip=skip, also=also)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: nn.Module
    sampling: dict[str, Any] | None = None
    tokenizer = models.tokenizer.to(device)
    if models.generator is None:
        model = tokenizer
    else:
        model = models.generator.to(device)
        guidance = guidance_scale(models.generator, guidance)
        sampling = models.generator.sampling_config()
    channels = models.source.config.settings["channels"]
    selected_network = choose_feature_extractor(feature_extractor)
    context = CollectContext(
        run=run,
        step=step,
        source=models.source,
        tokenizer=tokenizer,
        feature_extractor=get_feature_extractor(selected_network.name, channels=channels),
        device=device,
        limit=limit,
        seed=seed,
        guidance=guidance,
        trust=trust,
        reference=reference,
        count=len(selected),
    )
    images = _held_out_images(run, models.source, limit, seed)
    with torch.no_grad():
        _run_collectors(selected, model, images, context)
        if sampling is None:
            provenance = _tokenizer_provenance(images, context)
        else:
            provenance = _generator_provenance(sampling, context)
    provenance |= {
        "run": run.name,
        "step": step,
        "class": run.config.class_path,
        "recipe": run.config.recipe,
        "changes": run.config.changes,
        "seed": seed,
        "feature_extractor": context.feature_extractor.name,
        "feature_extractor_reason": selected_network.reason,
        "protocol": context.feature_extractor.protocol,
        "reference": None if reference is None else reference_name(reference),
        "settings": run.config.settings,
        "versions": versions(),
        "training": run.config.training,
        "not_collected": context.not_collected,
    }
    if run.config.imported is not None:
        provenance["imported"] = run.config.imported.model_dump(mode="json")
    evidence = Evidence(provenance=provenance, **context.arrays)
    evidence.save(run.folder / "evidence" / f"step-{step:06d}")
    return run.evidence(step)


def _held_out_images(run: Run, source: Run, limit: int, seed: int) -> ImageSet:
    """Return the images to collect from.

    An imported tokenizer was not trained on any image of the data set, so all of it may be
    evaluated.
    """
    is_imported = source.config.imported is not None
    split = "all" if is_imported and run is source else "test"
    return load_images(source, split, sample=limit, seed=seed)


def select_collectors(
    kind: ModelKind,
    *,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    also: Iterable[str] = (),
) -> list[Collector]:
    """Return the collectors for a kind of model, each after those that it requires.

    Parameters
    ----------
    kind : {"tokenizer", "generator"}
        The kind of model.
    only : iterable of str
        Names of collectors; those that they require are added. Empty selects all but those that
        run only on request.
    skip : iterable of str
        Names of collectors to leave out.
    also : iterable of str
        Names of collectors to add.

    Raises
    ------
    UserError
        If a name is unknown, or a collector to leave out is required by a selected one.
    """
    available = {name: c for name, c in collectors().items() if kind in c.models}
    only, skip, also = tuple(only), tuple(skip), tuple(also)
    for name in (*only, *skip, *also):
        if name not in collectors():
            raise unknown("collector", name, collectors())
    for name in also:
        if name not in available:
            raise UserError(f"{name} is no collector for a {kind}.")
    selected: dict[str, Collector] = {}

    def add(name: str) -> None:
        if name in selected:
            return
        selected[name] = available[name]
        for required in available[name].requires:
            if required in skip:
                raise UserError(f"{required} cannot be skipped: {name} requires it.")
            add(required)

    for name in (*(only or _by_default(available)), *also):
        if name in available and name not in skip:
            add(name)
    if not selected:
        raise UserError(f"No collector is selected for a {kind}.")
    graph = {name: c.requires for name, c in sorted(selected.items())}
    return [selected[name] for name in TopologicalSorter(graph).static_order()]


def _by_default(available: Mapping[str, Collector]) -> list[str]:
    return [name for name, collector in available.items() if not collector.on_request]


def _run_collectors(
    selected: Sequence[Collector], model: nn.Module, images: ImageSet, context: CollectContext
) -> None:
    for index, collect_arrays in enumerate(selected):
        context.index = index
        context.report(0.0)
        try:
            arrays = collect_arrays(model, images, context)
        except NotApplicable as error:
            context.not_collected |= dict.fromkeys(collect_arrays.provides, str(error))
            continue
        context.arrays |= arrays
    context.report(1.0)


def _tokenizer_provenance(images: ImageSet, context: CollectContext) -> dict[str, Any]:
    tokenizer = context.tokenizer
    data = context.source.config.data
    return {
        "resize": None if data is None else data.resize,
        "data": images.source,
        "split": images.split,
        "names": images.names,
        "fingerprint": images.fingerprint,
        "n": len(images),
        "of": images.total,
        "discrete": tokenizer.discrete and tokenizer.codebook is not None,
        "grid": context.grid,
        "teacher": context.feature_extractor.name,
    }


def _generator_provenance(sampling: dict[str, Any], context: CollectContext) -> dict[str, Any]:
    data = context.source.config.data
    reference = context.run.config.tokenizer
    assert data is not None  # its images were loaded
    assert reference is not None  # its tokenizer was loaded
    return {
        "data": data.source,
        "names": data.names,
        "tokenizer": reference.model_dump(),
        "n": len(context.arrays.get("samples", ())),
        "sampling": sampling | {"guidance": context.guidance, "seed": context.seed},
    }
