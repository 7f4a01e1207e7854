"""Batches of images for the evaluator of ADM, from the evidence of a run."""

from pathlib import Path

import numpy as np

from workbench.collect.images import batch_slices
from workbench.core.errors import RunError, UserError
from workbench.storage.adm import write_images
from workbench.storage.run import Run


def write_adm_batch(run: Run | str | Path, out: str | Path, *, step: int | None = None) -> int:
    """Write the samples of a generator, or the reconstructions of a tokenizer, as `arr_0`.

    They are in random order.

    Parameters
    ----------
    run : Run, str or Path
        The run, with evidence.
    out : str or Path
        The `.npz` file.
    step : int, optional
        The training step of the checkpoint; by default the last.

    Returns
    -------
    int
        The number of images.

    Raises
    ------
    RunError
        If the run has no evidence of this step, or the file cannot be written.
    UserError
        If the file's name does not end in `.npz`, or the evidence does not have the pictures of all
        images.
    """
    path = Path(out)
    if path.suffix != ".npz":
        raise UserError(f"The file must end in .npz, got {path.name}.")
    run = run if isinstance(run, Run) else Run(run)
    evidence = run.evidence(step)
    images = evidence.samples if run.is_generator else evidence.reconstructions
    if images is None or not len(images):
        kind = "samples" if run.is_generator else "reconstructions"
        raise RunError(f"The evidence of {run.name} has no {kind}. Collect them first.")
    if not run.is_generator and len(images) < evidence.num_images:
        raise UserError(
            f"The evidence of {run.name} has pictures of {len(images):,} of its"
            f" {evidence.num_images:,} images. Store all of them with: workbench collect"
            f" {run.folder} --limit {evidence.num_images} --pictures {evidence.num_images}"
        )
    # Samples are in the order of their classes. The evaluator computes the Inception score of ten
    # consecutive parts, each of which must have all classes.
    order = np.random.default_rng(0).permutation(len(images))
    blocks = (images[order[part]] for part in batch_slices(len(images), images[0].size))
    write_images(path, blocks, images.shape[:3])
    return len(images)
