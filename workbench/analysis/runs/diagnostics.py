"""Everything that can be measured of a tokenizer before a generator is trained on it, as one number each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workbench.core.errors import NotApplicable, UserError
from workbench.core.progress import Cancelled
from workbench.storage.evidence import Evidence

Expected = Literal["higher", "lower", "unknown"]


@dataclass(frozen=True)
class Diagnostic:
    """A number of a tokenizer: what it says, and which way a better generator is expected to lie."""

    name: str
    meaning: str
    better: Expected  # for generation, as papers have it; unknown where they disagree or are silent


DIAGNOSTICS = (
    Diagnostic("PSNR", "how near reconstructions come, pixel by pixel, in dB", "unknown"),
    Diagnostic("L1", "mean absolute error of a pixel, in [0, 1]", "unknown"),
    Diagnostic("SSIM", "how alike the structure of reconstructions is", "unknown"),
    Diagnostic(
        "reconstruction distance", "Frechet distance from images to reconstructions (rFD)", "lower"
    ),
    Diagnostic(
        "interpolation distance",
        "Frechet distance from images to decoded midpoints of latents",
        "lower",
    ),
    Diagnostic("numbers an image", "tokens times channels: how much there is to generate", "lower"),
    Diagnostic("perplexity share", "perplexity of the codes over the size of their book", "higher"),
    Diagnostic("used share", "share of the codes that any token chose", "higher"),
    Diagnostic("participation ratio", "directions that the latents fill", "unknown"),
    Diagnostic("participation share", "directions filled, of those there are", "higher"),
    Diagnostic("top share", "variance along the largest direction", "lower"),
    Diagnostic("norm CV", "how uneven the tokens' lengths are", "lower"),
    Diagnostic("10-NN CV", "how uneven the tokens' density is", "lower"),
    Diagnostic("token |cosine|", "how alike the tokens of an image are: redundancy", "unknown"),
    Diagnostic(
        "neighbor cosine", "how alike neighbouring tokens are: spatial smoothness", "higher"
    ),
    Diagnostic("noise cost", "dB lost to the strongest noise against the weakest", "lower"),
    Diagnostic("linear probe", "accuracy of a linear probe of whole images", "higher"),
    Diagnostic("neighbor probe", "accuracy of nearest neighbours of whole images", "higher"),
    Diagnostic("teacher CKA", "how alike images are to the latents and to a teacher", "higher"),
    Diagnostic(
        "teacher cosine", "how well a linear map of tokens tells a teacher's features", "higher"
    ),
    Diagnostic("modes, low", "clusters of the latents, the range's low end", "lower"),
    Diagnostic("modes, high", "clusters of the latents, the range's high end", "lower"),
)
BY_NAME = {diagnostic.name: diagnostic for diagnostic in DIAGNOSTICS}


def diagnostics_of(evidence: Evidence, *, modes: bool = False, seed: int = 0) -> dict[str, float]:
    """Every diagnostic that applies to a tokenizer, by its name in DIAGNOSTICS; `modes` counts clusters too, slowly.

    What an analysis refuses to measure, or what is not finite, is left out. Raises NotApplicable where nothing is left.
    """
    measures: list[Callable[[Evidence, int], dict[str, float]]] = [
        _pixels,
        _distances,
        _size,
        _codes,
        _geometry,
    ]
    measures += [_probes, _alignment, *([_modes] if modes else [])]
    found: dict[str, float] = {}
    for measure in measures:
        try:
            found |= measure(evidence, seed)
        except Cancelled:
            raise
        except UserError:
            continue
    found = {name: float(found[name]) for name in BY_NAME if np.isfinite(found.get(name, np.nan))}
    if not found:
        raise NotApplicable(
            f"Diagnostics need a tokenizer's evidence; {evidence.run_name} has nothing to measure."
        )
    return found


def _pixels(evidence: Evidence, seed: int) -> dict[str, float]:
    from workbench.analysis.images.reconstruction import pixel_errors, psnr_db
    from workbench.analysis.images.structure import ssim

    _needed(evidence, "images", "reconstructions")
    mse, l1 = pixel_errors(evidence.images, evidence.reconstructions)
    alike = ssim(evidence.images, evidence.reconstructions)
    return {"PSNR": psnr_db(mse).mean(), "L1": l1.mean(), "SSIM": alike.mean()}


def _distances(evidence: Evidence, seed: int) -> dict[str, float]:
    from workbench.analysis.generation.fidelity import feature_distance

    _needed(evidence, "features")
    sets = {
        "reconstructions": evidence.reconstruction_features,
        "midpoints": evidence.midpoint_features,
    }
    names = {"reconstructions": "reconstruction distance", "midpoints": "interpolation distance"}
    return {
        names[kind]: feature_distance(seed, held_out=evidence.features, **{kind: features})
        for kind, features in sets.items()
        if features is not None
    }


def _size(evidence: Evidence, seed: int) -> dict[str, float]:
    _needed(evidence, "latents")
    return {"numbers an image": float(np.prod(evidence.latents.shape[1:]))}


def _codes(evidence: Evidence, seed: int) -> dict[str, float]:
    from workbench.analysis.codebook.usage import codebook_usage

    books = codebook_usage(**evidence.kwargs_for(codebook_usage)).codebooks
    perplexity = np.mean([book.perplexity_corrected / book.size for book in books])
    return {
        "perplexity share": perplexity,
        "used share": np.mean([book.used / book.size for book in books]),
    }


def _geometry(evidence: Evidence, seed: int) -> dict[str, float]:
    from workbench.analysis.latents.geometry import latent_geometry

    result = latent_geometry(**evidence.kwargs_for(latent_geometry), seed=seed)
    found = {measure.name: measure.value for measure in result.measures}
    found["participation share"] = found["participation ratio"] / result.dimensions
    if len(result.noise) > 1:
        found["noise cost"] = result.noise[0].psnr - result.noise[-1].psnr
    return found


def _probes(evidence: Evidence, seed: int) -> dict[str, float]:
    from workbench.analysis.latents.probes import whole_image_accuracies

    accuracy = whole_image_accuracies(**evidence.kwargs_for(whole_image_accuracies), seed=seed)
    return {"linear probe": accuracy["linear"], "neighbor probe": accuracy["nearest neighbors"]}


def _alignment(evidence: Evidence, seed: int) -> dict[str, float]:
    from workbench.analysis.latents.alignment import teacher_alignment

    result = teacher_alignment(**evidence.kwargs_for(teacher_alignment), seed=seed)
    return {"teacher CKA": result["CKA"].value, "teacher cosine": result["marginal cosine"].value}


def _modes(evidence: Evidence, seed: int) -> dict[str, float]:
    from workbench.analysis.latents.modes import mixture_modes

    result = mixture_modes(**evidence.kwargs_for(mixture_modes), seed=seed)
    return {"modes, low": result.low, "modes, high": result.high}


def _needed(evidence: Evidence, *names: str) -> None:
    for name in names:
        if getattr(evidence, name) is None:
            raise NotApplicable(f"This needs {name.replace('_', ' ')}; {evidence.run_name} has none.")
