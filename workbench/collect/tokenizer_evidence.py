"""What a tokenizer does to held-out images: its tokens, what they decode to, and what disturbs them."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from workbench.collect.images import (
    MAX_ARRAY_BYTES,
    batch_slices,
    load_images,
    model_device,
    pooled_features,
    ticker,
    to_uint8,
    training_image_arrays,
)
from workbench.collect.prefixes import prefix_lengths, prefix_metrics
from workbench.core.types import Images, Tokens
from workbench.data import ImageSet
from workbench.features import FeatureExtractor
from workbench.storage.run import Run
from workbench.tokenizers.base import Tokenizer

NOISE = (0.1, 0.2, 0.4, 0.8)  # deviations of the latents that are added to them
ERRORS = (
    0.02,
    0.03,
    0.05,
    0.07,
    0.1,
    0.15,
)  # that adaptive tokenizers are asked for; pixels in [0, 1]


def tokenizer_evidence(
    run: Run,
    step: int,
    model: Tokenizer,
    feature_extractor: FeatureExtractor,
    *,
    limit: int,
    seed: int,
    prefixes: bool,
    tick: Any,
) -> dict[str, Any]:
    """The evidence of a tokenizer."""
    everything = load_images(run)
    images = everything.take(limit, seed)
    arrays, grid = _of_every_image(model, images, feature_extractor if prefixes else None, tick)
    arrays |= _disturbed(model, arrays, images, feature_extractor, seed)
    arrays |= _before(run, step, model, images, with_codes="codes" in arrays)
    codebook = None if model.codebook is None else model.codebook.float().cpu().numpy()
    arrays |= {
        "images": images.pixels,
        "labels": images.labels,
        "codebook": codebook,
        "complexity": images.complexity,
    }
    if getattr(model, "first_codebook", None) is not None:
        arrays["cascade_start"] = model.first_codebook.float().cpu().numpy()
    if prefixes:
        arrays["prefixes"] = np.array(prefix_lengths(arrays["latents"].shape[1]), dtype=np.int32)
    arrays |= _compared(
        run, model, images, arrays["reconstructions"], feature_extractor, limit, seed
    )
    provenance = {
        "data": images.source,
        "split": images.split,
        "names": images.names,
        "fingerprint": images.fingerprint,
        "n": len(images),
        "of": len(everything),
        "discrete": model.discrete and codebook is not None,
        "grid": grid,
        "teacher": feature_extractor.name,
    }
    return {"provenance": provenance, **arrays}


def _of_every_image(
    model: Tokenizer, images: ImageSet, feature_extractor: FeatureExtractor | None, tick: Any
) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """What is found image by image, in batches, as arrays laid out as evidence; and the tokens' grid.

    With a feature extractor, what their first tokens alone decode to as well.
    """
    rows: dict[str, list[np.ndarray]] = {}
    done, asked = ticker(tick, len(images)), "error" in inspect.signature(model.encode).parameters
    for part in batch_slices(len(images)):
        batch = images.images(part).to(model_device(model))
        tokens = model.encode(batch)
        found = _said(model, tokens, batch)
        if feature_extractor is not None:
            found |= prefix_metrics(model, tokens, batch, feature_extractor, len(images))
        for name, array in (found | (_on_request(model, batch) if asked else {})).items():
            rows.setdefault(name, []).append(array)
        done(part.stop)
    arrays: dict[str, Any] = {name: np.concatenate(several) for name, several in rows.items()}
    if "mean_posterior" in arrays:
        arrays["mean_posterior"] = arrays["mean_posterior"].mean(axis=0)
    for name in {
        "reached",
        "spent",
        "prefix_features",
    } & arrays.keys():  # a row for each request, or prefix
        arrays[name] = np.moveaxis(arrays[name], 1, 0)
    if asked:
        arrays["requested"] = np.float32(ERRORS)
    return arrays, tokens.grid


def _said(model: Tokenizer, tokens: Tokens, images: Images) -> dict[str, np.ndarray]:
    """The tokens themselves, and their picture."""
    found = {
        "reconstructions": to_uint8(model.decode(tokens)),
        "latents": tokens.latents.float().cpu().numpy(),
    }
    if tokens.codes is not None:
        found["codes"] = tokens.codes.int().cpu().numpy()
    if tokens.active is not None:
        found["active"] = tokens.active.cpu().numpy()
    if hasattr(model, "posterior"):
        mix = model.posterior(images).float()
        perplexity = torch.special.entr(mix).sum(dim=-1).exp()
        found["posterior"] = torch.stack([perplexity, mix.amax(dim=-1)], dim=-1).cpu().numpy()
        books = rearrange(mix, "b (g m) k -> b g m k", g=model.codebook.shape[0])
        found["mean_posterior"] = books.mean(dim=2).cpu().numpy()
    return found


def _on_request(model: Tokenizer, images: Images) -> dict[str, np.ndarray]:
    """What an adaptive tokenizer reaches, and spends, when it is asked for an error; a row an image."""
    reached, spent = [], []
    for error in ERRORS:
        tokens = model.encode(images, error=error)
        reached.append(_difference(model, tokens, images).abs().mean(dim=(1, 2, 3)))
        spent.append(tokens.active.sum(dim=1))
    return {
        "reached": torch.stack(reached, dim=1).cpu().numpy(),
        "spent": torch.stack(spent, dim=1).int().cpu().numpy(),
    }


def _disturbed(
    model: Tokenizer,
    arrays: dict[str, Any],
    images: ImageSet,
    feature_extractor: FeatureExtractor,
    seed: int,
) -> dict[str, np.ndarray]:
    """Latents with noise, and half-way to their nearest neighbours: how far from an image one may go."""
    latents, active = torch.from_numpy(arrays["latents"]), arrays.get("active")
    device, generator = model_device(model), torch.Generator().manual_seed(seed)
    grid = None if "codes" in arrays else model.encode(images.images(slice(1)).to(device)).grid

    def decoded(changed: Callable[[slice], Tensor]) -> Iterator[tuple[slice, Tensor]]:
        for part in batch_slices(len(latents)):
            shown = None if active is None else torch.from_numpy(active[part]).to(device)
            yield part, model.decode(Tokens(changed(part).to(device), active=shown, grid=grid))

    mse = np.zeros((len(latents), len(NOISE)), np.float32)
    for column, level in enumerate(NOISE):
        noise = level * latents.std() * torch.randn(latents.shape, generator=generator)
        for part, shown in decoded(lambda part, noise=noise: latents[part] + noise[part]):
            error = (shown.clamp(-1, 1) - images.images(part).to(device)) / 2
            mse[part, column] = error.square().mean(dim=(1, 2, 3)).cpu().numpy()
    found: dict[str, np.ndarray] = {"noise_levels": np.float32(NOISE), "noise_mse": mse}
    if active is None and len(latents) > 1:
        flat = rearrange(latents, "n l d -> n (l d)")
        near = torch.cat([_nearest_other(flat, part) for part in batch_slices(len(flat))])
        midpoints = (
            to_uint8(shown)
            for _, shown in decoded(lambda part: (latents[part] + latents[near[part]]) / 2)
        )
        found["midpoint_features"] = pooled_features(
            feature_extractor, np.concatenate(list(midpoints)), device
        )
    return found


def _before(
    run: Run, step: int, model: Tokenizer, images: ImageSet, *, with_codes: bool
) -> dict[str, np.ndarray]:
    """The same images at the checkpoint before, and before training."""
    found, device = {}, model_device(model)

    def encoded(other: Tokenizer) -> list[Tokens]:
        return [
            other.to(device).encode(images.images(part).to(device))
            for part in batch_slices(len(images))
        ]

    earlier = [s for s in run.steps if s < step]
    if with_codes and earlier:
        codes = torch.cat([tokens.codes for tokens in encoded(run.load(earlier[-1]))])
        found["previous_codes"] = codes.int().cpu().numpy()
    if not model.frozen_encoder:  # which looks at the data before it is what it is
        with torch.random.fork_rng():
            torch.manual_seed(run.config.get("training", {}).get("seed", 0))
            untrained = run.build().eval()
        found["untrained_latents"] = (
            torch.cat([t.latents for t in encoded(untrained)]).float().cpu().numpy()
        )
    return found


def _compared(
    run: Run,
    model: Tokenizer,
    images: ImageSet,
    reconstructions: np.ndarray,
    feature_extractor: FeatureExtractor,
    limit: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Features of the images, their reconstructions, training images, and of every patch."""
    device = model_device(model)
    found = {"features": pooled_features(feature_extractor, images.pixels, device)}
    found["reconstruction_features"] = pooled_features(feature_extractor, reconstructions, device)
    found |= training_image_arrays(run, feature_extractor, device, limit, seed)
    rows, columns = model.cells
    if len(images) * rows * columns * feature_extractor.dim * 2 <= MAX_ARRAY_BYTES:
        by_patch = [
            feature_extractor.features(images.images(part).to(device), (rows, columns))
            for part in batch_slices(len(images))
        ]
        found["teacher_features"] = torch.cat(by_patch).half().cpu().numpy()
    return found


def _difference(model: Tokenizer, tokens: Tokens, images: Images) -> Tensor:
    return (model.decode(tokens).clamp(-1, 1) - images) / 2


def _nearest_other(flat: Tensor, part: slice) -> Tensor:
    distances = torch.cdist(flat[part], flat)
    distances[torch.arange(len(distances)), torch.arange(part.start, part.stop)] = torch.inf
    return distances.argmin(dim=1)
