"""Generators' training steps, and sampling, beside diffusers' (Apache 2.0): as many layers of the same width."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.generators.presets import PRESETS
from workbench.generators.samplers import euler, guided_velocity, sample_latents, sampling_times
from workbench.generators.transformer import SiT

from .measure import Pair, alike, distance, found, stepper
from .sizes import Size

CLASSES = 10


def pairs(size: Size, device: str) -> Iterator[Callable[[], Pair]]:
    """Every comparison, each made when it is its turn."""
    for name in ("sit", "dit"):
        yield partial(training, name, size, device)
    for make in (solving, sampling, improved):
        yield partial(make, size, device)


def transformer(size: Size, device: str, name: str = "sit") -> SiT:
    """Ours, no longer at the zero velocity that it starts with."""
    sizes = {
        "num_tokens": size.rows**2,
        "dim": size.channels,
        "classes": CLASSES,
        "rows": size.rows,
    }
    made = SiT(SiT.Config(**sizes, **size.generator, **PRESETS[name])).to(device)
    nn.init.normal_(made.to_velocity.weight, std=0.02)
    return made


def public(size: Size, device: str) -> nn.Module:
    """diffusers' DiT with a token for each place."""
    from diffusers import DiTTransformer2DModel

    heads, width = size.generator["heads"], size.generator["width"]
    made = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=size.channels,
        out_channels=size.channels,
        num_layers=size.generator["depth"],
        sample_size=size.rows,
        patch_size=1,
        num_embeds_ada_norm=CLASSES,
    )
    return made.to(device)


def training(name: str, size: Size, device: str) -> Pair:
    """A step on latents: mix with noise, predict velocity (sit) or noise (dit), squared error, backward, AdamW."""
    ours, theirs = transformer(size, device, name), public(size, device)
    latents, labels = _batch(size, device)
    grid = latents.transpose(1, 2).unflatten(2, (size.rows, size.rows))

    def their_loss() -> Tensor:
        t, noise = torch.rand(len(grid), device=device), torch.randn_like(grid)
        mixed = torch.lerp(grid, noise, t[:, None, None, None])
        predicted = theirs(mixed, timestep=(1000 * t).long(), class_labels=labels).sample
        return F.mse_loss(predicted, noise - grid if name == "sit" else noise)

    sides = (
        stepper(ours, lambda: ours.objective(latents, labels).total),
        stepper(theirs, their_loss),
    )
    return Pair(
        f"{name}, step", _told(size), "diffusers' DiT", *sides, found(True, alike(ours, theirs))
    )


def solving(size: Size, device: str) -> Pair:
    """Our solver and their scheduler from the same noise through the same network, ours: the samples are equal."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    model = transformer(size, device).eval()
    noise, labels = _batch(size, device)
    visited = sampling_times(size.solver)

    @torch.no_grad()
    def our_samples() -> Tensor:
        return euler(guided_velocity(model, labels, 1.0), noise, visited)

    @torch.no_grad()
    def their_samples() -> Tensor:
        scheduler = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(sigmas=visited[:-1], device=device)
        x = noise
        for t in scheduler.timesteps:
            x = scheduler.step(model(x, (t / 1000).expand(len(x)), labels), t, x).prev_sample
        return x

    def check(mine: Tensor, its: Tensor) -> tuple[bool, str]:
        apart = distance(mine, its)
        return apart < 1e-4, f"samples equal but for {apart:.0e}"

    work = f"{size.solver} Euler steps, our network"
    return Pair(work, _told(size), "diffusers' scheduler", our_samples, their_samples, check)


def sampling(size: Size, device: str) -> Pair:
    """From noise to latents with guidance, as people call it: our `sample`, their scheduler around their network."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    ours, theirs = transformer(size, device).eval(), public(size, device).eval()
    latents, labels = _batch(size, device)
    shape = (len(latents), size.channels, size.rows, size.rows)
    both = torch.cat([labels, torch.full_like(labels, CLASSES)])

    @torch.no_grad()
    def their_samples() -> Tensor:
        scheduler = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(size.solver, device=device)
        x = torch.randn(shape, device=device)
        for t in scheduler.timesteps:
            twice = theirs(
                torch.cat([x, x]), timestep=t.expand(len(both)).long(), class_labels=both
            ).sample
            conditional, null = twice.chunk(2)
            x = scheduler.step(null + 4 * (conditional - null), t, x).prev_sample
        return x

    our_samples = partial(
        sample_latents, ours, labels, steps=size.solver, solver="euler", guidance=4.0
    )
    work = f"{size.solver} guided Euler steps"
    agrees = found(True, alike(ours, theirs))
    return Pair(
        work, _told(size), "diffusers' DiT and scheduler", our_samples, their_samples, agrees
    )


def improved(size: Size, device: str) -> Pair:
    """What LightningDiT's parts cost: both sides are ours."""
    latents, labels = _batch(size, device)
    models = [transformer(size, device, name) for name in ("lightningdit", "sit")]
    steps = (
        stepper(model, lambda model=model: model.objective(latents, labels).total)
        for model in models
    )
    why = "RoPE, RMSNorm (of several kernels on a CPU) and SwiGLU pass over memory where plain sit does not."
    return Pair(
        "lightningdit, step", _told(size), "our sit", *steps, found(True, alike(*models)), why
    )


def _batch(size: Size, device: str) -> tuple[Tensor, Tensor]:
    latents = torch.randn(size.latents, size.rows**2, size.channels, device=device)
    return latents, torch.randint(CLASSES, (size.latents,), device=device)


def _told(size: Size) -> str:
    how = size.generator
    return f"{size.latents} x {size.rows**2} tokens, {how['depth']} layers of {how['width']}"
