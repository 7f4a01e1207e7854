"""Arrays that describe what a tokenizer or generator does to fixed images, stored on disk.

Evidence is a folder with one `.npy` file per array, opened as memory maps, and `provenance.json`.
`workbench.collect` writes it. `ARRAYS` lists every array with its axes, its type and its meaning.

`provenance.json` contains the SHA-256 of every array. An array of at most `MAX_CHECKED_BYTES` is
compared with it when it is opened, once per process; `verify_evidence` compares arrays of any
size, and every report calls it. Evidence of earlier versions has no digests.
"""

import inspect
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from workbench.core.errors import NotApplicable, RunError
from workbench.storage.atomic import atomic_folder
from workbench.storage.files import (
    STEP_NAME,
    DamagedError,
    check_digest,
    file_digest,
    is_count,
    is_int,
    load_array,
    open_regular,
    parse_json,
    printable,
    read_bytes,
    unreadable,
)
from workbench.storage.leftovers import reappears
from workbench.storage.migrations import FORMAT, is_format, migrate_provenance, stored_array_name
from workbench.storage.training_log import TrainingLog, try_read_log

MAX_REASON_LENGTH = 200
LOGS_PARAMETER = "training_logs"  # of an analysis of logs
PARTNERS = "partners"  # parameter of an analysis that also reads generators or tokenizers
PADDING = -1  # in place of a code, where an image has fewer tokens than others
# Codewords may have other channels than latents, or none if only their number is known.
INDEPENDENT_AXES = ("channel",)
MAX_CHECKED_BYTES = 256 * 2**20  # takes about 0.15 s, once per process


@dataclass(frozen=True)
class ArraySpec:
    """The declaration of one array.

    Attributes
    ----------
    dtype : str
        The numpy type that `collect` writes. Validation compares only its kind: float, integer,
        unsigned or bool.
    axes : tuple of str
        The names of the axes. Axes of the same name have the same length, except `channel`.
    meaning : str
        One sentence.
    collect_options : str or None
        The options of `workbench collect` that add the array to evidence without it, which is older
        than the array or was collected without its collector. None if models without this quantity
        are the usual reason.
    """

    dtype: str
    axes: tuple[str, ...]
    meaning: str
    collect_options: str | None = None

    def fault(self, array: np.ndarray) -> str:
        """Say in what respect an array does not fit; an empty string if it fits."""
        if array.ndim != len(self.axes):
            expected = ", ".join(self.axes)
            return f"its axes must be ({expected}), got the shape {array.shape}"
        expected_type = np.dtype(self.dtype)
        is_pixels = expected_type == np.uint8  # wider pixels would not be in 0..255
        if array.dtype.kind != expected_type.kind or (is_pixels and array.dtype != expected_type):
            return f"its type must be {self.dtype}, got {array.dtype}"
        return ""


def _array(dtype: str, axes: str, meaning: str, collect_options: str | None = None) -> Any:
    spec = ArraySpec(
        dtype=dtype, axes=tuple(axes.split()), meaning=meaning, collect_options=collect_options
    )
    return field(default=None, metadata={"spec": spec})


