"""Our training steps and sampling beside diffusers' (Apache 2.0), one run: ratios, and the share of the matmul rate.

    python benchmarks/side_by_side.py            install diffusers first

Each pair does the same work: as many layers of the same width on the same input, a forward and a backward pass of the
same loss. `parameters` says how alike the two are. Times are medians of alternating runs in this process; a ratio above
1 is in our favour. On a GPU the same command measures the GPU.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two libraries on equal terms

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from workbench.generators.presets import PRESETS
from workbench.generators.sampling import euler, guided, times
from workbench.generators.transformer import SiT
from workbench.tokenizers.vavae import VAVAE

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIDE, DIM, WIDTH, HEADS, DEPTH, CLASSES = 8, 16, 192, 6, 6, 10  # of the generators: 64 tokens
BATCH, RUNS, SOLVER = 32, 7, 20


@dataclass(frozen=True)
class Pair:
    """The same work on both sides, and how many parameters each has."""

    name: str
    ours: Callable[[], None]
    theirs: Callable[[], None]
    parameters: tuple[int, int]


def networks() -> tuple[SiT, nn.Module]:
    """Two transformers of one size: ours, and diffusers' DiT with a token for each place."""
    from diffusers import DiTTransformer2DModel

    ours = SiT(SiT.Config(tokens=SIDE**2, dim=DIM, classes=CLASSES, width=WIDTH, depth=DEPTH, heads=HEADS, rows=SIDE))
    theirs = DiTTransformer2DModel(
        num_attention_heads=HEADS, attention_head_dim=WIDTH // HEADS, in_channels=DIM, out_channels=DIM,
        num_layers=DEPTH, sample_size=SIDE, patch_size=1, num_embeds_ada_norm=CLASSES,
    )  # fmt: skip
    return ours.to(DEVICE), theirs.to(DEVICE)


def training() -> Pair:
    """A step on latents: velocity, squared error, backward."""
    ours, theirs = networks()
    latents, labels = torch.randn(BATCH, SIDE**2, DIM, device=DEVICE), torch.randint(CLASSES, (BATCH,), device=DEVICE)
    grid = latents.transpose(1, 2).reshape(BATCH, DIM, SIDE, SIDE)

    def our_step() -> None:
        ours.zero_grad()
        ours.objective(latents, labels).total.backward()

    def their_step() -> None:
        theirs.zero_grad()
        t, noise = torch.rand(BATCH, device=DEVICE), torch.randn_like(grid)
        mixed = torch.lerp(grid, noise, t[:, None, None, None])
        found = theirs(mixed, timestep=(1000 * t).long(), class_labels=labels).sample
        F.mse_loss(found, noise - grid).backward()

    return Pair("transformer, training step", our_step, their_step, (_size(ours), _size(theirs)))


