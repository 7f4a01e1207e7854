"""VA-VAE (arXiv:2501.01423): more channels reconstruct better and generate worse; aligning latents breaks the dilemma.

The controls that the paper lacks stand in the same table: features of other images (`shuffled`), of a network without
training (`random`), and no teacher at all but a stronger divergence (`KL`) or noise on the latents (`noise`).
"""

from collections.abc import Mapping

from .arms import Arm, Scale
from .claim import Claim, Numbers

SOURCE = "arXiv:2501.01423"
FEW, MANY = 16, 64
ALIGN = 0.5


def _vae(scale: Scale, dim: int, **changes: object) -> Arm:
    return scale.tokenizer("vavae", **({"dim": dim, "align_weight": 0.0} | changes))


def tokenizers(scale: Scale) -> dict[str, Arm]:
    """Plain at few and many channels, aligned, and the controls at many."""
    told = {"align_weight": ALIGN, "teacher": scale.teacher}
    arms = {
        f"{FEW} channels": _vae(scale, FEW),
        f"{MANY} channels": _vae(scale, MANY),
        "aligned": _vae(scale, MANY, **told),
        "shuffled": _vae(scale, MANY, **told | {"teacher": f"shuffled:{scale.teacher}"}),
        "noise": _vae(scale, MANY, noise=0.5),
    }
    if scale.full:
        arms |= {
            "32 channels": _vae(scale, 32),
            "32 aligned": _vae(scale, 32, **told),
            f"{FEW} aligned": _vae(scale, FEW, **told),
            "random": _vae(scale, MANY, **told | {"teacher": "random:7"}),
            "HOG": _vae(scale, MANY, **told | {"teacher": "hog"}),
            "KL": _vae(scale, MANY, kl_weight=1e-2),
            "no cosine": _vae(scale, MANY, **told, margin_cosine=2.0),
            "no distance": _vae(scale, MANY, **told, margin_distance=2.0),
            "no margins": _vae(scale, MANY, **told, margin_cosine=0.0, margin_distance=0.0),
        }
    return arms


def generators(scale: Scale) -> dict[str, Arm]:
    """The same flow on each of them."""
    return {label: scale.generator(arm) for label, arm in tokenizers(scale).items()}


def dilemma(rows: Mapping[str, Numbers]) -> Numbers:
    """What more channels do to reconstruction and to generation."""
    few, many = rows[f"{FEW} channels"], rows[f"{MANY} channels"]
    return {
        f"PSNR, {MANY} less {FEW} channels, dB": many["PSNR"] - few["PSNR"],
        f"gFD, {MANY} less {FEW} channels": many["gFD"] - few["gFD"],
        f"gFD free, {MANY} less {FEW} channels": many["gFD free"] - few["gFD free"],
    }


def recovery(rows: Mapping[str, Numbers]) -> Numbers:
    """gFD that the alignment saves at many channels."""
    plain, aligned = rows[f"{MANY} channels"], rows["aligned"]
    return {f"gFD{judge}, plain less aligned": plain[f"gFD{judge}"] - aligned[f"gFD{judge}"] for judge in ("", " free")}


def teachers(rows: Mapping[str, Numbers]) -> Numbers:
    """gFD of the controls less the aligned one's."""
    controls = [label for label in ("shuffled", "noise", "random", "HOG", "KL") if label in rows]
    return {f"gFD, {label} less aligned": rows[label]["gFD"] - rows["aligned"]["gFD"] for label in controls}


SHOWS = ("PSNR", "rFD", "gFD", "floor", "gFD free", "floor free", "gap", "linear probe", "norm CV")
CLAIMS = (
    Claim(
        key="vavae-dilemma",
        system="VA-VAE",
        says="More channels reconstruct better and generate worse.",
        source=f"{SOURCE}, Figure 1",
        rule=f"From {FEW} to {MANY} channels PSNR rises, and gFD of the same flow rises too, by both judges.",
        arms=generators,
        effects=dilemma,
        shows=SHOWS,
    ),
    Claim(
        key="vavae-alignment",
        system="VA-VAE",
        says="Aligning latents to a frozen network gives generation back.",
        source=f"{SOURCE}, Table 3",
        rule=f"At {MANY} channels gFD is lower with the alignment, by both judges, of which neither is the teacher.",
        arms=generators,
        effects=recovery,
        shows=SHOWS,
    ),
    Claim(
        key="vavae-controls",
        system="VA-VAE",
        says="It is the teacher's knowledge that does it.",
        source=f"{SOURCE}, Table 4; the controls are ours",
        rule="gFD with the teacher is lower than with each control.",
        arms=generators,
        effects=teachers,
        shows=SHOWS,
        tried="Features of other images: where they do as well, any such target gives the latents that shape.",
    ),
)
