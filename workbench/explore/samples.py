"""Images that a generator draws from the same noise with other options, and their trajectories."""

from collections.abc import Sequence

import numpy as np
import torch

from workbench.collect import draw_samples
from workbench.collect.images import model_device
from workbench.collect.models import load_generator, load_source_tokenizer
from workbench.collect.sampling import decode_samples, guidance_scale
from workbench.core.errors import NotApplicable
from workbench.core.progress import track
from workbench.explore.image_grid import ImageGrid
from workbench.generators.base import Generator, SupportsTrajectory
from workbench.storage.run import Run
from workbench.tokenizers.base import Tokenizer

GUIDANCE_SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# Times in which guidance is applied; 1 is noise.
GUIDANCE_INTERVALS = ((0.0, 1.0), (0.0, 0.5), (0.5, 1.0), (0.2, 0.8))
SAMPLING_STEPS = 12
TRAJECTORY_STEPS = 10
DEFAULT_GUIDANCE = 2.0


@torch.no_grad()
def guidance(
    model: Generator,
    tokenizer: Tokenizer,
    labels: Sequence[int],
    *,
    scales: Sequence[float] = GUIDANCE_SCALES,
    steps: int = SAMPLING_STEPS,
    seed: int = 0,
    rows: Sequence[str] = (),
) -> ImageGrid:
    """Sample each label with several guidance scales, all from one noise.

    Parameters
    ----------
    model : Generator
        The generator.
    tokenizer : Tokenizer
        The tokenizer that decodes the samples.
    labels : sequence of int
        Classes, one per row.
    scales : sequence of float
        Guidance scales, one per column. The reference is the first.
    steps : int
        Sampling steps.
    seed : int
        Seed of the noise.
    rows : sequence of str
        Names of the rows; by default the numbers of the classes.
    """
    label_tensor = torch.tensor(list(labels), device=model_device(model))
    columns = [
        draw_samples(model, tokenizer, label_tensor, steps=steps, guidance=scale, seed=seed)
        for scale in track(scales)
    ]
    images = np.stack(columns, axis=1)
    axis_values = tuple(f"{scale:g}" for scale in scales)
    return ImageGrid(
        axis="guidance",
        axis_values=axis_values,
        rows=_row_names(rows, labels),
        reference=images[:, 0],
        images=images,
        reference_label=f"guidance: {axis_values[0]}",
    )


@torch.no_grad()
def intervals(
    model: Generator,
    tokenizer: Tokenizer,
    label: int,
    *,
    scales: Sequence[float] = GUIDANCE_SCALES,
    within: Sequence[tuple[float, float]] = GUIDANCE_INTERVALS,
    steps: int = SAMPLING_STEPS,
    seed: int = 0,
    name: str = "",
) -> ImageGrid:
    """Sample one label from one noise with guidance in several intervals of time.

    Parameters
    ----------
    model : Generator
        A generator with times, see `SupportsTrajectory`.
    tokenizer : Tokenizer
        The tokenizer that decodes the samples.
    label : int
        The class.
    scales : sequence of float
        Guidance scales, one per column. The reference is the first.
    within : sequence of (float, float)
        Intervals of times, one per row; 1 is noise.
    steps : int
        Sampling steps.
    seed : int
        Seed of the noise.
    name : str
        Name of the class; by default its number.

    Raises
    ------
    NotApplicable
        If the generator has no times.
    """
    flow = _with_times(model)
    labels = torch.tensor([label], device=model_device(model))
    grid_rows = []
    for interval in track(within):
        samples = [
            decode_samples(
                tokenizer,
                flow.sample(labels, guidance=scale, steps=steps, seed=seed, interval=interval),
            )
            for scale in scales
        ]
        grid_rows.append(np.concatenate(samples))
    images = np.stack(grid_rows)
    axis_values = tuple(f"{scale:g}" for scale in scales)
    return ImageGrid(
        axis="guidance",
        axis_values=axis_values,
        rows=tuple(f"times {low:g} to {high:g}" for low, high in within),
        reference=images[:, 0],
        images=images,
        reference_label=f"guidance: {axis_values[0]}",
        note=f"One class, {name or label}, and one noise.",
    )