def sampling() -> Pair:
    """Euler's method from noise: our solver with our network, their scheduler with theirs."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    ours, theirs = networks()
    labels = torch.randint(CLASSES, (BATCH,), device=DEVICE)

    @torch.no_grad()
    def our_samples() -> None:
        velocity = guided(ours, labels, 1.0)
        euler(velocity, torch.randn(BATCH, SIDE**2, DIM, device=DEVICE), times(SOLVER))

    @torch.no_grad()
    def their_samples() -> None:
        scheduler = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(SOLVER, device=DEVICE)
        x = torch.randn(BATCH, DIM, SIDE, SIDE, device=DEVICE)
        for t in scheduler.timesteps:
            found = theirs(x, timestep=t.expand(BATCH).long(), class_labels=labels).sample
            x = scheduler.step(found, t, x).prev_sample

    return Pair(f"transformer, {SOLVER} Euler steps", our_samples, their_samples, (_size(ours), _size(theirs)))


def autoencoding() -> Pair:
    """A step of a convolutional KL autoencoder: encode, sample, decode, squared error, divergence, backward."""
    from diffusers import AutoencoderKL

    widths = (32, 64, 64)
    config = VAVAE.Config(side=32, channels=3, dim=DIM, width=32, multipliers=(1, 2, 2), blocks=1, align_weight=0.0)
    ours = VAVAE(config).to(DEVICE)
    theirs = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=widths, layers_per_block=1, latent_channels=DIM, norm_num_groups=32, sample_size=32,
    ).to(DEVICE)  # fmt: skip
    images = torch.rand(BATCH, 3, 32, 32, device=DEVICE) * 2 - 1

    def our_step() -> None:
        ours.zero_grad()
        ours.objective(images).total.backward()

    def their_step() -> None:
        theirs.zero_grad()
        posterior = theirs.encode(images).latent_dist
        found = theirs.decode(posterior.sample()).sample
        (F.mse_loss(found, images) + 1e-6 * posterior.kl().mean()).backward()

    return Pair("convolutional autoencoder, step", our_step, their_step, (_size(ours), _size(theirs)))


def improved() -> Pair:
    """What LightningDiT's parts cost: its training step beside the plain transformer's, both ours."""
    sizes = {"tokens": SIDE**2, "dim": DIM, "classes": CLASSES, "width": WIDTH, "depth": DEPTH, "heads": HEADS}
    latents, labels = torch.randn(BATCH, SIDE**2, DIM, device=DEVICE), torch.randint(CLASSES, (BATCH,), device=DEVICE)
    models = [SiT(SiT.Config(rows=SIDE, **sizes, **PRESETS[name])).to(DEVICE) for name in ("lightningdit", "sit")]

    def step_of(model: SiT) -> Callable[[], None]:
        def step() -> None:
            model.zero_grad()
            model.objective(latents, labels).total.backward()

        return step

    return Pair("lightningdit beside sit (ours)", *map(step_of, models), tuple(map(_size, models)))


def measure(pair: Pair) -> tuple[float, float, float]:
    """Median seconds of both sides, run in turns; and our operations a step."""
    spent: tuple[list[float], list[float]] = ([], [])
    for turn in range(RUNS + 1):
        for step, kept in zip((pair.ours, pair.theirs), spent, strict=True):
            begun = time.perf_counter()
            step()
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first warms up
                kept.append(time.perf_counter() - begun)
    with FlopCounterMode(display=False) as counter:
        pair.ours()
    return statistics.median(spent[0]), statistics.median(spent[1]), counter.get_total_flops()


def matmul_rate(size: int = 1024) -> float:
    """The best of several float32 matrix products here, in operations a second."""
    a, b = torch.randn(size, size, device=DEVICE), torch.randn(size, size, device=DEVICE)
    best = float("inf")
    for _ in range(20):
        begun = time.perf_counter()
        a @ b
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def main() -> None:
    """Measure every pair and print a row for each."""
    try:
        import diffusers
    except ImportError:
        sys.exit("This benchmark compares with diffusers: pip install diffusers")
    rate = matmul_rate()
    print(
        f"{DEVICE}, {torch.get_num_threads()} threads, float32 matmul {rate / 1e9:.0f} GFLOP/s,"
        f" torch {torch.__version__}, diffusers {diffusers.__version__}\n"
    )
    names = ("ours ms", "theirs ms", "ratio", "of matmul", "parameters")
    print(f"{'work':<34}" + "".join(f"{name:>12}" for name in names))
    for make in (training, sampling, autoencoding, improved):
        torch.manual_seed(0)
        pair = make()
        a, b, operations = measure(pair)
        alike = pair.parameters[0] / pair.parameters[1]
        row = f"{1e3 * a:>12.1f}{1e3 * b:>12.1f}{b / a:>12.2f}{operations / a / rate:>12.1%}{alike:>12.2f}"
        print(f"{pair.name:<34}{row}", flush=True)


if __name__ == "__main__":
    main()
