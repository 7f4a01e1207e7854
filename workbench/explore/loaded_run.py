"""A trained run with its model in memory, and the axes along which it can be explored, by name."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from workbench.analysis.inputs import require_array
from workbench.analysis.latents.mode_assignment import order_by_size
from workbench.analysis.stats.mixtures import fit_mixture
from workbench.analysis.stats.reductions import reduce_dimensions
from workbench.collect.models import load_generator, load_tokenizer
from workbench.core.errors import NotApplicable, UserError, unknown
from workbench.explore import MAX_MODES, modes, samples, tokens
from workbench.explore.image_grid import ImageGrid, captions, check_pictures, classes
from workbench.generators.base import Generator
from workbench.storage.evidence import PADDING, Evidence
from workbench.storage.run import Run
from workbench.tokenizers.base import SupportsErrorTarget, Tokenizer

NUM_COMPONENTS = 16  # principal components in which the mixture is fitted
MAX_CODES = 16  # codes that a token is set to, the most frequent first
GUIDANCE_AXES = ("guidance", "interval")
MAX_CACHED_RUNS = 6
NUM_PROBED_IMAGES = 2


@dataclass(frozen=True)
class LoadedRun(ABC):
    """A run whose model of one checkpoint is in memory.

    Attributes
    ----------
    run : Run
        The run on disk.
    trust : tuple of str
        Modules outside this package from which the run's classes may be imported.
    """

    run: Run
    trust: tuple[str, ...]

    @classmethod
    def load(cls, run: Run, step: int | None = None, trust: Sequence[str] = ()) -> "LoadedRun":
        """Load the model of a checkpoint (None: the last). Recently loaded runs are cached.

        Raises
        ------
        RunError
            If there is no such checkpoint.
        """
        modified_ns = run.checkpoint(step).stat().st_mtime_ns
        return _load(run.folder, step, modified_ns, tuple(trust))

    @property
    def evidence(self) -> Evidence:
        """The last collected evidence of the run. Raises RunError if there is none."""
        return self.run.evidence()

    @property
    @abstractmethod
    def axes(self) -> tuple[str, ...]:
        """The names of the axes, the most informative first."""

    def explore(
        self, axis: str, indices: Sequence[int], *, token: int = 0, mode: int = 0, seed: int = 0
    ) -> ImageGrid:
        """Decode images along an axis.

        Parameters
        ----------
        axis : str
            One of `axes`.
        indices : sequence of int
            Indices of images in the evidence, for a tokenizer; labels, for a generator.
        token : int
            Index of the token of the axis "code".
        mode : int
            Mode where the walks of the axis "modes" start; 0 is the largest.
        seed : int
            Seed of a generator's noise.

        Raises
        ------
        UserError
            If the axis does not exist.
        """
        if axis not in self.axes:
            raise unknown("axis", axis, self.axes, within=f"of {self.run.name}")
        return self._explore(axis, list(indices), token=token, mode=mode, seed=seed)

    @abstractmethod
    def _explore(
        self, axis: str, indices: list[int], *, token: int, mode: int, seed: int
    ) -> ImageGrid:
        """Decode images along an axis that exists."""


@dataclass(frozen=True)
class LoadedTokenizer(LoadedRun):
    """A tokenizer's run in memory."""

    model: Tokenizer

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the axes, the most informative first."""
        can_leave_out = self._can_leave_out_tokens
        has_codes = self.model.codebook is not None and self.evidence.codes is not None
        is_available = {
            "tokens": can_leave_out,
            "error": isinstance(self.model, SupportsErrorTarget),
            "token dropped": can_leave_out,
            "token swapped": True,
            "code": has_codes,
            "modes": self.evidence.latents is not None,
            "step": self.run.config.imported is None,
        }
        return tuple(name for name, available in is_available.items() if available)

    @cached_property
    def _can_leave_out_tokens(self) -> bool:
        if self.model.respects_active is not None:
            return self.model.respects_active
        images = require_array(self.evidence.images, "images", self.run.name)
        return tokens.can_leave_out(self.model, np.asarray(images[:NUM_PROBED_IMAGES]))

    def _explore(
        self, axis: str, indices: list[int], *, token: int, mode: int, seed: int
    ) -> ImageGrid:
        if axis == "modes":
            return self._walk_from_mode(mode)
        evidence = self.evidence
        if evidence.images is None:
            raise NotApplicable(f"Exploring needs images; {self.run.name} has none. Collect them.")
        check_pictures(evidence, indices)
        rows = captions(evidence, indices)
        images = np.asarray(evidence.images[indices])
        if axis == "tokens":
            return tokens.budgets(self.model, images, rows=rows)
        if axis == "error":
            return tokens.errors(self.model, images, rows=rows)
        if axis == "token dropped":
            return tokens.dropped(self.model, images, rows=rows)
        if axis == "token swapped":
            donors = np.roll(images, -1, axis=0)
            return tokens.swapped(self.model, images, donors, rows=_swapped_rows(rows))
        if axis == "code":
            codes = self._frequent_codes(token)
            return tokens.recoded(self.model, images, token=token, codes=codes, rows=rows)
        return tokens.checkpoints(self.run, images, trust=self.trust, rows=rows)

    def _frequent_codes(self, token: int) -> list[int]:
        if self.model.codebook is None:
            raise NotApplicable(f"{self.run.name} has no codebook.")
        token_codes = np.asarray(self.evidence.codes)[:, token]
        counts = np.bincount(
            token_codes[token_codes != PADDING], minlength=self.model.codebook.shape[1]
        )
        return np.argsort(-counts, kind="stable")[:MAX_CODES].tolist()

    def _walk_from_mode(self, mode: int) -> ImageGrid:
        """Walk from the mean of one mode to that of each other mode; mode 0 is the largest."""
        evidence = self.evidence
        latents = np.asarray(evidence.latents)
        flat = latents.reshape(len(latents), -1)
        points, _ = reduce_dimensions(flat, "ours", NUM_COMPONENTS, 0)
        num_modes = min(MAX_MODES, len(points) // 2)
        mixture = fit_mixture(points, num_modes, "diag", np.random.default_rng(0))
        assignment, _ = order_by_size(mixture, points)
        means = modes.means(latents, assignment)
        sizes = np.bincount(assignment)
        if not 0 <= mode < len(means):
            raise UserError(f"The mode must be in 0..{len(means) - 1}, got {mode}.")
        ends = [i for i in range(len(means)) if i != mode] or [mode]
        names = [f"mode {mode} (n = {sizes[mode]}) to {i} (n = {sizes[i]})" for i in ends]
        starts = np.repeat(means[mode][None], len(ends), axis=0)
        grid = modes.walk(self.model, starts, means[ends], grid=evidence.grid, rows=names)
        note = (
            f"Modes of a mixture of {len(means)} Gaussians (diagonal) in {points.shape[1]} whitened"
            f" components of {len(points):,} images; `mixture_modes` counts how many there are."
        )
        return replace(grid, note=note)


@dataclass(frozen=True)
class LoadedGenerator(LoadedRun):
    """A generator's run in memory."""

    model: Generator

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the axes, the most informative first."""
        if not self.model.supports_guidance:
            return tuple(axis for axis in self.model.axes if axis not in GUIDANCE_AXES)
        return self.model.axes

    def _explore(
        self, axis: str, indices: list[int], *, token: int, mode: int, seed: int
    ) -> ImageGrid:
        names = classes(self.run)
        rows = tuple(names[label] for label in indices)
        if axis == "step":
            return samples.checkpoints(self.run, indices, seed=seed, rows=rows, trust=self.trust)
        tokenizer = self._tokenizer
        if axis == "interval":
            return samples.intervals(self.model, tokenizer, indices[0], seed=seed, name=rows[0])
        if axis == "time":
            return samples.trajectory(self.model, tokenizer, indices, seed=seed, rows=rows)
        return samples.guidance(self.model, tokenizer, indices, seed=seed, rows=rows)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return samples.tokenizer_of(self.run, self.trust)


@lru_cache(maxsize=MAX_CACHED_RUNS)
def _load(folder: Path, step: int | None, modified_ns: int, trust: tuple[str, ...]) -> LoadedRun:
    """Load a checkpoint; its time of modification is part of the key of the cache."""
    run = Run(folder)
    if not run.is_generator:
        model = load_tokenizer(run, step, trust)
        return LoadedTokenizer(run=run, trust=trust, model=model)
    return LoadedGenerator(run=run, trust=trust, model=load_generator(run, step, trust))


def _swapped_rows(rows: Sequence[str]) -> tuple[str, ...]:
    donors = [*rows[1:], rows[0]]
    return tuple(f"{row}, tokens of {donor}" for row, donor in zip(rows, donors, strict=True))
