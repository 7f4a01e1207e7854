"""The runs of one folder and the results computed from them: what every host shows. No host, and no torch."""

import json
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench import analysis
from workbench.analysis.result import Result
from workbench.errors import RunError, UserError, unknown
from workbench.evidence import Evidence, arguments
from workbench.runs import Run, find
from workbench.views.controls import accept
from workbench.views.state import ViewState

KEPT = 64  # results held in memory


class Bench:
    """A folder of runs, opened for looking. Raises RunError if the folder does not exist."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._results: OrderedDict[tuple[Any, ...], Result] = OrderedDict()
        self.refresh()

    def refresh(self) -> None:
        """Look again at which runs there are. `refused` holds a sentence for each that cannot be opened."""
        runs, self.refused = find(self.folder)
        self.runs = {run.name: run for run in runs}

    def run(self, name: str) -> Run:
        """A run by name. Raises UserError with the nearest name if there is no such run."""
        if name not in self.runs:
            raise unknown("run", name, self.runs)
        return self.runs[name]

    def first_look(self) -> ViewState:
        """What to show somebody who has asked for nothing: every run, led by one that most analyses apply to.

        That is a tokenizer with evidence; rather one that a generator was trained on, or with codes, or of more tokens.
        """
        drawn_from = {run.tokenizer.name for run in self.runs.values() if run.tokenizer}
        tokenizers = [name for name, run in self.runs.items() if run.tokenizer is None and self.collected(name)]
        leading = max(tokenizers, key=lambda name: self._promise(name, drawn_from), default=None)
        others = [name for name in self.runs if name != leading]
        return ViewState(runs=tuple([leading, *others] if leading else others))

    def _promise(self, name: str, drawn_from: set[str]) -> tuple[bool, bool, int]:
        settings = self.run(name).config["settings"]
        return name in drawn_from, "codes" in settings, settings.get("tokens", 0)

    def collected(self, name: str) -> list[int]:
        """The steps of a run that have evidence."""
        return sorted(int(p.name.removeprefix("step-")) for p in (self.run(name).folder / "evidence").glob("step-*"))

    def result(self, state: ViewState) -> Result:
        """The analysis a state asks for, computed once. Raises UserError: a sentence to show instead."""
        chosen = analysis.get(state.analysis)
        evidences = self._evidences(state)
        controls = accept(chosen, state.controls)
        key = (
            state.analysis,
            *(json.dumps(e.provenance, sort_keys=True) for e in evidences),
            *sorted(controls.items()),
        )
        if key not in self._results:
            self._results[key] = chosen(**arguments(chosen, evidences), **controls)
            while len(self._results) > KEPT:
                self._results.popitem(last=False)
        return self._results[key]

    def table(self) -> pd.DataFrame:
        """A row a run: what it is, how far it is, and how well its reconstructions do on held-out images."""
        return pd.DataFrame([self._row(run) for run in self.runs.values()], columns=list(COLUMNS))

    def _evidences(self, state: ViewState) -> Sequence[Evidence]:
        if not state.runs:
            raise UserError("No run is selected. Select one in the list of runs.")
        runs = [self.run(name) for name in state.runs]
        found = [runs[0].evidence(state.step)]
        for run in runs[1:]:
            try:
                found.append(run.evidence())
            except RunError:
                continue  # not collected yet: the leading run still has something to show
        return [_with_samples(found[0], found[1:]), *found[1:]]

    def _row(self, run: Run) -> dict[str, Any]:
        settings, status = run.config["settings"], run.status()
        data = run.config.get("data") or (run.tokenizer.config["data"] if run.tokenizer else {})
        psnr, collected = math.nan, self.collected(run.name)
        if collected and run.tokenizer is None:
            evidence = run.evidence()
            error = np.asarray(evidence.images, np.float32) - np.asarray(evidence.reconstructions, np.float32)
            each = np.square(error / 255).mean(axis=(1, 2, 3))
            psnr = float(-10 * np.log10(np.maximum(each, 1e-10)).mean())
        row = (run.name, run.kind, data.get("source"), settings.get("tokens"), settings.get("dim"))
        row += (status["step"], status["state"], psnr, collected[-1] if collected else None)
        return dict(zip(COLUMNS, row, strict=True))


def _with_samples(leading: Evidence, others: Sequence[Evidence]) -> Evidence:
    """A tokenizer's evidence with the samples of the first selected generator that was trained on it."""
    if leading.samples is not None:
        return leading
    for other in others:
        if other.samples is not None and Path(other.provenance["tokenizer"]["run"]).name == leading.run:
            provenance = leading.provenance | {"generator": other.provenance, "sampling": other.sampling}
            return replace(leading, provenance=provenance, samples=other.samples, sample_labels=other.sample_labels)
    return leading


COLUMNS = ("run", "kind", "data", "tokens", "dim", "step", "state", "PSNR (dB)", "evidence at step")
