"""SoftVQ-VAE (arXiv:2412.10958): a soft mix of codewords represents an image with few tokens.

Tokens x channels is constant (`Scale.numbers`), so that the latents of all arms have the same
size. `hard` is a VQ-VAE with everything that keeps its codebook in use (EMA, revival, cosine
similarity); `plain hard` has none of it.
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
    """Return soft and hard codes with few and with many tokens.

    With every arm there are all kinds of bottleneck, at four lengths.
    """
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
    """Compare the loss of quality from many to few tokens, hard codes and others; soft and hard."""
    kinds = [kind for kind in ("soft", "AE", "KL", "sphere") if f"{kind} {MANY}" in rows]
    effects = {}
    for name, unit, sign in (("PSNR", ", dB", 1), ("rFD", "", -1), ("rFD free", "", -1)):
        quality = {label: sign * row[name] for label, row in rows.items()}
        loss = {
            kind: quality[f"{kind} {MANY}"] - quality[f"{kind} {FEW}"] for kind in (*kinds, "hard")
        }
        verb = "lost" if sign > 0 else "gained"
        for kind in kinds:
            effect = f"{name} {verb} from {MANY} to {FEW} tokens, hard minus {kind}{unit}"
            effects[effect] = loss["hard"] - loss[kind]
        pair = "soft minus hard" if sign > 0 else "hard minus soft"
        effects[f"{name} with {FEW} tokens, {pair}{unit}"] = (
            quality[f"soft {FEW}"] - quality[f"hard {FEW}"]
        )
    return effects


def usage_arms(scale: Scale) -> dict[str, Arm]:
    """Return soft codes, and hard ones with and without what keeps them in use."""
    settings = {"codebook_size": CODES}
    return {
        "soft": _sized(scale, "softvq", MANY, **settings),
        "soft, no entropy term": _sized(scale, "softvq", MANY, entropy_weight=0.0, **settings),
        "hard": _sized(scale, "vqvae", MANY, **settings),
        "plain hard": _sized(scale, "vqvae", MANY, **settings, **NAKED),
    }


def usage(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare the fractions of the codebook in use."""
    used = {label: row["used share"] for label, row in rows.items()}
    return {
        "fraction of codes used, soft minus plain hard": used["soft"] - used["plain hard"],
        "fraction of codes used, soft without entropy term minus plain hard": (
            used["soft, no entropy term"] - used["plain hard"]
        ),
    }


def aligned_arms(scale: Scale) -> dict[str, Arm]:
    """Return soft codes without and with alignment to the teacher."""
    settings = {"codebook_size": CODES, "teacher": scale.teacher}
    return {
        "soft": _sized(scale, "softvq", MANY, codebook_size=CODES),
        "soft, aligned": _sized(scale, "softvq", MANY, align_weight=1.0, **settings),
    }


def alignment(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare the accuracy of a linear probe of the latents."""
    accuracy = {label: row["probe accuracy"] for label, row in rows.items()}
    return {
        "probe accuracy, aligned minus not aligned": accuracy["soft, aligned"] - accuracy["soft"]
    }


CLAIMS = (
    Claim(
        key="softvq-tokens",
        system="SoftVQ-VAE",
        statement="With fewer tokens, soft codes lose less quality than hard codes.",
        source=f"{SOURCE}, Table 1",
        rule=f"From {MANY} to {FEW} tokens at equal tokens x channels, hard codes lose more PSNR"
        " than soft"
        " codes (with every arm: than every other bottleneck) and gain more rFD, in both feature"
        f" extractors. With {FEW} tokens, soft codes reconstruct better by all three measures.",
        arms=by_tokens,
        effects=degradation,
        columns=("PSNR", "rFD", "rFD free", "floor", "floor free", "used share"),
        caveat="Hard codes lose less if they are already worse with many tokens; compare PSNR"
        " at both lengths. A soft token is a point between codewords and carries more bits than a"
        " hard one.",
    ),
    Claim(
        key="softvq-usage",
        system="SoftVQ-VAE",
        statement="The soft codebook stays in use without commitment loss, revival or EMA.",
        source=f"{SOURCE}, Section 3",
        rule="A larger fraction of the soft codebook is used than of a hard one without these"
        " techniques, with and without the entropy term.",
        arms=usage_arms,
        effects=usage,
        columns=("used share", "perplexity share", "PSNR"),
    ),
    Claim(
        key="softvq-alignment",
        system="SoftVQ-VAE",
        statement="Aligning the tokens to a teacher makes them more predictive of the class.",
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
