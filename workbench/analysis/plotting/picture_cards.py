"""Cards of pictures as HTML, for results that consist of pictures.

The HTML needs neither scripts nor plotly.js, fits any width, and is the same in a notebook, in the
dashboard, in a report and on paper. The dashboard adds buttons to cards with an image index, and a
report selects their images on a click.
"""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

MIN_PICTURE_PX = 76  # on the screen; a card with more pictures than fit wraps
USUAL_PICTURE_PX = 104
MAX_PICTURE_PX = 220
STYLE = """
.wb-cards { color: inherit; line-height: 1.35; margin: 4px 0 12px; }
.wb-cards .wb-legend { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 0 0 8px;
  font-size: 14px; }
.wb-cards .wb-legend i, .wb-cards .wb-head i { display: inline-block; width: 10px; height: 10px;
  border-radius: 5px; margin-right: 5px; }
.wb-cards .wb-grid { display: grid; gap: 10px 12px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--wb-card)), 1fr)); }
.wb-cards .wb-card { margin: 0; padding: 6px 6px 4px; border-radius: 6px; min-width: 0;
  border: 1px solid rgba(127, 127, 127, 0.3); break-inside: avoid; }
.wb-cards [data-image][aria-selected=true] { outline: 2px solid #E69F00; }
.wb-cards .wb-head { display: flex; flex-wrap: wrap; gap: 0 10px; font-size: 12.5px;
  margin-bottom: 3px; }
.wb-cards .wb-head span:last-of-type { opacity: 0.8; }
.wb-cards .wb-pictures { display: flex; flex-wrap: wrap; gap: 4px; }
.wb-cards .wb-picture { flex: 1 1 MINpx; max-width: MAXpx; margin: 0; min-width: 0; }
.wb-cards .wb-frame { position: relative; border-bottom: 3px solid transparent; }
.wb-cards img { display: block; width: 100%; margin: 0; max-width: none;
  image-rendering: pixelated; }
.wb-cards .wb-box { position: absolute; border: 2px solid; box-sizing: border-box;
  box-shadow: 0 0 0 1px #fff, inset 0 0 0 1px #fff; }
.wb-cards .wb-caption { font-size: 12px; font-variant-numeric: tabular-nums; padding: 1px 0 0;
  overflow-wrap: anywhere; text-align: left; color: inherit; }
.wb-cards .wb-actions { margin-left: auto; display: flex; gap: 4px; }
.wb-cards .wb-actions button { font: inherit; font-size: 11.5px; color: inherit; background: none;
  border: 1px solid rgba(127, 127, 127, 0.5); border-radius: 4px; padding: 0 6px; cursor: pointer; }
""".replace("MIN", str(MIN_PICTURE_PX)).replace("MAX", str(MAX_PICTURE_PX))


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture on a card.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (h, w, c)
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
    details : str
        Text after the title.
    pictures : tuple of Picture
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
    legend : sequence of (str, str)
        Color and text of each entry above the cards.

    Returns
    -------
    str
    """
    entries = "".join(f"<span>{_dot(color)}{html.escape(text)}</span>" for color, text in legend)
    width = max((len(card.pictures) for card in cards), default=1) * (USUAL_PICTURE_PX + 4) + 14
    grid = "".join(map(_card, cards))
    return (
        f'<section class="wb-cards" aria-label="Images"><style>{STYLE}</style>'
        f'<div class="wb-legend">{entries}</div>'
        f'<div class="wb-grid" style="--wb-card: {width}px">{grid}</div></section>'
    )


def _card(card: Card) -> str:
    attribute = _image_attribute(card.image)
    title = f"<b>{_dot(card.color)}{html.escape(card.title)}</b>"
    head = f'<div class="wb-head">{title}<span>{html.escape(card.details)}</span></div>'
    pictures = "".join(map(_picture, card.pictures))
    return f'<div class="wb-card"{attribute}>{head}<div class="wb-pictures">{pictures}</div></div>'


def _picture(picture: Picture) -> str:
    title = html.escape(picture.title or picture.caption)
    line = f' style="border-color: {html.escape(picture.color)}"' if picture.color else ""
    caption = html.escape(picture.caption)
    if picture.is_best:
        caption = f"<b>{caption}</b>"
    image = f'<img src="{_png_url(picture.pixels)}" alt="{title}" title="{title}">'
    frame = f'<div class="wb-frame"{line}>{image}{_box(picture)}</div>'
    attribute = _image_attribute(picture.image)
    text = f'<div class="wb-caption">{caption}</div>'
    return f'<div class="wb-picture"{attribute}>{frame}{text}</div>'


def _image_attribute(image: int | None) -> str:
    return "" if image is None else f' data-image="{image}"'


def _box(picture: Picture) -> str:
    if picture.box is None:
        return ""
    left, top, width, height = (f"{100 * value:.2f}%" for value in picture.box)
    box_style = f"left: {left}; top: {top}; width: {width}; height: {height}"
    return f'<div class="wb-box" style="{box_style}; color: {html.escape(picture.color)}"></div>'


def _dot(color: str) -> str:
    return f'<i style="background: {html.escape(color)}"></i>' if color else ""


def _png_url(pixels: np.ndarray) -> str:
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
