"""Heat maps of codes that show only the tokens of selected images."""

import numpy as np
import plotly.graph_objects as go

CODE_KIND = "code"  # `meta` of the traces whose points are codes


def show_selected_codes(figure: go.Figure, counts: np.ndarray, images: str) -> go.Figure:
    """Color the cells of the heat maps of codes by the tokens of selected images, in place.

    Parameters
    ----------
    figure : plotly.graph_objects.Figure
        Its heat maps of codes have ``meta="code"`` and the code first in `customdata`.
    counts : ndarray of int, shape (codes,)
        Tokens of each code in the selected images.
    images : str
        The selected images in words, for the color bar.

    Returns
    -------
    plotly.graph_objects.Figure
        The same figure. Cells without tokens of these images are empty.
    """
    for trace in figure.select_traces({"type": "heatmap", "meta": CODE_KIND}):
        data = np.asarray(trace.customdata)
        exists = ~np.isnan(np.asarray(trace.z, float))
        codes = np.where(exists, data[..., 0], 0).astype(int)
        missing = max(0, int(codes.max()) + 1 - len(counts))  # codes after the last used one
        selected = np.where(exists, np.pad(counts, (0, missing))[codes], 0)
        trace.update(
            z=np.where(selected > 0, np.log10(1 + selected), np.nan),
            customdata=np.concatenate([data, selected[..., None]], axis=-1),
            hovertemplate=(
                "code %{customdata[0]}: %{customdata[2]:,} of %{customdata[1]:,.0f} tokens"
                f"<extra>{images}</extra>"
            ),
        )
        trace.colorbar.title.text = f"tokens in<br>{images}"
    return figure
