"""Passes over the held-out images and the samples, in which the collectors are called."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.collect.batches import Batches, count_rows
from workbench.collect.collectors import CollectContext, Collector
from workbench.collect.processes import Processes
from workbench.core.errors import NotApplicable
from workbench.core.progress import report_progress


@dataclass
class RowCounter:
    """The progress of a collection: the rows of all passes.

    Attributes
    ----------
    total : int
        The images or samples of all passes.
    done : int
        Those that are complete.
    """

    total: int
    done: float = 0

    def add(self, rows: float) -> None:
        """Report that more rows are complete."""
        self.done += rows
        report_progress(min(self.total, round(self.done)), self.total)


def run_pass(
    group: Sequence[Collector],
    model: Any,
    source: Batches[Any],
    context: CollectContext,
    processes: Processes,
    counter: RowCounter,
) -> None:
    """Call collectors for every batch that is not complete, and write what they return.

    Parameters
    ----------
    group : sequence of Collector
        The collectors, all of images or all of samples. One that does not apply is left out from
        then on.
    model : Tokenizer or Generator
        The model that the collectors call.
    source : Batches
        The images or the labels of the samples.
    context : CollectContext
        The context of the collection.
    processes : Processes
        This process. Each computes consecutive batches.
    counter : RowCounter
        The progress.
    """
    writer = context.writer
    work = " ".join(sorted(c.name for c in group))
    every_part = source.parts()
    parts = writer.missing(work, every_part)
    shard = processes.shard(parts)
    counter.add(count_rows(every_part) - count_rows(parts))
    # The progress is that of this process, as if all were equally fast.
    rows_per_row = count_rows(parts) / max(1, count_rows(shard))
    for part, batch in zip(shard, source.iterate(shard), strict=True):
        for collect_arrays in group:
            if collect_arrays.name not in writer.dropped:
                _collect_batch(collect_arrays, model, batch, context)
            counter.add(count_rows([part]) * rows_per_row / len(group))
        writer.complete(work, part)
    writer.record()


def run_once(
    collect_arrays: Collector, model: Any, context: CollectContext, processes: Processes
) -> None:
    """Call a collector of whole arrays in the main process, unless it is complete."""
    writer = context.writer
    everything = slice(0, 1)
    is_missing = bool(writer.missing(collect_arrays.name, [everything]))
    if not processes.is_main or not is_missing or collect_arrays.name in writer.dropped:
        return
    try:
        writer.write(collect_arrays(model, context.images, context))
    except NotApplicable as error:
        writer.drop(collect_arrays.name, str(error))
        return
    writer.complete(collect_arrays.name, everything)
    writer.record()


def _collect_batch(
    collect_arrays: Collector, model: Any, batch: Any, context: CollectContext
) -> None:
    try:
        context.writer.write(collect_arrays(model, batch, context), batch.rows)
    except NotApplicable as error:
        context.writer.drop(collect_arrays.name, str(error))
        context.writer.discard(collect_arrays.provides)
