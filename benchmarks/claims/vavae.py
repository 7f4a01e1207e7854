"""VA-VAE (arXiv:2501.01423): alignment resolves the reconstruction-generation dilemma of latents.

The controls that the paper does not have are in the same table: features of other images
(`shuffled`), of an untrained network (`random`), and no teacher but a stronger KL term (`KL`) or
noise on the latents (`noise`).
"""

from collections.abc import Mapping

from .arms import Arm, Scale
from .claim import Claim, Numbers

SOURCE = "arXiv:2501.01423"
ALIGN = 0.5
CONTROLS = ("shuffled", "noise", "random", "HOG", "less noise", "KL", "more KL")
PARTS = {
    "the cosine term": "no cosine",
    "the distance term": "no distance",
    "margins": "no margins",
}  # by arm


def _vae(scale: Scale, dim: int, **changes: object) -> Arm:
    return scale.tokenizer("vavae", **({"dim": dim, "align_weight": 0.0} | changes))


def tokenizers(scale: Scale) -> dict[str, Arm]:
    """Return plain ones with few and many channels, aligned ones, and the controls."""
    alignment, (few, many) = {"align_weight": ALIGN, "teacher": scale.teacher}, scale.channels
    arms = {
        "few channels": _vae(scale, few),
        "many channels": _vae(scale, many),
        "aligned": _vae(scale, many, **alignment),
        "shuffled": _vae(scale, many, **alignment | {"teacher": f"shuffled:{scale.teacher}"}),
        "noise": _vae(scale, many, noise=0.5),
    }
    if scale.full:
        arms |= {
            "between": _vae(scale, many // 2),
            "between, aligned": _vae(scale, many // 2, **alignment),
            "few, aligned": _vae(scale, few, **alignment),
            "random": _vae(scale, many, **alignment | {"teacher": scale.untrained}),
            "less noise": _vae(scale, many, noise=0.2),
            "KL": _vae(scale, many, kl_weight=1e-2),
            "more KL": _vae(scale, many, kl_weight=1e-1),
            # An adaptive weight would make up for the term that is missing.
            "no cosine": _vae(
                scale, many, **alignment | {"align_weight": ALIGN / 2}, margin_cosine=2.0
            ),
            "no distance": _vae(
                scale, many, **alignment | {"align_weight": ALIGN / 2}, margin_distance=2.0
            ),
            "no margins": _vae(scale, many, **alignment, margin_cosine=0.0, margin_distance=0.0),
        }
        arms |= (
            {"HOG": _vae(scale, many, **alignment | {"teacher": scale.hog})}
            if scale.hog != scale.teacher
            else {}
        )
    return arms


def generators(scale: Scale) -> dict[str, Arm]:
    """Return the same generator on each of them."""
    return {label: scale.generator(arm) for label, arm in tokenizers(scale).items()}


def dilemma(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare reconstruction and generation with many and with few channels."""
    few, many = rows["few channels"], rows["many channels"]
    return {
        "PSNR (dB), many minus few channels": many["PSNR"] - few["PSNR"],
        "gFD, many minus few channels": many["gFD"] - few["gFD"],
        "gFD free, many minus few channels": many["gFD free"] - few["gFD free"],
    }


def recovery(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare gFD without and with alignment, with many channels."""
    plain, aligned = rows["many channels"], rows["aligned"]
    return {
        f"gFD{suffix}, plain minus aligned": plain[f"gFD{suffix}"] - aligned[f"gFD{suffix}"]
        for suffix in ("", " free")
    }


def teachers(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare gFD of the controls with that of the aligned latents."""
    return {
        f"gFD{suffix}, {label} minus aligned": rows[label][f"gFD{suffix}"]
        - rows["aligned"][f"gFD{suffix}"]
        for label in CONTROLS
        if label in rows
        for suffix in ("", " free")
    }


def parts_arms(scale: Scale) -> dict[str, Arm]:
    """Return the aligned one, and one without each part of the loss; only with every arm."""
    wanted = ("many channels", "aligned", *PARTS.values())
    return (
        {label: arm for label, arm in generators(scale).items() if label in wanted}
        if scale.full
        else {}
    )


def parts(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare gFD without each part with that of the whole."""
    return {
        f"gFD{suffix} without {part}, minus with all": rows[a][f"gFD{suffix}"]
        - rows["aligned"][f"gFD{suffix}"]
        for part, a in PARTS.items()
        for suffix in ("", " free")
    }


SHOWS = (
    "PSNR",
    "rFD",
    "rFD free",
    "gFD",
    "floor",
    "gFD free",
    "floor free",
    "gap",
    "linear probe",
    "norm CV",
)
CLAIMS = (
    Claim(
        key="vavae-dilemma",
        system="VA-VAE",
        statement="More channels reconstruct better and generate worse.",
        source=f"{SOURCE}, Figure 1",
        rule="From few to many channels (16 and 64; 2 and 8 on digits) PSNR rises, and gFD of the"
        " same"
        " generator rises too, in both feature extractors.",
        arms=generators,
        effects=dilemma,
        columns=SHOWS,
    ),
    Claim(
        key="vavae-alignment",
        system="VA-VAE",
        statement="Aligning latents to a frozen network restores generation.",
        source=f"{SOURCE}, Table 3",
        rule="With many channels gFD is lower with the alignment, in both feature extractors,"
        " neither of"
        " which is the teacher.",
        arms=generators,
        effects=recovery,
        columns=SHOWS,
        caveat="On digits, many channels generate about as well as few, with the small and the"
        " released network. The alignment then has no loss of quality to restore, and only makes"
        " generation worse.",
    ),
    Claim(
        key="vavae-controls",
        system="VA-VAE",
        statement="The improvement comes from the teacher's knowledge.",
        source=f"{SOURCE}, Table 4; the controls are ours",
        rule="gFD with the teacher is lower than with each control, in both feature extractors.",
        arms=generators,
        effects=teachers,
        columns=SHOWS,
        caveat="If features of other images give the same improvement, it does not depend on what"
        " the teacher has learned.",
    ),
    Claim(
        key="vavae-parts",
        system="VA-VAE",
        statement="Both terms of the alignment and their margins matter.",
        source=f"{SOURCE}, Table 5",
        rule="With many channels gFD is lower with all parts than without the cosine term, without"
        " the"
        " distance term, and without margins, in both feature extractors. If one term is left out,"
        " the other has half the weight.",
        arms=parts_arms,
        effects=parts,
        columns=SHOWS,
    ),
)
