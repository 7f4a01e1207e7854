"""KARL (arXiv:2507.07995): one pass predicts how many tokens an image needs for a requested error.

Errors are mean absolute differences of pixels in [0, 1]. The baselines are tail-drop with a search
(many decodings per image), ALIT (an adaptive tokenizer that adds tokens in rounds), and tail-drop
with a length guessed from the gradient energy of an image. If that guess ties with KARL, its
halting has learned a hand-made statistic.
"""

import json
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from workbench.analysis.tokens.complexity import png_bytes
from workbench.collect import load_images
from workbench.storage.run import Run
from workbench.tokenizers.taildrop import GradientEnergyLength

from .arms import Arm, Scale
from .claim import Claim, Numbers
from .lab import DEVICE, Lab

SOURCE = "arXiv:2507.07995"
TARGETS = (0.05, 0.07, 0.1)
SLACK = 0.01  # an image misses its target if its error is larger by more than this
MAX_MISSES = 0.15  # fraction of images that may miss their target
MIN_RHO_SHAPES = 0.5
MIN_RHO_IMAGES = 0.3
FIT_IMAGES = 1000  # training images that the gradient-energy guess is fitted to


def arms(scale: Scale) -> dict[str, Arm]:
    """Return KARL and its baselines on the images."""
    names = {"KARL": "karl", "tail-drop": "taildrop", "ALIT": "alit"}
    return {label: scale.tokenizer(system) for label, system in names.items()}


def alone(scale: Scale) -> dict[str, Arm]:
    """Return KARL on the images."""
    return {"KARL": arms(scale)["KARL"]}


def on_shapes(scale: Scale) -> dict[str, Arm]:
    """Return KARL on the images, and on procedural images of known complexity."""
    settings = {**json.loads(arms(scale)["KARL"].changes), "channels": 3}
    settings = {name: value for name, value in settings.items() if name not in ("data", "limit")}
    return {
        **alone(scale),
        "KARL on shapes": Arm("karl-shapes", json.dumps(settings, sort_keys=True)),
    }


@torch.no_grad()
def spent(run: Run, images: Tensor, error: float) -> tuple[np.ndarray, np.ndarray]:
    """Compute the error and the number of tokens of each image for a requested error."""
    model, images = run.load().to(DEVICE), images.to(DEVICE)
    tokens = model.encode(images, error=error)
    reached = ((model.decode(tokens).clamp(-1, 1) - images) / 2).abs().mean(dim=(1, 2, 3))
    count = (
        tokens.active.sum(dim=1)
        if tokens.active is not None
        else torch.full((len(images),), model.config.num_tokens)
    )
    return reached.cpu().numpy(), count.cpu().numpy()


@torch.no_grad()
def fixed(run: Run, images: Tensor) -> np.ndarray:
    """Compute the error of each image with every number of tokens, (n_images, num_tokens)."""
    model, images = run.load().to(DEVICE), images.to(DEVICE)
    budgets = range(1, model.config.num_tokens + 1)
    decoded = (model.decode(model.encode(images, budget=budget)).clamp(-1, 1) for budget in budgets)
    return np.stack(
        [((x - images) / 2).abs().mean(dim=(1, 2, 3)).cpu().numpy() for x in decoded], axis=1
    )


def on_target(run: Run, lab: Lab) -> Numbers:
    """Compare one pass with each target, and with a fixed length of the same mean."""
    images = load_images(run).take(lab.scale.num_samples).images()
    by_budget = fixed(run, images)
    numbers = {}
    for target in TARGETS:
        reached, count = spent(run, images, target)
        length = int(np.clip(round(float(count.mean())), 1, by_budget.shape[1]))
        numbers[f"tokens for {target}"] = float(count.mean())
        numbers[f"missing {target}"] = float((reached > target + SLACK).mean())
        numbers[f"|error - {target}|"] = float(np.abs(reached - target).mean())
        numbers[f"|error - {target}|, fixed length"] = float(
            np.abs(by_budget[:, length - 1] - target).mean()
        )
    return numbers


