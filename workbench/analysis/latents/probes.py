"""Probes: classification of images from their latents, compared with chance."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.base import Range, Result
from workbench.analysis.inputs import (
    check_labels,
    class_names,
    flatten_latents,
    with_inactive_at_zero,
)
from workbench.analysis.plotting.style import COLORS, MAGNITUDE_SCALE, apply_theme
from workbench.analysis.stats.intervals import mean_interval
from workbench.analysis.stats.sampling import Subset, subsample
from workbench.analysis.stats.threads import one_thread
from workbench.core.errors import NotApplicable
from workbench.core.mapped_memory import release_mapped_pages
from workbench.core.moments import MAX_BLOCK_VALUES, ElementMoments, mean_and_scale

MIN_IMAGES = 20
MAX_IMAGES = 5000  # a larger set is sampled: a linear probe holds all latents in memory
MAX_CLASSES = 100  # of more, a few are drawn: they keep more images each, and are fitted faster
# Images times dimensions times classes: a step of the linear probe. More dimensions are projected.
MAX_STEP_OPERATIONS = 1.5e9
MAX_DIRECT_VALUES = 1 << 22  # of the training images; larger ones are rotated to fewer dimensions
TRAINING_SHARE = 0.7
MIN_KNOWN_SHARE = 0.5  # of the test images, whose class is among those of the training images
# Inverse strengths of the penalty. The best on a fifth of the training images is used.
INVERSE_PENALTIES = (1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0)
NUM_NEIGHBORS = 20
MAX_NAMED_CLASSES = 20  # whose names fit on an axis
MIN_LONG_NAME = 6  # letters of the name of a class
PX_PER_LETTER = 6  # of a tick label
# Training rows, training labels, test rows and seed to the labels of the test rows.
Classifier = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Probe:
    """Accuracy of a classifier on held-out images.

    Attributes
    ----------
    name : str
        Name of the classifier, with its input.
    accuracy : float
        Fraction of the test images that are classified correctly.
    low, high : float
        95 % bootstrap interval over test images.
    shuffled : float
        Accuracy of the same probe after training on shuffled labels.
    """

    name: str
    accuracy: float
    low: float
    high: float
    shuffled: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Probes(Result):
    """Four probes, chance, and the confusion of the linear probe on whole images.

    Attributes
    ----------
    probes : tuple of Probe
        One entry per classifier, with its accuracy.
    chance : float
        Accuracy of the most frequent class of the training images.
    confusion : ndarray of int, shape (classes, classes)
        Number of test images by true class (rows) and predicted class (columns).
    classes : tuple of str
        Names of the classes.
    train, test : int
        Number of images.
    of : int
        Number of images in the evidence, of which a sample may be used.
    all_classes : int
        Number of classes in the evidence, of which a sample may be used.
    seed : int
        Seed of the random draws.
    """

    probes: tuple[Probe, ...]
    chance: float
    confusion: np.ndarray = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    train: int
    test: int
    of: int
    all_classes: int
    seed: int

    @property
    def best(self) -> Probe:
        """The most accurate probe."""
        return max(self.probes, key=lambda probe: probe.accuracy)

    def figure(self) -> go.Figure:
        """Draw accuracies and chance, and the confusion of the linear probe on whole images."""
        length = self._name_length()
        # Long names need room at the left of the confusion and below it.
        spacing = 0.16 if length < MIN_LONG_NAME else 0.28
        figure = make_subplots(1, 2, column_widths=[0.5, 0.5], horizontal_spacing=spacing)
        self._draw_accuracies(figure)
        self._draw_confusion(figure)
        subtitle = (
            f"n = {self.train:,} training and {self.test:,} test images,"
            f" {len(self.classes)} classes · seed {self.seed}"
        )
        figure.update_layout(
            title={"text": "Probes", "subtitle": {"text": subtitle}},
            height=460 + PX_PER_LETTER * length,
            legend={"orientation": "h", "y": -0.2 - 0.02 * length, "yanchor": "top"},
        )
        return apply_theme(figure)

    @property
    def subset(self) -> Subset | None:
        """The images that were measured, if they are not all."""
        subset = Subset.if_partial(self.train + self.test, self.of, stratified=True)
        if subset is None or len(self.classes) == self.all_classes:
            return subset
        classes = f"from {len(self.classes):,} of {self.all_classes:,} classes"
        return replace(subset, method=f"{subset.method}, {classes}")

    def table(self) -> pd.DataFrame:
        """Return one row per probe: accuracy with interval, shuffled labels, chance."""
        return pd.DataFrame(
            [
                {
                    "probe": probe.name,
                    "accuracy": probe.accuracy,
                    "low": probe.low,
                    "high": probe.high,
                    "shuffled": probe.shuffled,
                    "chance": self.chance,
                    "n": self.test,
                }
                for probe in self.probes
            ]
        )

    def summary(self) -> str:
        """Return the accuracy of the best probe, chance, and all probes with intervals."""
        accuracies = [
            f"{p.name} {100 * p.accuracy:.1f} % ({100 * p.low:.1f} to {100 * p.high:.1f} %)"
            for p in self.probes
        ]
        return (
            f"The best probe classifies {100 * self.best.accuracy:.1f} % of {self.test:,} test"
            f" images correctly; the most frequent of {len(self.classes)} classes gives"
            f" {100 * self.chance:.1f} %. {'; '.join(accuracies).capitalize()}.{self._sample()}"
        )

    def _sample(self) -> str:
        """Return a sentence if not all images were used."""
        return "" if self.subset is None else f" They use {self.subset}."

    def _name_length(self) -> int:
        """Return the letters of the longest name on an axis; 0 if there are too many classes."""
        return max(map(len, self.classes)) if len(self.classes) <= MAX_NAMED_CLASSES else 0

    def _draw_accuracies(self, figure: go.Figure) -> None:
        probes = self.probes[::-1]
        names = [probe.name.replace(", ", ",<br>") for probe in probes]
        accuracy = np.array([100 * p.accuracy for p in probes])
        bars = {
            "type": "data",
            "symmetric": False,
            "array": np.array([100 * p.high for p in probes]) - accuracy,
            "arrayminus": accuracy - np.array([100 * p.low for p in probes]),
            "thickness": 1.5,
        }
        style: dict[str, Any] = {
            "y": names,
            "mode": "markers",
            "hovertemplate": "%{x:.1f} %<extra></extra>",
            "row": 1,
            "col": 1,
        }
        hollow = {"size": 11, "symbol": "diamond-open", "color": COLORS[6], "line": {"width": 2}}
        figure.add_scatter(
            x=[100 * p.shuffled for p in probes], marker=hollow, name="shuffled labels", **style
        )
        dot = {"size": 10, "color": COLORS[0]}
        figure.add_scatter(x=accuracy, error_x=bars, marker=dot, name="latents, 95 %", **style)
        figure.add_scatter(
            x=[100 * self.chance] * 2,
            y=[names[0], names[-1]],
            mode="lines",
            line={"color": COLORS[5], "dash": "dot"},
            name="most frequent class",
            row=1,
            col=1,
        )
        figure.update_xaxes(title="test accuracy, %", range=[0, 103], row=1, col=1)
        figure.update_yaxes(
            tickmode="array",
            tickvals=list(range(len(names))),
            ticktext=names,
            ticklabelstandoff=4,
            type="category",
            range=[-0.6, len(names) - 0.4],
            row=1,
            col=1,
        )

    def _draw_confusion(self, figure: go.Figure) -> None:
        names = list(self.classes)
        share = 100 * self.confusion / np.maximum(self.confusion.sum(axis=1, keepdims=True), 1)
        figure.add_heatmap(
            z=share,
            x=names,
            y=names,
            customdata=self.confusion,
            zmin=0,
            zmax=100,
            colorscale=MAGNITUDE_SCALE,
            colorbar={"title": {"text": "% of the true class", "side": "right"}, "thickness": 12},
            hovertemplate="%{y} predicted as %{x}: %{customdata} images, %{z:.0f} %<extra></extra>",
            row=1,
            col=2,
        )
        ticks = {
            "type": "category",
            "showticklabels": self._name_length() > 0,
            "dtick": 1,
        }
        title = f"predicted class ({self.probes[-1].name})"
        figure.update_xaxes(title=title, row=1, col=2, **ticks)
        # The title of the color bar names the rows, too.
        rows = "true class" if self._name_length() < MIN_LONG_NAME else ""
        figure.update_yaxes(title=rows, autorange="reversed", row=1, col=2, **ticks)


def probes(
    latents: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...] = (),
    active: np.ndarray | None = None,
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> Probes:
    """Predict the class of an image from its latents, as their token mean and as a whole.

    The linear probe is multinomial logistic regression. The other probe is the vote of 20 nearest
    neighbors by cosine. Both are trained on 70 % of the images. Every dimension is standardized.
    Large evidence is sampled: at most 100 classes and 5,000 images. The images do not depend on the
    latents, so that tokenizers are compared on the same ones. More dimensions than 1.5e9 over the
    numbers of images and classes (3,000 for the largest sample) are standardized and replaced by as
    many sparse random combinations of them, which keep distances and inner products approximately.

    Parameters
    ----------
    latents : ndarray of float, shape (n, tokens, d)
        Latent vectors, one per token.
    labels : ndarray of int, shape (n,)
        Class of each image.
    names : tuple of str
        Names of the classes.
    active : ndarray of bool, shape (n, tokens), optional
        Tokens that the decoder reads; the others have no part in the prediction.
    seed : int
        Seed of the split.

    Returns
    -------
    Probes
        Accuracy of every probe with its interval and its null.

    Raises
    ------
    NotApplicable
        If there are fewer than 20 images, the latents are constant, the training images are of a
        single class, or most test images are of classes without training images.
    UserError
        If a latent is NaN or infinite, or the number of labels is not n.

    Examples
    --------
    >>> labels = np.arange(100) % 2
    >>> latents = np.random.default_rng(0).normal(size=(100, 1, 2)) + 9 * labels[:, None, None]
    >>> probes(latents, labels).best.accuracy
    1.0
    """
    task = _Task.create(latents, labels, names, active, seed)
    true_classes = task.target[task.test]
    shuffled_labels = np.random.default_rng(seed + 1).permutation(task.training_labels)
    results = []
    for method, classify in CLASSIFIERS.items():
        for input_name, rows in (("token mean", task.pooled), ("whole image", task.rows)):
            predicted = task.predict(classify, rows, task.training_labels)
            shuffled = task.predict(classify, rows, shuffled_labels)
            accuracy, low, high = mean_interval((predicted == true_classes).astype(float))
            results.append(
                Probe(
                    name=f"{method}, {input_name}",
                    accuracy=accuracy,
                    low=low,
                    high=high,
                    shuffled=float((shuffled == true_classes).astype(float).mean()),
                )
            )
    # The last probe is linear, on whole images.
    confusion = np.zeros((len(task.classes), len(task.classes)), np.int64)
    np.add.at(confusion, (true_classes, predicted), 1)
    most_frequent = np.bincount(task.training_labels).argmax()
    return Probes(
        probes=tuple(results),
        chance=float((true_classes == most_frequent).mean()),
        confusion=confusion,
        classes=task.classes,
        train=len(task.train),
        test=len(task.test),
        of=len(latents),
        all_classes=len(np.unique(labels)),
        seed=seed,
    )


def whole_image_accuracies(
    latents: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...] = (),
    active: np.ndarray | None = None,
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Compute the accuracies of `probes` on whole images, without intervals and nulls.

    Parameters
    ----------
    latents : ndarray of float, shape (n, tokens, d)
        Latent vectors, one per token.
    labels : ndarray of int, shape (n,)
        Class of each image.
    names : tuple of str
        Names of the classes.
    active : ndarray of bool, shape (n, tokens), optional
        Tokens that the decoder reads; the others have no part in the prediction.
    seed : int
        Seed of the split.

    Returns
    -------
    dict of str to float
        Accuracy by method: `nearest neighbors` and `linear`.

    Raises
    ------
    NotApplicable, UserError
        As for `probes`.
    """
    task = _Task.create(latents, labels, names, active, seed)
    true_classes = task.target[task.test]
    return {
        method: float(
            (task.predict(classify, task.rows, task.training_labels) == true_classes).mean()
        )
        for method, classify in CLASSIFIERS.items()
    }


