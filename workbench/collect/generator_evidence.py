"""What a generator draws, and what its own loss is; pictures of a run while it trains."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.collect.images import (
    ENCODE_BATCH,
    load_images,
    model_device,
    pooled_features,
    ticker,
    to_uint8,
    tokenizer_run,
    training_image_arrays,
)
from workbench.core.types import Tokens
from workbench.features import FeatureExtractor
from workbench.generators.autoregressive import AR
from workbench.generators.losses import loss_by_time
from workbench.generators.samplers import sample
from workbench.generators.transformer import SiT
from workbench.storage.run import Run
from workbench.tokenizers.base import Tokenizer

BINS = 20  # of the time between data and noise


def draw_samples(
    model: SiT | AR,
    tokenizer: Tokenizer,
    labels: Tensor,
    *,
    steps: int = 50,
    guidance: float = 1.0,
    shift: float | None = None,
    seed: int = 0,
) -> np.ndarray:
    """One picture a label, uint8 (b, h, w, c): what a generator draws, decoded by its tokenizer.

    `shift` is of a flow's times; None: its own.
    """
    if isinstance(model, AR):
        codes = model.generate(labels, guidance=guidance, seed=seed).to(model_device(tokenizer))
        words = tokenizer.codebook.repeat_interleave(
            codes.shape[1] // len(tokenizer.codebook), dim=0
        )
        tokens = Tokens(words[torch.arange(codes.shape[1]), codes], codes)
    else:
        latents = sample(model, labels, steps=steps, guidance=guidance, shift=shift, seed=seed)
        tokens = Tokens(latents.to(model_device(tokenizer)))
    return to_uint8(tokenizer.decode(tokens))


def previewer(run: Run, count: int = 16) -> Callable[[nn.Module], np.ndarray]:
    """What to look at while a run trains: the same held-out images, or the same noise, each time."""
    if run.tokenizer is None:
        images = load_images(run, most=count).images()  # reads no others
        return torch.no_grad()(
            lambda model: to_uint8(model.decode(model.encode(images.to(model_device(model)))))
        )
    tokenizer = run.tokenizer.load(run.config["tokenizer"]["step"])
    labels = torch.arange(count) % run.config["settings"]["classes"]
    return torch.no_grad()(
        lambda model: draw_samples(
            model, tokenizer, labels.to(model_device(model)), steps=20, guidance=2.0
        )
    )


def generator_evidence(
    run: Run,
    model: SiT | AR,
    feature_extractor: FeatureExtractor,
    *,
    limit: int,
    seed: int,
    guidance: float,
    tick: Any,
) -> dict[str, Any]:
    """The evidence of a generator: samples of every class, and how well it knows held-out images."""
    source = tokenizer_run(run)
    device = model_device(model)
    tokenizer = source.load(run.config["tokenizer"]["step"]).to(device)
    classes = model.config.classes
    labels = torch.arange(classes).repeat_interleave(max(1, min(64, limit // classes)))[:limit]
    samples, done = [], ticker(tick, len(labels))
    for number, part in enumerate(labels.split(ENCODE_BATCH)):
        samples.append(
            draw_samples(model, tokenizer, part.to(device), seed=seed + number, guidance=guidance)
        )
        done((number + 1) * ENCODE_BATCH)
    shown = np.concatenate(samples)
    provenance = {
        "data": source.config["data"]["source"],
        "names": source.config["data"]["names"],
        "tokenizer": run.config["tokenizer"],
        "n": len(labels),
        "sampling": _how(model) | {"guidance": guidance, "seed": seed},
    }
    found = {
        "samples": shown,
        "sample_labels": labels.numpy(),
        "sample_features": pooled_features(feature_extractor, shown, device),
    }
    found |= training_image_arrays(source, feature_extractor, device, limit, seed)
    return {
        "provenance": provenance,
        **found,
        **_of_held_out(model, source, tokenizer, feature_extractor, limit, seed),
    }


def _of_held_out(
    model: SiT | AR,
    source: Run,
    tokenizer: Tokenizer,
    feature_extractor: FeatureExtractor,
    limit: int,
    seed: int,
) -> dict[str, Any]:
    """Features of held-out images, and what the generator makes of their tokens, which it was not trained on."""
    images, device = load_images(source).take(limit, seed), model_device(model)
    found: dict[str, Any] = {"features": pooled_features(feature_extractor, images.pixels, device)}
    if images.labels is None:
        return found
    encoded = [
        tokenizer.encode(images.images(part).to(device))
        for part in torch.arange(len(images)).split(ENCODE_BATCH)
    ]
    labels = torch.from_numpy(images.labels).to(device)
    if isinstance(model, AR):
        codes = torch.cat([tokens.codes for tokens in encoded])
        found["code_bits"] = np.float32([model.bits(codes, labels)])
        if model.to_class is not None:
            found |= {
                "labels": images.labels,
                "predicted": model.classify(codes).argmax(dim=1).cpu().numpy(),
            }
        return found
    loss = loss_by_time(
        model, torch.cat([tokens.latents for tokens in encoded]), labels, bins=BINS, seed=seed
    )
    return found | {"loss_times": loss.t.numpy(), "loss_by_time": loss.velocity.numpy()}


def _how(model: SiT | AR) -> dict[str, Any]:
    if isinstance(model, AR):
        return {"solver": "autoregressive", "steps": model.config.num_tokens, "temperature": 1.0}
    config = model.config
    return {"solver": "heun", "steps": 50, "shift": config.shift, "interval": list(config.interval)}
