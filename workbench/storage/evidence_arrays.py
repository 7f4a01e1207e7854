"""The arrays of evidence: their names, axes, types and meaning.

A new array is a field of `EvidenceArrays`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

PADDING = -1  # in place of a code, where an image has fewer tokens than others


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
        """Return in what respect an array does not fit; an empty string if it fits."""
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


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class EvidenceArrays:
    """The arrays of evidence; None for a quantity that the model does not have."""

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
        "uint8", "train_picture height width color", "The first training images of train_features."
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
        "Features of decoded noise with the mean and standard deviation of each channel, like the "
        "samples of an untrained flow.",
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
        "float32", "image prefix", "SSIM of each prefix: uniform window of 7, pixels in [0, 1]."
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


ARRAYS: Mapping[str, ArraySpec] = {
    item.name: item.metadata["spec"] for item in fields(EvidenceArrays)
}


def axes_of(name: str) -> tuple[str, ...]:
    """Return the axes of an array; empty if there is no array of this name."""
    return ARRAYS[name].axes if name in ARRAYS else ()
