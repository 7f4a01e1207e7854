"""LightningDiT (arXiv:2501.01423): a bundle of known improvements to the transformer and its objective.

All on against all off, on the same latents. The speed-up is the steps of the plain one over the steps at which the
improved one is as good as the plain one at its end: it holds for that horizon, which is short here. The bundle has
times of its own in sampling too, so both are also drawn from at even times.
"""

from collections.abc import Mapping

import numpy as np

from workbench.storage.run import Run

from .arms import Arm, Scale
from .claim import Claim, Numbers
from .lab import Lab
from .vavae import tokenizers

PARTS = 4  # of the training, each measured
FASTER = 1.3  # times, at least
EVEN = "even times"
OFF = {"times": "uniform"}  # of `sit`: layer norm, GELU, sines and no direction loss are its own


def arms(scale: Scale) -> dict[str, Arm]:
    """Both generators, and at full scale each improvement left out."""
    latents, every = tokenizers(scale)["many channels"], scale.generator_plan["steps"] // PARTS
    told = {"save_every": every}
    both = {
        "all off": scale.generator(latents, **told, **OFF),
        "all on": scale.generator(latents, "lightningdit", **told),
    }
    if scale.full:
        without = {
            "norm": "layer",
            "mlp": "gelu",
            "positions": "sines",
            "direction_weight": 0.0,
            "times": "uniform",
        }
        both |= {f"without {name}": scale.generator(latents, "lightningdit", **told, **{name: value})
                 for name, value in without.items()}  # fmt: skip
    return both


def over_time(run: Run, lab: Lab) -> Numbers:
    """gFD at each part of the training, by its step, and at its end with samples drawn at even times."""
    even = lab.generation(run, shift=1.0)
    found = {f"gFD{suffix}, {EVEN}": even[f"gFD{suffix}"] for suffix in ("", " free")}
    return found | {
        f"gFD at {step}": lab.generation(run, step)["gFD"] for step in run.steps if step
    }


def better(rows: Mapping[str, Numbers]) -> Numbers:
    """gFD saved at the end, also at even times, and the speed-up above what was asked for."""
    curves = {label: _curve(row) for label, row in rows.items()}
    off, on = curves["all off"], curves["all on"]
    names = [f"gFD{suffix}{how}" for how in ("", f", {EVEN}") for suffix in ("", " free")]
    gain = {
        f"{name}, all off less all on": rows["all off"][name] - rows["all on"][name]
        for name in names
    }
    return gain | {
        f"speed-up to the gFD of {off[0][-1]} steps, less {FASTER}": _speed_up(off, on) - FASTER
    }


def _curve(row: Numbers) -> tuple[np.ndarray, np.ndarray]:
    steps = sorted(int(name.removeprefix("gFD at ")) for name in row if name.startswith("gFD at "))
    return np.array(steps), np.array([row[f"gFD at {step}"] for step in steps])


def _speed_up(off: tuple[np.ndarray, np.ndarray], on: tuple[np.ndarray, np.ndarray]) -> float:
    return off[0][-1] / _reached(*on, off[1][-1])


def _reached(steps: np.ndarray, distances: np.ndarray, target: float) -> float:
    """The step at which a curve first falls to the target, linearly between measurements; never: twice its last."""
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
        rule="With all improvements gFD is lower at the end, by both feature extractors, also when both are sampled at even times,"
        f" and the plain one's last gFD is reached {FASTER} times sooner; all within the few hundred or thousand steps"
        " of these runs, and measured four times in each.",
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