@torch.no_grad()
def trajectory(
    model: Generator,
    tokenizer: Tokenizer,
    labels: Sequence[int],
    *,
    steps: int = TRAJECTORY_STEPS,
    scale: float = DEFAULT_GUIDANCE,
    seed: int = 0,
    rows: Sequence[str] = (),
) -> ImageGrid:
    """Decode the prediction at each time of the trajectory from noise to a sample, by Euler steps.

    Parameters
    ----------
    model : Generator
        A generator with times, see `SupportsTrajectory`.
    tokenizer : Tokenizer
        The tokenizer that decodes the predictions.
    labels : sequence of int
        Classes, one per row.
    steps : int
        Euler steps, one per column. The last column, and the reference, is the sample.
    scale : float
        Guidance scale.
    seed : int
        Seed of the noise.
    rows : sequence of str
        Names of the rows; by default the numbers of the classes.

    Raises
    ------
    NotApplicable
        If the generator has no times.
    """
    flow = _with_times(model)
    label_tensor = torch.tensor(list(labels), device=model_device(model))
    points = list(
        flow.trajectory(label_tensor, guidance=guidance_scale(model, scale), steps=steps, seed=seed)
    )
    columns = [decode_samples(tokenizer, tokens) for _, tokens in track(points)]
    images = np.stack(columns, axis=1)
    return ImageGrid(
        axis="time",
        axis_values=tuple(f"{time:.2f}" for time, _ in points),
        rows=_row_names(rows, labels),
        reference=images[:, -1],
        images=images,
        reference_label="the sample",
    )


@torch.no_grad()
def checkpoints(
    run: Run,
    labels: Sequence[int],
    *,
    at: Sequence[int] | None = None,
    scale: float = DEFAULT_GUIDANCE,
    steps: int = SAMPLING_STEPS,
    seed: int = 0,
    rows: Sequence[str] = (),
    trust: Sequence[str] = (),
) -> ImageGrid:
    """Sample from the same noise with every checkpoint of a generator's run.

    Parameters
    ----------
    run : Run
        The run of a generator.
    labels : sequence of int
        Classes, one per row.
    at : sequence of int, optional
        Training steps of the checkpoints, one per column; None uses all. The reference is the last.
    scale : float
        Guidance scale.
    steps : int
        Sampling steps.
    seed : int
        Seed of the noise.
    rows : sequence of str
        Names of the rows; by default the numbers of the classes.
    trust : sequence of str
        Modules outside this package from which the run's classes may be imported.
    """
    run.find_step()
    checkpoint_steps = run.steps if at is None else list(at)
    tokenizer = tokenizer_of(run, trust)
    label_tensor = torch.tensor(list(labels))
    columns = [
        draw_samples(
            load_generator(run, step, trust),
            tokenizer,
            label_tensor,
            steps=steps,
            guidance=scale,
            seed=seed,
        )
        for step in track(checkpoint_steps)
    ]
    images = np.stack(columns, axis=1)
    axis_values = tuple(f"{step:,}" for step in checkpoint_steps)
    return ImageGrid(
        axis="step",
        axis_values=axis_values,
        rows=_row_names(rows, labels),
        reference=images[:, -1],
        images=images,
        reference_label=f"step: {axis_values[-1]}",
    )


def tokenizer_of(run: Run, trust: Sequence[str] = ()) -> Tokenizer:
    """Load the tokenizer that a generator was trained on, at the step of its training data.

    Raises
    ------
    NotApplicable
        If the run is a tokenizer.
    """
    if not run.is_generator:
        raise NotApplicable(f"Sampling needs a generator; {run.folder} is a tokenizer.")
    return load_source_tokenizer(run, trust)


def _with_times(model: Generator) -> SupportsTrajectory:
    if not isinstance(model, SupportsTrajectory):
        raise NotApplicable(
            f"Intervals and trajectories need a generator with times; {type(model).__name__} has"
            " none."
        )
    return model


def _row_names(rows: Sequence[str], labels: Sequence[int]) -> tuple[str, ...]:
    return tuple(rows) or tuple(f"class {label}" for label in labels)
