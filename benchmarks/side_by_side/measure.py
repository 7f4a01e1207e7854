"""One comparison: two pieces of work run in turns, their ratio with its spread, their memory, what they agree on."""

import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

LEAST = 0.05  # seconds that one measurement lasts; shorter work is repeated within it
ENOUGH, FEWEST = 60.0, 3  # seconds a row after which no round begins, once there were so many
SLOWER = 1.15  # times their time, from which on a row says why


@dataclass(frozen=True)
class Pair:
    """The same work by us and by a public implementation."""

    work: str
    sizes: str
    public: str  # what stands beside it
    ours: Callable[[], object]
    theirs: Callable[[], object]
    check: Callable[
        [Any, Any], tuple[bool, str]
    ]  # of what both return: whether it is as equal as it should, and how
    slower: str = ""  # why, where ours is


@dataclass(frozen=True)
class Row:
    """What came of a pair: medians of seconds, their ratio (above 1 in our favour), megabytes beyond those held before.

    `low` and `high` are the quartiles of the ratios of single rounds.
    """

    device: str
    work: str
    sizes: str
    public: str
    ours: float
    theirs: float
    ratio: float
    low: float
    high: float
    processor: float  # the ratio of processor seconds, which others on the machine change less
    rounds: int
    of_matmul: (
        float | None
    )  # our arithmetic a second beside the best float32 matmul's; None: not done by torch
    ours_mb: float
    theirs_mb: float
    agrees: bool
    compared: str
    slower: str

    def cells(self) -> str:
        """A line of the table."""
        share = "-" if self.of_matmul is None else f"{self.of_matmul:.0%}"
        ratio = f"{self.ratio:.2f} ({self.low:.2f}-{self.high:.2f})"
        numbers = f"{1e3 * self.ours:>10.1f}{1e3 * self.theirs:>10.1f}{ratio:>22}{self.processor:>7.2f}{share:>7}"
        memory = "".join(
            f"{mb:>10.1f}" if math.isfinite(mb) else f"{'-':>10}"
            for mb in (self.ours_mb, self.theirs_mb)
        )
        told = self.compared if self.agrees else f"DIFFERENT: {self.compared}"
        return f"{self.work:<29}{self.public:<30}{numbers}{memory}  {told:<42}  {self.sizes}"

    def stored(self) -> dict[str, Any]:
        """As JSON, with null for what could not be measured."""
        return {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in asdict(self).items()
        }


def heading() -> str:
    """The table's first line."""
    numbers = f"{'ours, ms':>10}{'theirs':>10}{'theirs/ours':>22}{'cpu s':>7}{'matmul':>7}{'ours, MB':>10}{'theirs':>10}"
    return f"{'work':<29}{'beside':<30}{numbers}  {'both':<42}  sizes"


def measure(pair: Pair, device: str, rounds: int, rate: float) -> Row:
    """Run both sides in turns, each first in every other round, after two runs of both that do not count."""
    sides = (pair.ours, pair.theirs)
    with FlopCounterMode(display=False) as counter:
        pair.ours()
    operations = counter.get_total_flops()
    pair.theirs()
    begun = time.perf_counter()
    (mine, first, our_mb), (its, second, their_mb) = (tried(side, device) for side in sides)
    agrees, compared = pair.check(mine, its)
    times = [max(1, math.ceil(LEAST / spent)) for spent in (first, second)]
    spent, busy = ([], []), ([], [])
    for turn in range(rounds):
        if turn >= FEWEST and time.perf_counter() - begun > ENOUGH:
            break
        for i in (0, 1) if turn % 2 else (1, 0):
            begun_cpu = time.process_time()
            spent[i].append(seconds(sides[i], device, times[i]))
            busy[i].append((time.process_time() - begun_cpu) / times[i])
    ours, theirs = map(statistics.median, spent)
    low, high = np.percentile(np.divide(spent[1], spent[0]), [25, 75])
    processor = statistics.median(busy[1]) / statistics.median(busy[0])
    timed = (ours, theirs, theirs / ours, float(low), float(high), processor, len(spent[0]))
    share = operations / ours / rate if operations else None
    told = (device, pair.work, pair.sizes, pair.public)
    return Row(*told, *timed, share, our_mb, their_mb, agrees, compared, pair.slower)


def seconds(work: Callable[[], object], device: str, times: int = 1) -> float:
    """Seconds of one run, as the mean of several."""
    begun = time.perf_counter()
    for _ in range(times):
        work()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / times


def tried(work: Callable[[], Any], device: str) -> tuple[Any, float, float]:
    """What a run returns, its seconds, and the most megabytes it held beyond those held before (NaN: not told)."""
    kept: list[Any] = []
    gc.collect()
    before = _forgotten(device)
    spent = seconds(lambda: kept.append(work()), device)
    most = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else _held("VmHWM")
    return kept[0], spent, most - before


def _forgotten(device: str) -> float:
    """Megabytes held now; from here on the most is counted anew."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e6
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed but kept would be used again, unseen
        Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError):
        return math.nan
    return _held("VmRSS")


def _held(field: str) -> float:
    if not Path("/proc/self/status").exists():
        return math.nan
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return (
        float(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) * 1.024 / 1e3
    )  # KiB


def matmul_rate(device: str = "cpu", size: int = 1024, repeats: int = 20) -> float:
    """The best of several float32 matrix products, in floating-point operations a second."""
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    return 2 * size**3 / min(seconds(lambda: a @ b, device) for _ in range(repeats))


def parameters(model: nn.Module) -> int:
    """How many numbers a model learns."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def alike(ours: nn.Module, theirs: nn.Module) -> str:
    """How many parameters ours has beside theirs."""
    return f"parameters {parameters(ours) / parameters(theirs):.2f} of theirs"


def stepper(model: nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """A training step: the loss, its gradients, and torch's fused AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def found(agrees: bool, compared: str) -> Callable[[Any, Any], tuple[bool, str]]:
    """A check that was made before anything was timed."""
    return lambda ours, theirs: (agrees, compared)


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference of two tensors, as a share of theirs' largest number."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
