"""MAETok (arXiv:2502.03444): latents of a masked autoencoder generate better, without a KL term.

Every arm has the same number of tokens, decoder, steps and generator. `aux` predicts the teachers'
features without masking, which shows the effect of masking. `pixels` masks without teachers, which
shows the effect of the teachers. `patches` uses the rows of the patches as tokens, which shows the
effect of learned tokens. As in the paper, the decoder of a masked autoencoder is then tuned on
frozen latents, here for half as many steps. The other arms are trained for half as many steps more,
so that all decoders have seen equally many images.
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
COMPONENTS = 16  # principal components in which modes are counted
LIGHT, HEAVY = "10-30 % masked", "60-80 % masked"  # MAETok itself: 40-60 %
RATIOS = {LIGHT: {"mask_low": 0.1, "mask_high": 0.3}, HEAVY: {"mask_low": 0.6, "mask_high": 0.8}}
BINS = 20  # bins of the time between data and noise


def tokenizers(scale: Scale) -> dict[str, Arm]:
    """Return the plain and the variational autoencoder, and the parts of MAETok.

    With every arm there are all combinations of masking, teachers and learned tokens, and a third
    range of mask ratios.
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
    }  # equally many dimensions
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
        label: _tuned(scale, scale.tokenizer("maetok", **settings))
        for label, settings in masked.items()
    }


def generators(scale: Scale) -> dict[str, Arm]:
    """Return the same generator on each of them."""
    return {label: scale.generator(arm) for label, arm in tokenizers(scale).items()}


