"""A folder of runs and the results computed from them, shared by all hosts."""

import math
import os
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import replace
from inspect import signature
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd
from cachetools import LRUCache, cached

from workbench import analysis
from workbench.analysis.base import LeftOutRun, Result
from workbench.analysis.generation.distance_names import network_title
from workbench.analysis.result_cache import cached_result
from workbench.analysis.side_by_side import MAX_RUNS as MAX_SIDE_BY_SIDE
from workbench.analysis.side_by_side import SideBySide
from workbench.core.counted import counted
from workbench.core.errors import NotApplicable, RunError, UserError, unknown
from workbench.core.printable import printable
from workbench.storage.analysis_arguments import (
    PARTNERS,
    array_names,
    kwargs_for,
    reads_logs,
)
from workbench.storage.evidence import Evidence
from workbench.storage.provenance_file import is_held_out
from workbench.storage.run import Run
from workbench.storage.run_search import find_runs
from workbench.storage.training_log import TrainingLog, log_key
from workbench.workspace.controls import coerce_controls
from workbench.workspace.run_colors import colors_among
from workbench.workspace.view_state import ViewState

MAX_CACHED_RESULTS = 64
MAX_CACHED_PSNR = 4096
IMAGES_PER_BATCH = 256
MAX_DEFAULT_RUNS = 8  # as many as there are colors
RESULTS_FOLDER = ".results"  # in the folder of runs
COLUMNS = (
    *("run", "kind", "data", "tokens", "dim", "step"),
    *("state", "PSNR (dB)", "evidence at step"),
)
# Analyses of one run, and the analyses that compare runs in the same respect.
COMPARED_BY = {
    "reconstruction": "image_comparison",
    "latent_map": "latent_maps",
}
SAMPLE_ARRAYS = ("samples", "sample_labels")
NO_RUN = "No run is selected. Select one in the list of runs."


