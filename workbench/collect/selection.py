"""Selection of collectors, and their order."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import TopologicalSorter

from workbench.collect.collectors import Collector, ModelKind, collectors
from workbench.core.errors import UserError, unknown


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
            raise UserError(f"{name} is not a collector for a {kind}.")
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


def stages(selected: Sequence[Collector]) -> Iterator[list[Collector]]:
    """Yield the collectors in groups that are computed together, in one pass over their batches.

    Each group comes after the collectors that it requires. Collectors that are called once are
    groups of their own.
    """
    remaining = list(selected)
    done: set[str] = set()
    while remaining:
        ready = [c for c in remaining if done.issuperset(c.requires)]
        once = [c for c in ready if c.over is None]
        group = once[:1] or [c for c in ready if c.over == ready[0].over]
        yield group
        done |= {c.name for c in group}
        remaining = [c for c in remaining if c.name not in done]
