"""What can be read off latents: classes, by a linear probe and by nearest neighbours, with the values of chance."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.base import Range, Result
from workbench.analysis.inputs import class_names, flatten_latents
from workbench.analysis.plotting.style import COLORS, MAGNITUDE_SCALE, apply_theme
from workbench.analysis.stats.intervals import mean_interval
from workbench.core.errors import NotApplicable

LEAST = 20  # images
TRAINED = 0.7  # share of the images a probe is fitted to
INVERSE_PENALTIES = (
    1e-4,
    1e-3,
    0.01,
    0.1,
    1.0,
    10.0,
)  # inverse strengths; the best on a fifth of the fitted images is taken
NEIGHBORS = 20
Classifier = Callable[
    [np.ndarray, np.ndarray, np.ndarray, int], np.ndarray
]  # fit, labels, test, seed: labels of test
MOST_NAMED = 20  # classes whose names fit on an axis


@dataclass(frozen=True)
class Probe:
    """How often a classifier of the latents is right about images it was not fitted to."""

    name: str
    accuracy: float
    low: float  # 95 % bootstrap interval over test images
    high: float
    shuffled: float  # the same probe, fitted to labels in random order


@dataclass(frozen=True, eq=False)
class Probes(Result):
    """Four probes, chance, and what the linear one on whole images confuses."""

    probes: tuple[Probe, ...]
    chance: float  # accuracy of always answering the training images' most frequent class
    confusion: np.ndarray = field(
        repr=False
    )  # int (classes, classes): true, then told, counts of test images
    classes: tuple[str, ...] = field(repr=False)
    train: int  # images
    test: int
    seed: int

    @property
    def best(self) -> Probe:
        """The most accurate probe."""
        return max(self.probes, key=lambda probe: probe.accuracy)

    def figure(self) -> go.Figure:
        """Accuracies with chance, and the confusion of the linear probe on whole images."""
        figure = make_subplots(1, 2, column_widths=[0.5, 0.5], horizontal_spacing=0.16)
        shown = self.probes[::-1]
        names = [probe.name.replace(", ", ",<br>") for probe in shown]
        value = np.array([100 * p.accuracy for p in shown])
        up, down = (
            np.array([100 * p.high for p in shown]) - value,
            value - np.array([100 * p.low for p in shown]),
        )
        bars = {
            "type": "data",
            "symmetric": False,
            "array": up,
            "arrayminus": down,
            "thickness": 1.5,
        }
        look = {
            "y": names,
            "mode": "markers",
            "row": 1,
            "col": 1,
            "hovertemplate": "%{x:.1f} %<extra></extra>",
        }
        hollow = {"size": 11, "symbol": "diamond-open", "color": COLORS[6], "line": {"width": 2}}
        figure.add_scatter(
            x=[100 * p.shuffled for p in shown], marker=hollow, name="shuffled labels", **look
        )
        dot = {"size": 10, "color": COLORS[0]}
        figure.add_scatter(x=value, error_x=bars, marker=dot, name="latents, 95 %", **look)
        line = {
            "mode": "lines",
            "line": {"color": COLORS[5], "dash": "dot"},
            "name": "most frequent class",
        }
        figure.add_scatter(x=[100 * self.chance] * 2, y=[names[0], names[-1]], row=1, col=1, **line)
        figure.update_xaxes(title="test accuracy, %", range=[0, 103], row=1, col=1)
        ticks = {
            "tickmode": "array",
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "ticklabelstandoff": 4,
        }
        figure.update_yaxes(**ticks, type="category", range=[-0.6, len(names) - 0.4], row=1, col=1)
        self._draw_confusion(figure)
        said = (
            f"n = {self.train:,} images to fit, {self.test:,} to test, {len(self.classes)} classes"
        )
        title = {"text": "Probes", "subtitle": {"text": f"{said} · seed {self.seed}"}}
        figure.update_layout(
            title=title, height=460, legend={"orientation": "h", "y": -0.2, "yanchor": "top"}
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """One row a probe: accuracy with its interval, and the values of shuffled labels and of chance."""
        rows = [
            (p.name, p.accuracy, p.low, p.high, p.shuffled, self.chance, self.test)
            for p in self.probes
        ]
        return pd.DataFrame(
            rows, columns=["probe", "accuracy", "low", "high", "shuffled", "chance", "n"]
        )

    def summary(self) -> str:
        """The accuracy of the linear and the best probe, beside chance."""
        told = [
            f"{p.name} {100 * p.accuracy:.1f} % ({100 * p.low:.1f} to {100 * p.high:.1f} %)"
            for p in self.probes
        ]
        return (
            f"Of {self.test:,} test images the right class is told by {'; '.join(told)}. Always answering the most"
            f" frequent of {len(self.classes)} classes gives {100 * self.chance:.1f} %."
        )

    def _draw_confusion(self, figure: go.Figure) -> None:
        share = 100 * self.confusion / np.maximum(self.confusion.sum(axis=1, keepdims=True), 1)
        hover = "%{y} told as %{x}: %{customdata} images, %{z:.0f} %<extra></extra>"
        bar = {"title": {"text": "% of the true class", "side": "right"}, "thickness": 12}
        named = list(self.classes)
        figure.add_heatmap(
            z=share, x=named, y=named, customdata=self.confusion, zmin=0, zmax=100, colorscale=MAGNITUDE_SCALE,
            colorbar=bar, hovertemplate=hover, row=1, col=2,
        )  # fmt: skip
        shown = {"type": "category", "showticklabels": len(named) <= MOST_NAMED, "dtick": 1}
        figure.update_xaxes(title=f"class told by: {self.probes[-1].name}", **shown, row=1, col=2)
        figure.update_yaxes(title="true class", autorange="reversed", **shown, row=1, col=2)


def probes(
    latents: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...] = (),
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> Probes:
    """Tell the class of an image from its latents (n, tokens, d): their mean over tokens, and all side by side.

    The linear probe is multinomial logistic regression; the other takes the vote of 20 neighbours by cosine. Both are
    fitted to 70 % of the images, chosen by `seed`, with every dimension standardised. Raises NotApplicable for under
    20 images, constant latents or a single class, UserError for NaN or labels that are not n.
    """
    task = _Task.of(latents, labels, names, seed)
    pooled = np.asarray(latents, np.float64).mean(axis=1)
    found, told, truth = [], task.target, task.target[task.test]
    for method, classify in CLASSIFIERS.items():
        for what, rows in (("token mean", pooled), ("whole image", task.whole)):
            told, shuffled = (
                task.told(classify, rows, y) for y in (task.labels, _shuffled(task.labels, seed))
            )
            right = [(x == truth).astype(float) for x in (told, shuffled)]
            found.append(
                Probe(f"{method}, {what}", *mean_interval(right[0]), float(right[1].mean()))
            )
    chance = float((truth == np.bincount(task.labels).argmax()).mean())
    confusion = np.zeros((len(task.classes), len(task.classes)), np.int64)
    np.add.at(confusion, (truth, told), 1)  # of the last probe: linear, on whole images
    return Probes(
        tuple(found), chance, confusion, task.classes, len(task.fit), len(task.test), seed
    )


def whole_image_accuracies(
    latents: np.ndarray, labels: np.ndarray, names: tuple[str, ...] = (), *, seed: int = 0
) -> dict[str, float]:
    """What `probes` tells of whole images, by method: the same accuracies, without their intervals and nulls."""
    task = _Task.of(latents, labels, names, seed)
    truth = task.target[task.test]
    told = {
        method: task.told(classify, task.whole, task.labels)
        for method, classify in CLASSIFIERS.items()
    }
    return {method: float((answers == truth).mean()) for method, answers in told.items()}


@dataclass(frozen=True, eq=False)
class _Task:
    """Images that probes are fitted to and asked of, and the answers."""

    whole: np.ndarray  # (n, tokens * d)
    target: np.ndarray  # int (n,), numbers of `classes`
    classes: tuple[str, ...]
    fit: np.ndarray  # places of images
    test: np.ndarray
    seed: int

    @classmethod
    def of(
        cls, latents: np.ndarray, labels: np.ndarray, names: tuple[str, ...], seed: int
    ) -> "_Task":
        whole, n = flatten_latents(latents, LEAST, "Probing"), len(latents)
        texts, known = class_names(labels, names, n), np.unique(np.asarray(labels))
        if len(known) < 2:
            raise NotApplicable(
                f"Probing needs at least two classes; all {n} images are of class {texts[0]}."
            )
        order = np.random.default_rng(seed).permutation(n)
        fit, test = order[: int(TRAINED * n)], order[int(TRAINED * n) :]
        target = np.searchsorted(known, np.asarray(labels))
        if len(np.unique(target[fit])) < 2:
            raise NotApplicable(
                f"Probing needs two classes among the {len(fit)} images it is fitted to; they hold one."
            )
        of_class = dict(zip(target.tolist(), texts, strict=True))
        return cls(whole, target, tuple(of_class[i] for i in range(len(known))), fit, test, seed)

    @property
    def labels(self) -> np.ndarray:
        """Of the images that probes are fitted to."""
        return self.target[self.fit]

    def told(self, classify: Classifier, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """What a classifier of some rows an image says of the test images."""
        scaled = _standardized(rows, self.fit)
        return classify(scaled[self.fit], labels, scaled[self.test], self.seed)


def _standardized(rows: np.ndarray, fit: np.ndarray) -> np.ndarray:
    deviation = rows[fit].std(axis=0)
    return (rows - rows[fit].mean(axis=0)) / np.where(deviation > 0, deviation, 1)


def _shuffled(labels: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed + 1).permutation(labels)


def logistic_probe(
    fit: np.ndarray, labels: np.ndarray, test: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Labels of test rows (m, d) by logistic regression, its penalty chosen on a fifth of the fitted rows (n, d)."""
    from sklearn.linear_model import LogisticRegression

    models = [LogisticRegression(C=c, max_iter=1000, tol=1e-3) for c in INVERSE_PENALTIES]
    cut = len(fit) // 5
    if len(np.unique(labels[cut:])) < 2:
        return models[-2].fit(fit, labels).predict(test)
    scores = [model.fit(fit[cut:], labels[cut:]).score(fit[:cut], labels[:cut]) for model in models]
    return models[int(np.argmax(scores))].fit(fit, labels).predict(test)


def _neighbors(fit: np.ndarray, labels: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.neighbors import KNeighborsClassifier

    return (
        KNeighborsClassifier(min(NEIGHBORS, len(fit)), metric="cosine")
        .fit(fit, labels)
        .predict(test)
    )


CLASSIFIERS: dict[str, Classifier] = {"nearest neighbors": _neighbors, "linear": logistic_probe}
