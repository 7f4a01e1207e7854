"""What a tokenizer's pictures owe to its tokens: fewer of them, other ones, other codes, other checkpoints.

Images are uint8 (n, h, w, c), as evidence keeps them; every function asks the tokenizer, and returns `Frames`.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from workbench.collect import to_uint8
from workbench.collect.images import model_device
from workbench.core.errors import NotApplicable, UserError
from workbench.core.progress import track
from workbench.core.types import Images, Tokens
from workbench.explore.image_grid import ImageGrid
from workbench.storage.run import Run
from workbench.tokenizers.base import Tokenizer

TARGETS = (
    0.02,
    0.03,
    0.05,
    0.07,
    0.1,
    0.15,
)  # mean absolute errors that adaptive tokenizers are asked for


@torch.no_grad()
def budgets(
    model: Tokenizer,
    images: np.ndarray,
    *,
    lengths: Sequence[int] | None = None,
    rows: Sequence[str] = (),
) -> ImageGrid:
    """Every image told in fewer tokens (None: 1, 2, 4, ... and all). Raises UserError for a length it does not have.

    An adaptive tokenizer writes anew for each; of any other the decoder is shown the first tokens of one encoding.
    """
    batch = _batch(model, images)
    everything = model.encode(batch)
    tokens = everything.latents.shape[1]
    asked = sorted({*(2**i for i in range(tokens.bit_length()) if 2**i <= tokens), tokens})
    found: dict[str, Tokens] = {}
    for length in track(asked if lengths is None else lengths):
        if not 1 <= length <= tokens:
            raise UserError(f"{length} tokens were asked for; this tokenizer has 1 to {tokens}.")
        try:
            found[f"{length}"] = _shortened(model, batch, everything, length)
        except UserError:
            if lengths is not None:
                raise
            continue  # it adds tokens in rounds of several
    note = "" if _asks(model, "budget") else "Its decoder was not trained on fewer tokens than all."
    return _decoded(model, images, "tokens", found, rows, note=note)


@torch.no_grad()
def errors(
    model: Tokenizer,
    images: np.ndarray,
    *,
    targets: Sequence[float] = TARGETS,
    rows: Sequence[str] = (),
) -> ImageGrid:
    """Every image in as many tokens as an error needs, by the tokenizer's own choice; which ones is `active`.

    Errors are mean absolute differences, pixels in [0, 1]. Raises NotApplicable where it cannot be asked.
    """
    if not _asks(model, "error"):
        adaptive = "KARL, tail drop and ALIT"
        raise NotApplicable(f"{_name(model)} cannot be asked for an error; {adaptive} can.")
    batch = _batch(model, images)
    found = {f"{target:g}": model.encode(batch, error=target) for target in track(targets)}
    return _decoded(model, images, "error asked for", found, rows)


@torch.no_grad()
def dropped(model: Tokenizer, images: np.ndarray, *, rows: Sequence[str] = ()) -> ImageGrid:
    """Every image without one of its tokens, held against the picture of them all: what that token carries."""
    tokens = model.encode(_batch(model, images))
    active = _active(tokens)
    others = {}
    for place in range(active.shape[1]):
        left = active.clone()
        left[:, place] = False
        others[f"{place}"] = replace(tokens, active=left)
    return _decoded(model, images, "token dropped", others, rows, against=tokens)


@torch.no_grad()
def swapped(
    model: Tokenizer, images: np.ndarray, donors: np.ndarray, *, rows: Sequence[str] = ()
) -> ImageGrid:
    """Every image with one token taken from its donor at the same place, held against the picture of its own tokens."""
    tokens, given = model.encode(_batch(model, images)), model.encode(_batch(model, donors))
    others = {}
    for place in range(tokens.latents.shape[1]):
        latents = tokens.latents.clone()
        latents[:, place] = given.latents[:, place]
        codes = None if tokens.codes is None else tokens.codes.clone()
        if codes is not None:
            codes[:, place] = given.codes[:, place]
        active = None if tokens.active is None else tokens.active.clone()
        if active is not None:
            active[:, place] = given.active[:, place]
        others[f"{place}"] = Tokens(latents, codes, active, tokens.grid)
    return _decoded(model, images, "token swapped", others, rows, against=tokens)


@torch.no_grad()
def recoded(
    model: Tokenizer,
    images: np.ndarray,
    *,
    token: int,
    codes: Iterable[int],
    rows: Sequence[str] = (),
) -> ImageGrid:
    """Every image with one token set to each of some codes, held against the picture of its own tokens.

    Of soft codes the token becomes the codeword alone. Raises NotApplicable without a codebook, UserError for a token
    or a code that there is not.
    """
    tokens = model.encode(_batch(model, images))
    book, codes = model.codebook, list(codes)
    if book is None or tokens.codes is None:
        raise NotApplicable(f"{_name(model)} has no codebook to take a code from.")
    count = tokens.latents.shape[1]
    if not 0 <= token < count:
        raise UserError(f"There is no token {token}; this tokenizer has 0 to {count - 1}.")
    words, others = book[token * len(book) // count], {}
    for code in codes:
        if not 0 <= code < len(words):
            raise UserError(f"There is no code {code}; the book has 0 to {len(words) - 1}.")
        latents, chosen, active = tokens.latents.clone(), tokens.codes.clone(), _active(tokens)
        latents[:, token], chosen[:, token], active[:, token] = words[code].to(latents), code, True
        others[f"{code}"] = Tokens(
            latents, chosen, None if tokens.active is None else active, tokens.grid
        )
    return _decoded(model, images, f"code of token {token}", others, rows, against=tokens)


@torch.no_grad()
def checkpoints(
    run: Run,
    images: np.ndarray,
    *,
    steps: Sequence[int] | None = None,
    modules: Sequence[str] = (),
    rows: Sequence[str] = (),
) -> ImageGrid:
    """The same images on every checkpoint of a tokenizer's run (None: all that it has)."""
    shown = []
    for step in track(run.steps if steps is None else steps):
        model = run.load(step, modules=modules)
        shown.append(to_uint8(model.decode(model.encode(_batch(model, images)))))
    run.checkpoint()
    stops = tuple(f"{step:,}" for step in (run.steps if steps is None else steps))
    return ImageGrid(
        "step", stops, _named(rows, len(images)), np.asarray(images), np.stack(shown, axis=1)
    )