class Workspace:
    """A folder of runs.

    Parameters
    ----------
    folder : str or Path
        The folder that contains the runs.
    trust : sequence of str, optional
        Modules and packages outside of this package that may be imported to load a run's model.

    Attributes
    ----------
    runs : dict of str to Run
        The runs by name that are listed.
    folder_runs : dict of str to Run
        All runs of the folder by name.
    refused : list of str
        One sentence for each folder that could not be opened as a run.

    Raises
    ------
    RunError
        If the folder does not exist.
    """

    def __init__(self, folder: str | Path, trust: Sequence[str] = ()) -> None:
        self.folder = Path(folder)
        self.trust = tuple(trust)
        self._results: LRUCache[Hashable, Result] = LRUCache(maxsize=MAX_CACHED_RESULTS)
        self.refresh()

    def refresh(self) -> None:
        """Read the runs of the folder again."""
        self._times = _modification_times(self.folder)
        runs, self.refused = find_runs(self.folder)
        self.folder_runs = {run.name: run for run in runs}
        self.runs = dict(self.folder_runs)

    @property
    def run_colors(self) -> dict[str, str]:
        """The color of each run. A new run does not change those of the others."""
        return colors_among(self.runs.values(), self.folder_runs.values())

    def refuse(self, name: str, reason: str) -> None:
        """Move a run that can no longer be read to the refused ones."""
        self.runs.pop(name, None)
        self.refused.append(reason)

    def is_stale(self) -> bool:
        """Return True if a run was added, removed or written since the last refresh."""
        return _modification_times(self.folder) != self._times

    def run(self, name: str) -> Run:
        """Return a run by name; raises UserError with the nearest name if it does not exist."""
        if name not in self.runs:
            raise unknown("run", name[:60], self.runs)
        return self.runs[name]

    def default_view(self) -> ViewState:
        """Return the view of a person who has not selected anything.

        The primary run is one to which most analyses apply: a tokenizer with evidence, preferably
        one with a generator, with codes, or with many tokens. Its generators come next.
        """
        tokenizers = [name for name in self.runs if self._is_collected_tokenizer(name)]
        if not tokenizers:
            names = sorted(self.runs, key=lambda name: self._tokenizer_of(name) is not None)
            return ViewState(runs=tuple(names)[:MAX_DEFAULT_RUNS])
        with_generator = {run.tokenizer.name for run in self.runs.values() if run.tokenizer}
        primary = max(tokenizers, key=lambda name: self._rank_as_primary(name, with_generator))
        other_names = [name for name in self.runs if name != primary]
        other_names.sort(key=lambda name: self._tokenizer_of(name) != primary)
        return ViewState(runs=(primary, *other_names)[:MAX_DEFAULT_RUNS])

    def _is_collected_tokenizer(self, name: str) -> bool:
        return not self.runs[name].is_generator and bool(self.collected(name))

    def _tokenizer_of(self, name: str) -> str | None:
        tokenizer = self.runs[name].tokenizer
        return None if tokenizer is None else tokenizer.name

    def _rank_as_primary(self, name: str, with_generator: set[str]) -> tuple[bool, bool, int]:
        settings = self.run(name).config.settings
        num_tokens = settings.get("num_tokens")
        rank = num_tokens if isinstance(num_tokens, int) else 0
        return name in with_generator, "codebook_size" in settings, rank

    def collected(self, name: str) -> list[int]:
        """Return the steps of a run that have evidence, ascending."""
        return self.run(name).evidence_steps

    def result(self, state: ViewState) -> Result:
        """Return the result of a state's analysis, computed once.

        The result names the selected runs whose evidence could not be read (`left_out`).

        Raises
        ------
        UserError
            If the analysis does not apply to the runs; the message is shown in its place.
        """
        runs = self.compared_runs(state)
        if len(runs) > 1:
            return self._side_by_side(state, runs)
        function = analysis.get(state.analysis)
        key = self.key(state)
        result = self._results.get(key)
        if result is None:
            evidences, left_out = self._evidences(state)
            try:
                arguments = kwargs_for(function, evidences, self._partners(state))
                result = cached_result(
                    self.folder / RESULTS_FOLDER,
                    function,
                    arguments,
                    coerce_controls(function, state.controls),
                )
            except NotApplicable as error:
                raise _with_reasons(error, left_out) from None
            result = result.with_run_colors(self.run_colors)
            if left_out:
                return result.with_left_out(left_out)  # the reason may pass: it is not kept
            self._results[key] = result
        return result

    def compared_runs(self, state: ViewState) -> tuple[str, ...]:
        """Return the selected runs for which an analysis of one run is shown side by side.

        They are of the kind of the primary run. Fewer than two if the state does not request it,
        or the analysis compares runs itself.
        """
        if not (state.side_by_side and is_of_one_run(state.analysis)):
            return ()
        runs = self._selected_runs(state)
        return tuple(run.name for run in runs if run.is_generator == runs[0].is_generator)

    def _side_by_side(self, state: ViewState, runs: Sequence[str]) -> Result:
        """Return the results of an analysis for several runs as one.

        It is the result of the primary run alone if the analysis applies to no other run.
        """
        results = {runs[0]: self.result(_view_of_run(state, runs[0]))}
        not_applicable = []
        not_shown = []
        for name in runs[1:]:
            if len(results) == MAX_SIDE_BY_SIDE:
                not_shown.append(name)
                continue
            try:
                results[name] = self.result(_view_of_run(state, name))
            except (NotApplicable, RunError):
                not_applicable.append(name)
        if len(results) == 1:
            return results[runs[0]]
        combined = SideBySide(
            runs=tuple(results),
            results=tuple(results.values()),
            not_applicable=tuple(not_applicable),
            not_shown=tuple(not_shown),
        )
        return combined.with_run_colors(self.run_colors)

    def applicable(self, name: str, primary: str) -> str | None:
        """Return another run that has the arrays which an analysis needs and `primary` lacks.

        None if there is none, or if `primary` has them and the analysis fails for another reason.
        """
        runs = sorted(self.runs.values(), key=lambda run: run.name != primary)
        for run in runs:
            if self._has_arrays_for(name, run):
                return None if run.name == primary else run.name
        return None

    def _has_arrays_for(self, name: str, run: Run) -> bool:
        function = analysis.get(name)
        try:
            kwargs_for(function, [self._open_last(run, array_names(function))])
        except UserError:
            return False
        return True

    def key(self, state: ViewState) -> Hashable:
        """Return what a result depends on: the analysis, its controls, and the evidence.

        Raises
        ------
        UserError
            If no run is selected, or the primary run has no evidence of that step.
        """
        runs = self.compared_runs(state)
        if len(runs) > 1:
            return tuple(self._key_or_reason(_view_of_run(state, name)) for name in runs)
        function = analysis.get(state.analysis)
        controls = coerce_controls(function, state.controls)
        if reads_logs(function):
            logs = [(run.name, log_key(run.folder)) for run in self._selected_runs(state)]
            return (state.analysis, *logs, *sorted(controls.items()))
        folders = [*self._evidence_folders(state), *self._partner_folders(state)]
        evidence = [(str(folder), written_at(folder)) for folder in folders]
        return (state.analysis, *evidence, *sorted(controls.items()))

    def versions(self, state: ViewState) -> Hashable:
        """Return what changes when a run of a view is trained further or collected again.

        It is the last checkpoint of each run, and when its evidence was written.
        """
        versions: list[Hashable] = []
        for name in state.runs:
            try:
                run = self.run(name)
                folders = map(run.evidence_folder, run.evidence_steps)
                versions.append((name, *run.steps[-1:], *map(written_at, folders)))
            except UserError as error:
                versions.append(str(error))
        return tuple(versions)

    def _key_or_reason(self, state: ViewState) -> Hashable:
        """Return the key of a run, or the reason why it has none, such as missing evidence."""
        try:
            return self.key(state)
        except UserError as error:
            return str(error)

    def table(self) -> pd.DataFrame:
        """One row per run: its type, progress, and mean PSNR on held-out images."""
        rows = []
        for name, run in list(self.runs.items()):
            try:
                rows.append(self._row(run))
            except RunError as error:
                self.refuse(name, str(error))
            except Exception as error:  # one damaged run must never hide the others
                self.refuse(name, f"{printable(run.folder)} cannot be read: {error}.")
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def about(self, state: ViewState) -> str:
        """Describe the evidence of the primary run in one line."""
        provenance = Evidence.open(self._evidence_folders(state)[0], only=()).provenance
        facts = [
            provenance["run"],
            _origin(provenance),
            _count(provenance),
            f"seed {provenance.get('seed', 0)}",
        ]
        if provenance.get("feature_extractor"):
            facts.append(f"{network_title(provenance['feature_extractor'])} features")
        num_others = len(state.runs) - 1
        if num_others == 1:
            facts.append("compared with 1 other run")
        elif num_others > 1:
            facts.append(f"compared with {num_others} other runs")
        return " · ".join(facts)

    def _selected_runs(self, state: ViewState) -> list[Run]:
        if not state.runs:
            raise UserError(NO_RUN)
        return [self.run(name) for name in state.runs]

    def _evidence_folders(self, state: ViewState) -> list[Path]:
        """Return the folders of evidence of a state's runs, without runs that have none yet.

        An analysis of several runs does without a primary run that has none.
        """
        primary, *other_runs = self._selected_runs(state)
        steps = self.collected(primary.name)
        folders = [
            run.evidence_folder(collected[-1])
            for run in other_runs
            if (collected := self.collected(run.name))
        ]
        if steps and state.step in (None, *steps):
            step = steps[-1] if state.step is None else state.step
            return [primary.evidence_folder(step), *folders]
        is_comparison = array_names(analysis.get(state.analysis)) is None
        if not (folders and is_comparison and not steps):
            primary.evidence(state.step)  # raises the reason
        return folders

    def _evidences(self, state: ViewState) -> tuple[Sequence[Evidence], list[LeftOutRun]]:
        """Open what an analysis reads: the evidence, and the runs of which it cannot be opened.

        Only an analysis of several runs reads the evidence of the others, except that the samples
        of a tokenizer are those of a generator that was trained on it.
        """
        function = analysis.get(state.analysis)
        if reads_logs(function):
            return self._logs(state)
        names = array_names(function)
        reads_samples = names is not None and not names.isdisjoint(SAMPLE_ARRAYS)
        if names is not None and reads_samples:
            names = names.union(SAMPLE_ARRAYS)
        primary = Evidence.open(self._evidence_folders(state)[0], names)
        if names is not None and not reads_samples:
            return [primary], []
        other_evidences = []
        left_out = []
        for run in self._selected_runs(state):
            if run.name == primary.run_name:
                continue
            if names is not None and not run.is_generator:
                continue
            try:
                other_evidences.append(self._open_last(run, names))
            except RunError as error:
                # The result of the others is shown even if one cannot be read.
                left_out.append(LeftOutRun(run=run.name, reason=str(error)))
        return [_with_samples(primary, other_evidences), *other_evidences], left_out

    def _logs(self, state: ViewState) -> tuple[Sequence[Evidence], list[LeftOutRun]]:
        """Open the logs of the selected runs, also of those that have no evidence yet."""
        opened = []
        left_out = []
        for run in self._selected_runs(state):
            try:
                log = TrainingLog.read(run.folder)
            except RunError as error:
                left_out.append(LeftOutRun(run=run.name, reason=str(error)))
                continue
            nonempty_log = log if log.records else None
            opened.append(
                Evidence({"run": run.name, "step": run.status()["step"]}, log=nonempty_log)
            )
        if not opened:
            raise NotApplicable("The log of no selected run can be read.")
        return opened, left_out

    def _partner_folders(self, state: ViewState) -> list[Path]:
        """Return the last evidence of the runs that an analysis reads without their selection.

        These are the generators of the selected tokenizers, or the tokenizers of the selected
        generators, depending on the kind of the primary run.
        """
        parameters = signature(analysis.get(state.analysis)).parameters
        if PARTNERS not in parameters or not state.runs:
            return []
        runs = [self.run(name) for name in state.runs]
        if runs[0].tokenizer is not None:
            partners = [run.tokenizer for run in runs if run.tokenizer is not None]
        else:
            selected = {run.folder.resolve() for run in runs if run.tokenizer is None}
            partners = [
                run
                for run in self.folder_runs.values()
                if run.tokenizer is not None and run.tokenizer.folder.resolve() in selected
            ]
        names = set(state.runs)
        folders = {
            run.name: run.evidence_folder(run.evidence_steps[-1])
            for run in partners
            if run.name not in names and run.evidence_steps
        }
        return list(folders.values())

    def _partners(self, state: ViewState) -> list[Evidence]:
        """Open the evidence of the partners of the selected runs, as far as it can be read."""
        partners = []
        for folder in self._partner_folders(state):
            with suppress(RunError):
                partners.append(Evidence.open(folder))
        return partners

    def _open_last(self, run: Run, names: set[str] | None) -> Evidence:
        """Open some arrays of the last evidence of a run; all of them by default."""
        steps = run.evidence_steps
        if not steps:
            return run.evidence()  # raises the reason
        return Evidence.open(run.evidence_folder(steps[-1]), names)

    def _row(self, run: Run) -> dict[str, Any]:
        run.check_files()
        settings = run.config.settings
        status = run.status()
        data = (run.tokenizer or run).config.data
        steps = self.collected(run.name)
        psnr = math.nan
        tokens = settings.get("num_tokens")
        if steps and not run.is_generator:
            folder = run.evidence_folder(steps[-1])
            psnr = mean_psnr(folder.resolve(), written_at(folder))
            if tokens is None:  # of a grid, whose settings are the sizes of images and patches
                tokens = num_tokens(folder.resolve(), written_at(folder))
        return {
            "run": run.name,
            "kind": run.kind,
            "data": None if data is None else data.source,
            "tokens": tokens,
            "dim": settings.get("dim"),
            "step": status["step"],
            "state": status["state"],
            "PSNR (dB)": psnr,
            "evidence at step": steps[-1] if steps else None,
        }


