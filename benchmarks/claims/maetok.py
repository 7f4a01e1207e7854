"""MAETok (arXiv:2502.03444): a masked autoencoder's latents diffuse better, with no variational term.

Every arm has the same number of tokens, decoder, steps and generator. `aux` predicts the teachers' features without
masking: it tells what masking adds. `pixels` masks without teachers: it tells what the teachers add. `patches` has the
patches' own rows for tokens: it tells what learned tokens add. What was masked has had its decoder tuned on frozen
latents afterwards, as in the paper, for half as many steps again; the others are trained for half as many steps more,
so that all decoders have seen as many images.
"""

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from workbench.analysis.latents.mode_comparison import mode_comparison
from workbench.collect import load_images
from workbench.generators.losses import loss_by_time
from workbench.storage.run import Run

from .arms import Arm, Scale
from .claim import Claim, Numbers
from .lab import Lab, probed

SOURCE = "arXiv:2502.03444"
COMPONENTS = 16  # in which modes are looked for
LIGHT, HEAVY = "10-30 % masked", "60-80 % masked"  # MAETok itself: 40-60 %
RATIOS = {LIGHT: {"mask_low": 0.1, "mask_high": 0.3}, HEAVY: {"mask_low": 0.6, "mask_high": 0.8}}
BINS = 20  # of the time between data and noise


