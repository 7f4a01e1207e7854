"""What every analysis returns, and how it declares its controls.

An analysis is a public function in this package that returns a `Result`. Its signature is its whole interface:
positional parameters are evidence, by name (`latents`, `codes`, ...; see `workbench.storage.evidence`), optional ones default
to None; `evidences` asks for all selected runs at once. Keyword-only parameters are controls, by annotation: `bool`,
`Literal[...]`, or `Annotated[int | float, Range(low, high)]`. Hosts read the signature; there is nothing to register.
"""

import html
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go


@dataclass(frozen=True)
class Range:
    """Bounds of a numeric control, and the step of its slider (None: 1 for int, a hundredth of the span for float)."""

    low: float
    high: float
    step: float | None = None


class Result(ABC):
    """A finished analysis: frozen fields, and three ways to show them. Nothing is computed while drawing."""

    @abstractmethod
    def figure(self) -> go.Figure:
        """The picture, labelled with units and sample sizes."""

    @abstractmethod
    def table(self) -> pd.DataFrame:
        """The numbers behind the picture, tidy: one row a thing, one column a property."""

    @abstractmethod
    def summary(self) -> str:
        """One or two sentences in plain language; every number in them is a field."""

    def _repr_html_(self) -> str:
        """Summary and table; figures are drawn by hosts, which know where plotly.js is."""
        table = self.table().to_html(
            index=False, max_rows=12, float_format=lambda x: f"{x:.4g}", border=0
        )
        return f"<p>{html.escape(self.summary())}</p><details><summary>table</summary>{table}</details>"

    def _ipython_display_(self) -> None:
        """In a notebook: the figure, then what it says."""
        from IPython.display import HTML, display

        display(mime_bundle(self.figure()), raw=True)
        display(HTML(self._repr_html_()))


def mime_bundle(figure: go.Figure) -> dict[str, Any]:
    """A figure as Jupyter's mime bundle, with our toolbar settings and no Plotly Cloud button.

    `responsive` would take the height from an output that has none of its own.
    """
    from workbench.analysis.plotting.style import TOOLBAR_CONFIG

    return {
        "application/vnd.plotly.v1+json": {
            **figure.to_plotly_json(),
            "config": {**TOOLBAR_CONFIG, "responsive": False},
        }
    }