def met(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare misses with the maximum, tokens across targets, and errors with a fixed length."""
    row = rows["KARL"]
    counts = [row[f"tokens for {target}"] for target in TARGETS]
    saved = [
        row[f"|error - {target}|, fixed length"] - row[f"|error - {target}|"] for target in TARGETS
    ]
    missing = float(np.mean([row[f"missing {target}"] for target in TARGETS]))
    return {
        f"{MAX_MISSES:.0%} minus the fraction that misses its target by over {SLACK}": MAX_MISSES
        - missing,
        "tokens saved by a larger error, smallest step": -max(float(x) for x in np.diff(counts)),
        "|error - target|, fixed length minus KARL": float(np.mean(saved)),
    }


def complexity(run: Run, lab: Lab) -> Numbers:
    """Correlate the tokens with the complexity of the images, and average them by family."""
    from scipy.stats import spearmanr

    images = load_images(run).take(lab.scale.num_samples)
    seen, target = images.images(), TARGETS[0]
    _, count = spent(run, seen, target)
    numbers = {"rho with PNG bytes": float(spearmanr(count, png_bytes(images.pixels)).statistic)}
    if images.complexity is not None:
        numbers["rho with bits"] = float(spearmanr(count, images.complexity).statistic)
        by_budget = fixed(run, seen)
        delta = by_budget[:, 1] - by_budget[:, -1]
        for label, name in enumerate(images.names):
            is_member = images.labels == label
            numbers |= {
                f"ΔL1 {name}": float(delta[is_member].mean()),
                f"tokens {name}": float(count[is_member].mean()),
            }
    return numbers


def tracked(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare the correlations with those that the rule requires."""
    return {
        f"rho of tokens with bits of shapes, minus {MIN_RHO_SHAPES}": rows["KARL on shapes"][
            "rho with bits"
        ]
        - MIN_RHO_SHAPES,
        f"rho of tokens with PNG bytes of images, minus {MIN_RHO_IMAGES}": rows["KARL"][
            "rho with PNG bytes"
        ]
        - MIN_RHO_IMAGES,
    }


def noise(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare noise with structured images."""
    row = rows["KARL on shapes"]
    return {
        **{
            f"ΔL1, {name} minus noise": row[f"ΔL1 {name}"] - row["ΔL1 noise"]
            for name in ("stripes", "discs")
        },
        **{
            f"tokens, noise minus {name}": row["tokens noise"] - row[f"tokens {name}"]
            for name in ("stripes", "discs")
        },
    }


def unfamiliar(run: Run, lab: Lab) -> Numbers:
    """Count the tokens for held-out images, their negatives, and shuffled patches of them."""
    images = load_images(run).take(lab.scale.num_samples).images()
    side = run.config.settings["patch"]
    rows = images.unfold(2, side, side).unfold(3, side, side).flatten(2, 3)  # b c p side side
    order = torch.stack(
        [
            torch.randperm(rows.shape[2], generator=torch.Generator().manual_seed(i))
            for i in range(9)
        ]
    )
    order = order[torch.arange(len(images)) % len(order)]
    mixed = torch.stack(
        [image[:, permutation] for image, permutation in zip(rows, order, strict=True)]
    )
    edge = images.shape[2] // side
    mixed = mixed.unflatten(2, (edge, edge)).permute(0, 1, 2, 4, 3, 5).reshape(images.shape)
    sets = {"familiar": images, "negative": -images, "shuffled patches": mixed}
    return {
        f"tokens {name}": float(spent(run, x, TARGETS[0])[1].mean()) for name, x in sets.items()
    }


def familiar(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare the tokens for unfamiliar images with those for familiar ones."""
    row = rows["KARL"]
    return {f"tokens, {name} minus familiar": row[f"tokens {name}"] - row["tokens familiar"]
            for name in ("negative", "shuffled patches")}  # fmt: skip


@torch.no_grad()
def searched(run: Run, lab: Lab) -> Numbers:
    """Measure error and tokens at the middle target; for tail-drop also with the guess."""
    images, target = load_images(run).take(lab.scale.num_samples).images(), TARGETS[1]
    reached, count = spent(run, images, target)
    numbers = {"L1": float(reached.mean()), "tokens": float(count.mean())}
    numbers["|L1 - target|"] = float(np.abs(reached - target).mean())
    if run.kind == "TailDrop":
        model = run.load().to(DEVICE)
        fit_images = load_images(run, "train").take(FIT_IMAGES).images().to(DEVICE)
        lengths = model.search(model.encode(fit_images).latents, fit_images, target)[0]
        guess = GradientEnergyLength.fit(fit_images, lengths)
        length = guess.predict(images).clamp(1, model.config.num_tokens).to(DEVICE)
        images = images.to(DEVICE)
        decoded = model.decode(model.encode(images, budget=length)).clamp(-1, 1)
        errors = ((decoded - images) / 2).abs().mean(dim=(1, 2, 3)).cpu().numpy()
        numbers |= {
            "guessed |L1 - target|": float(np.abs(errors - target).mean()),
            "guessed tokens": float(length.float().mean()),
        }
        numbers["guessed L1"] = float(errors.mean())
    return numbers


def against(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare one pass of KARL with search, ALIT and the guess."""
    karl, search = rows["KARL"], rows["tail-drop"]
    return {
        "L1, 1.05 times the search's minus KARL's": 1.05 * search["L1"] - karl["L1"],
        "|L1 - target|, gradient-energy guess minus KARL": search["guessed |L1 - target|"]
        - karl["|L1 - target|"],
        "tokens, ALIT minus KARL": rows["ALIT"]["tokens"] - karl["tokens"],
    }


CLAIMS = (
    Claim(
        key="karl-target",
        system="KARL",
        statement="One pass meets a requested error.",
        source=f"{SOURCE}, Table 3",
        rule=f"Over the targets {', '.join(map(str, TARGETS))} at most {MAX_MISSES:.0%} of"
        " held-out images"
        f" miss by over {SLACK}, a larger error takes fewer tokens, and errors are closer to the"
        " target"
        " than with a fixed length of the same mean.",
        arms=alone,
        measure=on_target,
        effects=met,
        columns=tuple(
            f"{what}{target}" for target in TARGETS for what in ("tokens for ", "missing ")
        ),
    ),
    Claim(
        key="karl-complexity",
        system="KARL",
        statement="The number of tokens tracks complexity.",
        source=f"{SOURCE}, Section 4",
        rule=f"The rank correlation of tokens with bits is above {MIN_RHO_SHAPES} on procedural"
        " images, and"
        f" that with PNG bytes is above {MIN_RHO_IMAGES} on the images.",
        arms=on_shapes,
        measure=complexity,
        effects=tracked,
        columns=(
            "rho with bits",
            "rho with PNG bytes",
            "tokens flat",
            "tokens stripes",
            "tokens discs",
        ),
        caveat="Bits describe how an image was generated, tokens what helps this decoder. If every"
        " budget"
        " meets an error, as for a flat image, training prefers none of them: flat images take"
        " about"
        " as many tokens as others.",
    ),
    Claim(
        key="karl-noise",
        system="KARL",
        statement="ΔL1 separates noise from structure; the number of tokens alone does not.",
        source=f"{SOURCE}, Section 4",
        rule="Tokens reduce the error of stripes and of discs more than that of noise, and noise"
        " takes"
        " more tokens than either.",
        arms=on_shapes,
        measure=complexity,
        effects=noise,
        caveat="Contrasts are not matched: the error of a faint image can only be reduced by"
        " little.",
        columns=(
            "ΔL1 stripes",
            "ΔL1 discs",
            "ΔL1 noise",
            "tokens stripes",
            "tokens discs",
            "tokens noise",
        ),
    ),
    Claim(
        key="karl-familiar",
        system="KARL",
        statement="Familiar images take fewer tokens than unfamiliar ones.",
        source=f"{SOURCE}, Section 4",
        rule="For the same error, negatives and images with shuffled patches, which have the same"
        " contrast,"
        " take more tokens.",
        arms=alone,
        measure=unfamiliar,
        effects=familiar,
        columns=("tokens familiar", "tokens negative", "tokens shuffled patches"),
    ),
    Claim(
        key="karl-search",
        system="KARL",
        statement="One pass is as good as a search.",
        source=f"{SOURCE}, Tables 1 and 2",
        rule="KARL's error is within 5 % of that of a search with tail-drop, closer to the target"
        " than a"
        " guess from gradient energy, and it takes fewer tokens than ALIT.",
        arms=arms,
        measure=searched,
        effects=against,
        caveat="All are given the same absolute error. A lower error is overshoot and costs tokens."
        " Tail-drop is trained on squared errors, KARL and ALIT on absolute ones.",
        columns=(
            "L1",
            "tokens",
            "|L1 - target|",
            "guessed L1",
            "guessed tokens",
            "guessed |L1 - target|",
        ),
    ),
)
