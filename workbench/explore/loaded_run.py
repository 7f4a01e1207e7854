"""A trained run with its model in memory, and the axes along which it can be explored, by name."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from torch import nn

from workbench.analysis.latents.mode_assignment import order_by_size
from workbench.analysis.stats.mixtures import fit_mixture
from workbench.analysis.stats.reductions import reduce_dimensions
from workbench.core.errors import UserError, unknown
from workbench.explore import MODES, modes, samples, tokens
from workbench.explore.image_grid import ImageGrid, captions, classes
from workbench.generators.transformer import SiT
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run
from workbench.tokenizers.base import Tokenizer

COMPONENTS = 16  # of the latents, in which that mixture is fitted
CODES = 16  # codes that a token is set to: the commonest
KEPT = 6  # models held in memory: those of a few runs that are looked at in turn


@dataclass(frozen=True)
class LoadedRun:
    """A run at a step."""

    run: Run
    model: nn.Module
    modules: tuple[str, ...] = ()  # others than ours from which its class may come

    @classmethod
    def load(cls, run: Run, step: int | None = None, modules: Sequence[str] = ()) -> "LoadedRun":
        """The run with its model of a step (None: the last). Raises RunError where there is no checkpoint."""
        return _loaded(run.folder, step, run.checkpoint(step).stat().st_mtime_ns, tuple(modules))

    @property
    def evidence(self) -> Evidence:
        """What was last collected of the run. Raises RunError where nothing was."""
        return self.run.evidence()

    @property
    def axes(self) -> tuple[str, ...]:
        """The names that `frames` knows, the most telling first."""
        if not isinstance(self.model, Tokenizer):
            walks = isinstance(self.model, SiT)
            return ("guidance", "interval", "time", "step") if walks else ("guidance", "step")
        asked = inspect.signature(self.model.encode).parameters
        found = [
            "tokens",
            *(["error"] if "error" in asked else []),
            "token dropped",
            "token swapped",
        ]
        found += (
            ["code"] if self.model.codebook is not None and self.evidence.codes is not None else []
        )
        return (*found, "modes", "step")

    def frames(
        self, axis: str, chosen: Sequence[int], *, token: int = 0, mode: int = 0, seed: int = 0
    ) -> ImageGrid:
        """Pictures along an axis: of a tokenizer for images at some places of its evidence, of a generator for labels.

        `token` is whose code is changed, `mode` where walks between modes begin, `seed` whose noise is drawn. Raises
        UserError for an unknown axis.
        """
        if axis not in self.axes:
            raise unknown(f"axis of {self.run.name}", axis, self.axes)
        if not isinstance(self.model, Tokenizer):
            return self._drawn(axis, list(chosen), seed)
        names = {"rows": captions(self.evidence, chosen)}
        images = np.asarray(self.evidence.images[list(chosen)])
        if axis == "step":
            return tokens.checkpoints(self.run, images, modules=self.modules, **names)
        if axis == "token swapped":
            return tokens.swapped(
                self.model, images, np.roll(images, -1, axis=0), **_lent(names["rows"])
            )
        if axis == "code":
            return tokens.recoded(
                self.model, images, token=token, codes=self._common(token), **names
            )
        if axis == "modes":
            return self._from_mode(mode)
        ask = {"tokens": tokens.budgets, "error": tokens.errors, "token dropped": tokens.dropped}[
            axis
        ]
        return ask(self.model, images, **names)

    def _drawn(self, axis: str, labels: list[int], seed: int) -> ImageGrid:
        told = classes(self.run)
        rows = tuple(told[label] for label in labels)
        if axis == "step":
            return samples.checkpoints(self.run, labels, seed=seed, rows=rows)
        if axis == "interval":
            return samples.intervals(
                self.model, self._tokenizer, labels[0], seed=seed, name=rows[0]
            )
        draw = samples.guidance if axis == "guidance" else samples.trajectory
        return draw(self.model, self._tokenizer, labels, seed=seed, rows=rows)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return samples.tokenizer_of(self.run)

    def _common(self, token: int) -> list[int]:
        chosen = np.bincount(
            np.asarray(self.evidence.codes)[:, token], minlength=self.model.codebook.shape[1]
        )
        return np.argsort(-chosen, kind="stable")[:CODES].tolist()

    def _from_mode(self, mode: int) -> ImageGrid:
        """From the mean of one mode to each other one's; mode 0 is the largest."""
        latents = np.asarray(self.evidence.latents)
        points, _ = reduce_dimensions(latents.reshape(len(latents), -1), "ours", COMPONENTS, 0)
        mixture = fit_mixture(
            points, min(MODES, len(points) // 2), "diag", np.random.default_rng(0)
        )
        assignment, _ = order_by_size(mixture, points)
        means, sizes = modes.means(latents, assignment), np.bincount(assignment)
        if not 0 <= mode < len(means):
            raise UserError(f"{self.run.name} has modes 0 to {len(means) - 1}; got {mode}.")
        others = [i for i in range(len(means)) if i != mode] or [mode]
        names = [f"mode {mode} (n = {sizes[mode]}) to {i} (n = {sizes[i]})" for i in others]
        starts = np.repeat(means[mode][None], len(others), axis=0)
        found = modes.walk(self.model, starts, means[others], grid=self.evidence.grid, rows=names)
        what = f"{len(means)} Gaussians (diagonal) in {points.shape[1]} whitened components of {len(points):,} images"
        return replace(
            found, note=f"Modes of a mixture of {what}; `mixture_modes` counts how many there are."
        )


@lru_cache(maxsize=KEPT)
def _loaded(folder: Path, step: int | None, written: int, modules: tuple[str, ...]) -> LoadedRun:
    """A checkpoint's model; `written` tells one that was saved anew from what was there before."""
    run = Run(folder)
    return LoadedRun(run, run.load(step, modules=modules), modules)


def _lent(rows: Sequence[str]) -> dict[str, tuple[str, ...]]:
    return {
        "rows": tuple(
            f"{row}, tokens of {donor}"
            for row, donor in zip(rows, [*rows[1:], rows[0]], strict=True)
        )
    }