def is_of_one_run(name: str) -> bool:
    """Return True if an analysis shows one run, and no other analysis compares its runs."""
    function = analysis.get(name)
    is_single = array_names(function) is not None and not reads_logs(function)
    return is_single and name not in COMPARED_BY


def _view_of_run(state: ViewState, name: str) -> ViewState:
    """Return the view of one of the selected runs as the primary run, without comparison."""
    other_runs = tuple(run for run in state.runs if run != name)
    step = state.step if name == state.runs[0] else None
    return ViewState(
        runs=(name, *other_runs), step=step, analysis=state.analysis, controls=state.controls
    )


def _origin(provenance: dict[str, Any]) -> str:
    """Describe the model of some evidence: its checkpoint, or the address it was imported from."""
    imported = provenance.get("imported")
    if imported is None:
        return f"checkpoint step-{provenance['step']:06d}"
    return f"imported from {imported.get('address') or 'Python objects'}"


def _count(provenance: dict[str, Any]) -> str:
    """Describe the images or samples of some evidence."""
    n = provenance.get("n", 0)
    if "sampling" in provenance:
        return counted(n, "sample")
    count = f"{n:,}"
    if provenance.get("of") is not None:
        count += f" of {provenance['of']:,}"
    elif "of" in provenance:  # a stream whose end was not read
        count += " of an unknown number of"
    kind = "held-out images" if is_held_out(provenance) else "images"
    excluded = provenance.get("excluded")
    without = f", without {len(excluded):,} that cannot be read" if excluded else ""
    return f"{count} {kind} of {provenance.get('data', 'unnamed data')}{without}"


