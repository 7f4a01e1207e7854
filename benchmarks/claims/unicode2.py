"""UniCode2 (arXiv:2506.20214): a frozen clustered codebook, refined by a trainable one.

The controls of the cascade are modes of one quantizer. `online` learns its codes from a random
start; `revived` also replaces unused codes by tokens; in `single` one table both selects codes and
gives their values; `frozen` has no trainable table; `continuous` has no codes.
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
MIN_USED = 0.85  # fraction of a clustered codebook that held-out tokens should use
SAFE, HIGH = 1.0, 30.0  # multiples of the learning rate of the tables
MIN_LOSS = 0.5  # fraction of its perplexity that a single table should lose
REVIVE = 0.1  # codes used less than this fraction of uniform usage are replaced


def _role(scale: Scale, mode: str, codebook_size: int, **changes: object) -> Arm:
    return scale.tokenizer(
        "unicode2", mode=mode, codebook_size=codebook_size, teacher=scale.teacher, **changes
    )


def sizes(scale: Scale) -> dict[str, Arm]:
    """Return four kinds of codebook, each small and large."""
    ways = {name: {"mode": name} for name in ("online", "frozen", "cascade")}
    ways["revived"] = {"mode": "online", "revive": REVIVE}
    return {
        f"{name} {k}": _role(scale, codebook_size=k, **settings)
        for name, settings in ways.items()
        for k in (SMALL, LARGE)
    }


def usage(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare the fractions of the large codebook in use, and the codes gained by growth."""
    used = {label: row["used share"] for label, row in rows.items()}
    grown = {way: used[f"{way} {LARGE}"] * LARGE - used[f"{way} {SMALL}"] * SMALL
             for way in ("online", "revived", "cascade")}  # fmt: skip
    effects = {
        f"fraction of {LARGE} codes used, frozen, minus {MIN_USED}": used[f"frozen {LARGE}"]
        - MIN_USED
    }
    for way in ("online", "revived"):
        share = used[f"cascade {LARGE}"] - used[f"{way} {LARGE}"]
        effects[f"fraction of {LARGE} codes used, cascade minus {way}"] = share
        effects[f"codes gained from {SMALL} to {LARGE}, cascade minus {way}"] = (
            grown["cascade"] - grown[way]
        )
    return effects


def rates(scale: Scale) -> dict[str, Arm]:
    """Return one table and two tables, at a safe and at a high learning rate."""
    return {
        f"{role}, {rate:g} x": _role(
            scale, role, SMALL, **({"sparse_lr_scale": rate} if rate != SAFE else {})
        )
        for role in ("single", "cascade")
        for rate in ((SAFE, 3.0, 10.0, HIGH, 100.0) if scale.full else (SAFE, HIGH))
    }


