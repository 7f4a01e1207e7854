"""The order in which arms are trained and measured, in processes of one thread each."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from workbench.core.errors import unknown

from . import karl, lightningdit, maetok, prediction, softvq, unicode2, vavae
from .arms import Arm, Scale
from .claim import Claim
from .results import measured, timed

MODULES = {
    "softvq": softvq,
    "maetok": maetok,
    "vavae": vavae,
    "lightningdit": lightningdit,
    "karl": karl,
}
MODULES |= {"unicode2": unicode2, "prediction": prediction}


@dataclass(frozen=True)
class Step:
    """One thing a worker does: train an arm, or measure an arm for a claim."""

    arm: Arm
    seed: int
    claim: str | None = None  # None: train

    @property
    def needs(self) -> tuple["Step", ...]:
        """What must be done before."""
        if self.claim is not None:
            return (Step(self.arm, self.seed),)
        return tuple(Step(arm, self.seed) for arm in self.arm.needs)


def claims(only: list[str]) -> list[Claim]:
    """Every claim, or those of some modules or keys. Raises UserError for a name that is neither."""
    known = {claim.key: name for name, module in MODULES.items() for claim in module.CLAIMS}
    for name in only:
        if name not in {*MODULES, *known}:
            raise unknown("system or claim", name, (*MODULES, *known))
    every = (claim for module in MODULES.values() for claim in module.CLAIMS)
    return [claim for claim in every if not only or {known[claim.key], claim.key} & {*only}]


def _with_needs(steps: list[Step]) -> Iterator[Step]:
    """Steps and what they need, each once, needs first."""
    seen: dict[Step, None] = {}

    def add(step: Step) -> None:
        for need in step.needs:
            add(need)
        seen.setdefault(step)

    for step in steps:
        add(step)
    yield from seen


# glibc gives a tensor's memory back to the kernel as soon as it is freed, and asks for it anew at the next step: up to
# a tenth of a training step here. So it keeps what it has, up to 2 GiB a worker.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": f"{1 << 30}", "MALLOC_TRIM_THRESHOLD_": f"{1 << 31}"}


def work(steps: list[Step], scale: Scale, out: Path, workers: int) -> None:
    """Do the steps in processes of one thread each, as soon as their needs are done."""
    os.environ.update(
        OMP_NUM_THREADS="1", TQDM_DISABLE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1", **KEEP_MEMORY
    )
    context, done, running = multiprocessing.get_context("spawn"), set(), {}
    left = dict.fromkeys(_with_needs(steps))
    with (
        ProcessPoolExecutor(workers, context, follow_parent) as pool,
        tqdm(total=len(left), unit="step", disable=False) as bar,
    ):
        while left or running:
            for step in [s for s in left if all(need in done for need in s.needs)][
                : 2 * workers - len(running)
            ]:
                del left[step]
                running[pool.submit(_do, step, scale, out)] = step
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
                done.add(running.pop(future))
                bar.update()


def follow_parent() -> None:
    """In a worker: end with the process that started it, however that ends; what was trained so far can go on."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _do(step: Step, scale: Scale, out: Path) -> None:
    """In a worker: train, or measure and keep what was measured."""
    with timed(step.arm.folder(out, step.seed), "measuring" if step.claim else "training"):
        if step.claim is None:
            step.arm.train(out, step.seed)
        else:
            claim = next(c for c in claims([]) if c.key == step.claim)
            measured(claim, step.arm, step.seed, scale, out)
