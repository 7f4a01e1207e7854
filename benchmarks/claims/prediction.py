"""The workbench's own claim: diagnostics of a latent space predict which one will generate well.

Spearman's correlation of each diagnostic with gFD is computed over the tokenizers of the other
claims that the same generator was trained on. Among many diagnostics, one may correlate well by
chance. Therefore the best one is compared with the 95th percentile of the best of as many
unrelated ones. Families of tokenizers differ in many properties, so the permutations shuffle gFD
within families.
"""

from collections.abc import Mapping

import numpy as np

from workbench.analysis.runs.diagnostics import BY_NAME
from workbench.analysis.stats.rank_correlation import permutation_null, spearman

from . import maetok, unicode2, vavae
from .arms import Arm, Scale
from .claim import Claim, Numbers

MIN_TOKENIZERS = 12
RECONSTRUCTION_METRICS = (
    "PSNR",
    "L1",
    "SSIM",
    "reconstruction distance",
)  # common quality measures
SIZE = "numbers per image"  # a setting, not a measurement
IN_EXTRACTOR_FEATURES = (
    "interpolation distance",
    "teacher CKA",
    "teacher cosine",
)  # computed in the features that gFD uses


def arms(scale: Scale) -> dict[str, Arm]:
    """Return every latent space with a generator of another claim.

    With every arm, soft and hard codes are added.
    """
    arms = {f"MAETok: {label}": arm for label, arm in maetok.generators(scale).items()}
    arms |= {f"VA-VAE: {label}": arm for label, arm in vavae.generators(scale).items()}
    if scale.full:
        own = {"soft": "softvq", "hard": "vqvae"}
        tokenizers = {
            label: scale.tokenizer(system, codebook_size=unicode2.SMALL)
            for label, system in own.items()
        }
        arms |= {f"SoftVQ: {label}": scale.generator(arm) for label, arm in tokenizers.items()}
    return arms


def correlations(rows: Mapping[str, Numbers]) -> Numbers:
    """Compute the rank correlation with gFD of every diagnostic that all tokenizers have."""
    names, values, target = _columns(rows)
    return dict(zip(names, spearman(values, target).tolist(), strict=True))


def effects(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare the best diagnostic with chance and with reconstruction metrics."""
    names, values, target = _columns(rows)
    latent = [
        i
        for i, name in enumerate(names)
        if name not in (*RECONSTRUCTION_METRICS, *IN_EXTRACTOR_FEATURES, SIZE)
    ]
    families = [label.split(":")[0] for label in rows]
    correlation, null = (
        np.abs(spearman(values, target)),
        np.abs(permutation_null(values[:, latent], target, families=families)),
    )
    chance = float(np.quantile(null.max(axis=1), 0.95))
    best = float(correlation[latent].max())
    rebuilt = float(
        max(correlation[names.index(name)] for name in RECONSTRUCTION_METRICS if name in names)
    )
    return {
        "|rho| of the best latent diagnostic, minus the best of as many by chance": best - chance,
        "|rho| of the best latent diagnostic, minus the best reconstruction metric": best - rebuilt,
    }


def _columns(rows: Mapping[str, Numbers]) -> tuple[list[str], np.ndarray, np.ndarray]:
    names = [name for name in BY_NAME if all(name in row for row in rows.values())]
    values = np.array([[row[name] for name in names] for row in rows.values()])
    return names, values, np.array([row["gFD"] for row in rows.values()])


CLAIMS = (
    Claim(
        key="workbench-prediction",
        system="the workbench",
        statement="Diagnostics of a latent space predict which tokenizer will generate well;"
        " reconstruction does not.",
        source="ours",
        rule=f"Over at least {MIN_TOKENIZERS} tokenizers with the same generator, the latent"
        " diagnostic"
        " that correlates best with gFD does so better than the best of as many by chance (gFD"
        " shuffled within each family of tokenizers), and better than PSNR, L1, SSIM and rFD in"
        " absolute value. Diagnostics in the features of the feature extractor do not count.",
        caveat="The best of many is compared with the best of four that are nearly the same, which"
        " favors"
        " the many.",
        arms=arms,
        effects=effects,
        details=correlations,
        columns=(
            "gFD",
            "floor",
            "gFD free",
            "floor free",
            "rFD",
            "rFD free",
            "PSNR",
            "linear probe",
        ),
    ),
)
