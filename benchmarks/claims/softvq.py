"""SoftVQ-VAE (arXiv:2412.10958): a soft mix of codewords carries an image in few tokens.

At constant tokens x channels (`Scale.numbers`), so that no arm has more numbers to write an image with. `hard` is a
VQ-VAE with all that keeps its codebook alive (running averages, revival, cosine); `plain hard` has none of that.
"""

from collections.abc import Mapping

from .arms import Arm, Scale
from .claim import Claim, Numbers
from .lab import probed

SOURCE = "arXiv:2412.10958"
FEW, MANY = 4, 16
CODES = 1024
NAKED = {"learn": "gradient", "revive": 0.0, "cosine": False}


def _sized(scale: Scale, system: str, tokens: int, **changes: object) -> Arm:
    return scale.tokenizer(system, num_tokens=tokens, dim=scale.numbers // tokens, **changes)


def by_tokens(scale: Scale) -> dict[str, Arm]:
    """Soft and hard codes at few and at many tokens; at full scale every kind of bottleneck, at four lengths."""
    kinds = {
        "soft": ("softvq", {"codebook_size": CODES}),
        "hard": ("vqvae", {"codebook_size": CODES}),
    }
    if scale.full:
        kinds |= {
            "AE": ("ae", {}),
            "KL": ("klvae", {"beta": 1e-5}),
            "sphere": ("ae", {"radius": 1.0}),
        }
    lengths = (FEW, 8, MANY, 32) if scale.full else (FEW, MANY)
    return {
        f"{name} {tokens}": _sized(scale, system, tokens, **changes)
        for name, (system, changes) in kinds.items()
        for tokens in lengths
    }


def degradation(rows: Mapping[str, Numbers]) -> Numbers:
    """What hard codes lose from many to few tokens more than the others; and what is between them and soft at few."""
    kinds = [kind for kind in ("soft", "AE", "KL", "sphere") if f"{kind} {MANY}" in rows]
    found = {}
    for name, unit, better in (("PSNR", ", dB", 1), ("rFD", "", -1), ("rFD free", "", -1)):
        at = {label: better * row[name] for label, row in rows.items()}
        lost = {kind: at[f"{kind} {MANY}"] - at[f"{kind} {FEW}"] for kind in (*kinds, "hard")}
        did, first, second = ("lost", "soft", "hard") if better > 0 else ("gained", "hard", "soft")
        found |= {f"{name} {did} from {MANY} to {FEW} tokens, hard less {kind}{unit}": lost["hard"] - lost[kind]
                  for kind in kinds}  # fmt: skip
        found[f"{name} with {FEW} tokens, {first} less {second}{unit}"] = (
            at[f"soft {FEW}"] - at[f"hard {FEW}"]
        )
    return found


def usage_arms(scale: Scale) -> dict[str, Arm]:
    """Soft codes, and hard ones with and without what keeps them alive."""
    told = {"codebook_size": CODES}
    return {
        "soft": _sized(scale, "softvq", MANY, **told),
        "soft, no entropy term": _sized(scale, "softvq", MANY, entropy_weight=0.0, **told),
        "hard": _sized(scale, "vqvae", MANY, **told),
        "plain hard": _sized(scale, "vqvae", MANY, **told, **NAKED),
    }


def usage(rows: Mapping[str, Numbers]) -> Numbers:
    """Shares of the codebook."""
    used = {label: row["used share"] for label, row in rows.items()}
    return {
        "share of codes used, soft less plain hard": used["soft"] - used["plain hard"],
        "share of codes used, soft without its entropy term less plain hard": (
            used["soft, no entropy term"] - used["plain hard"]
        ),
    }


def aligned_arms(scale: Scale) -> dict[str, Arm]:
    """Alignment to the teacher off and on."""
    told = {"codebook_size": CODES, "teacher": scale.teacher}
    return {
        "soft": _sized(scale, "softvq", MANY, codebook_size=CODES),
        "soft, aligned": _sized(scale, "softvq", MANY, align_weight=1.0, **told),
    }


def alignment(rows: Mapping[str, Numbers]) -> Numbers:
    """Accuracy of a linear probe of the latents."""
    accuracy = {label: row["probe accuracy"] for label, row in rows.items()}
    return {"probe accuracy, aligned less not": accuracy["soft, aligned"] - accuracy["soft"]}


CLAIMS = (
    Claim(
        key="softvq-tokens",
        system="SoftVQ-VAE",
        statement="With fewer tokens, soft codes lose less than hard ones.",
        source=f"{SOURCE}, Table 1",
        rule=f"From {MANY} to {FEW} tokens at equal tokens x channels, hard codes lose more PSNR than soft ones, and at"
        f" full scale than every other bottleneck, and gain more rFD, by both feature extractors; with {FEW} tokens soft codes"
        " reconstruct better by all three.",
        arms=by_tokens,
        effects=degradation,
        columns=("PSNR", "rFD", "rFD free", "floor", "floor free", "used share"),
        caveat="Hard codes have less to lose where they are already behind with many tokens: see PSNR at both lengths. A"
        " soft token is a point between codewords and carries more bits than a hard one.",
    ),
    Claim(
        key="softvq-usage",
        system="SoftVQ-VAE",
        statement="The soft codebook stays in use without commitment loss, revival or running averages.",
        source=f"{SOURCE}, Section 3",
        rule="A larger share of the soft codebook is used than of a hard one that has no such helps, with and without"
        " the entropy term.",
        arms=usage_arms,
        effects=usage,
        columns=("used share", "perplexity share", "PSNR"),
    ),
    Claim(
        key="softvq-alignment",
        system="SoftVQ-VAE",
        statement="Aligning the tokens to a teacher makes them tell more of the class.",
        source=f"{SOURCE}, Table 4",
        rule="A linear probe of the latents is more accurate with the alignment than without.",
        arms=aligned_arms,
        measure=probed,
        effects=alignment,
        columns=(
            "probe accuracy",
            "neighbor probe",
            "PSNR",
            "rFD",
            "rFD free",
            "floor",
            "floor free",
        ),
    ),
)
