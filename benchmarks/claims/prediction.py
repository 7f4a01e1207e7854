"""The workbench's own claim: what is inside a latent space tells, before the big run, which one will generate well.

Over every tokenizer of the other claims that the same flow was trained on: Spearman's correlation of each diagnostic
with gFD. Some diagnostic always looks good among many, so the best is held against what the best of as many unrelated
ones reaches in one case of twenty; and families of tokenizers differ in everything at once, so chance shuffles gFD
within a family alone.
"""

from collections.abc import Mapping

import numpy as np

from workbench.analysis.runs.diagnostics import BY_NAME
from workbench.analysis.stats.rank_correlation import permutation_null, spearman

from . import maetok, unicode2, vavae
from .arms import Arm, Scale
from .claim import Claim, Numbers

LEAST = 12  # tokenizers
REBUILT = (
    "PSNR",
    "L1",
    "SSIM",
    "reconstruction distance",
)  # what a user would look at without a workbench
SIZE = "numbers an image"  # a setting, not a measurement
JUDGED = (
    "interpolation distance",
    "teacher CKA",
    "teacher cosine",
)  # in the features that gFD is measured in


def arms(scale: Scale) -> dict[str, Arm]:
    """Every latent space that the flow is trained on for another claim; at full scale soft and hard codes' too."""
    found = {f"MAETok: {label}": arm for label, arm in maetok.generators(scale).items()}
    found |= {f"VA-VAE: {label}": arm for label, arm in vavae.generators(scale).items()}
    if scale.full:
        own = {"soft": "softvq", "hard": "vqvae"}
        tokenizers = {
            label: scale.tokenizer(system, codebook_size=unicode2.SMALL)
            for label, system in own.items()
        }
        found |= {f"SoftVQ: {label}": scale.generator(arm) for label, arm in tokenizers.items()}
    return found


def correlations(rows: Mapping[str, Numbers]) -> Numbers:
    """Spearman's correlation of every diagnostic that all tokenizers have with gFD."""
    names, values, target = _columns(rows)
    return dict(zip(names, spearman(values, target).tolist(), strict=True))


def effects(rows: Mapping[str, Numbers]) -> Numbers:
    """How far the best is above chance, and above reconstruction."""
    names, values, target = _columns(rows)
    latent = [i for i, name in enumerate(names) if name not in (*REBUILT, *JUDGED, SIZE)]
    families = [label.split(":")[0] for label in rows]
    found, null = (
        np.abs(spearman(values, target)),
        np.abs(permutation_null(values[:, latent], target, families=families)),
    )
    chance = float(np.quantile(null.max(axis=1), 0.95))
    best = float(found[latent].max())
    rebuilt = float(max(found[names.index(name)] for name in REBUILT if name in names))
    return {
        "|rho| of the best diagnostic of latents, less the best of as many by chance": best
        - chance,
        "|rho| of the best diagnostic of latents, less the best of reconstruction": best - rebuilt,
    }


def _columns(rows: Mapping[str, Numbers]) -> tuple[list[str], np.ndarray, np.ndarray]:
    names = [name for name in BY_NAME if all(name in row for row in rows.values())]
    values = np.array([[row[name] for name in names] for row in rows.values()])
    return names, values, np.array([row["gFD"] for row in rows.values()])


CLAIMS = (
    Claim(
        key="workbench-prediction",
        system="the workbench",
        statement="Diagnostics of a latent space tell which tokenizer will generate well; reconstruction does not.",
        source="ours",
        rule=f"Over at least {LEAST} tokenizers under one flow, the diagnostic of latents that correlates best with gFD"
        " does so above what the best of as many reaches by chance, gFD being shuffled within each family of"
        " tokenizers, and better than PSNR, L1, SSIM and rFD, whichever way those point. What is measured in the"
        " feature extractor's own features does not count.",
        caveat="The best of many is held against the best of four that say nearly the same: that favours the many.",
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
