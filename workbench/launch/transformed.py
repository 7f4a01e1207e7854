"""Runs of tokenizers with mapped latents and equal reconstructions."""

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.core.errors import UserError
from workbench.storage.run import Run
from workbench.storage.run_config import RunConfig

if TYPE_CHECKING:
    from workbench.tokenizers.transformed import TransformedTokenizer

MAX_IMAGES = 5000  # training images from which the covariance of a map is computed
CLASS_PATH = "workbench.tokenizers.transformed:TransformedTokenizer"


def transformed(tokenizer: str | Path | Run, transform: str, out: str | Path, seed: int = 0) -> Run:
    """Map the latents of a trained tokenizer, and store the result as a run of its own.

    The map is inverted before the decoder: reconstructions are equal up to rounding, and only the
    latent space differs. A generator can be trained on the run as on any other.

    Parameters
    ----------
    tokenizer : str, Path or Run
        The run of a tokenizer that was trained here, with continuous latents.
    transform : str
        `none`, `channels rotated`, `tokens permuted`, `all rotated`, `whitened`, `flatter` and
        `steeper` (eigenvalues to the powers 0, 1/2 and 3/2), or, on a grid, `rougher` and
        `smoother` (gains by frequency).
    out : str or Path
        The folder of the new run.
    seed : int
        Seed of rotations and permutations.

    Returns
    -------
    Run
        The run, in the state `finished`, at the step of the tokenizer's last checkpoint.

    Raises
    ------
    UserError
        If there is no such transform, or the latents do not fit it.
    RunError
        If the folder holds a run, or the tokenizer was trained elsewhere.

    Examples
    --------
    >>> transformed("runs/vae", "whitened", "runs/vae-whitened")  # doctest: +SKIP
    """
    import torch

    from workbench.collect import load_images
    from workbench.collect.models import load_tokenizer
    from workbench.tokenizers.transformed import LatentMap, TransformedTokenizer, fit_map

    source = tokenizer if isinstance(tokenizer, Run) else Run(tokenizer)
    _check_source(source)
    inner = load_tokenizer(source)
    images = load_images(source, "train", sample=MAX_IMAGES, seed=seed)
    with torch.no_grad():
        tokens = [inner.encode(images.images(part)) for part in _parts(len(images))]
    if any(part.active is not None for part in tokens):
        raise UserError(f"{source.name} chooses the number of tokens per image; use another one.")
    latents = torch.cat([part.latents for part in tokens]).double().numpy()
    latent_map: LatentMap = fit_map(transform, latents, tokens[0].grid, seed)
    settings = source.config.settings
    config = TransformedTokenizer.Config(
        tokenizer_class=source.config.class_path,
        tokenizer_settings=settings,
        numbers=latents[0].size,
        channels=settings["channels"],
        side=settings["side"],
        transform=transform,
    )
    model = TransformedTokenizer(config).eval()
    model.tokenizer.load_state_dict(inner.state_dict())
    model.set_map(latent_map)
    return _store(model, source, Path(out))


def _check_source(source: Run) -> None:
    if source.tokenizer is not None or source.config.imported is not None:
        raise UserError(
            f"{source.name} must be the run of a tokenizer that was trained here; latents of other"
            " runs cannot be mapped."
        )


def _parts(count: int) -> list[slice]:
    from workbench.collect.images import batch_slices

    return list(batch_slices(count))


def _store(model: "TransformedTokenizer", source: Run, out: Path) -> Run:
    """Write the run with one checkpoint."""
    from dataclasses import asdict

    step = source.find_step(None)
    config = RunConfig.from_dict(
        {
            "class": CLASS_PATH,
            "settings": asdict(model.config),
            "training": source.config.training,
            "data": source.config.data.model_dump() if source.config.data else None,
            "changes": {"transform": model.config.transform, "source": source.name},
            "versions": source.config.versions,
            "created": source.config.created,
        }
    )
    run = Run.create(out, config)
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    tensors = {f"model.{name}": tensor for name, tensor in weights.items()}
    tensors |= {f"ema.{name}": tensor.clone() for name, tensor in weights.items()}
    run.save(step, tensors)
    run.event("transformed", step, run=source.name, transform=model.config.transform)
    run.report("finished", step, steps=step, seconds_left=None)
    return run
