"""Runs the collectors of a model and saves their arrays."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from workbench.collect.batches import HeldOutImages, SampleLabels
from workbench.collect.collectors import CollectContext, Collector, ModelKind
from workbench.collect.images import load_images
from workbench.collect.models import LoadedModels, load_models
from workbench.collect.options import MAX_PICTURES, CollectOptions
from workbench.collect.passes import RowCounter, run_once, run_pass
from workbench.collect.processes import Processes
from workbench.collect.provenance import collection_key, make_provenance
from workbench.collect.sampling import guidance_scale, sample_labels
from workbench.collect.selection import select_collectors, stages
from workbench.core.progress import report_progress
from workbench.data import ImageSet
from workbench.features import get_feature_extractor
from workbench.features.default import AUTO, choose_feature_extractor
from workbench.storage.evidence import Evidence
from workbench.storage.evidence_writer import EvidenceWriter
from workbench.storage.run import Run


def collect(
    run: Run,
    *,
    step: int | None = None,
    limit: int = 2000,
    pictures: int = MAX_PICTURES,
    samples: int | None = None,
    seed: int = 0,
    guidance: float = 2.0,
    feature_extractor: str = AUTO,
    reference: str | Path | None = None,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    also: Iterable[str] = (),
    trust: Sequence[str] = (),
    processes: Processes | None = None,
) -> Evidence:
    """Run a model on held-out images, and save the arrays as the evidence of its checkpoint.

    The arrays are written batch by batch. If the process is killed, the same call resumes where it
    was, and gives the same arrays. The progress is reported to
    `workbench.core.progress.progress_listener`, in images and samples. Evidence that the checkpoint
    already has is replaced at the end.

    Parameters
    ----------
    run : Run
        The run of a tokenizer or a generator.
    step : int, optional
        Training step of the checkpoint; None uses the last one.
    limit : int
        Maximum number of held-out images and of training images, and of samples without `samples`.
    pictures : int
        Maximum number of held-out images whose pictures and reconstructions are stored. They are
        stratified by class, and come first. All images contribute numbers.
    samples : int, optional
        Number of samples of a generator, equally many of every class. By default 64 per class, or
        640 in all if those are more, but at most `limit`.
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
    processes : Processes, optional
        This process among those that collect together; see `joined_processes`.

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
    options = CollectOptions(
        limit=limit,
        pictures=pictures,
        samples=samples,
        seed=seed,
        guidance=guidance,
        feature_extractor=feature_extractor,
        reference=None if reference is None else Path(reference),
        only=tuple(only),
        skip=tuple(skip),
        also=tuple(also),
        trust=tuple(trust),
    )
    models = load_models(run, step, trust)
    return collect_from(run, models, options, step=step, processes=processes)


def collect_from(
    run: Run,
    models: LoadedModels,
    options: CollectOptions,
    *,
    step: int,
    processes: Processes | None = None,
) -> Evidence:
    """Collect the evidence of models that are in memory.

    Parameters
    ----------
    run : Run
        The run that receives the evidence.
    models : LoadedModels
        The models of the run, in evaluation mode.
    options : CollectOptions
        What to collect.
    step : int
        Training step of the checkpoint.
    processes : Processes, optional
        This process among those that collect together.

    Returns
    -------
    Evidence
        The saved evidence, opened.
    """
    processes = processes or Processes()
    unfinished = run.folder / "evidence" / f".step-{step:06d}.unfinished"
    if processes.is_main:
        with run.collecting(step):
            _Collection(run, models, options, step, processes).run_in(unfinished)
    else:
        _Collection(run, models, options, step, processes).run_in(unfinished)
    return run.evidence(step)


