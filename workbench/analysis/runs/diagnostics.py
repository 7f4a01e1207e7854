"""Diagnostics of a tokenizer that need no generator, one number each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workbench.analysis.inputs import require_array
from workbench.analysis.result_cache import composed_result
from workbench.core.errors import NotApplicable, UserError
from workbench.core.progress import Cancelled
from workbench.storage.evidence import Evidence

Direction = Literal["higher", "lower", "unknown"]
Numbers = dict[str, float]


@dataclass(frozen=True)
class Diagnostic:
    """One diagnostic of a tokenizer.

    Attributes
    ----------
    name : str
        Name, unique among DIAGNOSTICS.
    meaning : str
        What is measured, with its unit.
    better : {"higher", "lower", "unknown"}
        Direction of better generation according to papers; unknown if they disagree or do not
        state it.
    """

    name: str
    meaning: str
    better: Direction


DIAGNOSTICS = (
    Diagnostic("PSNR", "peak signal-to-noise ratio of reconstructions, dB", "unknown"),
    Diagnostic("L1", "mean absolute error of pixels in [0, 1]", "unknown"),
    Diagnostic("SSIM", "structural similarity of reconstructions, window of 7", "unknown"),
    Diagnostic(
        "reconstruction distance", "Fréchet distance of images to reconstructions (rFD)", "lower"
    ),
    Diagnostic(
        "interpolation distance",
        "Fréchet distance of images to decoded midpoints of latents",
        "lower",
    ),
    Diagnostic("numbers per image", "tokens times channels: the amount to generate", "lower"),
    Diagnostic("perplexity share", "perplexity of the codes over the codebook size", "higher"),
    Diagnostic("used share", "fraction of the codes that tokens use", "higher"),
    Diagnostic("participation ratio", "number of directions that the latents span", "unknown"),
    Diagnostic("participation share", "fraction of directions that the latents span", "higher"),
    Diagnostic("VIV total", "irreducible variance of a flow's velocity per image", "unknown"),
    Diagnostic("class share", "fraction of the variance explained by class means", "unknown"),
    Diagnostic("top share", "fraction of variance along the largest direction", "lower"),
    Diagnostic("norm CV", "coefficient of variation of token norms", "lower"),
    Diagnostic("10-NN CV", "coefficient of variation of distances to the 10th neighbor", "lower"),
    Diagnostic("token |cosine|", "similarity of the tokens of an image: redundancy", "unknown"),
    Diagnostic("neighbor cosine", "similarity of neighboring tokens: spatial smoothness", "higher"),
    Diagnostic("noise cost", "PSNR lost from the weakest to the strongest noise, dB", "lower"),
    Diagnostic("linear probe", "accuracy of a linear probe of images", "higher"),
    Diagnostic("neighbor probe", "accuracy of a nearest-neighbor probe of images", "higher"),
    Diagnostic("teacher CKA", "similarity of latents to the features of a teacher", "higher"),
    Diagnostic("teacher cosine", "fit of a linear map from tokens to teacher features", "higher"),
    Diagnostic("modes, low", "lower bound of the number of modes of the latents", "lower"),
    Diagnostic("modes, high", "upper bound of the number of modes of the latents", "lower"),
)
BY_NAME = {diagnostic.name: diagnostic for diagnostic in DIAGNOSTICS}


def diagnostics_of(evidence: Evidence, *, modes: bool = False, seed: int = 0) -> Numbers:
    """Compute every diagnostic that applies to a tokenizer.

    Parameters
    ----------
    evidence : Evidence
        Evidence of a tokenizer.
    modes : bool, default False
        Count the modes of the latents as well, which is slow.
    seed : int, default 0
        Seed of the analyses.

    Returns
    -------
    dict of str to float
        Diagnostics by name, in the order of DIAGNOSTICS. Those that do not apply or are not finite
        are left out.

    Raises
    ------
    NotApplicable
        If no diagnostic applies.
    """
    measures: list[Callable[[Evidence, int], Numbers]] = [
        _pixels,
        _distances,
        _size,
        _codes,
        _geometry,
        _velocity_variance,
        _probes,
        _alignment,
    ]
    if modes:
        measures.append(_modes)
    measured: Numbers = {}
    for measure in measures:
        try:
            measured |= measure(evidence, seed)
        except Cancelled:
            raise
        except UserError:
            continue  # the analysis does not apply to this tokenizer
    diagnostics = {
        name: float(measured[name])
        for name in BY_NAME
        if name in measured and np.isfinite(measured[name])
    }
    if not diagnostics:
        raise NotApplicable(
            f"Diagnostics need the evidence of a tokenizer; {evidence.run_name} has none."
        )
    return diagnostics


def _pixels(evidence: Evidence, seed: int) -> Numbers:
    from workbench.analysis.images.reconstruction import image_errors, psnr_db
    from workbench.analysis.images.structure import ssim

    name = evidence.run_name
    images = require_array(evidence.images, "images", name)
    reconstructions = require_array(evidence.reconstructions, "reconstructions", name)
    mse, l1 = image_errors(evidence)
    similarity = ssim(images, reconstructions)
    return {
        "PSNR": float(psnr_db(mse).mean()),
        "L1": float(l1.mean()),
        "SSIM": float(similarity.mean()),
    }


def _distances(evidence: Evidence, seed: int) -> Numbers:
    from workbench.analysis.generation.fidelity import feature_distance

    features = require_array(evidence.features, "features", evidence.run_name)
    distances = {}
    if evidence.reconstruction_features is not None:
        distances["reconstruction distance"] = feature_distance(
            seed, held_out=features, reconstructions=evidence.reconstruction_features
        )
    if evidence.midpoint_features is not None:
        distances["interpolation distance"] = feature_distance(
            seed, held_out=features, midpoints=evidence.midpoint_features
        )
    return distances


def _size(evidence: Evidence, seed: int) -> Numbers:
    latents = require_array(evidence.latents, "latents", evidence.run_name)
    return {"numbers per image": float(np.prod(latents.shape[1:]))}


def _codes(evidence: Evidence, seed: int) -> Numbers:
    from workbench.analysis.codebook.usage import codebook_usage

    codebooks = composed_result(codebook_usage, evidence.kwargs_for(codebook_usage)).codebooks
    return {
        "perplexity share": float(np.mean([c.perplexity_corrected / c.size for c in codebooks])),
        "used share": float(np.mean([c.used / c.size for c in codebooks])),
    }


def _geometry(evidence: Evidence, seed: int) -> Numbers:
    from workbench.analysis.latents.geometry import latent_geometry

    result = composed_result(latent_geometry, evidence.kwargs_for(latent_geometry), seed=seed)
    measures = {measure.name: measure.value for measure in result.measures}
    measures["participation share"] = measures["participation ratio"] / result.dimensions
    if len(result.noise) > 1:
        measures["noise cost"] = result.noise[0].psnr - result.noise[-1].psnr
    return measures


def _velocity_variance(evidence: Evidence, seed: int) -> Numbers:
    from workbench.analysis.learnability.velocity_variance import velocity_variance

    arguments = evidence.kwargs_for(velocity_variance) | {"evidences": ()}
    result = composed_result(velocity_variance, arguments, seed=seed)
    shares = result.shares
    return {
        "VIV total": result.label_free.total,
        "class share": shares.class_ - shares.class_null,
    }


def _probes(evidence: Evidence, seed: int) -> Numbers:
    from workbench.analysis.latents.probes import whole_image_accuracies

    accuracy = whole_image_accuracies(**evidence.kwargs_for(whole_image_accuracies), seed=seed)
    return {"linear probe": accuracy["linear"], "neighbor probe": accuracy["nearest neighbors"]}


def _alignment(evidence: Evidence, seed: int) -> Numbers:
    from workbench.analysis.latents.alignment import teacher_alignment

    result = composed_result(teacher_alignment, evidence.kwargs_for(teacher_alignment), seed=seed)
    return {"teacher CKA": result["CKA"].value, "teacher cosine": result["marginal cosine"].value}


def _modes(evidence: Evidence, seed: int) -> Numbers:
    from workbench.analysis.latents.modes import mixture_modes

    result = composed_result(mixture_modes, evidence.kwargs_for(mixture_modes), seed=seed)
    return {"modes, low": result.low, "modes, high": result.high}