def _shortened(model: Tokenizer, batch: Images, everything: Tokens, length: int) -> Tokens:
    if _asks(model, "budget"):
        return model.encode(batch, budget=length)
    first = torch.arange(everything.latents.shape[1], device=batch.device) < length
    return replace(everything, active=_active(everything) & first)


def _decoded(
    model: Tokenizer,
    images: np.ndarray,
    axis: str,
    stops: dict[str, Tokens],
    rows: Sequence[str],
    *,
    against: Tokens | None = None,
    note: str = "",
) -> ImageGrid:
    shown = np.stack([to_uint8(model.decode(tokens)) for tokens in track(stops.values())], axis=1)
    active = torch.stack([_active(tokens) for tokens in stops.values()], dim=1).cpu().numpy()
    reference = np.asarray(images) if against is None else to_uint8(model.decode(against))
    name = "original" if against is None else "all its tokens"
    return ImageGrid(
        axis, tuple(stops), _named(rows, len(images)), reference, shown, active, name, note
    )


def _batch(model: Tokenizer, images: np.ndarray) -> Images:
    channels_first = np.moveaxis(np.asarray(images), -1, 1).astype(np.float32, order="C")
    return torch.from_numpy(channels_first).div_(127.5).sub_(1).to(model_device(model))


def _active(tokens: Tokens) -> Tensor:
    if tokens.active is not None:
        return tokens.active.clone()
    return torch.ones(tokens.latents.shape[:2], dtype=torch.bool, device=tokens.latents.device)


def _asks(model: Tokenizer, what: str) -> bool:
    encode: Callable[..., Tokens] = model.encode
    return what in inspect.signature(encode).parameters


def _named(rows: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(rows) or tuple(f"#{place}" for place in range(count))


def _name(model: Tokenizer) -> str:
    return type(model).__name__
