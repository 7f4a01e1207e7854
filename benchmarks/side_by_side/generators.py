"""Training and sampling of generators, compared with diffusers at equal depth and width."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.generators.presets import PRESETS
from workbench.generators.samplers import euler, guided_velocity, sample_latents, sampling_times
from workbench.generators.transformer import SiT

from .measure import Comparison, checked_before, max_difference, parameter_ratio, training_step
from .sizes import Size

NUM_CLASSES = 10
GUIDANCE = 4.0
MAX_SAMPLE_DIFFERENCE = 1e-4


def comparisons(size: Size, device: str) -> Iterator[Callable[[], Comparison]]:
    """Yield functions that create the comparisons."""
    for name in ("sit", "dit"):
        yield partial(training, name, size, device)
    for make in (solver, sampling, lightningdit):
        yield partial(make, size, device)


def our_transformer(size: Size, device: str, name: str = "sit") -> SiT:
    """Return our transformer with a random output layer, which is zero by default."""
    config = SiT.Config(
        num_tokens=size.rows**2,
        dim=size.channels,
        classes=NUM_CLASSES,
        rows=size.rows,
        **size.generator,
        **PRESETS[name],
    )
    model = SiT(config).to(device)
    nn.init.normal_(model.to_velocity.weight, std=0.02)
    return model


def their_transformer(size: Size, device: str) -> nn.Module:
    """Return the DiT of diffusers with one token per grid cell."""
    from diffusers import DiTTransformer2DModel

    heads, width = size.generator["heads"], size.generator["width"]
    model = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=size.channels,
        out_channels=size.channels,
        num_layers=size.generator["depth"],
        sample_size=size.rows,
        patch_size=1,
        num_embeds_ada_norm=NUM_CLASSES,
    )
    return model.to(device)


def training(name: str, size: Size, device: str) -> Comparison:
    """Compare a training step on latents, which predicts velocity (sit) or noise (dit)."""
    ours = our_transformer(size, device, name)
    theirs = their_transformer(size, device)
    latents, labels = _batch(size, device)
    grid = latents.transpose(1, 2).unflatten(2, (size.rows, size.rows))

    def their_loss() -> Tensor:
        t, noise = torch.rand(len(grid), device=device), torch.randn_like(grid)
        mixed = torch.lerp(grid, noise, t[:, None, None, None])
        predicted = theirs(mixed, timestep=(1000 * t).long(), class_labels=labels).sample
        return F.mse_loss(predicted, noise - grid if name == "sit" else noise)

    return Comparison(
        work=f"{name}, step",
        sizes=_describe(size),
        reference="diffusers' DiT",
        ours=training_step(ours, lambda: ours.objective(latents, labels).total),
        theirs=training_step(theirs, their_loss),
        check=checked_before(True, parameter_ratio(ours, theirs)),
    )


def solver(size: Size, device: str) -> Comparison:
    """Compare solvers with the same noise and network, so that the samples are equal."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    model = our_transformer(size, device).eval()
    noise, labels = _batch(size, device)
    times = sampling_times(size.solver_steps)

    @torch.no_grad()
    def our_samples() -> Tensor:
        return euler(guided_velocity(model, labels, 1.0), noise, times)

    @torch.no_grad()
    def their_samples() -> Tensor:
        scheduler = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(sigmas=times[:-1], device=device)
        x = noise
        for t in scheduler.timesteps:
            x = scheduler.step(model(x, (t / 1000).expand(len(x)), labels), t, x).prev_sample
        return x

    def check(ours: Tensor, theirs: Tensor) -> tuple[bool, str]:
        difference = max_difference(ours, theirs)
        return difference < MAX_SAMPLE_DIFFERENCE, f"samples within {difference:.0e}"

    return Comparison(
        work=f"{size.solver_steps} Euler steps, our network",
        sizes=_describe(size),
        reference="diffusers' scheduler",
        ours=our_samples,
        theirs=their_samples,
        check=check,
    )


def sampling(size: Size, device: str) -> Comparison:
    """Compare guided sampling as a user calls it: our function, their scheduler and network."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    ours = our_transformer(size, device).eval()
    theirs = their_transformer(size, device).eval()
    latents, labels = _batch(size, device)
    shape = (len(latents), size.channels, size.rows, size.rows)
    labels_and_null = torch.cat([labels, torch.full_like(labels, NUM_CLASSES)])

    @torch.no_grad()
    def their_samples() -> Tensor:
        scheduler = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(size.solver_steps, device=device)
        x = torch.randn(shape, device=device)
        for t in scheduler.timesteps:
            times = t.expand(len(labels_and_null)).long()
            output = theirs(torch.cat([x, x]), timestep=times, class_labels=labels_and_null).sample
            conditional, null = output.chunk(2)
            x = scheduler.step(null + GUIDANCE * (conditional - null), t, x).prev_sample
        return x

    our_samples = partial(
        sample_latents, ours, labels, steps=size.solver_steps, solver="euler", guidance=GUIDANCE
    )
    return Comparison(
        work=f"{size.solver_steps} guided Euler steps",
        sizes=_describe(size),
        reference="diffusers' DiT and scheduler",
        ours=our_samples,
        theirs=their_samples,
        check=checked_before(True, parameter_ratio(ours, theirs)),
    )


def lightningdit(size: Size, device: str) -> Comparison:
    """Measure the cost of LightningDiT's parts; both sides are ours."""
    latents, labels = _batch(size, device)
    improved = our_transformer(size, device, "lightningdit")
    plain = our_transformer(size, device, "sit")
    return Comparison(
        work="lightningdit, step",
        sizes=_describe(size),
        reference="our sit",
        ours=training_step(improved, lambda: improved.objective(latents, labels).total),
        theirs=training_step(plain, lambda: plain.objective(latents, labels).total),
        check=checked_before(True, parameter_ratio(improved, plain)),
        slowdown_reason="RoPE, RMSNorm (several CPU kernels) and SwiGLU read memory once more.",
    )


def _batch(size: Size, device: str) -> tuple[Tensor, Tensor]:
    latents = torch.randn(size.latents, size.rows**2, size.channels, device=device)
    return latents, torch.randint(NUM_CLASSES, (size.latents,), device=device)


def _describe(size: Size) -> str:
    depth, width = size.generator["depth"], size.generator["width"]
    return f"{size.latents} x {size.rows**2} tokens, {depth} layers of {width}"
