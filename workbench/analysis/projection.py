"""A map of a latent space: every image a point, and how far the map may be trusted.

UMAP (arXiv 1802.03426) or principal components. Trustworthiness and continuity: Venna and Kaski 2001.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.inputs import class_names, one_row_an_image
from workbench.analysis.result import Range, Result
from workbench.analysis.style import COLOURS, themed

MOST_POINTS = 10_000  # images on the map; of more, a sample
MOST_JUDGED = 2_000  # images whose neighbours are compared: every pair's distance is needed
MOST_CLASSES = 20  # with more, points keep one colour and the name shows on hover
WEBGL = 4_000  # points above which the browser's graphics card draws them
SYMBOLS = ("circle", "diamond", "cross", "triangle-up")
Method = Literal["umap", "pca"]


@dataclass(frozen=True, eq=False)
class LatentMap(Result):
    """Coordinates in the plane, and how well neighbours there are neighbours in the latent space, and back."""

    coordinates: np.ndarray = field(repr=False)  # float32 (m, 2), without unit
    places: np.ndarray = field(repr=False)  # int (m,): which images those are
    classes: tuple[str, ...] = field(repr=False)  # (m,), or empty without labels
    trust: float  # 1: no neighbour on the map is a stranger in the latent space
    continuity: float  # 1: no neighbour in the latent space is far off on the map
    n: int
    judged: int  # images the two numbers were measured on
    method: Method
    neighbors: int
    seed: int

    def figure(self) -> go.Figure:
        """A scatter, coloured by class where there are at most 20."""
        figure = go.Figure()
        scatter = go.Scattergl if len(self.places) > WEBGL else go.Scatter
        for i, (name, of_class) in enumerate(self._groups().items()):
            x, y = self.coordinates[of_class].T
            text = [self.classes[j] for j in of_class] if self.classes else None
            colours = COLOURS[:7]  # black is lost on a dark page
            marker = {"color": colours[i % 7], "symbol": SYMBOLS[i // 7], "size": 6, "opacity": 0.9}
            hover = "image %{customdata}" + (", %{text}" if text else "") + "<extra></extra>"
            known = {"customdata": self.places[of_class], "text": text, "hovertemplate": hover}
            figure.add_trace(scatter(x=x, y=y, mode="markers", name=name, marker=marker, **known))
        axis = "UMAP" if self.method == "umap" else "principal component"
        figure.update_xaxes(title=f"{axis} 1", zeroline=False)
        figure.update_yaxes(title=f"{axis} 2", zeroline=False, scaleanchor="x")
        title = {"text": f"Latent map, {self._quality()}", "subtitle": {"text": self._sample()}}
        figure.update_layout(title=title, height=520, showlegend=len(figure.data) > 1)
        figure.update_layout(legend={"title": {"text": "class"}, "itemsizing": "constant"})
        return themed(figure)

    def table(self) -> pd.DataFrame:
        """One row an image on the map: its place in the evidence, coordinates and class."""
        x, y = self.coordinates.T
        columns = {"image": self.places, "x": x, "y": y}
        return pd.DataFrame({**columns, "class": self.classes} if self.classes else columns)

    def summary(self) -> str:
        """The method, the sample, and how far the map may be trusted."""
        return (
            f"{self.method.upper()} of {len(self.places):,} of {self.n:,} images with {self.neighbors} neighbours and"
            f" seed {self.seed}: {self._quality()} (1 is perfect; measured on {self.judged:,} images)."
        )

    def _quality(self) -> str:
        return f"trust {self.trust:.2f}, continuity {self.continuity:.2f}"

    def _sample(self) -> str:
        return f"n = {len(self.places):,} of {self.n:,} images · {self.neighbors} neighbours · seed {self.seed}"

    def _groups(self) -> dict[str, np.ndarray]:
        names = list(dict.fromkeys(sorted(self.classes, key=_numbers_in_order)))
        if not 0 < len(names) <= MOST_CLASSES:
            return {"images": np.arange(len(self.places))}
        classes = np.array(self.classes)
        return {name: np.flatnonzero(classes == name) for name in names}


def latent_map(
    latents: np.ndarray,
    labels: np.ndarray | None = None,
    names: tuple[str, ...] = (),
    *,
    method: Method = "umap",
    neighbors: Annotated[int, Range(2, 100)] = 15,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> LatentMap:
    """Lay latents (n, tokens, d), an image a point, out in the plane after standardising every dimension.

    Of more than 10,000 images a sample is drawn; `neighbors` is lowered to under half the images. Raises
    NotApplicable for under 5 images or constant latents, UserError for NaN.
    """
    n, random = len(latents), np.random.default_rng(seed)
    places = _sample(random, n, MOST_POINTS)
    rows = one_row_an_image(latents if len(places) == n else latents[places], 5, "A latent map")
    rows = rows - rows.mean(axis=0)
    deviation = rows.std(axis=0)
    rows = rows / np.where(deviation > 0, deviation, 1)
    # Both measures compare with the images that are not neighbours, of which there must be as many.
    neighbors = min(neighbors, (len(rows) - 1) // 2)
    coordinates = (_umap if method == "umap" else _pca)(rows, neighbors, seed)
    judged = _sample(random, len(rows), MOST_JUDGED)
    trust, continuity = _quality(rows[judged], coordinates[judged], neighbors)
    classes = class_names(labels, names, n)
    on_map = tuple(classes[i] for i in places) if classes else ()
    return LatentMap(coordinates, places, on_map, trust, continuity, n, len(judged), method, neighbors, seed)


def _sample(random: np.random.Generator, n: int, most: int) -> np.ndarray:
    return np.arange(n) if n <= most else np.sort(random.choice(n, most, replace=False))


def _pca(rows: np.ndarray, neighbors: int, seed: int, dimensions: int = 2) -> np.ndarray:
    from sklearn.decomposition import PCA

    most = min(dimensions, *rows.shape)
    points = PCA(most, svd_solver="auto", random_state=seed).fit_transform(rows)
    return np.pad(points, ((0, 0), (0, max(0, 2 - most)))).astype(np.float32)


def _umap(rows: np.ndarray, neighbors: int, seed: int) -> np.ndarray:
    from umap import UMAP

    if rows.shape[1] > 50:
        rows = _pca(rows, neighbors, seed, 50)
    # One job and a seed give the same map every time; the spectral start fails on very few images.
    start = "pca" if rows.shape[1] > 1 else "random"
    reducer = UMAP(n_neighbors=neighbors, init=start, random_state=seed, n_jobs=1)
    return np.asarray(reducer.fit_transform(rows), np.float32)


def _quality(rows: np.ndarray, points: np.ndarray, neighbors: int) -> tuple[float, float]:
    from sklearn.manifold import trustworthiness

    k = min(neighbors, (len(rows) - 1) // 2)
    there, back = trustworthiness(rows, points, n_neighbors=k), trustworthiness(points, rows, n_neighbors=k)
    return float(there), float(back)


def _numbers_in_order(name: str) -> tuple[bool, int, str]:
    return not name.isdigit(), int(name) if name.isdigit() else 0, name
