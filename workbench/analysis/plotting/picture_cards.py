"""Cards of pictures as HTML, for results that consist of pictures.

The HTML needs neither scripts nor plotly.js, fits any width, and is the same in a notebook, in the
dashboard, in a report and on paper. The dashboard adds buttons to cards with an image index, and a
report selects their images on a click.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from workbench.core.html_templates import render
from workbench.core.image_url import png_url

MIN_PICTURE_PX = 76  # on the screen; a card with more pictures than fit wraps
USUAL_PICTURE_PX = 104
MAX_PICTURE_PX = 220
TEMPLATE = Path(__file__).parent / "templates" / "picture_cards.html.j2"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture on a card.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (h, w, c)
        The image.
    caption : str
        Text below the picture.
    title : str
        Tooltip, and description for screen readers.
    color : str
        Color of the run that made the picture; empty for an original.
    box : tuple of float, or None
        Left, top, width and height of an outlined part, as fractions of the picture.
    is_best : bool
        Whether the caption is bold.
    image : int or None
        Index of the image, if the card shows several.
    """

    pixels: np.ndarray = field(repr=False)
    caption: str
    title: str = ""
    color: str = ""
    box: tuple[float, float, float, float] | None = None
    is_best: bool = False
    image: int | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """Pictures that belong together.

    Attributes
    ----------
    title : str
        Title of the card.
    details : str
        Text after the title.
    pictures : tuple of Picture
        The images of the card.
    image : int or None
        Index of the image that all pictures show.
    color : str
        Color of the run that the card is about; empty for none.
    """

    title: str
    pictures: tuple[Picture, ...]
    details: str = ""
    image: int | None = None
    color: str = ""


def to_html(cards: Sequence[Card], legend: Sequence[tuple[str, str]] = ()) -> str:
    """Return cards as HTML.

    Parameters
    ----------
    cards : sequence of Card
        The cards, in order.
    legend : sequence of (str, str)
        Color and text of each entry above the cards.

    Returns
    -------
    str
    """
    most_pictures = max((len(card.pictures) for card in cards), default=1)
    return render(
        TEMPLATE,
        cards=cards,
        legend=legend,
        card_width=most_pictures * (USUAL_PICTURE_PX + 4) + 14,
        min_width=MIN_PICTURE_PX,
        max_width=MAX_PICTURE_PX,
        png_url=png_url,
    )
