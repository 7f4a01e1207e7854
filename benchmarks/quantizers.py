"""The quantizers beside vector-quantize-pytorch (MIT), one run: milliseconds a training step, and peak memory.

`python benchmarks/quantizers.py [K ...]`, by default K = 1024, 16384, 65536. Install vector-quantize-pytorch first.

A step is a forward pass in training mode on 1,024 tokens of 16 channels, and the backward pass to the tokens (and to
the codebook where it learns by gradient); `look-up` is a forward pass in evaluation. Both sides do the same:
straight-through gradient, commitment 0.25, decay 0.95, no revival, no k-means. Times are medians of alternating runs in
this process. Memory is each side's own process: the most it ever held (getrusage), less what it held before its step.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two libraries on equal terms

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from workbench.quantizers.hard import HardQuantizer
from workbench.quantizers.scalar import ScalarQuantizer
from workbench.quantizers.soft import SoftQuantizer

TOKENS, DIM = (64, 16), 16
# The grid nearest to each K: 1000, 15360, 64000, 512000 points.
LEVELS = {1024: (8, 5, 5, 5), 16384: (8, 8, 8, 6, 5), 65536: (8, 8, 8, 5, 5, 5), 512000: (8, 8, 8, 8, 5, 5, 5)}
METHODS = ("average", "gradient", "cosine", "look-up", "scalar", "soft")
RUNS = 7


def ours(method: str, codes: int) -> Callable[[], None]:
    """One step of this package's quantizer."""
    if method == "scalar":
        return _step(ScalarQuantizer(levels=LEVELS[codes]), len(LEVELS[codes]))
    if method == "soft":
        return _step(SoftQuantizer(books=1, codes=codes, dim=DIM), DIM)
    how = {"learn": "gradient" if method == "gradient" else "ema", "cosine": method == "cosine"}
    quantizer = HardQuantizer(codes=codes, dim=DIM, **how)
    return _look(quantizer) if method == "look-up" else _step(quantizer, DIM)


def theirs(method: str, codes: int) -> Callable[[], None] | None:
    """One step of vector-quantize-pytorch, asked for the same; None: it has no such quantizer."""
    try:
        from vector_quantize_pytorch import FSQ, VectorQuantize
    except ImportError:
        sys.exit("This benchmark compares with vector-quantize-pytorch: pip install vector-quantize-pytorch")
    if method == "soft":
        return None
    if method == "scalar":
        return _step(FSQ(levels=list(LEVELS[codes])), len(LEVELS[codes]))
    how = {"learnable_codebook": True, "ema_update": False} if method == "gradient" else {}
    quantizer = VectorQuantize(
        dim=DIM,
        codebook_size=codes,
        decay=0.95,
        commitment_weight=0.25,
        rotation_trick=False,
        use_cosine_sim=method == "cosine",
        **how,
    )
    return _look(quantizer) if method == "look-up" else _step(quantizer, DIM)


def _step(quantizer: torch.nn.Module, dim: int) -> Callable[[], None]:
    x = torch.randn(*TOKENS, dim, requires_grad=True)

    def step() -> None:
        out = quantizer(x)
        latents, losses = (out[0], out[2:]) if isinstance(out, tuple) else (out.latents, tuple(out.losses.values()))
        quantizer.zero_grad()
        (latents.square().sum() + sum(loss.sum() for loss in losses)).backward()

    return step


def _look(quantizer: torch.nn.Module) -> Callable[[], None]:
    x = torch.randn(*TOKENS, DIM)
    return torch.no_grad()(lambda: quantizer.eval()(x))


def seconds(steps: list[Callable[[], None]]) -> list[float]:
    """The median of each, run in turns after a first turn that does not count."""
    spent: list[list[float]] = [[] for _ in steps]
    for turn in range(RUNS + 1):
        for step, times in zip(steps, spent, strict=True):
            begun = time.perf_counter()
            step()
            if turn:
                times.append(time.perf_counter() - begun)
    return [statistics.median(times) for times in spent]


def megabytes(side: str, method: str, codes: int) -> float:
    """The peak of three steps in a process of their own, beyond the codebook and what the libraries hold."""
    ended = subprocess.run([sys.executable, __file__, side, method, str(codes)], capture_output=True, text=True)
    return float(ended.stdout) if ended.returncode == 0 else float("nan")  # no memory left


def peak(side: str, method: str, codes: int) -> None:
    """What the process of `megabytes` prints."""
    make = {"ours": ours, "theirs": theirs}[side]
    make("average", 16)()  # what the libraries load and keep is not the method's
    step, before = make(method, codes), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        step()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main(sizes: list[int]) -> None:
    """Print a row for each method and size; a ratio above 1 is in our favour."""
    if set(sizes) - LEVELS.keys():
        sys.exit(f"K is one of {', '.join(map(str, LEVELS))}.")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread, {TOKENS[0] * TOKENS[1]} tokens of {DIM}\n")
    names = ("ours ms", "theirs ms", "ratio", "ours MB", "theirs MB", "ratio")
    print(f"{'method':<10}{'K':>8}" + "".join(f"{name:>11}" for name in names))
    rows = [(m, k) for k in sizes for m in METHODS if m != "soft" or k <= 65536]  # it holds tokens x K several times
    # All memory first: a process starts with its parent's peak, and the steps of this one would set it high.
    sides = {method: ("ours",) if method == "soft" else ("ours", "theirs") for method in METHODS}
    held = {row: [megabytes(side, *row) for side in sides[row[0]]] for row in rows}
    for method, codes in rows:
        steps = [step for step in (ours(method, codes), theirs(method, codes)) if step]
        spent = [1e3 * one for one in seconds(steps)]
        print(f"{method:<10}{codes:>8}{_columns(spent)}{_columns(held[method, codes])}", flush=True)


def _columns(pair: list[float]) -> str:
    shown = f"{pair[0]:>11.1f}"
    return shown + (f"{pair[1]:>11.1f}{pair[1] / max(pair[0], 0.1):>11.1f}" if len(pair) == 2 else f"{'-':>11}" * 2)


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["theirs"]):
        peak(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main([int(size) for size in sys.argv[1:]] or [1024, 16384, 65536])
