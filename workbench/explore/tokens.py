"""Images that a tokenizer decodes from fewer or other tokens, other codes or other checkpoints.

Images are uint8 (n, h, w, c), as in evidence; every function returns an `ImageGrid`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from workbench.collect import to_uint8
from workbench.collect.images import model_device
from workbench.collect.models import load_tokenizer
from workbench.core.errors import NotApplicable, UserError
from workbench.core.progress import track
from workbench.core.types import Images, Tokens
from workbench.explore.image_grid import ImageGrid
from workbench.storage.run import Run
from workbench.tokenizers.active import respects_active
from workbench.tokenizers.base import SupportsErrorTarget, Tokenizer

TARGET_ERRORS = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15)  # mean absolute errors, pixels in [0, 1]


@torch.no_grad()
def budgets(
    model: Tokenizer,
    images: np.ndarray,
    *,
    lengths: Sequence[int] | None = None,
    rows: Sequence[str] = (),
) -> ImageGrid:
    """Reconstruct every image from fewer tokens.

    An adaptive tokenizer encodes the images again for each number of tokens. Of any other the
    decoder reads the first tokens of one encoding.

    Parameters
    ----------
    model : Tokenizer
        The tokenizer.
    images : ndarray of uint8, shape (n, h, w, c)
        The images, one per row.
    lengths : sequence of int, optional
        Numbers of tokens, one per column; None uses 1, 2, 4, ... and all.
    rows : sequence of str
        Names of the rows; by default the numbers of the images.

    Raises
    ------
    UserError
        If the tokenizer cannot use one of the lengths.
    """
    batch = _to_batch(model, images)
    every_token = model.encode(batch)
    _require_leaving_out(model, every_token)
    num_tokens = every_token.latents.shape[1]
    powers = (2**i for i in range(num_tokens.bit_length()))
    default_lengths = sorted({num_tokens, *(power for power in powers if power <= num_tokens)})
    columns: dict[str, Tokens] = {}
    for length in track(default_lengths if lengths is None else lengths):
        if not 1 <= length <= num_tokens:
            raise UserError(f"The number of tokens must be in 1..{num_tokens}, got {length}.")
        try:
            columns[f"{length}"] = _shorten(model, batch, every_token, length)
        except UserError:
            if lengths is not None:
                raise
            continue  # a tokenizer that adds tokens in rounds has no such length
    note = ""
    if not isinstance(model, SupportsErrorTarget):
        note = "Its decoder was not trained on fewer tokens than all."
    return _decode_columns(model, images, "tokens", columns, rows, note=note)


@torch.no_grad()
def errors(
    model: Tokenizer,
    images: np.ndarray,
    *,
    targets: Sequence[float] = TARGET_ERRORS,
    rows: Sequence[str] = (),
) -> ImageGrid:
    """Reconstruct every image from as many tokens as an error needs, by the tokenizer's choice.

    Parameters
    ----------
    model : Tokenizer
        An adaptive tokenizer.
    images : ndarray of uint8, shape (n, h, w, c)
        The images, one per row.
    targets : sequence of float
        Mean absolute errors, pixels in [0, 1], one per column.
    rows : sequence of str
        Names of the rows; by default the numbers of the images.

    Raises
    ------
    NotApplicable
        If the tokenizer cannot encode with a target error.
    """
    if not isinstance(model, SupportsErrorTarget):
        raise NotApplicable(
            f"{_name(model)} cannot encode with a target error; KARL, tail drop and ALIT can."
        )
    batch = _to_batch(model, images)
    columns = {f"{target:g}": model.encode(batch, error=target) for target in track(targets)}
    return _decode_columns(model, images, "requested error", columns, rows)


@torch.no_grad()
def dropped(model: Tokenizer, images: np.ndarray, *, rows: Sequence[str] = ()) -> ImageGrid:
    """Reconstruct every image without one of its tokens; the reference has all of them.

    Parameters
    ----------
    model : Tokenizer
        The tokenizer.
    images : ndarray of uint8, shape (n, h, w, c)
        The images, one per row; the columns are the tokens.
    rows : sequence of str
        Names of the rows; by default the numbers of the images.
    """
    tokens = model.encode(_to_batch(model, images))
    _require_leaving_out(model, tokens)
    every_active = _active_or_all(tokens)
    columns = {}
    for index in range(every_active.shape[1]):
        active = every_active.clone()
        active[:, index] = False
        columns[f"{index}"] = replace(tokens, active=active)
    return _decode_columns(model, images, "token dropped", columns, rows, reference_tokens=tokens)


@torch.no_grad()
def swapped(
    model: Tokenizer, images: np.ndarray, donors: np.ndarray, *, rows: Sequence[str] = ()
) -> ImageGrid:
    """Reconstruct every image with one token taken from another image.

    Parameters
    ----------
    model : Tokenizer
        The tokenizer.
    images : ndarray of uint8, shape (n, h, w, c)
        The images, one per row; the columns are the tokens.
    donors : ndarray of uint8, shape (n, h, w, c)
        The image whose token each image receives at the same index.
    rows : sequence of str
        Names of the rows; by default the numbers of the images.
    """
    tokens = model.encode(_to_batch(model, images))
    donor_tokens = model.encode(_to_batch(model, donors))
    columns = {}
    for index in range(tokens.latents.shape[1]):
        latents = tokens.latents.clone()
        latents[:, index] = donor_tokens.latents[:, index]
        columns[f"{index}"] = Tokens(
            latents,
            _swap_column(tokens.codes, donor_tokens.codes, index),
            _swap_column(tokens.active, donor_tokens.active, index),
            tokens.grid,
        )
    return _decode_columns(model, images, "token swapped", columns, rows, reference_tokens=tokens)


@torch.no_grad()
def recoded(
    model: Tokenizer,
    images: np.ndarray,
    *,
    token: int,
    codes: Iterable[int],
    rows: Sequence[str] = (),
) -> ImageGrid:
    """Reconstruct every image with one token set to each of several codes.

    Of soft codes, the token becomes the codeword alone. The reference has the image's own tokens.

    Parameters
    ----------
    model : Tokenizer
        A tokenizer with a codebook.
    images : ndarray of uint8, shape (n, h, w, c)
        The images, one per row.
    token : int
        Index of the token.
    codes : iterable of int
        Codes, one per column.
    rows : sequence of str
        Names of the rows; by default the numbers of the images.

    Raises
    ------
    NotApplicable
        If the tokenizer has no codebook.
    UserError
        If the token or a code does not exist.
    """
    tokens = model.encode(_to_batch(model, images))
    codebook = model.codebook
    if codebook is None or tokens.codes is None:
        raise NotApplicable(f"{_name(model)} has no codebook to take a code from.")
    num_tokens = tokens.latents.shape[1]
    if not 0 <= token < num_tokens:
        raise UserError(f"The token must be in 0..{num_tokens - 1}, got {token}.")
    codewords = codebook[token * len(codebook) // num_tokens]
    columns = {}
    for code in codes:
        if not 0 <= code < len(codewords):
            raise UserError(f"The code must be in 0..{len(codewords) - 1}, got {code}.")
        latents, new_codes = tokens.latents.clone(), tokens.codes.clone()
        latents[:, token] = codewords[code].to(latents)
        new_codes[:, token] = code
        active = None
        if tokens.active is not None:
            active = tokens.active.clone()
            active[:, token] = True
        columns[f"{code}"] = Tokens(latents, new_codes, active, tokens.grid)
    return _decode_columns(
        model, images, f"code of token {token}", columns, rows, reference_tokens=tokens
    )


@torch.no_grad()
def checkpoints(
    run: Run,
    images: np.ndarray,
    *,
    steps: Sequence[int] | None = None,
    trust: Sequence[str] = (),
    rows: Sequence[str] = (),
) -> ImageGrid:
    """Reconstruct the same images with every checkpoint of a tokenizer's run.

    Parameters
    ----------
    run : Run
        The run of a tokenizer.
    images : ndarray of uint8, shape (n, h, w, c)
        The images, one per row.
    steps : sequence of int, optional
        Training steps of the checkpoints, one per column; None uses all.
    trust : sequence of str
        Modules outside this package from which the run's class may be imported.
    rows : sequence of str
        Names of the rows; by default the numbers of the images.
    """
    run.find_step()
    checkpoint_steps = run.steps if steps is None else list(steps)
    columns = []
    for step in track(checkpoint_steps):
        model = load_tokenizer(run, step, trust)
        columns.append(to_uint8(model.decode(model.encode(_to_batch(model, images)))))
    return ImageGrid(
        axis="step",
        axis_values=tuple(f"{step:,}" for step in checkpoint_steps),
        rows=_row_names(rows, len(images)),
        reference=np.asarray(images),
        images=np.stack(columns, axis=1),
    )


@torch.no_grad()
def can_leave_out(model: Tokenizer, images: np.ndarray) -> bool:
    """Return True if a tokenizer's decoder can leave out some tokens of an image.

    Parameters
    ----------
    model : Tokenizer
        The tokenizer.
    images : ndarray of uint8, shape (n, h, w, c)
        A few images to try it with.
    """
    return respects_active(model, model.encode(_to_batch(model, images)))


def _require_leaving_out(model: Tokenizer, tokens: Tokens) -> None:
    if not respects_active(model, tokens):
        raise NotApplicable(f"The decoder of {_name(model)} always uses all tokens.")


def _shorten(model: Tokenizer, batch: Images, every_token: Tokens, length: int) -> Tokens:
    if isinstance(model, SupportsErrorTarget):
        return model.encode(batch, budget=length)
    is_first = torch.arange(every_token.latents.shape[1], device=batch.device) < length
    return replace(every_token, active=_active_or_all(every_token) & is_first)


def _decode_columns(
    model: Tokenizer,
    images: np.ndarray,
    axis: str,
    columns: dict[str, Tokens],
    rows: Sequence[str],
    *,
    reference_tokens: Tokens | None = None,
    note: str = "",
) -> ImageGrid:
    """Decode the tokens of each column; the reference is `reference_tokens`, or the images."""
    decoded = [to_uint8(model.decode(tokens)) for tokens in track(columns.values())]
    active = torch.stack([_active_or_all(tokens) for tokens in columns.values()], dim=1)
    reference = (
        np.asarray(images) if reference_tokens is None else to_uint8(model.decode(reference_tokens))
    )
    return ImageGrid(
        axis=axis,
        axis_values=tuple(columns),
        rows=_row_names(rows, len(images)),
        reference=reference,
        images=np.stack(decoded, axis=1),
        active=active.cpu().numpy(),
        reference_label="original" if reference_tokens is None else "all its tokens",
        note=note,
    )


def _to_batch(model: Tokenizer, images: np.ndarray) -> Images:
    channels_first = np.moveaxis(np.asarray(images), -1, 1).astype(np.float32, order="C")
    return torch.from_numpy(channels_first).div_(127.5).sub_(1).to(model_device(model))


def _active_or_all(tokens: Tokens) -> Tensor:
    if tokens.active is not None:
        return tokens.active.clone()
    return torch.ones(tokens.latents.shape[:2], dtype=torch.bool, device=tokens.latents.device)


def _swap_column(column: Tensor | None, donor: Tensor | None, index: int) -> Tensor | None:
    if column is None or donor is None:
        return None
    swapped_column = column.clone()
    swapped_column[:, index] = donor[:, index]
    return swapped_column


def _row_names(rows: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(rows) or tuple(f"#{index}" for index in range(count))


def _name(model: Tokenizer) -> str:
    return type(model).__name__
