"""The widgets of a codebook in a notebook: the grid of codes and a summary of the selection."""

import json
from dataclasses import replace
from typing import Any

import ipywidgets as widgets

from workbench.core.html_templates import render_text
from workbench.hosts.js.jupyter import Module
from workbench.workspace.codebook import Codebook
from workbench.workspace.latent_map import Map


def codebook_box(codebook: Codebook) -> widgets.VBox:
    """Return the widgets of a codebook, whose state follows what is selected in them.

    Raises
    ------
    UserError
        If the run has no codes.
    """
    module = Module("codegrid", codebook.data(), codebook.view())
    summary = widgets.HTML(selection_html(codebook))

    def update_selection(change: dict[str, Any]) -> None:
        view = json.loads(change["new"])
        selected = tuple(int(code) for code in view["selected"])
        codebook.state = replace(codebook.state, selected=selected, sort=view["sort"])
        summary.value = selection_html(codebook)

    module.observe(update_selection, "view")
    return widgets.VBox([module, summary])


def selection_html(content: Codebook | Map) -> str:
    """Summarize the images selected on a map or in a codebook, as HTML; empty without any."""
    if not len(content.selected_indices):
        return ""
    return render_text("<p>{{ summary }}</p>", summary=content.selected_images.summary())
