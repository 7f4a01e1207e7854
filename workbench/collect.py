"""From a trained run to arrays: the only step of an analysis that needs the model."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

import workbench
from workbench.data import ImageSet, load
from workbench.errors import RunError, UserError
from workbench.evidence import Evidence
from workbench.generators.autoregressive import AR
from workbench.generators.sampling import sample
from workbench.generators.transformer import SiT
from workbench.runs import Run
from workbench.tokenizers.tokenizer import Tokenizer
from workbench.types import Tokens

BATCH = 256


def collect(
    run: Run,
    *,
    step: int | None = None,
    limit: int = 2000,
    seed: int = 0,
    guidance: float = 2.0,
    tick: Callable[[int, int], None] | None = None,
) -> Evidence:
    """Write and return the evidence of a run at a step (None: the last): of a tokenizer what it does to at most
    `limit` held-out images, of a generator as many samples as that, at most 64 a class, with classifier-free guidance.
    `tick` hears done and total.
    """
    step = run.steps[-1] if step is None and run.steps else step
    run.checkpoint(step)
    model = run.load(step)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.no_grad():
        if isinstance(model, Tokenizer):
            found = _of_tokenizer(run, model.to(device), limit, seed, tick)
        else:
            found = _of_generator(run, model.to(device), limit, seed, guidance, tick)
    found["provenance"] |= {"run": run.name, "step": step, "class": run.config["class"], "seed": seed}
    found["provenance"] |= {"settings": run.config["settings"], "versions": versions()}
    Evidence(**found).save(run.folder / "evidence" / f"step-{step:06d}")
    return run.evidence(step)


def held_out(run: Run, split: str = "test") -> ImageSet:
    """The images of a tokenizer's run. Raises RunError if they are no longer those it was trained beside."""
    told = run.config.get("data")
    if told is None:
        raise RunError(f"{run.folder} does not say which images it was trained on; its config.json should.")
    if split == "train" and told["source"].startswith("stream:"):
        raise UserError(f"{told['source']} is only ever read in order; a generator needs images that can be indexed.")
    images = load(told["source"], split=split, side=told["side"], channels=told["channels"], limit=told["limit"])
    if split == "train" and images.fingerprint != told["fingerprint"]:
        raise RunError(
            f"The images in {told['source']} changed since {run.folder} was trained on them; train a new run."
        )
    return images


def pictures(images: Tensor) -> np.ndarray:
    """Images in [-1, 1] as uint8 (n, h, w, c), clamped."""
    return rearrange(((images.clamp(-1, 1) + 1) * 127.5).round().byte(), "n c h w -> n h w c").cpu().numpy()