def linear_hits(
    latents: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...] = (),
    active: np.ndarray | None = None,
    *,
    seed: int = 0,
) -> np.ndarray:
    """Return which test images the linear probe of `probes` on whole images classifies correctly.

    Runs on the same images and with the same seed have the same test images, whatever the shape of
    their latents, so that their hits can be compared image by image.

    Parameters
    ----------
    latents : ndarray of float, shape (n, tokens, d)
        Latent vectors, one per token.
    labels : ndarray of int, shape (n,)
        Class of each image.
    names : tuple of str
        Names of the classes.
    active : ndarray of bool, shape (n, tokens), optional
        Tokens that the decoder reads; the others have no part in the prediction.
    seed : int
        Seed of the split.

    Returns
    -------
    ndarray of bool, shape (test images,)

    Raises
    ------
    NotApplicable, UserError
        As for `probes`.
    """
    task = _Task.create(latents, labels, names, active, seed)
    predicted = task.predict(logistic_probe, task.rows, task.training_labels)
    return predicted == task.target[task.test]


@dataclass(frozen=True, eq=False)
class _Task:
    """Training and test images with their classes."""

    rows: np.ndarray  # (n, tokens * d), or fewer combinations of them
    pooled: np.ndarray  # (n, d), means over the tokens
    target: np.ndarray  # int (n,), index into `classes`
    classes: tuple[str, ...]
    train: np.ndarray  # indices of images
    test: np.ndarray
    seed: int

    @classmethod
    def create(
        cls,
        latents: np.ndarray,
        labels: np.ndarray,
        names: tuple[str, ...],
        active: np.ndarray | None,
        seed: int,
    ) -> "_Task":
        check_labels(labels, len(latents), "A probe")
        texts = class_names(labels, names, len(latents))
        random = np.random.default_rng(seed)
        sampled = _sample_images(np.asarray(labels), random)
        n = len(sampled)
        order = random.permutation(n)
        num_training = int(TRAINING_SHARE * n)
        train, test = order[:num_training], order[num_training:]
        labels = np.asarray(labels)[sampled]
        texts = tuple(texts[i] for i in sampled)
        distinct_labels = np.unique(labels)
        max_dims = int(MAX_STEP_OPERATIONS // max(1, n * len(distinct_labels)))
        if int(np.prod(latents.shape[1:])) <= max_dims:
            latents = latents if n == len(latents) else latents[sampled]
            if active is not None:
                latents = with_inactive_at_zero(latents, active[sampled])
            rows = flatten_latents(latents, MIN_IMAGES, "Probing")
            pooled = rows.reshape(n, *latents.shape[1:]).sum(axis=1)
        else:
            rows, pooled = _projected(
                latents, active, sampled, sampled[np.sort(train)], max_dims, seed
            )
        num_tokens = np.full(n, latents.shape[1]) if active is None else active[sampled].sum(axis=1)
        pooled = pooled / np.maximum(num_tokens, 1)[:, None]
        if len(distinct_labels) < 2:
            raise NotApplicable(
                f"Probing needs at least two classes; all {n} images are of class {texts[0]}."
            )
        target = np.searchsorted(distinct_labels, labels)
        if len(np.unique(target[train])) < 2:
            raise NotApplicable(
                f"Probing needs at least two classes among the {num_training} training images;"
                " they are of a single class."
            )
        is_known = np.isin(target[test], target[train])
        if is_known.mean() < MIN_KNOWN_SHARE:
            raise NotApplicable(
                f"Probing needs training images of the classes of the test images; only"
                f" {int(is_known.sum())} of {len(test)} test images have any. Collect more images"
                f" per class than {n / len(distinct_labels):.3g}."
            )
        text_of_class = dict(zip(target.tolist(), texts, strict=True))
        classes = tuple(text_of_class[i] for i in range(len(distinct_labels)))
        return cls(
            rows=rows,
            pooled=pooled,
            target=target,
            classes=classes,
            train=train,
            test=test,
            seed=seed,
        )

    @property
    def training_labels(self) -> np.ndarray:
        """Classes of the training images."""
        return self.target[self.train]

    def predict(self, classify: Classifier, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Train a classifier on rows of the training images and predict the test images."""
        mean, scale = mean_and_scale(rows[self.train])
        scaled = (rows - mean.astype(rows.dtype)) / scale.astype(rows.dtype)
        return classify(scaled[self.train], labels, scaled[self.test], self.seed)


def _sample_images(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the indices of at most 5,000 images from at most 100 classes."""
    images = np.arange(len(labels))
    classes = np.unique(labels)
    if len(classes) > MAX_CLASSES:
        chosen_classes = random.choice(classes, MAX_CLASSES, replace=False)
        images = np.flatnonzero(np.isin(labels, chosen_classes))
    return images[subsample(len(images), MAX_IMAGES, random, labels[images])]


def _projected(
    latents: np.ndarray,
    active: np.ndarray | None,
    images: np.ndarray,
    training_images: np.ndarray,
    dims: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return random combinations of the standardized numbers of images, and their token sums.

    The latents are read in blocks, because they may not fit into memory.
    """
    from sklearn.random_projection import SparseRandomProjection

    moments = ElementMoments.from_blocks(_blocks(latents, active, training_images))
    deviation = np.sqrt(moments.variance)
    deviation[deviation == 0] = 1
    projection = SparseRandomProjection(dims, random_state=seed, dense_output=True)
    projection.fit(np.zeros((1, deviation.size)))
    rows = np.empty((len(images), dims))
    pooled = np.empty((len(images), latents.shape[2]))
    done = 0
    for block in _blocks(latents, active, images):
        part = slice(done, done + len(block))
        scaled = ((block - moments.mean) / deviation).reshape(len(block), -1)
        is_invalid = ~np.isfinite(scaled).all(axis=1)
        scaled[is_invalid] = 0
        rows[part] = projection.transform(scaled)
        rows[part][is_invalid] = np.nan  # counted and refused below
        pooled[part] = block.sum(axis=1)
        done += len(block)
    return flatten_latents(rows[:, None], MIN_IMAGES, "Probing"), pooled


def _blocks(
    latents: np.ndarray, active: np.ndarray | None, images: np.ndarray
) -> Iterator[np.ndarray]:
    """Read images in blocks of bounded size, as float64 of shape (m, tokens, d)."""
    step = max(1, MAX_BLOCK_VALUES // int(np.prod(latents.shape[1:])))
    for start in range(0, len(images), step):
        part = images[start : start + step]
        block = np.asarray(latents[part], np.float64)
        yield block if active is None else with_inactive_at_zero(block, active[part])
        release_mapped_pages()


def rotate(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reduce large rows to as many dimensions as there are training rows, if those are fewer.

    The weights of a linear model with a quadratic penalty are in the span of the training rows, so
    that coordinates in an orthonormal basis of the span give the same model.

    Parameters
    ----------
    train, test : ndarray of float, shapes (n, d) and (m, d)
        Training rows and test rows.

    Returns
    -------
    train, test : ndarray of float, shapes (n, k) and (m, k)
        With the same inner products; k is n if the training rows are wide and large, and
        otherwise d.
    """
    if train.size <= MAX_DIRECT_VALUES or train.shape[0] >= train.shape[1]:
        return train, test
    basis, coordinates = np.linalg.qr(train.T)
    return coordinates.T, test @ basis


def logistic_probe(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Predict labels by logistic regression.

    The penalty is selected on the first fifth of the training rows.

    Parameters
    ----------
    train : ndarray of float, shape (n, d)
        Training rows.
    labels : ndarray of int, shape (n,)
        Class of each training row.
    test : ndarray of float, shape (m, d)
        Rows whose class is predicted.
    seed : int
        Unused; all classifiers have the same signature.

    Returns
    -------
    ndarray of int, shape (m,)
    """
    from sklearn.linear_model import LogisticRegression

    train, test = rotate(train, test)
    models = [LogisticRegression(C=c, max_iter=1000, tol=1e-3) for c in INVERSE_PENALTIES]
    cut = len(train) // 5
    with one_thread():
        if len(np.unique(labels[cut:])) < 2:
            return models[-2].fit(train, labels).predict(test)
        scores = [
            model.fit(train[cut:], labels[cut:]).score(train[:cut], labels[:cut])
            for model in models
        ]
        return models[int(np.argmax(scores))].fit(train, labels).predict(test)


def _neighbor_probe(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, seed: int
) -> np.ndarray:
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(min(NUM_NEIGHBORS, len(train)), metric="cosine")
    return model.fit(train, labels).predict(test)


CLASSIFIERS: dict[str, Classifier] = {
    "nearest neighbors": _neighbor_probe,
    "linear": logistic_probe,
}
