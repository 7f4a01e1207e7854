"""Arms of an experiment, and the scale at which they are trained.

The same arm in two claims is one run on disk.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from workbench.launch.in_process import train
from workbench.launch.recipes import CLUSTERING, CONVOLUTIONAL
from workbench.storage.run import Run

from .released import released_network

FLOW_SEED_STEP = 1000  # between the seeds of two trainings of a generator on one tokenizer
# The folder of a file on this machine, in JSON. It must not be part of a name.
LOCAL_FOLDER = re.compile(r'(?<=[":])/[^":]*/')


@dataclass(frozen=True)
class Arm:
    """A recipe with changed settings.

    Parameters
    ----------
    recipe : str
        Name of the recipe.
    changes : str
        Changed settings as JSON, so that arms can be compared and hashed.
    tokenizer : Arm, optional
        The tokenizer of a generator.
    start : Arm, optional
        The arm whose weights training starts from.
    """

    is_recipe: ClassVar[bool] = True
    recipe: str
    changes: str = "{}"
    tokenizer: "Arm | None" = None
    start: "Arm | None" = None

    @property
    def needs(self) -> tuple["Arm", ...]:
        """The arms that must be trained before."""
        return tuple(arm for arm in (self.tokenizer, self.start) if arm is not None)

    @property
    def chain(self) -> tuple["Arm", ...]:
        """Everything that must be trained for this arm, and the arm itself at the end."""
        return (*(arm for need in self.needs for arm in need.chain), self)

    @property
    def changes_without_folders(self) -> str:
        """The changes without local folders, so that a name is the same in every checkout."""
        return LOCAL_FOLDER.sub("", self.changes)

    @property
    def name(self) -> str:
        """The name of its folder: the recipe, and a hash of everything that defines the arm."""
        identity = [
            self.recipe,
            self.changes_without_folders,
            *(arm.name if arm else "" for arm in (self.tokenizer, self.start)),
        ]
        return f"{self.recipe}-{hashlib.sha256('|'.join(identity).encode()).hexdigest()[:8]}"

    def folder(self, out: Path, seed: int) -> Path:
        """Return the folder of the run of a seed."""
        return out / "runs" / f"{self.name}-seed{seed}"

    def train(self, out: Path, seed: int) -> Run:
        """Train or resume the run of a seed."""
        settings = json.loads(self.changes)
        if self.tokenizer:
            settings["tokenizer"] = str(self.tokenizer.folder(out, seed))
        if self.start:
            settings["start"] = str(self.start.folder(out, seed))
        folder = self.folder(out, seed)
        if (folder / "config.json").exists() and Run(folder).status()["state"] == "finished":
            return Run(folder)
        return train(self.recipe, folder, collect=False, seed=seed, **settings)


@dataclass(frozen=True)
class TransformedArm(Arm):
    """A tokenizer with mapped latents; `start` is the tokenizer, `changes` has the transform."""

    is_recipe: ClassVar[bool] = False

    def train(self, out: Path, seed: int) -> Run:
        """Map the latents of the tokenizer of a seed."""
        from workbench.launch.transformed import transformed

        assert self.start is not None
        folder = self.folder(out, seed)
        if (folder / "status.json").exists():
            return Run(folder)
        source = self.start.folder(out, seed)
        return transformed(source, json.loads(self.changes)["transform"], folder, seed=seed)


@dataclass(frozen=True)
class FlowArm(Arm):
    """One of several trainings of a generator on the same tokenizer, with seeds of their own."""

    flow: int = 0

    @property
    def name(self) -> str:
        """The name of its folder, with the number of the training."""
        return f"{super().name}-flow{self.flow}"

    def train(self, out: Path, seed: int) -> Run:
        """Train or resume the generator on the tokenizer of a seed."""
        assert self.tokenizer is not None
        settings = json.loads(self.changes) | {"tokenizer": str(self.tokenizer.folder(out, seed))}
        folder = self.folder(out, seed)
        if (folder / "config.json").exists() and Run(folder).status()["state"] == "finished":
            return Run(folder)
        own_seed = seed + FLOW_SEED_STEP * self.flow
        return train(self.recipe, folder, collect=False, seed=own_seed, **settings)


@dataclass(frozen=True)
class Scale:
    """The data and sizes of the experiments: the only difference between a laptop and a GPU."""

    name: str
    data: str  # dataset of the recipes: cifar10, digits or photos
    images: dict[str, Any]  # settings of the data: data, limit, side, channels
    vit: dict[str, Any]  # sizes of one-dimensional tokenizers
    grid: dict[str, Any]  # sizes of convolutional tokenizers
    plan: dict[str, Any]  # training of tokenizers
    network: dict[str, Any]  # sizes of generators
    generator_plan: dict[str, Any]  # training of generators
    teacher: str  # network whose features are aligned to or predicted
    feature_extractor: str  # network that compares sets of images; never the teacher
    hog: str = "hog"  # a teacher without training, standardized like the other
    untrained: str = "random:7"  # an untrained network as a teacher
    channels: tuple[int, int] = (16, 64)  # few and many channels of VA-VAE's tokens
    numbers: int = 128  # tokens x channels of SoftVQ-VAE's arms, fewer than an image has
    num_samples: int = 1000  # number of samples, and of held-out images
    full: bool = False  # train every arm, not only those that a rule needs
    cache: str = ""  # folder of teacher features, computed once for all arms
    # Changed settings of single systems, by name.
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)
    longer: int = 1  # multiple of the steps above
    wider: int = 1  # multiple of the widths above
    released: bool = False  # networks as released (`released.py`)
    max_arms: int | None = None  # tokenizers per family of the protocol; none: all

    def stretched(self, times: int) -> "Scale":
        """Return the scale with a multiple of all training steps."""

        def longer(plan: dict[str, Any]) -> dict[str, Any]:
            return plan | {
                name: times * plan[name] for name in ("steps", "save_every") if name in plan
            }

        extra = {system: longer(changes) for system, changes in self.extra.items()}
        plans = {"plan": longer(self.plan), "generator_plan": longer(self.generator_plan)}
        return replace(self, **plans, extra=extra, longer=times)

    def widened(self, times: int) -> "Scale":
        """Return the scale with a multiple of all widths, and the same number of heads."""
        every = (self.vit, self.grid, self.network)
        vit, grid, network = (sizes | {"width": times * sizes["width"]} for sizes in every)
        return replace(self, vit=vit, grid=grid, network=network, wider=times)

    def tokenizer(self, system: str, *, start: Arm | None = None, **changes: Any) -> Arm:
        """Return an arm that trains a tokenizer."""
        sizes = self.grid if system in CONVOLUTIONAL else self.vit
        if system in CLUSTERING:
            sizes = {
                name: value for name, value in sizes.items() if name not in ("num_tokens", "dim")
            }
        network = self._network(system, sizes | changes)
        settings = self.images | sizes | self.plan | self.extra.get(system, {}) | network | changes
        if self.cache and (settings.get("teacher") or settings.get("targets")):
            settings["cache"] = self.cache
        return Arm(f"{system}-{self.data}", json.dumps(settings, sort_keys=True), start=start)

    def transformed(self, tokenizer: Arm, transform: str) -> Arm:
        """Return an arm that maps the latents of a tokenizer."""
        return TransformedArm("transformed", json.dumps({"transform": transform}), start=tokenizer)

    def flow(self, tokenizer: Arm, number: int, **changes: Any) -> Arm:
        """Return an arm that is one of several trainings of a generator on a tokenizer."""
        arm = self.generator(tokenizer, **changes)
        return FlowArm(arm.recipe, arm.changes, tokenizer, flow=number)

    def generator(self, tokenizer: Arm, system: str = "sit", **changes: Any) -> Arm:
        """Return an arm that trains a generator on a tokenizer."""
        network = self.network | self._network(system, self.network)
        settings = network | self.generator_plan | self.extra.get(system, {}) | changes
        return Arm(f"{system}-{self.data}", json.dumps(settings, sort_keys=True), tokenizer)

    def _network(self, system: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        return released_network(system, settings) if self.released else {}