def better(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare gFD on the latents of the others with that on MAETok's."""
    return {
        f"gFD{suffix}, {other} minus MAETok": rows[other][f"gFD{suffix}"]
        - rows["MAETok"][f"gFD{suffix}"]
        for other in ("AE", "KL")
        for suffix in ("", " free")
    }


def parts(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare gFD without each of the three parts with that of all."""
    left_out = {"masking": "aux", "teachers": "pixels", "learned tokens": "patches"}
    return {
        f"gFD{suffix} without {part}, minus MAETok's": rows[label][f"gFD{suffix}"]
        - rows["MAETok"][f"gFD{suffix}"]
        for part, label in left_out.items()
        for suffix in ("", " free")
    }


def denoising(run: Run, lab: Lab) -> Numbers:
    """Measure the generator's loss on held-out images, averaged uniformly over time."""
    tokenizer = run.tokenizer.load(run.tokenizer_step)
    images = load_images(run.tokenizer).take(lab.scale.num_samples)
    with torch.no_grad():
        latents = tokenizer.encode(images.images()).latents
    return {
        "denoising loss": loss_by_time(
            run.load(), latents, torch.from_numpy(images.labels), bins=BINS
        ).mean
    }


def compared(scale: Scale) -> dict[str, Arm]:
    """Return the generators whose loss is compared."""
    return {
        label: arm
        for label, arm in generators(scale).items()
        if scale.full or label in ("AE", "KL", "MAETok")
    }


def loss(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare the loss on the latents of the others with that on MAETok's."""
    return {
        f"denoising loss, {other} minus MAETok": rows[other]["denoising loss"]
        - rows["MAETok"]["denoising loss"]
        for other in ("AE", "KL")
    }


def ratio_arms(scale: Scale) -> dict[str, Arm]:
    """Return ranges of mask ratios: after stage two with a generator, and after stage one."""
    flows, made = generators(scale), tokenizers(scale)
    ranges = [LIGHT, "MAETok", *([HEAVY] if scale.full else [])]
    return {label: flows[label] for label in ranges} | {
        f"{label}, stage one": made[label].start for label in ranges
    }


def trade(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare masking 40-60 % with 10-30 %: PSNR after stage one, and gFD."""
    return {
        "PSNR after stage one (dB), 10-30 % minus 40-60 % masked": rows[f"{LIGHT}, stage one"][
            "PSNR"
        ]
        - rows["MAETok, stage one"]["PSNR"],
        **{
            f"gFD{suffix}, 10-30 % minus 40-60 % masked": rows[LIGHT][f"gFD{suffix}"]
            - rows["MAETok"][f"gFD{suffix}"]
            for suffix in ("", " free")
        },
    }


def probe(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare the probe accuracy of MAETok's tokens with that of the plain autoencoder."""
    return {
        "probe accuracy, MAETok minus AE": rows["MAETok"]["probe accuracy"]
        - rows["AE"]["probe accuracy"]
    }


def gaussians(run: Run, lab: Lab) -> Numbers:
    """Measure the gain of a mixture over one Gaussian on held-out latents, in nats.

    It is also measured before training, together with the fraction of variance in the components.
    All latents have the same number of whitened principal components, in which one Gaussian is
    equally likely for all. So with a larger gain, fewer Gaussians reach the best likelihood of
    another latent space, which is the paper's sense of fewer modes.
    """
    evidence = lab.evidence(run)
    both = {"": evidence, ", untrained": replace(evidence, latents=evidence.untrained_latents)}
    results = {name: mode_comparison([e], components=COMPONENTS) for name, e in both.items()}
    nll = {name: result.likelihood.mean(axis=1)[0] for name, result in results.items()}
    gains = {f"mode gain{name}": float(curve[0] - curve.min()) for name, curve in nll.items()}
    return gains | {"variance held": float(results[""].explained[0])}


def modes(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare the gain of a mixture on MAETok's latents with that on the plain autoencoder's."""
    return {
        "mode gain (nats), MAETok minus AE": rows["MAETok"]["mode gain"] - rows["AE"]["mode gain"]
    }


def tuned_arms(scale: Scale) -> dict[str, Arm]:
    """Return stage one, stage two, and the plain autoencoder for comparison."""
    made = tokenizers(scale)
    return {"stage one": made["MAETok"].start, "stage two": made["MAETok"], "AE": made["AE"]}


def _tuned(scale: Scale, first: Arm) -> Arm:
    steps = _tuning(scale)
    settings = json.loads(first.changes) | {"tuning": True, "steps": steps, "save_every": steps}
    settings.pop("cache", None)  # stage two needs no teacher
    return Arm(first.recipe, json.dumps(settings, sort_keys=True), start=first)


def _tuning(scale: Scale) -> int:
    return max(1, scale.plan["steps"] // 2)


def same_latents(run: Run, lab: Lab) -> Numbers:
    """Compute a hash of the latents of held-out images, as a number."""
    import hashlib

    with torch.no_grad():
        latents = run.load().encode(load_images(run).take(lab.scale.num_samples).images()).latents
    digest = hashlib.sha256(np.ascontiguousarray(latents.numpy())).hexdigest()
    return {"latents' hash": float(int(digest[:12], 16))}


def restored(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare stage two with stage one, and test that the latents are equal."""
    first, second = rows["stage one"], rows["stage two"]
    return {
        **{
            f"rFD{suffix}, stage one minus stage two": first[f"rFD{suffix}"]
            - second[f"rFD{suffix}"]
            for suffix in ("", " free")
        },
        "PSNR (dB), stage two minus stage one": second["PSNR"] - first["PSNR"],
        "latents are bit-identical (1: yes)": 1.0
        if first["latents' hash"] == second["latents' hash"]
        else -1.0,
    }


CLAIMS = (
    Claim(
        key="maetok-generation",
        system="MAETok",
        statement="Latents of a masked autoencoder generate better than those of plain and"
        " variational autoencoders.",
        source=f"{SOURCE}, Tables 1 and 2",
        rule="gFD of the same generator is lower on MAETok's latents than on AE's and on KL's, in"
        " both"
        " feature extractors.",
        arms=generators,
        effects=better,
        columns=("gFD", "floor", "gFD free", "floor free", "gap", "rFD", "rFD free", "PSNR"),
        caveat="The generators see latents of unit variance per channel; in MAETok's paper all"
        " channels"
        " share one scale.",
    ),
    Claim(
        key="maetok-parts",
        system="MAETok",
        statement="Masking, teachers and learned tokens are all needed.",
        source=f"{SOURCE}, Tables 1 and 6",
        rule="gFD is lower with all three than without masking, than without teachers, and than"
        " with the"
        " rows of the patches as tokens, in both feature extractors.",
        arms=generators,
        effects=parts,
        columns=("gFD", "floor", "gFD free", "floor free", "rFD", "rFD free", "linear probe"),
    ),
    Claim(
        key="maetok-loss",
        system="MAETok",
        statement="A generator reaches a lower loss on its latents.",
        source=f"{SOURCE}, Figure 2b",
        rule="The loss of the generator on held-out images is lower on MAETok's latents than on"
        " AE's and"
        " on KL's.",
        arms=compared,
        measure=denoising,
        effects=loss,
        columns=("denoising loss", "participation ratio", "gFD", "floor", "gFD free", "floor free"),
        caveat="Latents have the same size in all arms, and unit variance; the loss still falls"
        " with"
        " their rank.",
    ),
    Claim(
        key="maetok-ratio",
        system="MAETok",
        statement="A higher mask ratio costs reconstruction and helps generation.",
        source=f"{SOURCE}, Table 1c",
        rule="With 40-60 % masked, PSNR after stage one is lower than with 10-30 %, and gFD after"
        " stage"
        " two is lower too, in both feature extractors.",
        arms=ratio_arms,
        effects=trade,
        columns=("gFD", "floor", "gFD free", "floor free", "PSNR", "rFD", "rFD free"),
    ),
    Claim(
        key="maetok-probe",
        system="MAETok",
        statement="Its tokens are more predictive of the class.",
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
        rule=f"On held-out latents in {COMPONENTS} whitened components a mixture gains more over"
        " one"
        " Gaussian than on AE's, so that fewer Gaussians reach the best likelihood of AE's.",
        arms=tokenizers,
        measure=gaussians,
        effects=modes,
        columns=("mode gain", "mode gain, untrained", "variance held", "participation ratio"),
        caveat="Easier clustering in a few whitened components only indicates fewer modes: one true"
        " Gaussian gains nothing, and the latents of the same encoder gain nearly as much before"
        " training. Until 2026-11-23 the rule required the opposite.",
    ),
    Claim(
        key="maetok-decoder",
        system="MAETok",
        statement="Tuning the decoder on frozen latents improves reconstruction, and nothing else"
        " changes.",
        source=f"{SOURCE}, Section 3.3",
        rule="In stage two rFD falls in both feature extractors and PSNR rises, and the latents"
        " stay"
        " bit-identical.",
        arms=tuned_arms,
        measure=same_latents,
        effects=restored,
        columns=("PSNR", "rFD", "rFD free", "floor", "floor free"),
        caveat="Reconstruction improves. To be restored, as in the paper, it would have to come"
        " close to"
        " the plain AE's.",
    ),
)
