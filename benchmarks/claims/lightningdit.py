"""LightningDiT (arXiv:2501.01423): a bundle of known improvements of the transformer and its loss.

All improvements on are compared with all off, on the same latents. The speed-up is the number of
steps of the plain one, divided by the steps after which the improved one reaches its final gFD. It
holds for that horizon, which is short here. The bundle also has its own sampling times, so both are
also sampled at evenly spaced times.
"""

from collections.abc import Mapping

import numpy as np

from workbench.storage.run import Run

from .arms import Arm, Scale
from .claim import Claim, Numbers
from .lab import Lab
from .vavae import tokenizers

MEASUREMENTS = 4  # per training, evenly spaced
MIN_SPEED_UP = 1.3
EVEN = "evenly spaced times"
OFF = {
    "times": "uniform"
}  # `sit` already has LayerNorm, GELU, sine positions and no direction loss


def arms(scale: Scale) -> dict[str, Arm]:
    """Return both generators, and with every arm each improvement left out."""
    latents, every = (
        tokenizers(scale)["many channels"],
        scale.generator_plan["steps"] // MEASUREMENTS,
    )
    settings = {"save_every": every}
    both = {
        "all off": scale.generator(latents, **settings, **OFF),
        "all on": scale.generator(latents, "lightningdit", **settings),
    }
    if scale.full:
        without = {
            "norm": "layer",
            "mlp": "gelu",
            "positions": "sines",
            "direction_weight": 0.0,
            "times": "uniform",
        }
        for name, value in without.items():
            changes = settings | {name: value}
            both[f"without {name}"] = scale.generator(latents, "lightningdit", **changes)
    return both


def over_time(run: Run, lab: Lab) -> Numbers:
    """Measure gFD during the training, and at its end also with evenly spaced times."""
    even = lab.generation(run, shift=1.0)
    numbers = {f"gFD{suffix}, {EVEN}": even[f"gFD{suffix}"] for suffix in ("", " free")}
    return numbers | {
        f"gFD at {step}": lab.generation(run, step)["gFD"] for step in run.steps if step
    }


def better(rows: Mapping[str, Numbers]) -> Numbers:
    """Compare gFD at the end, and the speed-up with the one that the rule requires."""
    curves = {label: _curve(row) for label, row in rows.items()}
    off, on = curves["all off"], curves["all on"]
    names = [f"gFD{suffix}{how}" for how in ("", f", {EVEN}") for suffix in ("", " free")]
    gain = {
        f"{name}, all off minus all on": rows["all off"][name] - rows["all on"][name]
        for name in names
    }
    return gain | {
        f"speed-up to the gFD of {off[0][-1]} steps, minus {MIN_SPEED_UP}": _speed_up(off, on)
        - MIN_SPEED_UP
    }


def _curve(row: Numbers) -> tuple[np.ndarray, np.ndarray]:
    steps = sorted(int(name.removeprefix("gFD at ")) for name in row if name.startswith("gFD at "))
    return np.array(steps), np.array([row[f"gFD at {step}"] for step in steps])


def _speed_up(off: tuple[np.ndarray, np.ndarray], on: tuple[np.ndarray, np.ndarray]) -> float:
    return off[0][-1] / _reached(*on, off[1][-1])


def _reached(steps: np.ndarray, distances: np.ndarray, target: float) -> float:
    """Return the step at which a curve first falls to a target, by linear interpolation.

    If it never does, return twice its last step.
    """
    for i, distance in enumerate(distances):
        if distance <= target:
            if i == 0:
                return float(steps[0])
            share = (distances[i - 1] - target) / (distances[i - 1] - distance)
            return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))
    return 2.0 * float(steps[-1])


CLAIMS = (
    Claim(
        key="lightningdit-bundle",
        system="LightningDiT",
        statement="The improved transformer trains faster.",
        source="arXiv:2501.01423, Table 5",
        rule="With all improvements gFD is lower at the end, in both feature extractors, also if"
        " both are"
        " sampled at evenly spaced times, and the final gFD of the plain one is reached"
        f" {MIN_SPEED_UP} times sooner. gFD is measured {MEASUREMENTS} times in each training of a"
        " few hundred or thousand steps.",
        arms=arms,
        measure=over_time,
        effects=better,
        columns=(
            "gFD",
            f"gFD, {EVEN}",
            "floor",
            "gFD free",
            f"gFD free, {EVEN}",
            "floor free",
            "gap",
        ),
    ),
)