class _Collection:
    """The collection of one checkpoint: its models, images and collectors.

    Parameters
    ----------
    run : Run
        The run that receives the evidence.
    models : LoadedModels
        The models of the run, in evaluation mode.
    options : CollectOptions
        What to collect.
    step : int
        Training step of the checkpoint.
    processes : Processes
        This process.
    """

    def __init__(
        self,
        run: Run,
        models: LoadedModels,
        options: CollectOptions,
        step: int,
        processes: Processes,
    ) -> None:
        kind: ModelKind = "tokenizer" if models.generator is None else "generator"
        self.run = run
        self.models = models
        self.options = options
        self.step = step
        self.processes = processes
        # A reference that the user names is read, also if --only names other collectors.
        named_reference = () if options.reference is None else ("reference",)
        self.collectors = select_collectors(
            kind,
            only=options.only,
            skip=options.skip,
            also=(*options.also, *named_reference),
        )
        self.network = choose_feature_extractor(options.feature_extractor)
        self.tokenizer = models.tokenizer.to(processes.device)
        if models.generator is not None:
            models.generator.to(processes.device)
        self.images = HeldOutImages(
            _held_out_images(run, models.source, options.limit, options.seed),
            self.tokenizer,
            processes.device,
            num_pictures=options.pictures,
            seed=options.seed,
        )

    def run_in(self, folder: Path) -> None:
        """Compute what is missing in a folder, and publish it as the evidence."""
        channels = self.models.source.config.settings["channels"]
        extractor = get_feature_extractor(self.network.name, channels=channels)
        samples = self._samples()
        lengths = {
            "image": len(self.images),
            "picture": self.images.num_pictures,
            "sample": len(samples),
        }
        key = collection_key(
            self.run,
            self.models,
            self.options,
            step=self.step,
            images=self.images.image_set,
            collectors=self.collectors,
            extractor=extractor,
            device=self.processes.device,
        )
        if self.processes.is_main:
            EvidenceWriter.start(folder, key)
        self.processes.wait()
        context = CollectContext(
            run=self.run,
            step=self.step,
            source=self.models.source,
            tokenizer=self.tokenizer,
            images=self.images,
            feature_extractor=extractor,
            device=self.processes.device,
            writer=EvidenceWriter(folder, lengths, self.processes.rank),
            limit=self.options.limit,
            seed=self.options.seed,
            guidance=self._guidance(),
            trust=self.options.trust,
            reference=self.options.reference,
        )
        self.processes.wait()
        with torch.no_grad():
            self._run_collectors(context, samples)
        if self.processes.is_main:
            self._publish(folder, context)
        self.processes.wait()

    def _samples(self) -> SampleLabels:
        generator = self.models.generator
        labels = torch.zeros(0, dtype=torch.long)
        if generator is not None:
            options = self.options
            labels = sample_labels(generator.config.classes, options.limit, options.samples)
        return SampleLabels(labels, self.options.seed)

    def _guidance(self) -> float:
        guidance = self.options.guidance
        if self.models.generator is None:
            return guidance
        return guidance_scale(self.models.generator, guidance)

    def _run_collectors(self, context: CollectContext, samples: SampleLabels) -> None:
        model = self.models.generator or self.tokenizer
        groups = list(stages(self.collectors))
        sources: dict[str, Any] = {"images": self.images, "samples": samples}
        sizes = {name: len(source) for name, source in sources.items()}
        total = sum(sizes[group[0].over] for group in groups if group[0].over is not None)
        counter = RowCounter(total=max(1, total))
        counter.add(0)
        for group in groups:
            axis = group[0].over
            if axis is None:
                run_once(group[0], model, context, self.processes)
            else:
                run_pass(group, model, sources[axis], context, self.processes, counter)
            self.processes.wait()
        report_progress(counter.total, counter.total)

    def _publish(self, folder: Path, context: CollectContext) -> None:
        # Opened again, because the other processes have also left out collectors.
        writer = EvidenceWriter(folder, context.writer.lengths)
        provenance = make_provenance(
            context,
            self.models,
            feature_extractor_reason=self.network.reason,
            not_collected=not_collected(self.collectors, writer.dropped),
        )
        writer.publish(self.run.evidence_folder(self.step), provenance)


def not_collected(selected: Sequence[Collector], dropped: dict[str, str]) -> dict[str, str]:
    """Return the reasons why arrays are missing, by the names of the arrays."""
    return {name: dropped[c.name] for c in selected if c.name in dropped for name in c.provides}


def _held_out_images(run: Run, source: Run, limit: int, seed: int) -> ImageSet:
    """Return the images to collect from.

    An imported tokenizer was not trained on any image of the dataset, so all of it may be
    evaluated.
    """
    is_imported = source.config.imported is not None
    split = "all" if is_imported and run is source else "test"
    return load_images(source, split, sample=limit, seed=seed)
