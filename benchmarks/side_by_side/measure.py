"""Measurement of a comparison: time ratio and its spread, memory, agreement. Sides run in turns."""

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

MIN_TIMING_S = 0.05  # shorter work is repeated within one timing
MAX_COMPARISON_S = 60.0  # after this time no further round begins ...
MIN_ROUNDS = 3  # ... once there were this many
SLOWDOWN_TO_EXPLAIN = 1.15  # our time over theirs
WORK_WIDTH = 29  # characters of the table's columns
REFERENCE_WIDTH = 30
AGREEMENT_WIDTH = 42
Check = Callable[[Any, Any], tuple[bool, str]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The same work by this package and by a public implementation."""

    work: str
    sizes: str
    reference: str  # the public implementation
    ours: Callable[[], object]
    theirs: Callable[[], object]
    check: Check  # of both results: whether they agree, and how well
    slowdown_reason: str = ""  # if ours is slower


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Result of a comparison.

    Attributes
    ----------
    ours, theirs : float
        Median seconds.
    ratio, low, high : float
        Their median over ours, and the quartiles of the ratios of single rounds.
    cpu_ratio : float
        Ratio of CPU seconds, which other processes on the machine affect less.
    rounds : int
        Number of rounds.
    matmul_share : float or None
        Our operations per second as a share of the best float32 matmul. None if torch does not
        count any operation.
    ours_mb, theirs_mb : float
        Peak memory beyond that at the start, in megabytes. NaN if it cannot be measured.
    """

    device: str
    work: str
    sizes: str
    reference: str
    ours: float
    theirs: float
    ratio: float
    low: float
    high: float
    cpu_ratio: float
    rounds: int
    matmul_share: float | None
    ours_mb: float
    theirs_mb: float
    agrees: bool
    agreement: str
    slowdown_reason: str

    def table_row(self) -> str:
        """Return a line of the table."""
        share = "-" if self.matmul_share is None else f"{self.matmul_share:.0%}"
        ratio = f"{self.ratio:.2f} ({self.low:.2f}-{self.high:.2f})"
        times = f"{1e3 * self.ours:>10.1f}{1e3 * self.theirs:>10.1f}{ratio:>22}"
        memory = _megabytes(self.ours_mb) + _megabytes(self.theirs_mb)
        agreement = self.agreement if self.agrees else f"DIFFERENT: {self.agreement}"
        return (
            f"{self.work:<{WORK_WIDTH}}{self.reference:<{REFERENCE_WIDTH}}{times}"
            f"{self.cpu_ratio:>7.2f}{share:>7}{memory}  "
            f"{agreement:<{AGREEMENT_WIDTH}}  {self.sizes}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON stores them, with null for values that were not measured."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def table_heading() -> str:
    """Return the first line of the table."""
    times = f"{'ours, ms':>10}{'theirs':>10}{'theirs/ours':>22}{'cpu s':>7}{'matmul':>7}"
    memory = f"{'ours, MB':>10}{'theirs':>10}"
    return (
        f"{'work':<{WORK_WIDTH}}{'compared with':<{REFERENCE_WIDTH}}{times}{memory}  "
        f"{'agreement':<{AGREEMENT_WIDTH}}  sizes"
    )


def measure(
    comparison: Comparison, device: str, max_rounds: int, matmul_rate: float
) -> Measurement:
    """Run both sides in turns, each first in every other round.

    Parameters
    ----------
    comparison : Comparison
        Both sides. Each runs twice before timing begins.
    device : str
        Device that both sides use.
    max_rounds : int
        Number of rounds, if they do not take too long.
    matmul_rate : float
        Best rate of a float32 matrix product on the device, in operations per second.
    """
    sides = (comparison.ours, comparison.theirs)
    with FlopCounterMode(display=False) as counter:
        comparison.ours()
    operations = counter.get_total_flops()
    comparison.theirs()
    start = time.perf_counter()
    our_result, our_seconds, our_mb = run_once(comparison.ours, device)
    their_result, their_seconds, their_mb = run_once(comparison.theirs, device)
    agrees, agreement = comparison.check(our_result, their_result)
    repeats = [
        max(1, math.ceil(MIN_TIMING_S / seconds)) for seconds in (our_seconds, their_seconds)
    ]
    wall_times: tuple[list[float], list[float]] = ([], [])
    cpu_times: tuple[list[float], list[float]] = ([], [])
    for turn in range(max_rounds):
        if turn >= MIN_ROUNDS and time.perf_counter() - start > MAX_COMPARISON_S:
            break
        order = (0, 1) if turn % 2 else (1, 0)
        for side in order:
            cpu_start = time.process_time()
            wall_times[side].append(time_work(sides[side], device, repeats[side]))
            cpu_times[side].append((time.process_time() - cpu_start) / repeats[side])
    ours, theirs = map(statistics.median, wall_times)
    low, high = np.percentile(np.divide(wall_times[1], wall_times[0]), [25, 75])
    return Measurement(
        device=device,
        work=comparison.work,
        sizes=comparison.sizes,
        reference=comparison.reference,
        ours=ours,
        theirs=theirs,
        ratio=theirs / ours,
        low=float(low),
        high=float(high),
        cpu_ratio=statistics.median(cpu_times[1]) / statistics.median(cpu_times[0]),
        rounds=len(wall_times[0]),
        matmul_share=operations / ours / matmul_rate if operations else None,
        ours_mb=our_mb,
        theirs_mb=their_mb,
        agrees=agrees,
        agreement=agreement,
        slowdown_reason=comparison.slowdown_reason,
    )


def time_work(work: Callable[[], object], device: str, repeats: int = 1) -> float:
    """Return the mean seconds of one run."""
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def run_once(work: Callable[[], Any], device: str) -> tuple[Any, float, float]:
    """Return the result of one run, its seconds, and its peak memory in megabytes.

    The memory is the peak beyond what was allocated before; NaN if the system does not report it.
    """
    results: list[Any] = []
    gc.collect()
    start_mb = _reset_peak(device)
    seconds = time_work(lambda: results.append(work()), device)
    if device == "cuda":
        peak_mb = torch.cuda.max_memory_allocated() / 1e6
    else:
        peak_mb = _process_status_mb("VmHWM")
    return results[0], seconds, peak_mb - start_mb


def matmul_rate(device: str = "cpu", size: int = 1024, repeats: int = 20) -> float:
    """Return the best rate of several float32 matrix products, in operations per second."""
    a = torch.randn(size, size, device=device)
    b = torch.randn(size, size, device=device)
    return 2 * size**3 / min(time_work(lambda: a @ b, device) for _ in range(repeats))


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def parameter_ratio(ours: nn.Module, theirs: nn.Module) -> str:
    """Return a text with the ratio of the numbers of parameters."""
    return f"parameters {parameter_count(ours) / parameter_count(theirs):.2f} of theirs"


def training_step(model: nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Return a training step: the loss, its gradients, and torch's fused AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def checked_before(agrees: bool, agreement: str) -> Check:
    """Return a check whose outcome is known before anything is timed."""
    return lambda ours, theirs: (agrees, agreement)


def max_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the largest difference of two tensors, relative to the largest value of theirs."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def _megabytes(value: float) -> str:
    return f"{value:>10.1f}" if math.isfinite(value) else f"{'-':>10}"


def _reset_peak(device: str) -> float:
    """Reset the peak of the memory, and return the megabytes that are allocated now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e6
    try:
        # Freed memory that the allocator keeps would be reused without raising the peak.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError):
        return math.nan
    return _process_status_mb("VmRSS")


def _process_status_mb(field: str) -> float:
    """Return a field of this process's status in megabytes; NaN on systems without /proc."""
    path = Path("/proc/self/status")
    if not path.exists():
        return math.nan
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            kibibytes = float(line.split()[1])
            return kibibytes * 1.024 / 1e3
    return math.nan