@dataclass(frozen=True, repr=False, eq=False)
class Evidence:
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

    images: np.ndarray | None = _array(
        "uint8", "picture height width color", "The first held-out images."
    )
    reconstructions: np.ndarray | None = _array(
        "uint8", "picture height width color", "The decoded tokens of these images."
    )
    latents: np.ndarray | None = _array(
        "float32", "image token channel", "The vectors that the decoder reads."
    )
    codes: np.ndarray | None = _array(
        "int32", "image token", "The index of the codeword of each token; -1 is padding."
    )
    codebook: np.ndarray | None = _array(
        "float32",
        "codebook code channel",
        "The codewords. Codebook i serves the i-th of equal blocks of tokens. If only the number "
        "of codes is known, codewords have 0 channels.",
    )
    active: np.ndarray | None = _array(
        "bool", "image token", "True for tokens that the decoder uses."
    )
    labels: np.ndarray | None = _array("int64", "image", "The class of each image.")
    prefixes: np.ndarray | None = _array(
        "int32", "prefix", "Numbers of tokens of which the first were decoded alone."
    )
    prefix_mse: np.ndarray | None = _array(
        "float32", "image prefix", "Squared error of each prefix, pixels in [0, 1]."
    )
    samples: np.ndarray | None = _array(
        "uint8", "sample height width color", "Samples of a generator."
    )
    sample_labels: np.ndarray | None = _array(
        "int64", "sample", "The class that each sample is conditioned on."
    )
    features: np.ndarray | None = _array(
        "float32", "image feature", "Features of the images by the feature extractor."
    )
    reconstruction_features: np.ndarray | None = _array(
        "float32", "image feature", "Features of the reconstructions by the feature extractor."
    )
    train_features: np.ndarray | None = _array(
        "float32", "train_image feature", "Features of training images by the feature extractor."
    )
    train_images: np.ndarray | None = _array(
        "uint8", "train_image height width color", "The training images of train_features."
    )
    sample_features: np.ndarray | None = _array(
        "float32", "sample feature", "Features of the samples by the feature extractor."
    )
    midpoint_features: np.ndarray | None = _array(
        "float32",
        "midpoint feature",
        "Features of the decoded midpoints between nearest latents.",
        collect_options="--also midpoints",
    )
    interpolation_features: np.ndarray | None = _array(
        "float32",
        "image feature",
        "Features of decoded points halfway to near latents of training images.",
        collect_options="",
    )
    interpolation_partners: np.ndarray | None = _array(
        "int32",
        "image",
        "The index of that training latent.",
        collect_options="",
    )
    random_interpolation_features: np.ndarray | None = _array(
        "float32",
        "image feature",
        "Features of decoded points halfway to latents of random training images.",
        collect_options="--also random_interpolation",
    )
    perturbed_code_shares: np.ndarray | None = _array(
        "float32",
        "perturbation",
        "Shares of the codes that are replaced by one of their nearest.",
        collect_options="--also perturbed_codes",
    )
    perturbed_code_features: np.ndarray | None = _array(
        "float32",
        "perturbation image feature",
        "Features of the images that are decoded from these codes.",
        collect_options="--also perturbed_codes",
    )
    gaussian_features: np.ndarray | None = _array(
        "float32",
        "gaussian_draw feature",
        "Features of decoded draws from one Gaussian per class, fitted to training latents.",
        collect_options="",
    )
    isotropic_features: np.ndarray | None = _array(
        "float32",
        "gaussian_draw feature",
        "Features of decoded noise with the mean and deviation of each channel, the samples of an "
        "untrained flow.",
        collect_options="",
    )
    spatial_features: np.ndarray | None = _array(
        "float32", "image spatial_feature", "Features of the images with positions, for sFID."
    )
    reconstruction_spatial_features: np.ndarray | None = _array(
        "float32",
        "image spatial_feature",
        "Features of the reconstructions with positions, for sFID.",
    )
    train_spatial_features: np.ndarray | None = _array(
        "float32",
        "train_image spatial_feature",
        "Features of training images with positions, for sFID.",
    )
    sample_spatial_features: np.ndarray | None = _array(
        "float32", "sample spatial_feature", "Features of the samples with positions, for sFID."
    )
    reconstruction_logits: np.ndarray | None = _array(
        "float32",
        "image inception_class",
        "Logits of the reconstructions, for the Inception score.",
    )
    sample_logits: np.ndarray | None = _array(
        "float32", "sample inception_class", "Logits of the samples, for the Inception score."
    )
    reference_mean: np.ndarray | None = _array(
        "float64", "feature", "Mean of the features of a reference set."
    )
    reference_covariance: np.ndarray | None = _array(
        "float64", "feature feature", "Covariance of the features of a reference set."
    )
    reference_spatial_mean: np.ndarray | None = _array(
        "float64", "spatial_feature", "Mean of the spatial features of a reference set."
    )
    reference_spatial_covariance: np.ndarray | None = _array(
        "float64",
        "spatial_feature spatial_feature",
        "Covariance of the spatial features of a reference set.",
    )
    mse: np.ndarray | None = _array(
        "float64", "image", "Squared error of the reconstructions, pixels in [0, 1]."
    )
    l1: np.ndarray | None = _array(
        "float64", "image", "Absolute error of the reconstructions, pixels in [0, 1]."
    )
    ssim: np.ndarray | None = _array(
        "float32", "image", "SSIM of the reconstructions: Gaussian window of 11, pixels in [0, 1]."
    )
    ms_ssim: np.ndarray | None = _array(
        "float32", "image", "MS-SSIM of the reconstructions over five scales, pixels in [0, 1]."
    )
    lpips_vgg: np.ndarray | None = _array(
        "float32", "image", "LPIPS of the reconstructions on VGG-16."
    )
    lpips_alex: np.ndarray | None = _array(
        "float32", "image", "LPIPS of the reconstructions on AlexNet."
    )
    teacher_features: np.ndarray | None = _array(
        "float16",
        "picture patch teacher_feature",
        "Features of the images by the alignment teacher, on the grid of the tokens.",
    )
    noise_levels: np.ndarray | None = _array(
        "float32", "noise_level", "Noise added to latents, in their standard deviations."
    )
    noise_mse: np.ndarray | None = _array(
        "float32",
        "image noise_level",
        "Squared error after decoding the noisy latents, pixels in [0, 1].",
    )
    interpolative_noise_shares: np.ndarray | None = _array(
        "float32",
        "noise_share",
        "Shares of the latents that are replaced by strong noise.",
        collect_options="",
    )
    interpolative_noise_mse: np.ndarray | None = _array(
        "float32",
        "noised_image noise_share",
        "Squared error after decoding these latents, of the first images, pixels in [0, 1].",
        collect_options="",
    )
    equivariance_mse: np.ndarray | None = _array(
        "float32",
        "transform transformed_image",
        "Squared error of decoded mirrored, turned and shrunken latents of the first images; NaN "
        "where the tokenizer takes no such tokens.",
        collect_options="",
    )
    equivariance_direct_mse: np.ndarray | None = _array(
        "float32",
        "transform transformed_image",
        "Squared error of the reconstructions of the transformed images themselves.",
        collect_options="",
    )
    equivariance_latent_errors: np.ndarray | None = _array(
        "float64",
        "transform centering",
        "Relative squared difference of transformed latents and latents of transformed images: "
        "raw, and without the mean at each position.",
        collect_options="",
    )
    loss_times: np.ndarray | None = _array(
        "float32", "time", "Times of the interpolant in [0, 1]; 0 is data and 1 is noise."
    )
    loss_by_time: np.ndarray | None = _array(
        "float32", "time", "Mean loss of a generator on held-out images at these times."
    )
    prefix_l1: np.ndarray | None = _array(
        "float32", "image prefix", "Absolute error of each prefix, pixels in [0, 1]."
    )
    prefix_ssim: np.ndarray | None = _array(
        "float32", "image prefix", "Structural similarity of each prefix."
    )
    prefix_features: np.ndarray | None = _array(
        "float32",
        "first_prefix picture feature",
        "Features of the decoded prefixes, for the first of them.",
    )
    previous_codes: np.ndarray | None = _array(
        "int32", "image token", "The codes at the checkpoint before."
    )
    untrained_latents: np.ndarray | None = _array(
        "float32", "image token channel", "The latents of the model before training."
    )
    complexity: np.ndarray | None = _array(
        "float64", "image", "The complexity of procedural images, in bits."
    )
    requested: np.ndarray | None = _array(
        "float32", "request", "Mean absolute errors requested of an adaptive tokenizer."
    )
    reached: np.ndarray | None = _array(
        "float32", "request image", "The errors of its reconstructions for these requests."
    )
    spent: np.ndarray | None = _array(
        "int32", "request image", "The number of tokens that it used for these requests."
    )
    budgets: np.ndarray | None = _array(
        "int32", "budget", "Fixed numbers of tokens of an adaptive tokenizer, ascending."
    )
    budget_l1: np.ndarray | None = _array(
        "float32",
        "budget image",
        "Absolute error with these numbers of tokens, pixels in [0, 1].",
    )
    posterior: np.ndarray | None = _array(
        "float32",
        "image token statistic",
        "Perplexity and largest probability of the soft codes of a token.",
    )
    mean_posterior: np.ndarray | None = _array(
        "float32",
        "codebook code",
        "Mean probability of each code over all tokens of its codebook.",
    )
    cascade_start: np.ndarray | None = _array(
        "float32",
        "codebook code channel",
        "The frozen table that a cascaded codebook started from.",
    )
    predicted: np.ndarray | None = _array(
        "int64", "image", "The class that a generator predicts from the codes of an image."
    )
    code_bits: np.ndarray | None = _array(
        "float32",
        "one",
        "Bits per token of held-out images under an autoregressive generator.",
    )
    folder: Path | None = None
    log: TrainingLog | None = None

    @property
    def run_name(self) -> str:
        """The name of the run's folder."""
        return self.provenance["run"]

    @property
    def step(self) -> int:
        """The training step of the checkpoint."""
        return self.provenance["step"]

    @property
    def training_log(self) -> TrainingLog | None:
        """Return the log until this step; None if the run was not trained here."""
        if self.log is not None or self.folder is None or not _is_in_run(self.folder):
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

    def reason_for_missing(self, name: str) -> str:
        """Return why an array was not collected, as a sentence; empty if it is not known."""
        reason = str(self.provenance.get("not_collected", {}).get(name, ""))
        spec = ARRAYS.get(name)
        if reason or spec is None or spec.collect_options is None:
            return reason
        imported = self.provenance.get("imported") or {}
        if imported.get("kind") == "arrays":
            return "Files of arrays have no model that could compute it."
        if imported and imported.get("address") is None:
            request = spec.collect_options.removeprefix("--also ")
            option = f" with also=['{request}']" if request else ""
            return f"The model was not stored; evaluate it again{option}."
        command = f"workbench collect {self.run_name} {spec.collect_options}".rstrip()
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
        provenance_path = folder / "provenance.json"
        again = f"workbench collect {printable(folder.parent.parent)}"
        names = [name for name in ARRAYS if only is None or name in only]
        try:
            # While the file is open, no newer file can have its inode.
            with open_regular(provenance_path) as file:
                try:
                    provenance, arrays = _read(file, folder, names)
                except DamagedError:
                    if _is_current(file, provenance_path):
                        raise
                    return cls.open(folder, only)
                if not _is_current(file, provenance_path):
                    # The folder was replaced meanwhile, and some arrays are older than others.
                    return cls.open(folder, only)
        except FileNotFoundError:
            if reappears(folder, provenance_path.name):
                return cls.open(folder, only)
            raise RunError(
                f"{printable(folder)} holds no evidence. Collect it with: {again}"
            ) from None
        except DamagedError as error:
            raise _damaged(folder, error, again) from None
        except OSError as error:
            raise unreadable(provenance_path, error) from None
        provenance = _with_folder_name(provenance, folder)
        return cls(provenance=provenance, folder=folder, **dict[str, Any](arrays))

    def __repr__(self) -> str:
        shapes = ", ".join(
            f"{name} {'x'.join(map(str, array.shape))}" for name, array in self.arrays().items()
        )
        return f"Evidence of {self.run_name} at step {self.step}: {shapes}"