def _with_reasons(error: NotApplicable, left_out: Sequence[LeftOutRun]) -> NotApplicable:
    """Add to the reason why an analysis does not apply the runs that could not be read."""
    reasons = [f"{item.run}: {item.reason}" for item in left_out]
    return NotApplicable(" ".join([str(error), *reasons]))


def _with_samples(primary: Evidence, evidences: Sequence[Evidence]) -> Evidence:
    """Add to a tokenizer's evidence the samples of the first generator trained on it."""
    if primary.samples is not None:
        return primary
    for other in evidences:
        if other.samples is None:
            continue
        tokenizer = other.provenance.get("tokenizer") or {"run": ""}
        if Path(tokenizer["run"]).name == primary.run_name:
            generator = {"generator": other.provenance, "sampling": other.sampling}
            return replace(
                primary,
                provenance=primary.provenance | generator,
                samples=other.samples,
                sample_labels=other.sample_labels,
            )
    return primary


def _modification_times(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return when the files that determine the state of each run were written."""
    names = ("config.json", "status.json", "evidence")
    try:
        return {
            entry.name: tuple(_modification_time(Path(entry.path, name)) for name in names)
            for entry in os.scandir(folder)
        }
    except OSError:
        return {}


def _modification_time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def written_at(evidence_folder: Path) -> int:
    """Return when evidence was written, in nanoseconds; 0 if it is damaged."""
    return _modification_time(evidence_folder / "provenance.json")


@cached(LRUCache(maxsize=MAX_CACHED_PSNR), lock=Lock())
def num_tokens(evidence_folder: Path, written: int) -> int | None:
    """Return the number of tokens of an image in evidence; None without latents.

    `written` is when the evidence was written: evidence that was collected again is read again.
    """
    try:
        latents = Evidence.open(evidence_folder, only=("latents",)).latents
    except RunError:
        return None
    return None if latents is None else latents.shape[1]


@cached(LRUCache(maxsize=MAX_CACHED_PSNR), lock=Lock())
def mean_psnr(evidence_folder: Path, written: int) -> float:
    """Return the mean PSNR over the images of evidence.

    Parameters
    ----------
    evidence_folder : Path
        Folder of the evidence.
    written : int
        When the evidence was written: evidence that was collected again is read again.

    Returns
    -------
    float
        In dB; NaN without reconstructions.
    """
    try:
        evidence = Evidence.open(evidence_folder, only=("images", "reconstructions", "mse"))
    except RunError:
        return math.nan
    if evidence.mse is not None and len(evidence.mse):
        return float(-10 * np.log10(np.maximum(evidence.mse, 1e-10)).mean())
    if evidence.images is None or evidence.reconstructions is None:
        return math.nan
    mse = []
    # In batches, because the arrays may exceed the memory.
    for start in range(0, len(evidence.images), IMAGES_PER_BATCH):
        batch = slice(start, start + IMAGES_PER_BATCH)
        images = np.asarray(evidence.images[batch], np.float32)
        reconstructions = np.asarray(evidence.reconstructions[batch], np.float32)
        squared = np.square(np.subtract(images, reconstructions) / 255)
        mse.append(squared.reshape(-1, evidence.images[0].size).mean(axis=1))
    return float(-10 * np.log10(np.maximum(np.concatenate(mse), 1e-10)).mean())
