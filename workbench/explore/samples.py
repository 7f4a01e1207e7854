"""What a generator draws from one noise: other guidance, other intervals, other checkpoints, and the way there."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from workbench.collect import draw_samples, to_uint8
from workbench.collect.images import model_device
from workbench.core.errors import NotApplicable
from workbench.core.progress import track
from workbench.core.types import Tokens
from workbench.explore.image_grid import ImageGrid
from workbench.generators.autoregressive import AR
from workbench.generators.interpolants import interpolant
from workbench.generators.samplers import FIRST, euler, guided_velocity, sample, sampling_times
from workbench.generators.transformer import SiT
from workbench.storage.run import Run
from workbench.tokenizers.base import Tokenizer

SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
INTERVALS = ((0.0, 1.0), (0.0, 0.5), (0.5, 1.0), (0.2, 0.8))  # of times, 1 being noise


@torch.no_grad()
def guidance(
    model: SiT | AR,
    tokenizer: Tokenizer,
    labels: Sequence[int],
    *,
    scales: Sequence[float] = SCALES,
    steps: int = 12,
    seed: int = 0,
    rows: Sequence[str] = (),
) -> ImageGrid:
    """A picture a label and scale, all of a label from one noise, held against the first scale's."""
    wanted = torch.tensor(list(labels), device=model_device(model))
    each = [
        draw_samples(model, tokenizer, wanted, steps=steps, guidance=scale, seed=seed)
        for scale in track(scales)
    ]
    shown, stops = np.stack(each, axis=1), tuple(f"{scale:g}" for scale in scales)
    return ImageGrid(
        "guidance", stops, _named(rows, labels), shown[:, 0], shown, against=f"guidance: {stops[0]}"
    )


@torch.no_grad()
def intervals(
    model: SiT,
    tokenizer: Tokenizer,
    label: int,
    *,
    scales: Sequence[float] = SCALES,
    within: Sequence[tuple[float, float]] = INTERVALS,
    steps: int = 12,
    seed: int = 0,
    name: str = "",
) -> ImageGrid:
    """A grid of one label from one noise: a row for each interval of times that guidance holds in, a column a scale.

    Raises NotApplicable for a generator that walks no path.
    """
    _walks(model)
    shown = []
    for interval in track(within):
        how = {"steps": steps, "interval": interval, "seed": seed}
        labels = torch.tensor([label], device=model_device(model))
        latents = [sample(model, labels, guidance=scale, **how) for scale in scales]
        shown.append(_decoded(tokenizer, torch.cat(latents)))
    stops = tuple(f"{scale:g}" for scale in scales)
    names = tuple(f"times {low:g} to {high:g}" for low, high in within)
    grid = np.stack(shown)
    note = f"One class, {name or label}, and one noise."
    return ImageGrid(
        "guidance", stops, names, grid[:, 0], grid, against=f"guidance: {stops[0]}", note=note
    )


@torch.no_grad()
def trajectory(
    model: SiT,
    tokenizer: Tokenizer,
    labels: Sequence[int],
    *,
    steps: int = 10,
    scale: float = 2.0,
    seed: int = 0,
    rows: Sequence[str] = (),
) -> ImageGrid:
    """The way from noise to a picture by Euler steps: at each, what the velocity there points to, decoded.

    Held against the last, which is the sample. Raises NotApplicable for a generator that walks no path.
    """
    _walks(model)
    wanted = torch.tensor(list(labels), device=model_device(model))
    config, shape = model.config, (len(wanted), model.config.num_tokens, model.config.dim)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(wanted.device)
    towards, velocity = [], guided_velocity(model, wanted, scale, tuple(config.interval))

    def watched(x: Tensor, t: float) -> Tensor:
        slope = velocity(x, t)
        towards.append((t, interpolant(config.path, x.new_full((len(x),), t)).data(x, slope)))
        return slope

    first = 1.0 if config.predict == "velocity" else FIRST
    end = euler(watched, noise, sampling_times(steps, shift=config.shift, first=first))
    shown = np.stack(
        [_decoded(tokenizer, model.restore(x)) for x in track([*(x for _, x in towards), end])],
        axis=1,
    )
    stops = tuple(f"{t:.2f}" for t in [*(t for t, _ in towards), 0.0])
    return ImageGrid("time", stops, _named(rows, labels), shown[:, -1], shown, against="the sample")


@torch.no_grad()
def checkpoints(
    run: Run,
    labels: Sequence[int],
    *,
    at: Sequence[int] | None = None,
    scale: float = 2.0,
    steps: int = 12,
    seed: int = 0,
    rows: Sequence[str] = (),
) -> ImageGrid:
    """The same noise on every checkpoint of a generator's run (None: all that it has), held against the last."""
    run.checkpoint()
    found = run.steps if at is None else list(at)
    tokenizer, wanted = tokenizer_of(run), torch.tensor(list(labels))
    each = [
        draw_samples(run.load(step), tokenizer, wanted, steps=steps, guidance=scale, seed=seed)
        for step in track(found)
    ]
    shown, stops = np.stack(each, axis=1), tuple(f"{step:,}" for step in found)
    return ImageGrid(
        "step", stops, _named(rows, labels), shown[:, -1], shown, against=f"step: {stops[-1]}"
    )


def tokenizer_of(run: Run) -> Tokenizer:
    """The tokenizer that a generator's run was trained on, at the step it was trained on. Raises NotApplicable."""
    if run.tokenizer is None:
        raise NotApplicable(f"{run.folder} is a tokenizer; a generator draws samples.")
    return run.tokenizer.load(run.config["tokenizer"]["step"])


def _decoded(tokenizer: Tokenizer, latents: Tensor) -> np.ndarray:
    return to_uint8(tokenizer.decode(Tokens(latents.to(model_device(tokenizer)))))


def _walks(model: SiT | AR) -> None:
    if not isinstance(model, SiT):
        raise NotApplicable(
            f"{type(model).__name__} draws token by token; it has no times to guide in or to stop at."
        )


def _named(rows: Sequence[str], labels: Sequence[int]) -> tuple[str, ...]:
    return tuple(rows) or tuple(f"class {label}" for label in labels)
