"""A class-conditional transformer over latents: DiT, SiT and LightningDiT by their settings.

DiT (arXiv:2212.09748) gives the blocks, SiT (arXiv:2401.08740) the paths and the predictions,
LightningDiT (arXiv:2501.01423) the norms, gates, rotations and the direction loss.
`generators.presets` has the settings of each, and the recipes for ImageNet those of their code.

Here, also with the settings of the code:

- The moments of the latents are those of all training images; LightningDiT takes 10,000.
- The moving average of the weights starts with a smaller decay.
- The direction loss counts a short vector as one of length 0.1; see `direction_loss`.
- Rotations turn the channels i and i + half of a head; the code turns neighbors. Only the order of
  channels differs, and `generators.pretrained` permutes them.
- Which latents are mirrored depends on the seed and the step, and not on the order of the loader.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, get_args, get_origin

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.core.batch_shares import item_draws, item_noise
from workbench.core.errors import UserError, unknown
from workbench.core.types import Objective, Tokens
from workbench.generators.base import EncodedImages, Generator
from workbench.generators.diffusion import hybrid_loss
from workbench.generators.embeddings import (
    cosine_embedding,
    published_positions,
    sinusoidal_embedding,
    timestep_index,
    token_coordinates,
)
from workbench.generators.interpolants import Path, Times, interpolant, sample_times
from workbench.generators.losses import loss_by_time
from workbench.generators.noise_schedules import SCHEDULES, is_schedule
from workbench.generators.samplers import (
    Solver,
    check_ddpm,
    euler,
    first_time,
    guided_velocity,
    initial_noise,
    integrate,
    sample_latents,
    sampling_times,
)
from workbench.nn.transformer import (
    LAYER_NORM_EPS,
    MLPKind,
    ModulatedBlock,
    Norm,
    init_weights,
    init_xavier,
    modulation_norm,
    rotary_angles,
)

EVAL_BINS = 20  # bins of time in `SiT.evaluate`
TIME_CHANNELS = 256  # of the unscaled time embedding
MIN_STD = 1e-6  # a channel with a smaller standard deviation is constant


class SiT(Generator):
    """Predict the velocity, or the noise, at a point of the path from noise to latents."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The moments of the latents, the sizes, and the choices in which the papers differ.

        Attributes
        ----------
        num_tokens : int
            Tokens per image; those of the tokenizer.
        dim : int
            Channels of a token; those of the tokenizer.
        classes : int
            Number of classes, without the null class of guidance.
        by_channel : bool
            Whether mean and std are those of each channel of a token, or of all numbers.
        mean : float or sequence of float
            Mean of the latents. The network reads (latents - mean) / std.
        std : float or sequence of float
            Standard deviation of the latents.
        width : int
            Channels of the transformer.
        depth : int
            Blocks of the transformer.
        heads : int
            Attention heads.
        drop_class : float
            Fraction of the labels that are replaced by the null class in training.
        path : {"linear", "cosine", "ddpm-linear", "ddpm-cosine"}
            Path from noise to latents; that of the DiT paper is "ddpm-linear".
        predict : {"velocity", "noise"}
            Output of the network.
        times : {"logit-normal", "uniform", "timesteps"}
            Distribution of the training times.
        learned_variance : bool
            Whether the variances of reverse steps are learned, as in DiT; needs a discrete noise
            schedule.
        uniform_after : float
            Fraction of the training after which times are uniform; 0.6 in LightningDiT's 800
            epochs.
        norm : {"layer", "rms"}
            Normalization of a block; "rms" has a learned gain.
        mlp : {"gelu", "gelu-tanh", "swiglu"}
            Kind of the feed-forward network of a block.
        positions : {"sines", "rope", "sines+rope"}
            Position embeddings that are added (sines), that rotate queries and keys (rope), or
            both.
        stored_positions : bool
            Whether the added positions belong to the checkpoint, and start as in the papers' code.
        rows : int
            Rows of the grid of tokens, for positions in two axes; 1: the tokens are a line.
        patch : int
            Rows and columns of tokens that are one token of the network.
        qk_norm : bool
            Whether queries and keys are normalized by their root mean square.
        norm_eps : float
            Number that is added to the variance in each LayerNorm; the papers' code has 1e-6.
        time_embedding : {"scaled", "unscaled", "timestep"}
            "scaled" embeds 1000 t in width channels; "unscaled" embeds t in 256 channels with the
            cosines first, as the code of SiT and LightningDiT does; "timestep" embeds 1000 t - 1,
            the index of a discrete timestep, as that of DiT.
        reversed_time : bool
            Whether 1 - t is embedded, as in LightningDiT's code.
        init : {"scaled", "xavier"}
            Weights at the start: small, shrinking with the depth (scaled), or those of the papers'
            code (xavier).
        direction_weight : float
            Weight of 1 minus the cosine of the predicted velocity and the velocity.
        shift : float
            Shift of the sampling times; above 1, more of them are near the noise.
        interval : tuple of float
            First and last sampling time with guidance; 1 is noise.
        guided_channels : int, optional
            Number of channels, from the first, that guidance changes; none: all.
        solver : {"euler", "heun", "euler-maruyama", "ddpm"}
            Method that integrates the samples.
        sampling_steps : int
            Steps of the solver.
        """

        num_tokens: int
        dim: int
        classes: int
        by_channel: bool = False
        mean: float | Sequence[float] = 0.0
        std: float | Sequence[float] = 1.0
        width: int = 96
        depth: int = 4
        heads: int = 4
        drop_class: float = 0.1
        path: Path = "linear"
        predict: Literal["velocity", "noise"] = "velocity"
        times: Times = "logit-normal"
        learned_variance: bool = False
        uniform_after: float = 1.0
        norm: Norm = "layer"
        mlp: MLPKind = "gelu"
        positions: Literal["sines", "rope", "sines+rope"] = "sines"
        stored_positions: bool = False
        rows: int = 1
        patch: int = 1
        qk_norm: bool = False
        norm_eps: float = LAYER_NORM_EPS
        time_embedding: Literal["scaled", "unscaled", "timestep"] = "scaled"
        reversed_time: bool = False
        init: Literal["scaled", "xavier"] = "scaled"
        direction_weight: float = 0.0
        shift: float = 1.0
        interval: tuple[float, float] = (0.0, 1.0)
        guided_channels: int | None = None
        solver: Solver = "heun"
        sampling_steps: int = 50

        def __post_init__(self) -> None:
            for field in fields(self):
                value = getattr(self, field.name)
                if get_origin(field.type) is Literal and value not in get_args(field.type):
                    raise unknown(field.name, str(value), get_args(field.type))
                if field.type is int and value < 1:
                    raise UserError(f"{field.name} must be at least 1, got {value}.")
            if not 0 < self.shift < float("inf"):
                raise UserError(f"shift must be above 0, got {self.shift}.")
            self._check_moments()
            if not 0 < self.norm_eps < 1:
                raise UserError(f"norm_eps must be between 0 and 1, got {self.norm_eps}.")
            if self.guided_channels is not None and not 1 <= self.guided_channels <= self.dim:
                raise UserError(
                    f"guided_channels must be in 1..{self.dim}, the channels of a token, got"
                    f" {self.guided_channels}."
                )
            low, high = self.interval
            if not 0 <= low <= high <= 1:
                raise UserError(
                    "interval must be increasing and within 0..1 (1 is noise), got"
                    f" {low} to {high}."
                )
            for name in ("drop_class", "uniform_after"):
                value = getattr(self, name)
                if not 0 <= value <= 1:
                    raise UserError(f"{name} must be between 0 and 1, got {value}.")
            if self.direction_weight < 0:
                raise UserError(
                    f"direction_weight must be at least 0, got {self.direction_weight}."
                )
            if self.direction_weight and self.predict != "velocity":
                raise UserError(
                    f"direction_weight {self.direction_weight} needs predict=velocity, got"
                    f" {self.predict}."
                )
            self._check_sizes()
            if self.solver == "ddpm":
                check_ddpm(self.path, self.predict)
            is_discrete = is_schedule(self.path) and self.times == "timesteps"
            if self.learned_variance and not (is_discrete and self.predict == "noise"):
                raise UserError(
                    "learned_variance needs predict=noise, times=timesteps and a path of"
                    f" {', '.join(SCHEDULES)}, got {self.predict}, {self.times} and {self.path}."
                )

        def _check_moments(self) -> None:
            for name, value in (("mean", self.mean), ("std", self.std)):
                if isinstance(value, Sequence) and len(value) != self.dim:
                    raise UserError(
                        f"{name} must have one number for each of {self.dim} channels, got"
                        f" {len(value)}."
                    )
            for std in self.std if isinstance(self.std, Sequence) else (self.std,):
                if not 0 < std < float("inf"):
                    raise UserError(f"std must be above 0, got {std}.")

        def _check_sizes(self) -> None:
            if self.num_tokens % self.rows:
                raise UserError(
                    f"num_tokens must be a multiple of rows, got {self.num_tokens} tokens and"
                    f" {self.rows} rows."
                )
            if self.rows % self.patch or self.num_tokens // self.rows % self.patch:
                raise UserError(
                    f"patch must divide the rows and columns of the tokens, got patch {self.patch},"
                    f" {self.rows} rows and {self.num_tokens // self.rows} columns."
                )
            if self.width % self.heads or self.width % (2 * self.axes):
                raise UserError(
                    f"width must be a multiple of {self.heads} heads and of {2 * self.axes}, got"
                    f" {self.width}."
                )
            if self.stored_positions and "sines" not in self.positions:
                raise UserError(
                    "stored_positions needs positions that are added (sines or sines+rope), got"
                    f" {self.positions}."
                )
            head_width = self.width // self.heads
            if "rope" in self.positions and head_width % (2 * self.axes):
                raise UserError(
                    f"With rope the width of a head must be a multiple of {2 * self.axes}, got"
                    f" {head_width}."
                )

        @property
        def axes(self) -> int:
            """The axes of the positions of the network's tokens: 1 for a line, 2 for a grid."""
            return 1 if self.rows == self.patch else 2

    consumes: ClassVar[Literal["latents", "codes"]] = "latents"
    set_by_tokenizer = ("num_tokens", "dim", "classes", "mean", "std", "rows")
    axes = ("guidance", "interval", "time", "step")

    config: Config
    mean: Tensor
    std: Tensor
    positions: Tensor | None
    turns: Tensor | None

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.progress = 1.0  # fraction of the training that is done; 1 outside of training
        width = config.width
        self.embed = nn.Linear(config.patch**2 * config.dim, width)
        time_channels = width if config.time_embedding == "scaled" else TIME_CHANNELS
        self.time = nn.Sequential(
            nn.Linear(time_channels, width), nn.SiLU(), nn.Linear(width, width)
        )
        blocks = [
            ModulatedBlock(
                width,
                config.heads,
                norm=config.norm,
                mlp=config.mlp,
                qk_norm=config.qk_norm,
                norm_eps=config.norm_eps,
            )
            for _ in range(config.depth)
        ]
        self.blocks = nn.ModuleList(blocks)
        self.norm = modulation_norm(config.norm, width, config.norm_eps)
        self.modulation = nn.Linear(width, 2 * width)
        # The output layer also of a noise prediction; stored runs have this name.
        num_outputs = 2 * config.dim if config.learned_variance else config.dim
        self.to_velocity = nn.Linear(width, config.patch**2 * num_outputs)
        self._init_linear()
        self.label = nn.Embedding(config.classes + 1, width)
        nn.init.normal_(self.label.weight, std=0.02)
        # adaLN-zero: the gates of every block, and the output, start at zero.
        for layer in (*(block.modulation for block in blocks), self.modulation, self.to_velocity):
            nn.init.zeros_(layer.weight)
        coordinates = token_coordinates(
            config.num_tokens // config.patch**2, config.rows // config.patch
        )
        if config.stored_positions:
            sines = published_positions(coordinates, width)
        else:
            sines = torch.cat(
                [sinusoidal_embedding(axis, width // config.axes) for axis in coordinates.T], dim=1
            )
        has_sines, has_rope = "sines" in config.positions, "rope" in config.positions
        turns = rotary_angles(coordinates, width // config.heads) if has_rope else None
        self.register_buffer("mean", torch.tensor(config.mean), persistent=False)
        self.register_buffer("std", torch.tensor(config.std), persistent=False)
        self.register_buffer(
            "positions", sines if has_sines else None, persistent=config.stored_positions
        )
        self.register_buffer("turns", turns, persistent=False)

    def _init_linear(self) -> None:
        if self.config.init == "scaled":
            init_weights(self, self.config.depth)
            return
        init_xavier(self)
        for name, weight in self.time.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(weight, std=0.02)

    @classmethod
    def settings_from(cls, data: EncodedImages, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the shape, the moments and the grid of the latents.

        With `by_channel`, a channel that is constant has a standard deviation of 1.
        """
        by_channel = settings.get("by_channel", False)
        mean, std = data.moments(by_channel=by_channel)
        if by_channel:
            std = np.where(std <= MIN_STD, 1.0, std)
        return {
            "num_tokens": data.rows.shape[1],
            "dim": data.rows.shape[2],
            "classes": int(data.labels.max()) + 1,
            "mean": mean.tolist(),
            "std": std.tolist(),
            "rows": 1 if data.grid is None else data.grid[0],
        }

    @property
    def supports_guidance(self) -> bool:
        """True if there are several classes, and labels were dropped in training."""
        return super().supports_guidance and self.config.drop_class > 0

    def set_progress(self, fraction: float) -> None:
        """Set the fraction of the training that is done, in [0, 1]."""
        self.progress = fraction

    @property
    def times(self) -> Times:
        """Return the distribution of the training times at the present progress."""
        return "uniform" if self.progress > self.config.uniform_after else self.config.times

    def objective(self, latents: Float[Tensor, "b n d"], labels: Int[Tensor, " b"], /) -> Objective:
        """Compute the squared error of the prediction at random times, and the direction loss.

        For latents of unit variance an untrained model has a velocity error of 2 on the linear path
        and (pi / 2)^2 on the cosine path, a noise error of 1, and a direction loss of its weight.
        """
        config = self.config
        data = self.standardize(latents)
        uniform = item_draws(torch.rand, (len(labels),), device=labels.device)
        dropped = uniform < config.drop_class
        noise = item_noise(data)
        times = sample_times(self.times, config.path, len(data), data)
        point = interpolant(config.path, times)
        target = point.slope(data, noise) if config.predict == "velocity" else noise
        conditions = torch.where(dropped, config.classes, labels)
        x = point.mix(data, noise)
        # In bfloat16, most of the learned variances would be equal.
        outputs = self.outputs(x, point.t, conditions).float()
        predicted = outputs[..., : config.dim]
        terms: dict[str, Tensor] = {config.predict: F.mse_loss(predicted, target)}
        if config.learned_variance and is_schedule(config.path):
            terms["variational"] = hybrid_loss(
                config.path,
                data,
                x,
                times,
                noise=predicted.detach(),
                values=outputs[..., config.dim :],
            )
        if config.direction_weight:
            terms["direction"] = config.direction_weight * direction_loss(predicted, target)
        return Objective(terms)

    def forward(
        self, x: Float[Tensor, "b n d"], t: Float[Tensor, " b"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, "b n d"]:
        """Predict the velocity or the noise at x, a point of standardized latents and noise.

        Label `classes` is the null class.
        """
        return self.outputs(x, t, labels)[..., : self.config.dim]

    def outputs(
        self, x: Float[Tensor, "b n d"], t: Float[Tensor, " b"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, "b n e"]:
        """Compute what `forward` returns and, after it, the values of learned variances."""
        condition = self._embed_time(t) + self.label(labels)
        x = self.embed(self._to_patches(x))
        if self.positions is not None:
            x = x + self.positions
        for block in self.blocks:
            x = block(x, condition, self.turns)
        modulation = self.modulation(F.silu(condition))
        shift, scale = rearrange(modulation, "b (two width) -> two b 1 width", two=2)
        return self._from_patches(self.to_velocity(self.norm(x) * (1 + scale) + shift))

    def _to_patches(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m e"]:
        patch = self.config.patch
        if patch == 1:
            return x
        rows = self.config.rows // patch
        return rearrange(x, "b (h p w q) d -> b (h w) (p q d)", h=rows, p=patch, q=patch)

    def _from_patches(self, x: Float[Tensor, "b m e"]) -> Float[Tensor, "b n f"]:
        patch = self.config.patch
        if patch == 1:
            return x
        rows = self.config.rows // patch
        return rearrange(x, "b (h w) (p q f) -> b (h p w q) f", h=rows, p=patch, q=patch)

    def _embed_time(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        if self.config.reversed_time:
            t = 1 - t
        if self.config.time_embedding == "unscaled":
            return self.time(cosine_embedding(t, TIME_CHANNELS))
        if self.config.time_embedding == "timestep":
            return self.time(cosine_embedding(timestep_index(t), TIME_CHANNELS))
        return self.time(sinusoidal_embedding(1000 * t, self.config.width))

    def velocity(
        self, x: Float[Tensor, "b n d"], t: Float[Tensor, " b"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, "b n d"]:
        """Predict the velocity at x; converted from a noise prediction, it is singular at t = 1."""
        predicted = self(x, t, labels)
        if self.config.predict == "velocity":
            return predicted
        return interpolant(self.config.path, t).velocity(x, predicted)

    def standardize(self, latents: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Convert latents of the tokenizer to mean 0 and standard deviation 1 for the network."""
        return (latents - self.mean) / self.std

    def destandardize(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Convert latents of the network to those of the tokenizer."""
        return x * self.std + self.mean

    def sample(
        self,
        labels: Int[Tensor, " b"],
        *,
        codebook: Float[Tensor, "g k d"] | None = None,
        guidance: float = 1.0,
        steps: int | None = None,
        seed: int = 0,
        interval: tuple[float, float] | None = None,
        solver: str | None = None,
        shift: float | None = None,
        guided_channels: int | None = None,
    ) -> Tokens:
        """Sample the latents of one image per label.

        The codebook is not used. See `Generator.sample` and `samplers.sample_latents`.
        """
        latents = sample_latents(
            self,
            labels,
            steps=steps,
            solver=solver,
            guidance=guidance,
            interval=interval,
            shift=shift,
            guided_channels=guided_channels,
            seed=seed,
        )
        return Tokens(latents)

    @torch.no_grad()
    def trajectory(
        self,
        labels: Int[Tensor, " b"],
        *,
        guidance: float = 1.0,
        steps: int = 10,
        seed: int = 0,
    ) -> Iterator[tuple[float, Tokens]]:
        """Sample by Euler steps, and yield the data that the velocity at each time points to.

        Yields
        ------
        t : float
            Time, from 1 (noise) down to 0.
        tokens : Tokens
            The latents that the velocity at this time points to; at time 0, the sample.
        """
        config = self.config
        noise = initial_noise(self, len(labels), torch.Generator().manual_seed(seed))
        low, high = config.interval
        velocity = guided_velocity(self, labels, guidance, (low, high), config.guided_channels)
        predictions: list[tuple[float, Tensor]] = []

        def recorded_velocity(x: Tensor, t: float) -> Tensor:
            slope = velocity(x, t)
            point = interpolant(config.path, x.new_full((len(x),), t))
            predictions.append((t, point.data(x, slope)))
            return slope

        times = sampling_times(steps, shift=config.shift, first=first_time(self))
        sample = integrate(euler, recorded_velocity, noise.to(labels.device), times, config.path)
        for t, x in (*predictions, (0.0, sample)):
            yield t, Tokens(self.destandardize(x))

    def evaluate(
        self, tokens: Tokens, labels: Int[Tensor, " b"], *, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Return `loss_times` and `loss_by_time`, both float32 of shape (20,)."""
        loss = loss_by_time(self, tokens.latents, labels, bins=EVAL_BINS, seed=seed)
        return {"loss_times": loss.t.numpy(), "loss_by_time": loss.velocity.numpy()}

    def sampling_config(self) -> dict[str, Any]:
        """Return the solver, the steps, the shift, and the times and channels of guidance."""
        config = self.config
        sampling: dict[str, Any] = {
            "solver": config.solver,
            "steps": config.sampling_steps,
            "shift": config.shift,
            "interval": list(config.interval),
        }
        if config.guided_channels is not None:
            sampling["guided_channels"] = config.guided_channels
        return sampling


def direction_loss(
    predicted: Float[Tensor, "b n d"], velocity: Float[Tensor, "b n d"]
) -> Float[Tensor, ""]:
    """Compute 1 - cos between two velocities, across a token's channels.

    LightningDiT's loss, after FasterDiT (arXiv:2410.10356). Here, a vector shorter than 0.1 counts
    as one of length 0.1. The first prediction is 0, and with torch's default of 1e-8 its gradient
    is 1e8: a run without clipping then starts slowly, because Adam's second moment remembers it.
    With clipping it matters little.
    """
    return 1 - F.cosine_similarity(predicted, velocity, dim=-1, eps=0.1).mean()
