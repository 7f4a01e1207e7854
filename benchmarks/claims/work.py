"""Train and measure the arms in processes of one thread each, needs first."""

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from workbench.core.errors import unknown

from . import families, karl, lightningdit, maetok, prediction, softvq, transforms, unicode2, vavae
from .arms import Arm, Scale
from .claim import Claim
from .results import measured, timed

MODULES = {
    "softvq": softvq,
    "maetok": maetok,
    "vavae": vavae,
    "lightningdit": lightningdit,
    "karl": karl,
    "unicode2": unicode2,
    "prediction": prediction,
    "transforms": transforms,
    "families": families,
}
# glibc returns the memory of a tensor to the kernel as soon as it is freed, which costs up to a
# tenth of a training step here. With these settings a worker keeps up to 2 GiB.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 31),
}


@dataclass(frozen=True)
class Step:
    """One task of a worker: train an arm, or measure an arm for a claim."""

    arm: Arm
    seed: int
    claim: str | None = None  # key of the claim to measure for; None: train

    @property
    def needs(self) -> tuple["Step", ...]:
        """The steps that must be finished before."""
        if self.claim is not None:
            return (Step(self.arm, self.seed),)
        return tuple(Step(arm, self.seed) for arm in self.arm.needs)


def all_claims() -> list[Claim]:
    """Return every claim, system by system."""
    return [claim for module in MODULES.values() for claim in module.CLAIMS]


def select_claims(names: Sequence[str]) -> list[Claim]:
    """Return the claims of some modules or with some keys.

    Without a name, return all but those that are run on request.

    Raises
    ------
    UserError
        If a name is neither a module nor a key.
    """
    module_of = {claim.key: name for name, module in MODULES.items() for claim in module.CLAIMS}
    for name in names:
        if name not in MODULES and name not in module_of:
            raise unknown("system or claim", name, (*MODULES, *module_of))
    if not names:
        return [claim for claim in all_claims() if not claim.on_request]
    return [claim for claim in all_claims() if claim.key in names or module_of[claim.key] in names]


def with_needs(steps: Sequence[Step]) -> Iterator[Step]:
    """Yield the steps and what they need, each once, needs first."""
    ordered: dict[Step, None] = {}

    def add(step: Step) -> None:
        for need in step.needs:
            add(need)
        ordered.setdefault(step)

    for step in steps:
        add(step)
    yield from ordered


def work(steps: Sequence[Step], scale: Scale, out: Path, workers: int) -> None:
    """Run the steps, each as soon as its needs are finished."""
    os.environ.update(
        OMP_NUM_THREADS="1", TQDM_DISABLE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1", **KEEP_MEMORY
    )
    context = multiprocessing.get_context("spawn")
    waiting = dict.fromkeys(with_needs(steps))
    finished: set[Step] = set()
    running: dict[Future[None], Step] = {}
    with (
        ProcessPoolExecutor(workers, context, follow_parent) as pool,
        tqdm(total=len(waiting), unit="step", disable=False) as bar,
    ):
        while waiting or running:
            ready = [step for step in waiting if all(need in finished for need in step.needs)]
            for step in ready[: 2 * workers - len(running)]:
                del waiting[step]
                running[pool.submit(run_step, step, scale, out)] = step
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                finished.add(running.pop(future))
                bar.update()


def follow_parent() -> None:
    """End this worker when the process that started it ends; its training can be resumed."""

    def wait_for_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()


def run_step(step: Step, scale: Scale, out: Path) -> None:
    """Train an arm, or measure it and store the numbers; runs in a worker."""
    activity = "measuring" if step.claim else "training"
    with timed(step.arm.folder(out, step.seed), activity):
        if step.claim is None:
            step.arm.train(out, step.seed)
        else:
            (claim,) = select_claims([step.claim])
            measured(claim, step.arm, step.seed, scale, out)