ARRAYS: Mapping[str, ArraySpec] = {
    item.name: item.metadata["spec"] for item in fields(Evidence) if "spec" in item.metadata
}


def kwargs_for(
    analysis: Callable[..., Any],
    evidences: Sequence[Evidence],
    partners: Sequence[Evidence] = (),
) -> dict[str, Any]:
    """Return the arguments of an analysis that evidence provides, by the names of its positional
    parameters.

    An analysis that requires pictures gets only the images that have pictures, which are the first
    ones, of all arrays.

    Parameters
    ----------
    analysis : callable
        The analysis. Its keyword-only parameters are controls, and are not provided here.
    evidences : sequence of Evidence
        The evidence of one or more runs. The parameter `evidences` receives all of them, and
        `training_logs` the logs of all runs that have one; any other parameter receives the
        attribute of that name of the first.
    partners : sequence of Evidence
        The evidence of generators that were trained on these runs, or of their tokenizers. The
        parameter `partners` receives it.

    Raises
    ------
    NotApplicable
        If a parameter without a default is missing in the evidence.
    """
    arguments = {}
    missing = []
    reasons = []
    num_pictures: int | None = None  # if the analysis requires pictures
    for parameter in inspect.signature(analysis).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            continue
        if parameter.name == "evidences":
            value: Any = tuple(evidences)
        elif parameter.name == LOGS_PARAMETER:
            logs = [evidence.training_log for evidence in evidences]
            value = tuple(log for log in logs if log is not None) or None
        elif parameter.name == PARTNERS:
            value = tuple(partners)
        else:
            value = getattr(evidences[0], parameter.name)
        if value is not None:
            arguments[parameter.name] = value
        elif parameter.default is parameter.empty:
            missing.append(parameter.name.replace("_", " "))
            reasons.append(evidences[0].reason_for_missing(parameter.name))
        is_required = parameter.default is parameter.empty
        if is_required and value is not None and "picture" in axes_of(parameter.name):
            num_pictures = value.shape[axes_of(parameter.name).index("picture")]
    if num_pictures is not None:
        arguments = {
            name: _first_images(name, value, num_pictures) for name, value in arguments.items()
        }
    if missing:
        title = analysis.__name__.replace("_", " ").capitalize()
        sentence = (
            f"{title} needs {', '.join(missing)}, which the evidence of"
            f" {evidences[0].run_name} does not have."
        )
        raise NotApplicable(" ".join([sentence, *dict.fromkeys(filter(None, reasons))]))
    return arguments


