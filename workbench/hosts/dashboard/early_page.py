"""Send the beginning of the page before its session is made.

Panel needs about half a second of computation to make a session, and answers afterwards. The
beginning of the document does not depend on the session: a browser draws its text, and loads the
scripts, in that time.
"""

from collections.abc import Callable
from typing import Any

from bokeh.document import Document
from bokeh.server.tornado import BokehTornado
from panel.io.resources import LOCAL_DIST, Resources, bundle_resources
from panel.io.server import DocHandler, html_page_for_render_items
from panel.io.state import set_curdoc
from tornado.routing import PathMatches, Rule

from workbench.hosts.dashboard.page import make_page
from workbench.hosts.dashboard.page_template import END_OF_BEGINNING, OUTLINE

FAILED = (
    '<p role="alert" style="position: relative; margin: 90px 24px">The page could not be made. The'
    " server's log contains the traceback.</p>"
)


class EarlyPageHandler(DocHandler):
    """Answers a request for the page in two parts: the beginning at once, then the rest."""

    def initialize(self, *, beginning: str, outline: Callable[[], str], **_: Any) -> None:
        """Receive the beginning, and a function that returns what it shows of the runs."""
        self.beginning = beginning
        self.outline = outline

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Send the page."""
        self.set_header("Cache-Control", "no-store")
        super().write(self.beginning.replace(OUTLINE, self.outline(), 1))
        await self.flush()
        try:
            rest = super().get(*args, **kwargs)
            if rest is not None:  # Panel may redirect instead
                await rest
        except Exception:
            super().write(FAILED)
            raise

    def write(self, chunk: str | bytes | dict[str, Any]) -> None:
        """Write the document without the beginning that was sent already."""
        assert isinstance(chunk, str)  # a page, as `DocHandler` writes it
        super().write(chunk.partition(END_OF_BEGINNING)[2] or chunk)


def early_page(application: BokehTornado, outline: Callable[[], str]) -> Rule:
    """Return tornado's rule for the page.

    Parameters
    ----------
    application : BokehTornado
        The application of the server.
    outline : callable
        Returns what the beginning shows of tabs and runs, as HTML.
    """
    context = {
        "application_context": application._applications["/"],  # has no public name
        "bokeh_websocket_path": "/ws",
        "beginning": page_beginning(application),
        "outline": outline,
    }
    return Rule(PathMatches(r"/?"), EarlyPageHandler, context)


def page_beginning(application: BokehTornado) -> str:
    """Return the document of an empty page up to where that of a session may differ."""
    document = Document()
    with set_curdoc(document):
        # Sets the template and its variables.
        make_page().server_doc(document)
        resources = Resources.from_bokeh(application.resources())
        page = html_page_for_render_items(
            bundle_resources([], resources),
            {},
            [],
            document.title,
            template=document.template,
            template_variables={**document.template_variables, "dist_url": LOCAL_DIST},
        )
    return page.partition(END_OF_BEGINNING)[0]
