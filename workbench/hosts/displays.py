"""Define `wb.lens`, `wb.latent_map` and `wb.codebook`, and register their displays.

Without a kernel, each of them is a page with the same JavaScript module as in a notebook.
"""

from workbench.core.errors import UserError
from workbench.hosts.js import refusal, static
from workbench.workspace.codebook import Codebook, codebook
from workbench.workspace.display import register_display
from workbench.workspace.latent_map import Map, latent_map
from workbench.workspace.lens import Lens, lens
from workbench.workspace.selection import id_scopes

__all__ = ["codebook", "latent_map", "lens"]

LENS_HEIGHT_PX = 620
MAP_HEIGHT_PX = 600
CODEBOOK_HEIGHT_PX = 560


def lens_html(content: Lens) -> str:
    """Return a lens as a page, or the reason why there is nothing to show."""
    run = content.runs[0]
    try:
        scopes = id_scopes(run.name, run.evidence()) if content.indices else None
        return static(
            "lens",
            content.data(),
            content.view(),
            height=LENS_HEIGHT_PX,
            title=repr(content),
            of=scopes,
        )
    except UserError as error:
        return refusal(error)


def map_html(content: Map) -> str:
    """Return a latent map as a page, or the reason why there is nothing to show."""
    try:
        return static(
            "latentmap",
            content.data(),
            content.view(),
            height=MAP_HEIGHT_PX,
            title=repr(content),
            of=id_scopes(content.run.name, content.evidence),
        )
    except UserError as error:
        return refusal(error)


def codebook_html(content: Codebook) -> str:
    """Return a codebook as a page, or the reason why there is nothing to show."""
    try:
        return static(
            "codegrid",
            {**content.data(), "held": content.page_data()},
            content.view(),
            height=CODEBOOK_HEIGHT_PX,
            title=repr(content),
            of=id_scopes(content.run.name, content.evidence),
        )
    except UserError as error:
        return refusal(error)


def show_lens(content: Lens) -> None:
    """Show the widgets of a lens at once, and the page after the model has computed it."""
    from workbench.hosts.notebook.lens_view import LensView
    from workbench.hosts.notebook.static_fallback import display_with_fallback

    view = LensView(content)
    display_with_fallback(view.box, repr(content), lambda: lens_html(content), task=view.task)


def show_map(content: Map) -> None:
    """Show the widgets of a map at once, and the page after it has been laid out."""
    from workbench.hosts.notebook.latent_map_view import MapView
    from workbench.hosts.notebook.static_fallback import display_with_fallback

    view = MapView(content)
    title = f"Latent map of {content.run.name}"
    display_with_fallback(view.box, title, lambda: map_html(content), task=view.task)


def show_codebook(content: Codebook) -> None:
    """Show the widget of a codebook, and the page."""
    from workbench.hosts.notebook.codebook_view import codebook_box
    from workbench.hosts.notebook.static_fallback import display_with_fallback

    try:
        box = codebook_box(content)
    except UserError as error:
        import ipywidgets as widgets

        page = refusal(error)
        title = f"Codebook of {content.run.name}"
        display_with_fallback(widgets.HTML(page), title, lambda: page)
        return
    display_with_fallback(box, repr(content), lambda: codebook_html(content))


register_display(Lens, to_html=lens_html, show=show_lens)
register_display(Map, to_html=map_html, show=show_map)
register_display(Codebook, to_html=codebook_html, show=show_codebook)
