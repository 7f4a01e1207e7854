"""UniCode2 (arXiv:2506.20214): a frozen codebook of clustered features keeps its use; a trainable table refines it.

The controls of the cascade are roles of one quantizer: `online` learns its codes from noise, `revived` from tokens,
with codes out of use begun anew; `single` lets one table choose and speak, `frozen` refines nothing, `continuous` has
no codes at all.
"""

import json
from collections.abc import Mapping

import numpy as np
import torch

from workbench.analysis.codebook.information import code_information
from workbench.collect import load_images
from workbench.core.types import Tokens
from workbench.storage.run import Run

from .arms import Arm, Scale
from .claim import Claim, Numbers
from .lab import Lab

SOURCE = "arXiv:2506.20214"
SMALL, LARGE = 128, 1024
LEAST = 0.85  # share of a clustered codebook that held-out tokens should use
SAFE, HIGH = 1.0, 30.0  # times the learning rate, of the tables
LOST = 0.5  # of its perplexity share, that one table should lose at the highest
REVIVE = 0.1  # of an even use: codes that are chosen less begin anew, as a VQ-VAE's do by default


def _role(scale: Scale, role: str, codebook_size: int, **changes: object) -> Arm:
    return scale.tokenizer(
        "unicode2", role=role, codebook_size=codebook_size, teacher=scale.teacher, **changes
    )


def sizes(scale: Scale) -> dict[str, Arm]:
    """Four ways to own a codebook, small and large."""
    ways = {name: {"role": name} for name in ("online", "frozen", "cascade")}
    ways["revived"] = {"role": "online", "revive": REVIVE}
    return {
        f"{name} {k}": _role(scale, codebook_size=k, **told)
        for name, told in ways.items()
        for k in (SMALL, LARGE)
    }


def usage(rows: Mapping[str, Numbers]) -> Numbers:
    """Shares of the large codebook, and codes that growing brought."""
    used = {label: row["used share"] for label, row in rows.items()}
    grown = {way: used[f"{way} {LARGE}"] * LARGE - used[f"{way} {SMALL}"] * SMALL
             for way in ("online", "revived", "cascade")}  # fmt: skip
    found = {f"share of {LARGE} codes used, frozen, less {LEAST}": used[f"frozen {LARGE}"] - LEAST}
    for way in ("online", "revived"):
        share = used[f"cascade {LARGE}"] - used[f"{way} {LARGE}"]
        found[f"share of {LARGE} codes used, cascade less {way}"] = share
        found[f"codes won from {SMALL} to {LARGE}, cascade less {way}"] = (
            grown["cascade"] - grown[way]
        )
    return found


def rates(scale: Scale) -> dict[str, Arm]:
    """One table against two, from a safe to a high learning rate of the tables."""
    return {
        f"{role}, {rate:g} x": _role(
            scale, role, SMALL, **({"sparse_lr_scale": rate} if rate != SAFE else {})
        )
        for role in ("single", "cascade")
        for rate in ((SAFE, 3.0, 10.0, HIGH, 100.0) if scale.full else (SAFE, HIGH))
    }


def stability(rows: Mapping[str, Numbers]) -> Numbers:
    """What the high rate costs one table; two lose no perplexity, as nothing that learns takes part in the choice."""
    share = {rate: rows[f"single, {rate:g} x"]["perplexity share"] for rate in (SAFE, HIGH)}
    high = {role: rows[f"{role}, {HIGH:g} x"]["PSNR"] for role in ("single", "cascade")}
    return {
        f"of its perplexity, lost by a single table at {HIGH:g} x, less {LOST}": 1
        - share[HIGH] / share[SAFE]
        - LOST,
        f"PSNR at {HIGH:g} x, cascade less single, dB": high["cascade"] - high["single"],
    }


def refined_arms(scale: Scale) -> dict[str, Arm]:
    """With and without a table that learns; at full scale one that starts from noise."""
    return {
        role: _role(scale, role, SMALL)
        for role in ("frozen", "cascade", *(["random"] if scale.full else []))
    }