def axes_of(name: str) -> tuple[str, ...]:
    """Return the axes of an array; empty if there is no array of this name."""
    return ARRAYS[name].axes if name in ARRAYS else ()


def _first_images(name: str, value: Any, count: int) -> Any:
    """Return the first images of an array; any other value as it is."""
    axes = axes_of(name)
    if "image" not in axes:
        return value
    return value[(slice(None),) * axes.index("image") + (slice(count),)]


def array_names(analysis: Callable[..., Any]) -> set[str] | None:
    """Return the names of the arrays that an analysis reads from evidence; None for all arrays.

    An analysis of `evidences` may read any array of any run.
    """
    names = {
        parameter.name
        for parameter in inspect.signature(analysis).parameters.values()
        if parameter.kind is not parameter.KEYWORD_ONLY
    }
    return None if "evidences" in names else names & ARRAYS.keys()


def reads_logs(analysis: Callable[..., Any]) -> bool:
    """Return True if an analysis reads the logs of training, which need no evidence."""
    return LOGS_PARAMETER in inspect.signature(analysis).parameters


def write_provenance(folder: Path, provenance: Mapping[str, Any], names: Sequence[str]) -> None:
    """Write the provenance of arrays that are in a folder, with their digests.

    Parameters
    ----------
    folder : Path
        The folder of the arrays.
    provenance : mapping
        Their origin.
    names : sequence of str
        Their names.
    """
    digests = {name: file_digest(folder / f"{name}.npy") for name in names}
    stored = {"format": FORMAT, **provenance, "digests": digests}
    (folder / "provenance.json").write_text(json.dumps(stored, indent=1), encoding="utf-8")


