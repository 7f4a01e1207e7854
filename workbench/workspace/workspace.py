"""The runs of one folder and the results computed from them: what every host shows. No host, and no torch."""

import math
import os
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench import analysis
from workbench.analysis.base import Result
from workbench.analysis.result_cache import cached_result
from workbench.core.errors import RunError, UserError, unknown
from workbench.storage.evidence import Evidence, kwargs_for
from workbench.storage.run import Run, find_runs
from workbench.workspace.controls import coerce_controls
from workbench.workspace.view_state import ViewState

KEPT = 64  # results held in memory
SOME = 256  # images looked at together
RESULTS_FOLDER = ".results"  # in the folder of runs: results held on disk
MAX_DEFAULT_RUNS = 8  # runs at most: as many as there are colours


class Workspace:
    """A folder of runs, opened for looking. Raises RunError if the folder does not exist."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._results: OrderedDict[Hashable, Result] = OrderedDict()
        self.refresh()

    def refresh(self) -> None:
        """Look again at which runs there are. `refused` holds a sentence for each that cannot be opened."""
        self._seen = _written(self.folder)
        runs, self.refused = find_runs(self.folder)
        self.runs = {run.name: run for run in runs}

    def stale(self) -> bool:
        """Whether a run came, went on, was collected or went since the last look."""
        return _written(self.folder) != self._seen

    def run(self, name: str) -> Run:
        """A run by name. Raises UserError with the nearest name if there is no such run."""
        if name not in self.runs:
            raise unknown("run", name, self.runs)
        return self.runs[name]

    def default_view(self) -> ViewState:
        """What to show somebody who has asked for nothing: runs led by one that most analyses apply to.

        That is a tokenizer with evidence; rather one that a generator was trained on, or with codes, or of more tokens.
        Of many runs the first few are compared with it, and its own generators before them.
        """
        drawn_from = {run.tokenizer.name for run in self.runs.values() if run.tokenizer}
        tokenizers = [
            name
            for name, run in self.runs.items()
            if run.tokenizer is None and self.collected(name)
        ]
        leading = max(tokenizers, key=lambda name: self._promise(name, drawn_from), default=None)
        others = [name for name in self.runs if name != leading]
        others.sort(key=lambda name: self._tokenizer_of(name) != leading)
        return ViewState(runs=tuple([leading, *others] if leading else others)[:MAX_DEFAULT_RUNS])

    def _tokenizer_of(self, name: str) -> str | None:
        tokenizer = self.runs[name].tokenizer
        return None if tokenizer is None else tokenizer.name

    def _promise(self, name: str, drawn_from: set[str]) -> tuple[bool, bool, int]:
        settings = self.run(name).config.settings
        return name in drawn_from, "codebook_size" in settings, settings.get("num_tokens", 0)

    def collected(self, name: str) -> list[int]:
        """The steps of a run that have evidence."""
        return sorted(
            int(p.name.removeprefix("step-"))
            for p in (self.run(name).folder / "evidence").glob("step-*")
        )

    def result(self, state: ViewState) -> Result:
        """The analysis a state asks for, computed once. Raises UserError: a sentence to show instead."""
        chosen, key = analysis.get(state.analysis), self.key(state)
        if key not in self._results:
            given = kwargs_for(chosen, self._evidences(state))
            self._results[key] = cached_result(
                self.folder / RESULTS_FOLDER, chosen, given, coerce_controls(chosen, state.controls)
            )
            while len(self._results) > KEPT:
                self._results.popitem(last=False)
        return self._results[key]

    def applicable(self, name: str) -> str | None:
        """A run of the folder that has what an analysis needs; None where there is none."""
        asked = analysis.get(name)
        for run in self.runs.values():
            with suppress(UserError):
                kwargs_for(asked, [run.evidence()])
                return run.name
        return None

    def key(self, state: ViewState) -> Hashable:
        """What a result depends on: the analysis, its controls, and which evidence of every run.

        Raises UserError where no run is selected, or the leading one has no evidence of that step.
        """
        controls = coerce_controls(analysis.get(state.analysis), state.controls)
        read = [(str(place), written_at(place)) for place in self._places(state)]
        return (state.analysis, *read, *sorted(controls.items()))

    def table(self) -> pd.DataFrame:
        """A row a run: what it is, how far it is, and how well its reconstructions do on held-out images."""
        return pd.DataFrame([self._row(run) for run in self.runs.values()], columns=list(COLUMNS))

    def about(self, state: ViewState) -> str:
        """What is looked at, in a line: the leading run's checkpoint, how many images of how many, which seed."""
        told = Evidence.open(self._places(state)[0]).provenance
        of = f"{told['n']:,} of {told['of']:,}" if told.get("of") else f"{told.get('n', 0):,}"
        what = (
            f"held-out images of {told.get('data', 'unnamed data')}"
            if told.get("of")
            else "samples"
        )
        facts = [
            f"checkpoint step-{told['step']:06d}",
            f"{of} {what}",
            f"seed {told.get('seed', 0)}",
        ]
        facts += [f"features: {told['feature_extractor']}"] if told.get("feature_extractor") else []
        others = len(state.runs) - 1
        facts += [f"compared with {others} other run{'s' if others > 1 else ''}"] if others else []
        return " · ".join([told["run"], *facts])

    def _places(self, state: ViewState) -> list[Path]:
        """The folders of evidence of a state's runs; those of a run that has none yet are left out."""
        if not state.runs:
            raise UserError("No run is selected. Select one in the list of runs.")
        leading, *others = (self.run(name) for name in state.runs)
        steps = self.collected(leading.name)
        if not steps or state.step not in (None, *steps):
            leading.evidence(state.step)  # says why not
        found = [(leading, steps[-1] if state.step is None else state.step)]
        found += [(run, steps[-1]) for run in others if (steps := self.collected(run.name))]
        return [run.folder / "evidence" / f"step-{step:06d}" for run, step in found]

    def _evidences(self, state: ViewState) -> Sequence[Evidence]:
        leading, *others = self._places(state)
        found = [Evidence.open(leading)]
        for place in others:
            with suppress(RunError):  # damaged: the leading run still has something to show
                found.append(Evidence.open(place))
        return [_with_samples(found[0], found[1:]), *found[1:]]

    def _row(self, run: Run) -> dict[str, Any]:
        settings, status = run.config.settings, run.status()
        data = (run.tokenizer or run).config.data
        psnr, collected = math.nan, self.collected(run.name)
        if collected and run.tokenizer is None:
            place = run.folder / "evidence" / f"step-{collected[-1]:06d}"
            psnr = mean_psnr(place.resolve(), written_at(place))
        row = (
            run.name,
            run.kind,
            None if data is None else data.source,
            settings.get("num_tokens"),
            settings.get("dim"),
        )
        row += (status["step"], status["state"], psnr, collected[-1] if collected else None)
        return dict(zip(COLUMNS, row, strict=True))