def refinement(rows: Mapping[str, Numbers]) -> Numbers:
    """dB that the second table brings."""
    return {"PSNR, cascade less frozen, dB": rows["cascade"]["PSNR"] - rows["frozen"]["PSNR"]}


def informed_arms(scale: Scale) -> dict[str, Arm]:
    """Codes of a teacher's features, and codes that were learned from pixels."""
    patches = (scale.vit["side"] // scale.vit["patch"]) ** 2
    return {
        "cascade": _role(scale, "cascade", SMALL),
        "VQ-VAE": scale.tokenizer("vqvae", codebook_size=SMALL, num_tokens=patches),
    }


def informed(run: Run, lab: Lab) -> Numbers:
    """Bits that a code tells of its image's class, less what shuffled classes tell."""
    evidence = lab.evidence(run)
    found = code_information(**evidence.kwargs_for(code_information))
    return {
        "bits of class": found.mean("class", "corrected"),
        "bits by chance": found.mean("class", "shuffled"),
    }


def information(rows: Mapping[str, Numbers]) -> Numbers:
    """Bits of the class."""
    return {
        "bits of class a code, cascade less VQ-VAE": rows["cascade"]["bits of class"]
        - rows["VQ-VAE"]["bits of class"]
    }


def transfer_arms(scale: Scale) -> dict[str, Arm]:
    """A decoder of continuous features, which is then fed centres: as it is, and with a linear adapter that learns."""
    first = _role(scale, "continuous", SMALL)
    arms, steps = {"continuous": first}, json.loads(first.changes)["steps"]
    for codes in (SMALL, LARGE):
        told = json.loads(_role(scale, "frozen", codes, adapter=True, train="adapter").changes)
        plans = {"centres": {"steps": 1, "save_every": 1, "lr": 1e-12}}
        if scale.full or codes == SMALL:
            plans["adapter"] = {"warmup_steps": steps // 10}
        for label, plan in plans.items():
            arms[f"{label} {codes}"] = Arm(
                first.recipe, json.dumps(told | plan, sort_keys=True), start=first
            )
    return arms


@torch.no_grad()
def shuffled(run: Run, lab: Lab) -> Numbers:
    """PSNR with the codebook's rows in another order: what must fail."""
    model, images = run.load(), load_images(run).take(lab.scale.drawn).images()
    if model.codebook is None:
        return {}
    tokens = model.encode(images)
    words = model.codebook[0][
        torch.randperm(model.codebook.shape[1], generator=torch.Generator().manual_seed(0))
    ]
    shown = model.decode(Tokens(words[tokens.codes], tokens.codes, grid=tokens.grid)).clamp(-1, 1)
    mse = ((shown - images) / 2).square().mean(dim=(1, 2, 3)).numpy()
    return {"PSNR, rows shuffled": float((-10 * np.log10(np.maximum(mse, 1e-10))).mean())}


def transfer(rows: Mapping[str, Numbers]) -> Numbers:
    """What centres cost, and what brings it back."""
    psnr = {label: row["PSNR"] for label, row in rows.items()}
    return {
        f"PSNR, adapter less centres at {SMALL}, dB": psnr[f"adapter {SMALL}"]
        - psnr[f"centres {SMALL}"],
        f"PSNR gap to continuous, {SMALL} less {LARGE} codes, dB": psnr[f"centres {LARGE}"]
        - psnr[f"centres {SMALL}"],
        "PSNR, centres less shuffled rows, dB": psnr[f"centres {LARGE}"]
        - rows[f"centres {LARGE}"]["PSNR, rows shuffled"],
    }


def unified_arms(scale: Scale) -> dict[str, Arm]:
    """One transformer on the codes, both ways."""
    codes = _role(scale, "cascade", SMALL)
    return {"AR": scale.generator(codes, "ar", understand=True)}


def unified(run: Run, lab: Lab) -> Numbers:
    """Accuracy of the class told from held-out codes, the commonest class's share, and bits a code."""
    from workbench.analysis.generation.class_prediction import class_prediction
    from workbench.collect import collect

    step = run.steps[-1]
    if not (run.folder / "evidence" / f"step-{step:06d}").exists():
        collect(run, limit=lab.scale.drawn, feature_extractor=lab.scale.feature_extractor)
    evidence = run.evidence(step)
    found = class_prediction(**evidence.kwargs_for(class_prediction))
    codes = np.asarray(lab.evidence(run.tokenizer).codes)
    half = len(codes) // 2
    counts = np.bincount(codes[:half].ravel(), minlength=SMALL) + 1.0
    unigram = float(-np.log2(counts / counts.sum())[codes[half:]].mean())
    return {
        "accuracy": found.accuracy,
        "chance": found.chance,
        "bits": float(found.bits),
        "bits, unigram": unigram,
    }


def both(rows: Mapping[str, Numbers]) -> Numbers:
    """Understanding above chance, and generation below the unigram's bits."""
    row = rows["AR"]
    return {
        "accuracy of the class from codes, less chance": row["accuracy"] - row["chance"],
        "bits a held-out code, unigram less AR": row["bits, unigram"] - row["bits"],
    }


CLAIMS = (
    Claim(
        key="unicode2-usage",
        system="UniCode2",
        statement="Use of a clustered, frozen codebook stays high as it grows.",
        source=SOURCE,
        rule=f"Of {LARGE} codes held-out tokens use a larger share of the cascade's than of those learned online, from"
        " noise and also from tokens with codes out of use begun anew; growing wins the cascade more codes than either;"
        f" of the frozen table over {LEAST:.0%} are used.",
        arms=sizes,
        effects=usage,
        columns=("used share", "perplexity share", "PSNR"),
    ),
    Claim(
        key="unicode2-stability",
        system="UniCode2",
        statement="Choosing by a frozen table keeps training stable at high learning rates.",
        source=SOURCE,
        rule=f"At {HIGH:g} times the learning rate a table that chooses and speaks loses over {LOST:.0%} of its"
        " perplexity, and reconstructs worse than the cascade.",
        caveat="The cascade's perplexity cannot change: its frozen table chooses. PSNR tells what its other table does.",
        arms=rates,
        effects=stability,
        columns=("perplexity share", "used share", "PSNR"),
    ),
    Claim(
        key="unicode2-refinement",
        system="UniCode2",
        statement="The trainable table refines the frozen one.",
        source=SOURCE,
        rule="PSNR is higher with the trainable table than with the frozen one alone.",
        arms=refined_arms,
        effects=refinement,
        columns=("PSNR", "linear probe", "rFD", "rFD free", "floor", "floor free"),
    ),
    Claim(
        key="unicode2-information",
        system="UniCode2",
        statement="Its codes carry meaning.",
        source=SOURCE,
        rule="A code tells more bits of its image's class than VQ-VAE's, each less what shuffled classes tell.",
        arms=informed_arms,
        measure=informed,
        effects=information,
        columns=("bits of class", "bits by chance", "used share"),
    ),
    Claim(
        key="unicode2-transfer",
        system="UniCode2",
        statement="A decoder of continuous features takes the codes, and a linear adapter helps.",
        source=SOURCE,
        rule="A linear adapter brings PSNR back; more codes cost less; shuffled rows must fail.",
        arms=transfer_arms,
        measure=shuffled,
        effects=transfer,
        columns=("PSNR", "PSNR, rows shuffled"),
    ),
    Claim(
        key="unicode2-unified",
        system="UniCode2",
        statement="One vocabulary serves understanding and generation.",
        source=SOURCE,
        rule="One transformer tells classes from held-out codes above chance, and needs fewer bits a code than their"
        " frequencies alone.",
        arms=unified_arms,
        measure=unified,
        effects=both,
        columns=("accuracy", "chance", "bits", "bits, unigram", "gFD", "gFD free"),
    ),
)