def drawn(
    model: SiT | AR, tokenizer: Tokenizer, labels: Tensor, *, steps: int = 50, guidance: float = 1.0, seed: int = 0
) -> np.ndarray:
    """One picture a label, uint8 (b, h, w, c): what a generator draws, decoded by its tokenizer."""
    if isinstance(model, AR):
        codes = model.generate(labels, guidance=guidance, seed=seed).cpu()
        words = tokenizer.codebook.cpu().repeat_interleave(codes.shape[1] // len(tokenizer.codebook), dim=0)
        tokens = Tokens(words[torch.arange(codes.shape[1]), codes], codes)
    else:
        tokens = Tokens(sample(model, labels, steps=steps, guidance=guidance, seed=seed).cpu())
    return pictures(tokenizer.decode(tokens))


def previewer(run: Run, count: int = 16) -> Callable[[nn.Module], np.ndarray]:
    """What to look at while a run trains: the same held-out images, or the same noise, each time."""
    if run.tokenizer is None:
        images = held_out(run).take(count).images()
        return torch.no_grad()(lambda model: pictures(model.decode(model.encode(images.to(_device(model))))))
    tokenizer = run.tokenizer.load(run.config["tokenizer"]["step"])
    labels = torch.arange(count) % run.config["settings"]["classes"]
    return torch.no_grad()(lambda model: drawn(model, tokenizer, labels.to(_device(model)), steps=20, guidance=2.0))


def versions() -> dict[str, str]:
    """The versions a result depends on."""
    return {"workbench": workbench.__version__, "torch": torch.__version__, "numpy": np.__version__}


def _of_tokenizer(run: Run, model: Tokenizer, limit: int, seed: int, tick: Any) -> dict[str, Any]:
    everything = held_out(run)
    images = everything.take(limit, seed)
    device = _device(model)
    codebook = None if model.codebook is None else model.codebook.float().cpu().numpy()
    rows: dict[str, list[np.ndarray]] = {}
    prefixes: list[int] = []
    for done, part in enumerate(_parts(len(images)), 1):
        batch = images.images(part).to(device)
        tokens = model.encode(batch)
        prefixes = _prefix_lengths(tokens.latents.shape[1])
        found = {"reconstructions": pictures(model.decode(tokens)), "latents": tokens.latents.float().cpu().numpy()}
        if tokens.codes is not None:
            found["codes"] = tokens.codes.int().cpu().numpy()
        if tokens.active is not None:
            found["active"] = tokens.active.cpu().numpy()
        found["prefix_mse"] = np.stack([_prefix_error(model, tokens, batch, k) for k in prefixes], axis=1)
        for name, array in found.items():
            rows.setdefault(name, []).append(array)
        if tick:
            tick(min(done * BATCH, len(images)), len(images))
    provenance = {
        "data": images.source,
        "split": images.split,
        "names": images.names,
        "fingerprint": images.fingerprint,
        "n": len(images),
        "of": len(everything),
        "discrete": model.discrete and model.codebook is not None,
        "grid": tokens.grid,
    }
    arrays = {name: np.concatenate(parts) for name, parts in rows.items()}
    arrays |= {"images": images.pixels, "labels": images.labels, "codebook": codebook}
    return {"provenance": provenance, "prefixes": np.array(prefixes, dtype=np.int32), **arrays}


def _of_generator(run: Run, model: SiT | AR, limit: int, seed: int, guidance: float, tick: Any) -> dict[str, Any]:
    source = _tokenizer_of(run)
    tokenizer = source.load(run.config["tokenizer"]["step"])
    classes, device = model.config.classes, _device(model)
    labels = torch.arange(classes).repeat_interleave(max(1, min(64, limit // classes)))[:limit]
    samples = []
    for done, part in enumerate(labels.split(BATCH), 1):
        samples.append(drawn(model, tokenizer, part.to(device), seed=seed + done - 1, guidance=guidance))
        if tick:
            tick(min(done * BATCH, len(labels)), len(labels))
    provenance = {
        "data": source.config["data"]["source"],
        "names": source.config["data"]["names"],
        "tokenizer": run.config["tokenizer"],
        "n": len(labels),
        "sampling": _how(model) | {"guidance": guidance, "seed": seed},
    }
    return {"provenance": provenance, "samples": np.concatenate(samples), "sample_labels": labels.numpy()}


def _how(model: SiT | AR) -> dict[str, Any]:
    if isinstance(model, AR):
        return {"solver": "autoregressive", "steps": model.config.tokens, "temperature": 1.0}
    config = model.config
    return {"solver": "heun", "steps": 50, "shift": config.shift, "interval": list(config.interval)}


def _tokenizer_of(run: Run) -> Run:
    if run.tokenizer is None:
        raise RunError(f"{run.folder} does not say which tokenizer it was trained on; its config.json should.")
    return run.tokenizer


def _prefix_lengths(tokens: int) -> list[int]:
    return sorted({tokens, *(2**i for i in range(tokens.bit_length()) if 2**i <= tokens)})


def _prefix_error(model: Tokenizer, tokens: Tokens, images: Tensor, length: int) -> np.ndarray:
    """Squared error a pixel, in [0, 1], when the decoder may look at the first tokens only."""
    visible = torch.arange(tokens.latents.shape[1], device=images.device) < length
    active = visible.expand(tokens.latents.shape[:2])
    if tokens.active is not None:
        active = active & tokens.active
    shown = model.decode(Tokens(tokens.latents, tokens.codes, active, tokens.grid)).clamp(-1, 1)
    return ((shown - images) / 2).square().mean(dim=(1, 2, 3)).cpu().numpy()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _parts(count: int) -> Iterator[slice]:
    edges = [*range(0, count, BATCH), count]
    return (slice(a, b) for a, b in pairwise(edges))
