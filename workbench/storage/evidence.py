"""Arrays that describe the outputs of a tokenizer or generator on fixed images, stored on disk.

Evidence is a folder with one `.npy` file per array, opened as memory maps, and `provenance.json`.
`workbench.collect` writes it. `ARRAYS` lists every array with its axes, its type and its meaning.

`provenance.json` contains the SHA-256 of every array. An array of at most `MAX_CHECKED_BYTES` is
compared with it when it is opened, once per process; `verify_evidence` compares arrays of any
size, and every report calls it. Evidence of earlier versions has no digests.
"""

import shlex
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.core.printable import printable
from workbench.storage.analysis_arguments import kwargs_for
from workbench.storage.atomic import atomic_folder
from workbench.storage.evidence_arrays import ARRAYS, PADDING, ArraySpec, EvidenceArrays
from workbench.storage.evidence_files import read_evidence, verify_evidence
from workbench.storage.provenance_file import is_held_out, is_in_run, write_provenance
from workbench.storage.training_log import TrainingLog, try_read_log

__all__ = ["ARRAYS", "PADDING", "ArraySpec", "Evidence", "kwargs_for", "verify_evidence"]


@dataclass(frozen=True, repr=False, eq=False)
class Evidence(EvidenceArrays):
    """Arrays over held-out images, and where they come from.

    An array is None if the model has no such quantity. `ARRAYS` describes all of them.

    Attributes
    ----------
    provenance : dict
        The run, step, data, fingerprint of the images, split, number of images, seed and versions.
    folder : Path or None
        The folder that it was opened from.
    log : TrainingLog or None
        The log of training of evidence that is not in the folder of a run; see `training_log`.

    Examples
    --------
    >>> import numpy as np
    >>> evidence = Evidence(
    ...     provenance={"run": "a", "step": 5}, codes=np.zeros((3, 2), np.int32)
    ... )
    >>> evidence
    Evidence of a at step 5: codes 3x2
    >>> ARRAYS["codes"].axes
    ('image', 'token')
    """

    provenance: dict[str, Any]
    folder: Path | None = None
    log: TrainingLog | None = None

    @property
    def run_name(self) -> str:
        """The name of the run's folder."""
        return self.provenance["run"]

    @property
    def run_path(self) -> str:
        """The path of the run's folder, as it was opened, for use in commands."""
        if self.folder is None or not is_in_run(self.folder):
            return f"runs/{self.run_name}"
        return printable(self.folder.parent.parent)

    @property
    def step(self) -> int:
        """The training step of the checkpoint."""
        return self.provenance["step"]

    @property
    def training_log(self) -> TrainingLog | None:
        """Return the log until this step; None if the run was not trained here."""
        if self.log is not None or self.folder is None or not is_in_run(self.folder):
            return self.log
        return try_read_log(self.folder.parent.parent, self.step)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, by label."""
        return tuple(self.provenance.get("names", ()))

    @property
    def sampling(self) -> dict[str, Any] | None:
        """The settings of sampling: solver, steps, guidance, seed."""
        return self.provenance.get("sampling")

    @property
    def guidance(self) -> float | None:
        """The scale of classifier-free guidance of the samples; None if there are none."""
        return None if self.sampling is None else self.sampling.get("guidance")

    @property
    def feature_extractor(self) -> str | None:
        """The network whose features are compared, such as hog or dinov2."""
        return self.provenance.get("feature_extractor")

    @property
    def feature_extractor_reason(self) -> str | None:
        """Why this network was used, in one sentence."""
        return self.provenance.get("feature_extractor_reason")

    @property
    def reference(self) -> str | None:
        """The name of the reference set of `reference_mean`."""
        return self.provenance.get("reference")

    @property
    def protocol(self) -> str | None:
        """The computation of features: network, weights, resizing and versions, in one line."""
        features = self.provenance.get("protocol")
        if features is None:
            return None
        versions = self.provenance.get("versions") or {}
        libraries = [
            f"{name} {versions[name]}" for name in ("workbench", "torch") if name in versions
        ]
        return "; ".join([features, *libraries])

    @property
    def teacher(self) -> str | None:
        """The network whose features the latents are compared with."""
        return self.provenance.get("teacher")

    @property
    def temperature(self) -> float | None:
        """The temperature of a soft codebook whose logits are cosines; None for other codebooks."""
        settings = self.provenance.get("settings", {})
        return settings.get("temperature") if settings.get("logits") == "cosine" else None

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the tokens; None if the tokens have no position in the image."""
        grid = self.provenance.get("grid")
        return None if grid is None else (int(grid[0]), int(grid[1]))

    @property
    def num_images(self) -> int:
        """Number of held-out images; 0 for a generator that has not measured any."""
        for name, spec in ARRAYS.items():
            array = getattr(self, name)
            if array is not None and spec.axes[0] == "image":
                return len(array)
        if self.provenance.get("n") is not None and self.provenance.get("tokenizer") is None:
            return self.provenance["n"]
        return self.num_pictures

    @property
    def num_pictures(self) -> int:
        """Number of the first held-out images that have a picture."""
        # The images themselves may not have been opened.
        for name, spec in ARRAYS.items():
            array = getattr(self, name)
            if array is not None and "picture" in spec.axes:
                return int(array.shape[spec.axes.index("picture")])
        return 0

    @property
    def image_kind(self) -> str:
        """The name of the images in text: held-out images, or evaluated images."""
        return "held-out images" if is_held_out(self.provenance) else "evaluated images"

    @property
    def has_training_images(self) -> bool:
        """False if the images of `train_features` are not those the generator was trained on."""
        return bool(self.provenance.get("has_training_images", True))

    @property
    def is_imported(self) -> bool:
        """True if the model was trained elsewhere, or only its arrays are known."""
        return bool(self.provenance.get("imported"))

    @property
    def is_model_stored(self) -> bool:
        """True if the model can be loaded again: from a checkpoint, or from its address.

        Files of arrays have no model, and Python objects are not stored.
        """
        imported = self.provenance.get("imported")
        return not imported or (
            imported.get("kind") != "arrays" and imported.get("address") is not None
        )

    def reason_for_missing(self, name: str) -> str:
        """Return why an array was not collected, as a sentence; empty if it is not known."""
        reason = str(self.provenance.get("not_collected", {}).get(name, ""))
        spec = ARRAYS.get(name)
        if reason or spec is None or spec.collect_options is None:
            return reason
        imported = self.provenance.get("imported") or {}
        if imported.get("kind") == "arrays":
            return "Files of arrays have no model that could compute it."
        if not self.is_model_stored:
            request = spec.collect_options.removeprefix("--also ")
            option = f" with also=['{request}']" if request else ""
            return f"The model was not stored; evaluate it again{option}."
        command = f"workbench collect {shlex.quote(self.run_path)} {spec.collect_options}".rstrip()
        return f"Collect it with: {command}"

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that are present, by name."""
        values = {name: getattr(self, name) for name in ARRAYS}
        return {name: np.asarray(array) for name, array in values.items() if array is not None}

    def kwargs_for(self, analysis: Callable[..., Any]) -> dict[str, Any]:
        """Return the arguments of an analysis that this evidence provides, by parameter name.

        Raises
        ------
        NotApplicable
            If an array that the analysis requires is missing.
        """
        return kwargs_for(analysis, [self])

    def save(self, folder: Path) -> None:
        """Write all arrays and the provenance, replacing the folder as a whole.

        Raises
        ------
        RunError
            If the folder cannot be written.
        ValueError
            If an array does not have its declared axes and type.
        """
        arrays = self.arrays()
        for name, array in arrays.items():
            fault = ARRAYS[name].fault(array)
            if fault:
                raise ValueError(f"The array {name} does not fit: {fault}.")
        with atomic_folder(folder) as temporary:
            for name, array in arrays.items():
                np.save(temporary / f"{name}.npy", array, allow_pickle=False)
            write_provenance(temporary, self.provenance, list(arrays))

    @classmethod
    def open(cls, folder: Path, only: Collection[str] | None = None) -> "Evidence":
        """Open a folder of evidence without reading its large arrays.

        Parameters
        ----------
        folder : Path
            The folder that `save` wrote.
        only : collection of str, optional
            The names of the arrays to open; by default all.

        Raises
        ------
        RunError
            If the evidence is missing, damaged, unreadable, or was written by a newer version.
        """
        names = [name for name in ARRAYS if only is None or name in only]
        provenance, arrays = read_evidence(folder, names)
        return cls(provenance=provenance, folder=folder, **dict[str, Any](arrays))

    def __repr__(self) -> str:
        shapes = ", ".join(
            f"{name} {'x'.join(map(str, array.shape))}" for name, array in self.arrays().items()
        )
        return f"Evidence of {self.run_name} at step {self.step}: {shapes}"