def stability(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare the safe with the high learning rate.

    The cascade cannot lose perplexity, because its selection does not learn.
    """
    share = {rate: rows[f"single, {rate:g} x"]["perplexity share"] for rate in (SAFE, HIGH)}
    high = {role: rows[f"{role}, {HIGH:g} x"]["PSNR"] for role in ("single", "cascade")}
    return {
        f"fraction of perplexity lost by a single table at {HIGH:g} x, minus {MIN_LOSS}": 1
        - share[HIGH] / share[SAFE]
        - MIN_LOSS,
        f"PSNR at {HIGH:g} x (dB), cascade minus single": high["cascade"] - high["single"],
    }


def refined_arms(scale: Scale) -> dict[str, Arm]:
    """Return the frozen table without and with a trainable one."""
    return {
        role: _role(scale, role, SMALL)
        for role in ("frozen", "cascade", *(["random"] if scale.full else []))
    }


def refinement(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare PSNR with and without the trainable table."""
    return {"PSNR (dB), cascade minus frozen": rows["cascade"]["PSNR"] - rows["frozen"]["PSNR"]}


def informed_arms(scale: Scale) -> dict[str, Arm]:
    """Return codes of a teacher's features, and codes that are learned from pixels."""
    patches = (scale.vit["side"] // scale.vit["patch"]) ** 2
    return {
        "cascade": _role(scale, "cascade", SMALL),
        "VQ-VAE": scale.tokenizer("vqvae", codebook_size=SMALL, num_tokens=patches),
    }


def informed(run: Run, lab: Lab) -> Numbers:
    """Measure the information of a code about the class, and that with shuffled classes."""
    evidence = lab.evidence(run)
    result = code_information(**evidence.kwargs_for(code_information))
    return {
        "bits of class": result.mean("class", "corrected"),
        "bits by chance": result.mean("class", "shuffled"),
    }


def information(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare the information about the class."""
    return {
        "bits about the class per code, cascade minus VQ-VAE": rows["cascade"]["bits of class"]
        - rows["VQ-VAE"]["bits of class"]
    }


def transfer_arms(scale: Scale) -> dict[str, Arm]:
    """Return a decoder of continuous features that then decodes cluster centers.

    It does so directly, and through a linear adapter that is trained.
    """
    first = _role(scale, "continuous", SMALL)
    arms, steps = {"continuous": first}, json.loads(first.changes)["steps"]
    for codes in (SMALL, LARGE):
        settings = json.loads(_role(scale, "frozen", codes, adapter=True, train="adapter").changes)
        plans = {"centres": {"steps": 1, "save_every": 1, "lr": 1e-12}}
        if scale.full or codes == SMALL:
            plans["adapter"] = {"warmup_steps": steps // 10}
        for label, plan in plans.items():
            arms[f"{label} {codes}"] = Arm(
                first.recipe, json.dumps(settings | plan, sort_keys=True), start=first
            )
    return arms


@torch.no_grad()
def shuffled(run: Run, lab: Lab) -> Numbers:
    """Measure PSNR with shuffled rows of the codebook, which must fail."""
    model, images = run.load(), load_images(run).take(lab.scale.num_samples).images()
    if model.codebook is None:
        return {}
    tokens = model.encode(images)
    words = model.codebook[0][
        torch.randperm(model.codebook.shape[1], generator=torch.Generator().manual_seed(0))
    ]
    decoded = model.decode(Tokens(words[tokens.codes], tokens.codes, grid=tokens.grid)).clamp(-1, 1)
    mse = ((decoded - images) / 2).square().mean(dim=(1, 2, 3)).numpy()
    return {"PSNR, rows shuffled": float((-10 * np.log10(np.maximum(mse, 1e-10))).mean())}


def transfer(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare PSNR with continuous features, centers, the adapter and shuffled rows."""
    psnr = {label: row["PSNR"] for label, row in rows.items()}
    return {
        f"PSNR at {SMALL} codes (dB), adapter minus centers": psnr[f"adapter {SMALL}"]
        - psnr[f"centres {SMALL}"],
        f"PSNR gap to continuous (dB), {SMALL} minus {LARGE} codes": psnr[f"centres {LARGE}"]
        - psnr[f"centres {SMALL}"],
        "PSNR (dB), centers minus shuffled rows": psnr[f"centres {LARGE}"]
        - rows[f"centres {LARGE}"]["PSNR, rows shuffled"],
    }


def unified_arms(scale: Scale) -> dict[str, Arm]:
    """Return one transformer on the codes that generates and classifies."""
    codes = _role(scale, "cascade", SMALL)
    return {"AR": scale.generator(codes, "ar", understand=True)}


def unified(run: Run, lab: Lab) -> Numbers:
    """Measure the accuracy of classes predicted from codes, and the bits per code."""
    from workbench.analysis.generation.class_prediction import class_prediction
    from workbench.collect import collect

    step = run.steps[-1]
    if not (run.folder / "evidence" / f"step-{step:06d}").exists():
        collect(run, limit=lab.scale.num_samples, feature_extractor=lab.scale.feature_extractor)
    evidence = run.evidence(step)
    result = class_prediction(**evidence.kwargs_for(class_prediction))
    codes = np.asarray(lab.evidence(run.tokenizer).codes)
    half = len(codes) // 2
    counts = np.bincount(codes[:half].ravel(), minlength=SMALL) + 1.0
    unigram = float(-np.log2(counts / counts.sum())[codes[half:]].mean())
    return {
        "accuracy": result.accuracy,
        "chance": result.chance,
        "bits": float(result.bits),
        "bits, unigram": unigram,
    }


def both(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare the accuracy with chance, and the bits with those of code frequencies."""
    row = rows["AR"]
    return {
        "accuracy of the class from codes, minus chance": row["accuracy"] - row["chance"],
        "bits per held-out code, unigram minus AR": row["bits, unigram"] - row["bits"],
    }


CLAIMS = (
    Claim(
        key="unicode2-usage",
        system="UniCode2",
        statement="The utilization of a clustered, frozen codebook stays high as it grows.",
        source=SOURCE,
        rule=f"With {LARGE} codes, held-out tokens use a larger fraction of the cascade's codes"
        " than of"
        " codes that are learned online, without and with revival; the cascade gains more codes by"
        f" growth than either; and over {MIN_USED:.0%} of the frozen table are used.",
        arms=sizes,
        effects=usage,
        columns=("used share", "perplexity share", "PSNR"),
    ),
    Claim(
        key="unicode2-stability",
        system="UniCode2",
        statement="Selection by a frozen table keeps training stable at high learning rates.",
        source=SOURCE,
        rule=f"At {HIGH:g} times the learning rate a single table loses over {MIN_LOSS:.0%} of its"
        " perplexity, and reconstructs worse than the cascade.",
        caveat="The perplexity of the cascade cannot change, because its frozen table selects the"
        " codes."
        " PSNR shows the effect on its other table.",
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
        rule="A code has more information about the class of its image than VQ-VAE's, each minus"
        " that"
        " with shuffled classes.",
        arms=informed_arms,
        measure=informed,
        effects=information,
        columns=("bits of class", "bits by chance", "used share"),
    ),
    Claim(
        key="unicode2-transfer",
        system="UniCode2",
        statement="A decoder of continuous features accepts the codes, and a linear adapter helps.",
        source=SOURCE,
        rule="A linear adapter raises PSNR; more codes lose less; shuffled rows must fail.",
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
        rule="One transformer predicts classes from held-out codes above chance, and needs fewer"
        " bits per"
        " code than their frequencies alone.",
        arms=unified_arms,
        measure=unified,
        effects=both,
        columns=("accuracy", "chance", "bits", "bits, unigram", "gFD", "gFD free"),
    ),
)
