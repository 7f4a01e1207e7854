"""A metric against the settings in which runs differ, as after a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from workbench.analysis.base import Result
from workbench.analysis.generation.fidelity import feature_distance
from workbench.analysis.runs.metrics import METRICS, MetricInfo, has_values, metric_values
from workbench.analysis.runs.settings import run_names
from workbench.analysis.runs.training_curves import total_loss
from workbench.core.errors import NotApplicable, UserError
from workbench.storage.evidence import Evidence

EffectMetric = Literal["psnr", "ssim", "l1", "mse", "rfd", "gfd", "loss"]
INFOS: dict[str, MetricInfo] = {
    **METRICS,
    "rfd": MetricInfo(label="rFD", unit="", higher_is_better=False),
    "gfd": MetricInfo(label="gFD", unit="", higher_is_better=False),
    "loss": MetricInfo(label="loss", unit="", higher_is_better=False),
}
MIN_RUNS = 3
MIN_RANKED_RUNS = 4  # a rank correlation of fewer runs is 1 by chance too often
MAX_SETTINGS = 8
PARTS = ("settings", "training")


@dataclass(frozen=True)
class SettingEffect:
    """The values of one setting in all runs, and its association with the metric."""

    name: str
    values: tuple[str, ...]
    positions: np.ndarray  # of the values on an axis: the numbers themselves, or ranks of texts
    is_number: bool
    correlation: float  # Spearman's, NaN for texts and few runs

    @property
    def num_values(self) -> int:
        """The number of different values."""
        return len(set(self.values))


@dataclass(frozen=True, kw_only=True)
class SettingEffects(Result):
    """A metric of runs and the settings in which they differ."""

    runs: tuple[str, ...]
    metric: EffectMetric
    values: np.ndarray  # of the metric, one per run
    effects: tuple[SettingEffect, ...]
    num_omitted: int  # settings that differ and are not shown
    excluded: tuple[str, ...]  # runs without the metric
    other_images: tuple[str, ...] = ()  # runs that were measured on other images

    @property
    def info(self) -> MetricInfo:
        """Name, unit and direction of the metric."""
        return INFOS[self.metric]

    @property
    def best(self) -> int:
        """The index of the best run."""
        return int(self.values.argmax() if self.info.higher_is_better else self.values.argmin())

    def table(self) -> pd.DataFrame:
        """Return one row per run: the metric and every shown setting."""
        columns = {effect.name: effect.values for effect in self.effects}
        return pd.DataFrame({"run": self.runs, self.metric: self.values, **columns})

    def summary(self) -> str:
        """Name the best run with its settings, and the settings that go with the metric."""
        best = self.best
        unit = f" {self.info.unit}" if self.info.unit == "dB" else ""
        settings = ", ".join(f"{e.name} = {e.values[best]}" for e in self.effects)
        sentences = [
            f"{self.runs[best]} has the best {self.info.label}"
            f" ({self.values[best]:.4g}{unit} of {len(self.runs)} runs), with {settings}."
        ]
        ranked = [e for e in self.effects if np.isfinite(e.correlation)]
        if ranked:
            strongest = max(ranked, key=lambda effect: abs(effect.correlation))
            sentences.append(
                f"The strongest rank correlation with {self.info.label} is that of"
                f" {strongest.name} ({strongest.correlation:+.2f}); effects of settings that"
                " change together cannot be separated."
            )
        if self.excluded:
            sentences.append(f"Excluded (no {self.info.label}): {', '.join(self.excluded)}.")
        if self.other_images:
            sentences.append(
                "Excluded (measured on other images, on another number of them, or with another"
                f" feature extractor): {', '.join(self.other_images)}."
            )
        return " ".join(sentences)


def setting_effects(
    evidences: Sequence[Evidence], *, metric: EffectMetric = "psnr"
) -> SettingEffects:
    """Show a metric against the settings in which runs differ.

    Parameters
    ----------
    evidences : sequence of Evidence
        Evidence of the runs, for example of a sweep.
    metric : {"psnr", "ssim", "l1", "mse", "rfd", "gfd", "loss"}, default "psnr"
        The metric; `loss` is the last value of the training loss.

    Returns
    -------
    SettingEffects
        The metric of each run, and each setting that at least two runs have and that differs.

    Raises
    ------
    NotApplicable
        If fewer than three runs have the metric, or no setting differs among them.
    """
    measured: list[Evidence] = []
    values = []
    excluded = []
    other_images = []
    for evidence, name in zip(evidences, run_names(evidences), strict=True):
        value = _metric_of(evidence, metric)
        if value is None or not np.isfinite(value):
            excluded.append(name)
            continue
        if measured and _conditions(evidence, metric) != _conditions(measured[0], metric):
            other_images.append(name)
            continue
        measured.append(evidence)
        values.append(value)
    if len(measured) < MIN_RUNS:
        raise NotApplicable(
            f"Effects of settings need at least {MIN_RUNS} runs with {INFOS[metric].label};"
            f" {len(measured)} of {len(evidences)} have it on the same images."
        )
    effects = _effects(measured, np.array(values))
    if not effects:
        raise NotApplicable("No setting differs between the selected runs.")
    return SettingEffects(
        runs=run_names(measured),
        metric=metric,
        values=np.array(values),
        effects=tuple(effects[:MAX_SETTINGS]),
        num_omitted=max(0, len(effects) - MAX_SETTINGS),
        excluded=tuple(excluded),
        other_images=tuple(other_images),
    )


def _metric_of(evidence: Evidence, metric: EffectMetric) -> float | None:
    if metric == "loss":
        log = evidence.training_log
        if log is None:
            return None
        _, loss = total_loss(log)
        return float(loss[-1]) if len(loss) else None
    try:
        if metric == "rfd" or metric == "gfd":
            return _distance(evidence, metric)
        if not has_values(evidence, metric):
            return None
        return float(metric_values(evidence, metric).mean())
    except UserError:
        return None


def _conditions(evidence: Evidence, metric: EffectMetric) -> tuple[object, ...]:
    """Return what must be equal for two values of a metric to be compared."""
    if metric == "loss":
        return ()
    images = evidence.provenance.get("fingerprint", evidence.provenance.get("data"))
    if metric not in ("rfd", "gfd"):
        return images, evidence.num_images
    sets = [evidence.train_features, evidence.sample_features]
    if metric == "rfd":
        sets = [evidence.features]
    counts = [None if features is None else len(features) for features in sets]
    return images, evidence.feature_extractor, *counts


def _distance(evidence: Evidence, metric: EffectMetric) -> float | None:
    held_out, reconstructions = evidence.features, evidence.reconstruction_features
    if metric == "rfd" and held_out is not None and reconstructions is not None:
        return feature_distance(held_out=held_out, reconstructions=reconstructions)
    training, samples = evidence.train_features, evidence.sample_features
    if metric == "gfd" and training is not None and samples is not None:
        return feature_distance(training=training, samples=samples)
    return None


def _effects(evidences: Sequence[Evidence], metric: np.ndarray) -> list[SettingEffect]:
    """Return the settings that all runs have and that differ, the strongest association first."""
    settings = [_settings_of(evidence) for evidence in evidences]
    shared = [name for name in settings[0] if all(name in other for other in settings)]
    effects = []
    for name in shared:
        raw = [record[name] for record in settings]
        texts = tuple(_text(value) for value in raw)
        if len(set(texts)) < 2:
            continue
        effects.append(_effect(name, raw, texts, metric))
    effects.sort(key=lambda effect: -abs(np.nan_to_num(effect.correlation)))
    return effects


def _effect(
    name: str, raw: Sequence[object], texts: tuple[str, ...], metric: np.ndarray
) -> SettingEffect:
    numbers = [
        float(value)
        for value in raw
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    is_number = len(numbers) == len(raw)
    if is_number:
        positions = np.array(numbers)
    else:
        order = {text: i for i, text in enumerate(sorted(set(texts)))}
        positions = np.array([order[text] for text in texts], float)
    correlation = np.nan
    if is_number and len(raw) >= MIN_RANKED_RUNS and len(set(metric.tolist())) > 1:
        ranks = pd.DataFrame({"x": positions, "y": metric}).rank()
        correlation = float(ranks["x"].corr(ranks["y"]))
    return SettingEffect(
        name=name, values=texts, positions=positions, is_number=is_number, correlation=correlation
    )


def _settings_of(evidence: Evidence) -> dict[str, object]:
    settings: dict[str, object] = {}
    for part in PARTS:
        settings |= evidence.provenance.get(part) or {}
    return settings


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