def verify_evidence(folder: Path) -> None:
    """Compare every array of evidence with the digest that was stored when it was written.

    Raises
    ------
    RunError
        If an array is missing or has changed, or the evidence cannot be opened.
    """
    Evidence.open(folder, only=())
    again = f"workbench collect {printable(folder.parent.parent)}"
    _, _, digests = _parse_provenance(read_bytes(folder / "provenance.json"), folder)
    for name, digest in digests.items():
        path = folder / f"{name}.npy"
        try:
            _check_file(path, digest)
        except DamagedError as error:
            raise _damaged(folder, error, again) from None


def _with_folder_name(provenance: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the provenance with the present name of the run's folder, which may have been moved.

    Evidence outside of a run keeps the name that was stored.
    """
    if not _is_in_run(folder):
        return provenance
    return provenance | {"run": folder.parent.parent.resolve().name}


def _is_in_run(folder: Path) -> bool:
    """Return True if a folder of evidence is in the folder of a run."""
    return folder.parent.name == "evidence" and STEP_NAME.fullmatch(folder.name) is not None


def _read(
    file: BinaryIO, folder: Path, names: Collection[str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the provenance from its open file, and open the arrays of these names.

    Raises
    ------
    DamagedError
        With the name of the file that is damaged.
    """
    provenance, stored_format, digests = _parse_provenance(file.read(), folder)
    arrays: dict[str, np.ndarray] = {}
    for name in names:
        path = folder / f"{stored_array_name(name, stored_format)}.npy"
        try:
            arrays[name] = load_array(path)
        except FileNotFoundError:
            continue
        except DamagedError as error:
            raise DamagedError(f"{path.name}: {error}") from None
        fault = ARRAYS[name].fault(arrays[name])
        if fault:
            raise DamagedError(f"{path.name}: {fault}")
    fault = _differing_lengths(arrays, provenance)
    if fault:
        raise DamagedError(fault)
    for name in digests.keys() & set(names):
        path = folder / f"{name}.npy"
        if _is_small(path):
            _check_file(path, digests[name])
    return provenance, arrays


def _is_current(file: BinaryIO, path: Path) -> bool:
    """Return True if an open file is still the one at a path."""
    return os.path.samestat(os.fstat(file.fileno()), path.stat())


def _is_small(path: Path) -> bool:
    try:
        return path.stat().st_size <= MAX_CHECKED_BYTES
    except OSError:
        return True  # checking it gives the reason


def _check_file(path: Path, digest: str) -> None:
    """Raise DamagedError, with the name of the file, if it is missing or has another digest."""
    try:
        check_digest(path, digest)
    except FileNotFoundError:
        raise DamagedError(f"{path.name}: it is missing") from None
    except DamagedError as error:
        raise DamagedError(f"{path.name}: {error}") from None


def _differing_lengths(arrays: Mapping[str, np.ndarray], provenance: Mapping[str, Any]) -> str:
    """Name an array whose axis has another length than that axis of another array.

    The provenance has the number of images of a tokenizer, or of the samples of a generator.
    """
    first: dict[str, tuple[str, int]] = {}
    has_all_pictures = provenance.get("pictures") is None
    if not has_all_pictures:
        first["picture"] = ("provenance.json", provenance["pictures"])
    counted_axis = "image" if provenance.get("tokenizer") is None else "sample"
    if provenance.get("n") is not None:
        first[counted_axis] = ("provenance.json", provenance["n"])
    for name, array in arrays.items():
        for axis, length in zip(ARRAYS[name].axes, array.shape, strict=True):
            if axis in INDEPENDENT_AXES:
                continue
            if axis == "picture" and has_all_pictures:
                axis = "image"
            reference, expected = first.setdefault(axis, (name, length))
            if length != expected:
                counts = f"{length:,} along {axis.replace('_', ' ')}, and {reference} has"
                return f"{name}.npy: it has {counts} {expected:,}"
    return ""


def _damaged(folder: Path, error: DamagedError, again: str) -> RunError:
    # In one line: numpy's messages may quote the file's content.
    reason = " ".join(str(error).split())[:MAX_REASON_LENGTH]
    return RunError(
        f"The evidence in {printable(folder)} is damaged ({reason}). Collect it again with: {again}"
    )


def _parse_provenance(
    content: bytes, folder: Path
) -> tuple[dict[str, Any], int, Mapping[str, str]]:
    """Return the provenance in the current format, the format it was stored in, and the digests
    of the arrays by the names of their files.
    """
    try:
        stored = parse_json(content)
        digests = stored.pop("digests", {}) if isinstance(stored, dict) else {}
        if not isinstance(digests, dict) or not all(map(_is_text, digests.values())):
            raise DamagedError("digests is of the wrong type")
        return *_checked_provenance(stored, folder), digests
    except DamagedError as error:
        raise DamagedError(f"provenance.json: {error}") from None


def _checked_provenance(stored: Any, folder: Path) -> tuple[dict[str, Any], int]:
    """Return the provenance in the current format, and the format it was stored in."""
    if not isinstance(stored, dict) or not is_format(stored.get("format")):
        raise DamagedError("it has no format number")
    stored_format = stored.pop("format")
    if stored_format > FORMAT:
        raise RunError(
            f"{printable(folder)} was written by a newer workbench. "
            "Upgrade this package to read it."
        )
    for name in ("run", "step"):
        if stored.get(name) is None:
            raise DamagedError(f"it has no {name}")
    if not isinstance(stored.get("class", ""), str):
        raise DamagedError("class is not text")
    provenance = migrate_provenance(stored, stored_format)
    for name, value in provenance.items():
        is_valid = PROVENANCE_CHECKS.get(name)
        if value is not None and is_valid is not None and not is_valid(value):
            raise DamagedError(f"{name} is of the wrong type")
    return provenance, stored_format


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_grid(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(is_int(item) for item in value)


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("run"), str)


# The required type of each known key of a provenance; None is always allowed.
PROVENANCE_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "run": _is_text,
    "step": is_count,
    "data": _is_text,
    "split": _is_text,
    "names": _is_list_of_text,
    "fingerprint": _is_text,
    "n": is_count,
    "of": is_count,
    "excluded": _is_list_of_text,
    "pictures": is_count,
    "seed": is_int,
    "grid": _is_grid,
    "teacher": _is_text,
    "feature_extractor": _is_text,
    "feature_extractor_reason": _is_text,
    "protocol": _is_text,
    "reference": _is_text,
    "tokenizer": _is_reference,
    "sampling": _is_table,
    "imported": _is_table,
    "resize": _is_text,
    "not_collected": _is_table,
    "settings": _is_table,
    "training": _is_table,
    "versions": _is_table,
}
