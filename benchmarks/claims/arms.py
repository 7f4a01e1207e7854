"""Arms of an experiment: what is trained, at which scale. The same arm in two claims is one run on disk."""

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workbench.launch.in_process import train
from workbench.launch.recipes import CLUSTERING, CONVOLUTIONAL
from workbench.storage.run import Run

PLACE = re.compile(
    r'(?<=[":])/[^":]*/'
)  # the folder of a file on this machine, in JSON: nobody else has it


@dataclass(frozen=True)
class Arm:
    """A recipe with changes; on a tokenizer's arm where it is a generator, `start`ed from another arm where it says."""

    recipe: str
    changes: str = "{}"  # JSON, so that arms compare and hash
    tokenizer: "Arm | None" = None
    start: "Arm | None" = None

    @property
    def needs(self) -> tuple["Arm", ...]:
        """Arms that are trained before it."""
        return tuple(arm for arm in (self.tokenizer, self.start) if arm is not None)

    @property
    def chain(self) -> tuple["Arm", ...]:
        """Everything that is trained for it, and itself last."""
        return (*(arm for need in self.needs for arm in need.chain), self)

    @property
    def changes_without_folders(self) -> str:
        """Its changes without the folders of files: the same arm is called the same wherever a checkout lies."""
        return PLACE.sub("", self.changes)

    @property
    def name(self) -> str:
        """Of its folder: the recipe, and a hash of all that it is made of."""
        told = [
            self.recipe,
            self.changes_without_folders,
            *(arm.name if arm else "" for arm in (self.tokenizer, self.start)),
        ]
        return f"{self.recipe}-{hashlib.sha256('|'.join(told).encode()).hexdigest()[:8]}"

    def folder(self, out: Path, seed: int) -> Path:
        """Where its run of a seed is."""
        return out / "runs" / f"{self.name}-seed{seed}"

    def train(self, out: Path, seed: int) -> Run:
        """Its run of a seed: trained, or gone on with."""
        told = json.loads(self.changes)
        if self.tokenizer:
            told["tokenizer"] = str(self.tokenizer.folder(out, seed))
        if self.start:
            told["start"] = str(self.start.folder(out, seed))
        folder = self.folder(out, seed)
        if (folder / "config.json").exists() and Run(folder).status()["state"] == "finished":
            return Run(folder)
        return train(self.recipe, folder, collect=False, seed=seed, **told)


@dataclass(frozen=True)
class Scale:
    """How large the experiments are, and on what data: the only thing in which a laptop and a GPU differ."""

    name: str
    data: str  # the recipes' data: cifar10, digits, photos
    images: dict[str, Any]  # what tokenizers are told of the data: data, limit, side, channels
    vit: dict[str, Any]  # sizes of one-dimensional tokenizers
    grid: dict[str, Any]  # sizes of convolutional ones
    plan: dict[str, Any]  # of tokenizers
    network: dict[str, Any]  # sizes of generators
    generator_plan: dict[str, Any]
    teacher: str  # whose features are aligned to or predicted
    feature_extractor: str  # its features compare sets of images; never the teacher
    hog: str = "hog"  # a teacher that needs no training, and one that had none; standardised as the other is
    untrained: str = "random:7"
    channels: tuple[int, int] = (16, 64)  # of VA-VAE's tokens: few, and many
    numbers: int = 128  # tokens x channels of SoftVQ's arms, less than an image has
    drawn: int = 1000  # samples of a generator, and held-out images
    full: bool = False  # every arm; without it, those that a claim cannot do without
    cache: str = ""  # a folder for teachers' features, so that they are computed once for all arms
    extra: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # changes for one system alone, by its name
    longer: int = 1  # times the steps that are written here: a claim that does not show is tried again with more
    wider: int = 1  # times the widths that are written here: or with larger models

    def stretched(self, times: int) -> "Scale":
        """The same with so many times the steps of everything that is trained."""

        def longer(plan: dict[str, Any]) -> dict[str, Any]:
            return plan | {
                name: times * plan[name] for name in ("steps", "save_every") if name in plan
            }

        extra = {system: longer(changes) for system, changes in self.extra.items()}
        plans = {"plan": longer(self.plan), "generator_plan": longer(self.generator_plan)}
        return replace(self, **plans, extra=extra, longer=times)

    def widened(self, times: int) -> "Scale":
        """The same with models of so many times the width, in as many heads."""
        every = (self.vit, self.grid, self.network)
        vit, grid, network = (sizes | {"width": times * sizes["width"]} for sizes in every)
        return replace(self, vit=vit, grid=grid, network=network, wider=times)

    def tokenizer(self, system: str, *, start: Arm | None = None, **changes: Any) -> Arm:
        """An arm that trains a tokenizer."""
        sizes = self.grid if system in CONVOLUTIONAL else self.vit
        if system in CLUSTERING:
            sizes = {
                name: value for name, value in sizes.items() if name not in ("num_tokens", "dim")
            }
        told = self.images | sizes | self.plan | self.extra.get(system, {}) | changes
        if self.cache and (told.get("teacher") or told.get("targets")):
            told["cache"] = self.cache
        return Arm(f"{system}-{self.data}", json.dumps(told, sort_keys=True), start=start)

    def generator(self, tokenizer: Arm, system: str = "sit", **changes: Any) -> Arm:
        """An arm that trains a generator on a tokenizer's latents."""
        told = self.network | self.generator_plan | self.extra.get(system, {}) | changes
        return Arm(f"{system}-{self.data}", json.dumps(told, sort_keys=True), tokenizer)
