"""What a tokenizer (or a generator) did to fixed images, as arrays on disk: no model is needed to read it.

A folder of `.npy` files, one per field, opened as memory maps, and `provenance.json`. `collect.py` writes it.
"""

import inspect
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from workbench.core.errors import NotApplicable, RunError
from workbench.storage.migrations import FORMAT, migrate_provenance, stored_array_name


@dataclass(frozen=True, repr=False, eq=False)
class Evidence:
    """Arrays over n held-out images; a field is None where the model has no such thing."""

    provenance: dict[str, Any]  # run, step, data, fingerprint, split, n of how many, seed, versions
    images: np.ndarray | None = None  # uint8 (n, h, w, c)
    reconstructions: np.ndarray | None = None  # uint8 (n, h, w, c)
    latents: np.ndarray | None = None  # float32 (n, tokens, d): the vectors the decoder reads
    codes: np.ndarray | None = None  # int32 (n, tokens)
    codebook: np.ndarray | None = (
        None  # float32 (g, k, d): book i serves the i-th of g equal blocks of tokens
    )
    active: np.ndarray | None = None  # bool (n, tokens)
    labels: np.ndarray | None = None  # int64 (n,)
    prefixes: np.ndarray | None = None  # int32 (m,): token counts that were decoded alone
    prefix_mse: np.ndarray | None = None  # float32 (n, m): squared error of those, pixels in [0, 1]
    samples: np.ndarray | None = None  # uint8 (s, h, w, c): what a generator drew
    sample_labels: np.ndarray | None = None  # int64 (s,)
    features: np.ndarray | None = None  # float32 (n, e): the feature extractor's, of the images
    reconstruction_features: np.ndarray | None = (
        None  # float32 (n, e): the feature extractor's, of the reconstructions
    )
    train_features: np.ndarray | None = (
        None  # float32 (t, e): the feature extractor's, of training images
    )
    train_images: np.ndarray | None = None  # uint8 (t, h, w, c): those training images
    sample_features: np.ndarray | None = (
        None  # float32 (s, e): the feature extractor's, of the samples
    )
    midpoint_features: np.ndarray | None = (
        None  # float32 (m, e): of decoded midpoints of nearest latents
    )
    teacher_features: np.ndarray | None = (
        None  # float16 (n, p, e2): a teacher's of the images, on the tokens' grid
    )
    noise_levels: np.ndarray | None = (
        None  # float32 (m,): noise added to latents, in their standard deviations
    )
    noise_mse: np.ndarray | None = (
        None  # float32 (n, m): squared error of decoding those, pixels in [0, 1]
    )
    loss_times: np.ndarray | None = None  # float32 (m,): times in [0, 1], 0 data and 1 noise
    loss_by_time: np.ndarray | None = (
        None  # float32 (m,): a generator's mean loss on held-out images at those
    )
    prefix_l1: np.ndarray | None = (
        None  # float32 (n, m): mean absolute error of those, pixels in [0, 1]
    )
    prefix_ssim: np.ndarray | None = None  # float32 (n, m): structural similarity of those
    prefix_features: np.ndarray | None = (
        None  # float32 (p, n, e): the feature extractor's, of the first p of those prefixes
    )
    previous_codes: np.ndarray | None = (
        None  # int32 (n, tokens): of the same images at the checkpoint before
    )
    untrained_latents: np.ndarray | None = (
        None  # float32 (n, tokens, d): of the same images before training
    )
    complexity: np.ndarray | None = None  # float64 (n,): of procedural images, in bits
    requested: np.ndarray | None = (
        None  # float32 (m,): mean absolute errors an adaptive tokenizer was asked for
    )
    reached: np.ndarray | None = None  # float32 (m, n): those it made
    spent: np.ndarray | None = None  # int32 (m, n): tokens it used for them
    posterior: np.ndarray | None = (
        None  # float32 (n, tokens, 2): of soft codes, perplexity and largest probability
    )
    mean_posterior: np.ndarray | None = (
        None  # float32 (g, k): of soft codes, the mean over all tokens of a book
    )
    cascade_start: np.ndarray | None = (
        None  # float32 (g, k, d): a cascade's frozen table, where its codebook began
    )
    predicted: np.ndarray | None = (
        None  # int64 (n,): the class a generator told from each image's codes
    )
    code_bits: np.ndarray | None = (
        None  # float32 (1,): bits a token of held-out images, to an autoregressive generator
    )

    @property
    def run_name(self) -> str:
        """The name of the run's folder."""
        return self.provenance["run"]

    @property
    def step(self) -> int:
        """The training step of the checkpoint."""
        return self.provenance["step"]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names, by label."""
        return tuple(self.provenance.get("names", ()))

    @property
    def sampling(self) -> dict[str, Any] | None:
        """How the samples were drawn: solver, steps, guidance, seed."""
        return self.provenance.get("sampling")

    @property
    def feature_extractor(self) -> str | None:
        """The network whose features are compared: hog, resnet56, inception."""
        return self.provenance.get("feature_extractor")

    @property
    def teacher(self) -> str | None:
        """The network whose features the latents are held against."""
        return self.provenance.get("teacher")

    @property
    def temperature(self) -> float | None:
        """Of a soft codebook whose logits are cosines: what they are divided by."""
        settings = self.provenance.get("settings", {})
        return settings.get("temperature") if settings.get("logits") == "cosine" else None

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the tokens, where they have a place in the image."""
        grid = self.provenance.get("grid")
        return None if grid is None else (int(grid[0]), int(grid[1]))

    def kwargs_for(self, analysis: Callable[..., Any]) -> dict[str, Any]:
        """The arguments this evidence gives to an analysis, picked by parameter name. Raises NotApplicable."""
        return kwargs_for(analysis, [self])

    def save(self, folder: Path) -> None:
        """Write every field beside the final place, then move the folder there. Raises RunError where it cannot."""
        aside = folder.with_name(f".{folder.name}.{os.getpid()}")
        before = aside.with_name(f"{aside.name}.before")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir(parents=True)
            for name, array in self._arrays().items():
                np.save(aside / f"{name}.npy", array, allow_pickle=False)
            text = json.dumps({"format": FORMAT, **self.provenance}, indent=1)
            (aside / "provenance.json").write_text(text, encoding="utf-8")
            if folder.exists():
                folder.replace(
                    before
                )  # a folder cannot be replaced, and a reader must not see one being emptied
            aside.replace(folder)
        except OSError as error:
            reason = error.strerror or error
            raise RunError(
                f"{folder} could not be written: {reason}. What was there before stays."
            ) from None
        finally:
            if before.exists() and not folder.exists():
                before.replace(folder)
            for left in (aside, before):
                shutil.rmtree(left, ignore_errors=True)

    @classmethod
    def open(cls, folder: Path, only: Sequence[str] = ()) -> "Evidence":
        """Open a folder of evidence without reading its arrays; `only` names those that are wanted, where not all are.

        Raises RunError where it is missing or damaged.
        """
        path, arrays = folder / "provenance.json", {}
        try:
            with path.open(
                encoding="utf-8"
            ) as file:  # open to the end: no newer file can be given its inode
                provenance = json.load(file)
                if not isinstance(provenance, dict) or not isinstance(
                    provenance.get("format"), int
                ):
                    raise ValueError
                stored_format = provenance.pop("format")
                if stored_format > FORMAT:
                    raise RunError(
                        f"{folder} was written by a newer workbench. Upgrade this one to read it."
                    )
                if not {"run", "step"} <= provenance.keys():
                    raise ValueError
                provenance = migrate_provenance(provenance, stored_format)
                for name in only or [f.name for f in fields(cls)]:
                    path = folder / f"{stored_array_name(name, stored_format)}.npy"
                    if not path.exists():
                        continue
                    arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
                if not os.path.samestat(
                    os.fstat(file.fileno()), (folder / "provenance.json").stat()
                ):
                    return cls.open(
                        folder, only
                    )  # replaced in the meantime: some arrays are older than others
        except FileNotFoundError:
            raise RunError(
                f"{folder} holds no evidence. Make it with: workbench collect {folder.parent.parent}"
            ) from None
        except RunError:
            raise
        except (
            ValueError,
            OSError,
            EOFError,
        ):  # numpy's reasons mislead: an empty file "contains pickled data"
            again = f"workbench collect {folder.parent.parent}"
            raise RunError(
                f"The evidence in {folder} is damaged ({path.name}). Collect it again: {again}"
            ) from None
        return cls(provenance=provenance, **arrays)

    def __repr__(self) -> str:
        shapes = ", ".join(
            f"{name} {'x'.join(map(str, array.shape))}" for name, array in self._arrays().items()
        )
        return f"Evidence of {self.run_name} at step {self.step}: {shapes}"

    def _arrays(self) -> dict[str, np.ndarray]:
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "provenance"}
        return {name: np.asarray(array) for name, array in named.items() if array is not None}


def kwargs_for(analysis: Callable[..., Any], evidences: Sequence[Evidence]) -> dict[str, Any]:
    """The evidence an analysis's positional parameters name: from the first run, or all runs for `evidences`.

    Raises NotApplicable, in one sentence, where a parameter without a default has nothing to stand on.
    """
    given, lacking = {}, []
    for parameter in inspect.signature(analysis).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            continue
        value = (
            tuple(evidences)
            if parameter.name == "evidences"
            else getattr(evidences[0], parameter.name)
        )
        if value is not None:
            given[parameter.name] = value
        elif parameter.default is parameter.empty:
            lacking.append(parameter.name.replace("_", " "))
    if lacking:
        title = analysis.__name__.replace("_", " ")
        raise NotApplicable(
            f"{title.capitalize()} needs {' and '.join(lacking)}; {evidences[0].run_name} has none."
        )
    return given