def tokenizers(scale: Scale) -> dict[str, Arm]:
    """The plain autoencoder, the variational one, and what MAETok adds, one by one and together.

    At full scale every combination of masking, teachers and learned tokens, and a third range of ratios.
    """
    targets = {"targets": list(dict.fromkeys((scale.hog, scale.teacher))), "aux_weight": 0.1}
    none, cells = {"targets": []}, (scale.vit["side"] // scale.vit["patch"]) ** 2
    steps = scale.plan["steps"] + _tuning(scale)
    whole = {"steps": steps, "save_every": steps}
    unmasked, patches = (
        {"mask_low": 0.0, "mask_high": 0.0, "score": "all"},
        {"learned_tokens": False},
    )
    patches |= {
        "num_tokens": cells,
        "dim": scale.vit["num_tokens"] * scale.vit["dim"] // cells,
    }  # as many numbers
    arms = {
        "AE": scale.tokenizer("ae", **whole),
        "KL": scale.tokenizer("klvae", beta=1e-5, **whole),
        "aux": scale.tokenizer("maetok", **unmasked, **targets, **whole),
    }
    masked = {
        "pixels": none,
        "MAETok": targets,
        "patches": targets | patches,
        LIGHT: targets | RATIOS[LIGHT],
    }
    if scale.full:
        arms["patches, AE"] = scale.tokenizer("maetok", **unmasked, **none, **patches, **whole)
        arms["patches, aux"] = scale.tokenizer("maetok", **unmasked, **targets, **patches, **whole)
        masked |= {"patches, pixels": none | patches, HEAVY: targets | RATIOS[HEAVY]}
    return arms | {
        label: _tuned(scale, scale.tokenizer("maetok", **told)) for label, told in masked.items()
    }


def generators(scale: Scale) -> dict[str, Arm]:
    """The same flow on each of them."""
    return {label: scale.generator(arm) for label, arm in tokenizers(scale).items()}


def better(rows: Mapping[str, Numbers]) -> Numbers:
    """gFD that MAETok saves, by both feature extractors."""
    return {
        f"gFD{suffix}, {other} less MAETok": rows[other][f"gFD{suffix}"]
        - rows["MAETok"][f"gFD{suffix}"]
        for other in ("AE", "KL")
        for suffix in ("", " free")
    }


def parts(rows: Mapping[str, Numbers]) -> Numbers:
    """gFD without each of the three parts, less that of all."""
    left_out = {"masking": "aux", "teachers": "pixels", "learned tokens": "patches"}
    return {
        f"gFD{suffix} without {part}, less MAETok's": rows[label][f"gFD{suffix}"]
        - rows["MAETok"][f"gFD{suffix}"]
        for part, label in left_out.items()
        for suffix in ("", " free")
    }


def denoising(run: Run, lab: Lab) -> Numbers:
    """A flow's loss on held-out images, their latents scaled to unit variance, over all times alike."""
    tokenizer = run.tokenizer.load(run.config["tokenizer"]["step"])
    images = load_images(run.tokenizer).take(lab.scale.drawn)
    with torch.no_grad():
        latents = tokenizer.encode(images.images()).latents
    return {
        "denoising loss": loss_by_time(
            run.load(), latents, torch.from_numpy(images.labels), bins=BINS
        ).mean
    }


def compared(scale: Scale) -> dict[str, Arm]:
    """The flows whose loss is compared; at full scale all."""
    return {
        label: arm
        for label, arm in generators(scale).items()
        if scale.full or label in ("AE", "KL", "MAETok")
    }


def loss(rows: Mapping[str, Numbers]) -> Numbers:
    """What the flow's loss falls by."""
    return {
        f"denoising loss, {other} less MAETok": rows[other]["denoising loss"]
        - rows["MAETok"]["denoising loss"]
        for other in ("AE", "KL")
    }


def ratio_arms(scale: Scale) -> dict[str, Arm]:
    """Ranges of ratios: each after stage two with a flow on it, and as stage one left it."""
    flows, made = generators(scale), tokenizers(scale)
    ranges = [LIGHT, "MAETok", *([HEAVY] if scale.full else [])]
    return {label: flows[label] for label in ranges} | {
        f"{label}, stage one": made[label].start for label in ranges
    }


def trade(rows: Mapping[str, Numbers]) -> Numbers:
    """What masking 40-60 % costs stage one against 10-30 %, and what it saves a flow."""
    return {
        "PSNR of stage one, 10-30 % less 40-60 % masked, dB": rows[f"{LIGHT}, stage one"]["PSNR"]
        - rows["MAETok, stage one"]["PSNR"],
        **{
            f"gFD{suffix}, 10-30 % less 40-60 % masked": rows[LIGHT][f"gFD{suffix}"]
            - rows["MAETok"][f"gFD{suffix}"]
            for suffix in ("", " free")
        },
    }


def probe(rows: Mapping[str, Numbers]) -> Numbers:
    """Accuracy that MAETok's tokens gain."""
    return {
        "probe accuracy, MAETok less AE": rows["MAETok"]["probe accuracy"]
        - rows["AE"]["probe accuracy"]
    }


def gaussians(run: Run, lab: Lab) -> Numbers:
    """What a mixture gains over one Gaussian on held-out latents, in nats, also before training; and the variance held.

    All in as many whitened principal components, where one Gaussian is equally likely for everybody. So the more is
    gained, the fewer Gaussians do as well as another's best: the paper's sense of fewer modes.
    """
    evidence = lab.evidence(run)
    both = {"": evidence, ", untrained": replace(evidence, latents=evidence.untrained_latents)}
    found = {name: mode_comparison([one], components=COMPONENTS) for name, one in both.items()}
    nll = {name: result.likelihood.mean(axis=1)[0] for name, result in found.items()}
    gains = {f"mode gain{name}": float(curve[0] - curve.min()) for name, curve in nll.items()}
    return gains | {"variance held": float(found[""].explained[0])}


def modes(rows: Mapping[str, Numbers]) -> Numbers:
    """Nats that a mixture gains, of MAETok less the plain autoencoder."""
    return {
        "mode gain, MAETok less AE, nats": rows["MAETok"]["mode gain"] - rows["AE"]["mode gain"]
    }


def tuned_arms(scale: Scale) -> dict[str, Arm]:
    """Stage one, and stage two from it; the plain autoencoder, for what is still missing."""
    made = tokenizers(scale)
    return {"stage one": made["MAETok"].start, "stage two": made["MAETok"], "AE": made["AE"]}


def _tuned(scale: Scale, first: Arm) -> Arm:
    steps = _tuning(scale)
    told = json.loads(first.changes) | {"tuning": True, "steps": steps, "save_every": steps}
    told.pop("cache", None)  # it asks no teacher
    return Arm(first.recipe, json.dumps(told, sort_keys=True), start=first)


def _tuning(scale: Scale) -> int:
    return max(1, scale.plan["steps"] // 2)


def same_latents(run: Run, lab: Lab) -> Numbers:
    """A hash of the latents of held-out images, as a number: equal where every bit is."""
    import hashlib

    with torch.no_grad():
        latents = run.load().encode(load_images(run).take(lab.scale.drawn).images()).latents
    digest = hashlib.sha256(np.ascontiguousarray(latents.numpy())).hexdigest()
    return {"latents' hash": float(int(digest[:12], 16))}


def restored(rows: Mapping[str, Numbers]) -> Numbers:
    """What stage two gives back, and whether it left the latents alone."""
    one, two = rows["stage one"], rows["stage two"]
    return {
        **{
            f"rFD{suffix}, stage one less stage two": one[f"rFD{suffix}"] - two[f"rFD{suffix}"]
            for suffix in ("", " free")
        },
        "PSNR, stage two less stage one, dB": two["PSNR"] - one["PSNR"],
        "latents equal to the last bit (1: yes)": 1.0
        if one["latents' hash"] == two["latents' hash"]
        else -1.0,
    }


CLAIMS = (
    Claim(
        key="maetok-generation",
        system="MAETok",
        statement="Latents of a masked autoencoder generate better than a plain and a variational autoencoder's.",
        source=f"{SOURCE}, Tables 1 and 2",
        rule="gFD of the same flow is lower on MAETok's latents than on AE's and on KL's, by both feature extractors.",
        arms=generators,
        effects=better,
        columns=("gFD", "floor", "gFD free", "floor free", "gap", "rFD", "rFD free", "PSNR"),
        caveat="Flows see latents of unit variance by channel, where MAETok's paper scales all alike.",
    ),
    Claim(
        key="maetok-parts",
        system="MAETok",
        statement="It takes masking, teachers and learned tokens together.",
        source=f"{SOURCE}, Tables 1 and 6",
        rule="gFD is lower with all three than without masking, than without teachers, and than with the patches' own"
        " rows for tokens, by both feature extractors.",
        arms=generators,
        effects=parts,
        columns=("gFD", "floor", "gFD free", "floor free", "rFD", "rFD free", "linear probe"),
    ),
    Claim(
        key="maetok-loss",
        system="MAETok",
        statement="A flow learns its latents to a lower loss.",
        source=f"{SOURCE}, Figure 2b",
        rule="The flow's loss on held-out images is lower on MAETok's latents than on AE's and on KL's.",
        arms=compared,
        measure=denoising,
        effects=loss,
        columns=("denoising loss", "participation ratio", "gFD", "floor", "gFD free", "floor free"),
        caveat="Latents are as many numbers in all arms, and of unit variance; the loss still falls with their rank.",
    ),
    Claim(
        key="maetok-ratio",
        system="MAETok",
        statement="Masking more costs reconstruction and helps generation.",
        source=f"{SOURCE}, Table 1c",
        rule="With 40-60 % masked, PSNR after stage one is lower than with 10-30 %, and gFD after stage two lower too,"
        " by both feature extractors.",
        arms=ratio_arms,
        effects=trade,
        columns=("gFD", "floor", "gFD free", "floor free", "PSNR", "rFD", "rFD free"),
    ),
    Claim(
        key="maetok-probe",
        system="MAETok",
        statement="Its tokens tell more of the class.",
        source=f"{SOURCE}, Figure 3",
        rule="A linear probe is more accurate on MAETok's latents than on AE's.",
        arms=tokenizers,
        measure=probed,
        effects=probe,
        columns=("probe accuracy", "neighbor probe", "PSNR"),
    ),
    Claim(
        key="maetok-modes",
        system="MAETok",
        statement="Its latents have fewer Gaussian modes.",
        source=f"{SOURCE}, Section 3.2",
        rule=f"On held-out latents in {COMPONENTS} whitened components a mixture gains more over one Gaussian than on"
        " AE's, so that fewer Gaussians are as likely as AE's best.",
        arms=tokenizers,
        measure=gaussians,
        effects=modes,
        columns=("mode gain", "mode gain, untrained", "variance held", "participation ratio"),
        caveat="What is easier to cluster in a few whitened components is only a sign of fewer modes: one true Gaussian"
        " gains nothing, and the same encoder's latents gain nearly as much before training. Until 2026-11-23 the rule"
        " asked for the opposite.",
    ),
    Claim(
        key="maetok-decoder",
        system="MAETok",
        statement="Tuning the decoder on frozen latents improves reconstruction, and nothing else changes.",
        source=f"{SOURCE}, Section 3.3",
        rule="rFD falls in stage two, by both feature extractors, and PSNR rises; latents are equal to the last bit before and"
        " after.",
        arms=tuned_arms,
        measure=same_latents,
        effects=restored,
        columns=("PSNR", "rFD", "rFD free", "floor", "floor free"),
        caveat="It improves; that reconstruction is restored, as in the paper, would have it near the plain AE's.",
    ),
)