def _with_samples(leading: Evidence, others: Sequence[Evidence]) -> Evidence:
    """A tokenizer's evidence with the samples of the first selected generator that was trained on it."""
    if leading.samples is not None:
        return leading
    for other in others:
        if (
            other.samples is not None
            and Path(other.provenance["tokenizer"]["run"]).name == leading.run_name
        ):
            provenance = leading.provenance | {
                "generator": other.provenance,
                "sampling": other.sampling,
            }
            return replace(
                leading,
                provenance=provenance,
                samples=other.samples,
                sample_labels=other.sample_labels,
            )
    return leading


def _written(folder: Path) -> dict[str, tuple[int, ...]]:
    """When what tells how each run stands was written last."""
    told = ("config.json", "status.json", "evidence")
    try:
        return {
            one.name: tuple(_time(Path(one.path, name)) for name in told)
            for one in os.scandir(folder)
        }
    except OSError:
        return {}


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def written_at(place: Path) -> int:
    """When evidence was written, in nanoseconds; 0 where it is damaged."""
    return _time(place / "provenance.json")


@lru_cache(maxsize=4096)
def mean_psnr(place: Path, written: int) -> float:
    """The mean PSNR in dB of evidence as it was `written`, over its images; NaN where it has no reconstructions."""
    try:
        evidence = Evidence.open(place, only=("images", "reconstructions"))
    except RunError:
        return math.nan
    if evidence.images is None or evidence.reconstructions is None:
        return math.nan
    each = []
    for start in range(0, len(evidence.images), SOME):  # not all at once: they may be large
        some = (
            np.asarray(a[start : start + SOME], np.float32)
            for a in (evidence.images, evidence.reconstructions)
        )
        each.append(
            np.square(np.subtract(*some) / 255).reshape(-1, evidence.images[0].size).mean(axis=1)
        )
    return float(-10 * np.log10(np.maximum(np.concatenate(each), 1e-10)).mean())


COLUMNS = ("run", "kind", "data", "tokens", "dim", "step", "state", "PSNR (dB)", "evidence at step")
