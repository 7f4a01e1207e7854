"""A tokenizer from two functions that someone else wrote: `wb.wrap(encode, decode)`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, Literal, get_args

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.core.counted import counted
from workbench.core.errors import NotApplicable, UserError
from workbench.core.image_size import AnySide, ImageSize, Side
from workbench.core.types import Images, Tokens
from workbench.quantizers.nearest import nearest_code
from workbench.storage.array_columns import MAX_CODES
from workbench.tokenizers.base import Tokenizer
from workbench.tokenizers.pretrained.base import ResizePolicy

ChannelOrder = Literal["rgb", "bgr"]
VALUE_RANGES = ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0), (-0.5, 0.5))
NUM_PROBED_IMAGES = 2
# Another range is the right one if its reconstruction is this much better, and good.
MIN_GAIN_DB = 2.0
MIN_PSNR_DB = 15.0
MAX_OVERSHOOT = 4.0  # largest absolute value of a reconstruction whose images are in [-1, 1]
CODEWORD_TOLERANCE = 1e-3  # of latents that are codewords, relative to the largest codeword


class Layout(Enum):
    """The kind of value that `encode` returns."""

    TOKENS = "Tokens"
    VECTORS = "float (b, n, d)"
    VECTOR_MAP = "float (b, c, h, w)"
    CODES = "int (b, n)"
    CODE_MAP = "int (b, h, w)"

    @property
    def is_codes(self) -> bool:
        """True if these are indices of codewords."""
        return self in (Layout.CODES, Layout.CODE_MAP)


def wrap(
    encode: Callable[[Tensor], Any],
    decode: Callable[[Any], Tensor],
    *,
    codebook: "np.ndarray | Tensor | int | None" = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
    channels: int = 3,
    side: AnySide | None = None,
    resize: ResizePolicy = "lanczos",
    channel_order: ChannelOrder = "rgb",
    channels_last: bool = False,
    network: nn.Module | None = None,
    dtype: torch.dtype | None = None,
) -> "WrappedTokenizer":
    """Make a tokenizer of an encoder and a decoder.

    Parameters
    ----------
    encode : callable
        Takes images, float of shape (b, c, h, w) in `value_range`, and returns latents (b, n, d) or
        (b, c, h, w), codes (b, n) or (b, h, w) of an integer type, or `Tokens`.
    decode : callable
        Takes what `encode` returns, and returns images in `value_range`.
    codebook : array of float, shape (k, d) or (g, k, d), or int, optional
        The codewords, or only their number. Codebook i of g serves the i-th of g equal blocks of
        tokens. Required if `encode` returns codes.
    value_range : tuple of float
        The values of black and white, as both functions expect them.
    channels : {1, 3}
        Color channels of the images.
    side : int, str or pair of int, optional
        Height and width of the images in pixels, as in 256, "128x256" or (128, 256); None if any
        will do.
    resize : {"adm", "bicubic", "lanczos"}
        How images are brought to this size.
    channel_order : {"rgb", "bgr"}
        The order of the color channels that both functions expect; BGR is that of OpenCV.
    channels_last : bool
        Images and maps of latents are (b, h, w, c) for both functions, as in JAX and TensorFlow.
    network : Module, optional
        The network behind the functions, if they are not modules themselves. It is put into
        evaluation mode, moved between devices, and decides the type of the images.
    dtype : torch.dtype, optional
        The type of the images for `encode`; by default that of the network, or else float32.

    Returns
    -------
    WrappedTokenizer
        The tokenizer, whose images are in [-1, 1]. If `side` is given, `decode(encode(images))` is
        tried at once; otherwise before the first evaluation.

    Raises
    ------
    UserError
        If a function fails, returns something else, or images of another shape or range.

    Examples
    --------
    >>> import torch.nn.functional as F
    >>> tokenizer = wrap(lambda x: F.avg_pool2d(x, 2), lambda z: F.interpolate(z, scale_factor=2.0))
    >>> tokenizer.encode(torch.zeros(1, 3, 8, 8)).latents.shape
    torch.Size([1, 16, 3])
    """
    low, high = value_range
    if not low < high:
        raise UserError(f"value_range must be two ascending numbers, got {value_range}.")
    size = None if side is None else ImageSize.of(side)
    if channel_order not in get_args(ChannelOrder):
        raise UserError(f"channel_order must be rgb or bgr, got {channel_order!r}.")
    tokenizer = WrappedTokenizer(
        encode,
        decode,
        codebook=_as_codebook(codebook),
        value_range=(float(low), float(high)),
        channels=channels,
        side=None if size is None else size.side,
        resize=resize,
        channel_order=channel_order,
        channels_last=channels_last,
        network=network,
        dtype=dtype,
    )
    tokenizer.eval()
    if size is not None:
        tokenizer.check_round_trip(_gradients(channels, size))
    return tokenizer


class WrappedTokenizer(Tokenizer):
    """A tokenizer that calls two functions; `wrap` makes one and explains the parameters."""

    _codebook: Tensor | None

    def __init__(
        self,
        encode: Callable[[Tensor], Any],
        decode: Callable[[Any], Tensor],
        *,
        codebook: Float[Tensor, "g k d"] | None,
        value_range: tuple[float, float],
        channels: int,
        side: Side | None,
        resize: ResizePolicy,
        channel_order: ChannelOrder = "rgb",
        channels_last: bool = False,
        network: nn.Module | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self._encode = encode
        self._decode = decode
        self._network = network
        self.register_buffer("_codebook", codebook, persistent=False)
        self.value_range = value_range
        self.channels = channels
        self.side = side
        self.resize: ResizePolicy = resize
        self._reverses_channels = channel_order == "bgr"
        self._channels_last = channels_last
        self._dtype = dtype
        # Known after the first call of `encode`.
        self._layout: Layout | None = None
        self._output_dtype = torch.float32
        self._grid: tuple[int, int] | None = None

    @property
    def codebook(self) -> Float[Tensor, "g k d"] | None:
        """Return the codewords; they have no channels if only their number is known."""
        return self._codebook

    @property
    def grid(self) -> tuple[int, int] | None:
        """Return the rows and columns of the last encoded images' tokens."""
        return self._grid

    def encode(self, images: Images) -> Tokens:
        """Encode images in [-1, 1] to tokens."""
        return self._pack(self._call_encode(images, self.value_range), images.device)

    def decode(self, tokens: Tokens) -> Images:
        """Decode tokens to images in the range of [-1, 1]."""
        self._ensure_layout()
        decoded = self._call_decode(tokens, self.value_range)
        return decoded.to(tokens.latents.device)

    @torch.no_grad()
    def check_round_trip(self, images: Images) -> None:
        """Raise an error unless `decode(encode(images))` has the shape and range of the images.

        Parameters
        ----------
        images : Tensor, shape (b, c, h, w)
            Images in [-1, 1].

        Raises
        ------
        UserError
            If a function fails or returns something else, or images of another shape or range.
        """
        images = images[:NUM_PROBED_IMAGES]
        decoded = self._round_trip(images, self.value_range)
        if not torch.isfinite(decoded).all():
            raise UserError("decode returned NaN or infinity for images that encode returned.")
        psnr = _psnr(decoded, images)
        best_range, best = self._best_other_range(images)
        if best > max(psnr + MIN_GAIN_DB, MIN_PSNR_DB):
            raise UserError(
                f"With value_range={_format_range(self.value_range)} the reconstruction has "
                f"{psnr:.1f} dB PSNR, and with {_format_range(best_range)} {best:.1f} dB. "
                f"Give value_range={_format_range(best_range)}."
            )
        if decoded.abs().max() > MAX_OVERSHOOT:
            center, half = _center_and_half(self.value_range)
            scaled = decoded * half + center
            raise UserError(
                f"decode returned values from {float(scaled.min()):.3g} to "
                f"{float(scaled.max()):.3g}; with value_range={_format_range(self.value_range)} "
                "they must be near that range."
            )
        self.encode(images)  # the layout and the grid of the declared range

    def _best_other_range(self, images: Images) -> tuple[tuple[float, float], float]:
        """Return the range other than the declared one that reconstructs best, and its PSNR."""
        scores = {}
        for value_range in VALUE_RANGES:
            if value_range == self.value_range:
                continue
            try:
                scores[value_range] = _psnr(self._round_trip(images, value_range), images)
            except UserError:
                continue  # the functions are not made for this range
        best = max(scores, key=lambda value_range: scores[value_range], default=self.value_range)
        return best, scores.get(best, -math.inf)

    def _round_trip(self, images: Images, value_range: tuple[float, float]) -> Images:
        """Encode and decode images, with errors that name the function and its arguments."""
        shape = tuple(images.shape)
        try:
            output = self._call_encode(images, value_range)
        except Exception as error:  # of the user's code
            raise UserError(
                f"encode failed for images of shape {shape} and type {self._input_dtype()}: "
                f"{_first_line(error)}"
            ) from error
        tokens = self._pack(output, images.device)
        if len(tokens.latents) != len(images):
            raise UserError(
                f"encode must return one row per image, got {len(tokens.latents)} for {len(images)}"
                " images."
            )
        try:
            decoded = self._call_decode(tokens, value_range)
        except UserError:
            raise
        except Exception as error:  # of the user's code
            raise UserError(
                f"decode failed for what encode returned, {_describe(output)}: {_first_line(error)}"
            ) from error
        if tuple(decoded.shape) != shape:
            raise UserError(
                f"decode must return images of the shape that was encoded, {shape}, got "
                f"{tuple(decoded.shape)}."
            )
        return decoded.to(images.device)

    def _call_encode(self, images: Images, value_range: tuple[float, float]) -> Any:
        center, half = _center_and_half(value_range)
        scaled = images * half + center
        dtype = self._input_dtype()
        if not dtype.is_floating_point:
            scaled = scaled.round()
        if self._reverses_channels:
            scaled = scaled.flip(1)
        return self._encode(self._to_layout(scaled.to(self._device(), dtype)))

    def _call_decode(self, tokens: Tokens, value_range: tuple[float, float]) -> Images:
        output = self._decode(self._unpack(tokens))
        if not isinstance(output, Tensor):
            raise UserError(f"decode must return a tensor of images, got {_describe(output)}.")
        images = self._from_layout(output)
        if self._reverses_channels:
            images = images.flip(1)
        center, half = _center_and_half(value_range)
        return (images.float() - center) / half

    def _to_layout(self, maps: Float[Tensor, "b c h w"]) -> Tensor:
        """Return maps as the two functions expect them."""
        return rearrange(maps, "b c h w -> b h w c") if self._channels_last else maps

    def _from_layout(self, maps: Tensor) -> Tensor:
        """Return maps of the two functions as (b, c, h, w)."""
        has_four_axes = maps.ndim == len("bhwc")
        return maps.movedim(-1, 1) if self._channels_last and has_four_axes else maps

    def _pack(self, output: Any, device: torch.device) -> Tokens:
        """Return the output of `encode` as tokens, and remember its layout."""
        layout = _layout_of(output)
        if layout is Layout.TOKENS:
            tokens = replace(output, latents=output.latents.float())
            self._remember(layout, output.latents.dtype, output.grid, tokens)
            return _to_device(tokens, device)
        grid = None
        if layout is Layout.VECTOR_MAP:
            output = self._from_layout(output)
            grid = (output.shape[2], output.shape[3])
            output = rearrange(output, "b c h w -> b (h w) c")
        if layout is Layout.CODE_MAP:
            grid = (output.shape[1], output.shape[2])
            output = rearrange(output, "b h w -> b (h w)")
        if layout.is_codes:
            codes = output.long()
            tokens = Tokens(self._look_up(codes), codes, grid=grid)
        else:
            latents = output.float()
            tokens = Tokens(latents, self._nearest(latents), grid=grid)
        self._remember(layout, output.dtype, grid, tokens)
        return _to_device(tokens, device)

    def _remember(
        self, layout: Layout, dtype: torch.dtype, grid: tuple[int, int] | None, tokens: Tokens
    ) -> None:
        self._grid = grid
        if self._layout is layout:
            return
        self._layout = layout
        self._output_dtype = dtype
        if layout is not Layout.TOKENS:
            self.respects_active = False  # `decode` never receives it
        self.discrete = layout.is_codes or self._are_codewords(tokens)

    def _unpack(self, tokens: Tokens) -> Any:
        """Return tokens as `encode` returned them."""
        device = self._device()
        tokens = _to_device(tokens, device)
        layout = self._layout
        if layout is Layout.TOKENS:
            return replace(tokens, latents=tokens.latents.to(self._output_dtype))
        output: Tensor
        if layout is not None and layout.is_codes:
            codes = tokens.codes if tokens.codes is not None else self._nearest(tokens.latents)
            if codes is None:
                raise NotApplicable("This decoder reads codes, and the codewords are not known.")
            output = codes.to(self._output_dtype)
        else:
            output = tokens.latents.to(self._output_dtype)
        if layout is Layout.VECTOR_MAP:
            rows, columns = self._grid_of(tokens)
            return self._to_layout(rearrange(output, "b (h w) c -> b c h w", h=rows, w=columns))
        if layout is Layout.CODE_MAP:
            rows, columns = self._grid_of(tokens)
            return rearrange(output, "b (h w) -> b h w", h=rows, w=columns)
        return output

    def _grid_of(self, tokens: Tokens) -> tuple[int, int]:
        grid = tokens.grid or self._grid
        assert grid is not None  # a map was encoded before
        return grid

    def _ensure_layout(self) -> None:
        """Encode a gray image if nothing was encoded yet."""
        if self._layout is not None:
            return
        if self.side is None:
            raise UserError("Encode an image first, or give wrap(..., side=).")
        with torch.no_grad():
            self.encode(torch.zeros(1, self.channels, *ImageSize.of(self.side)))

    def _look_up(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        if self._codebook is None:
            raise UserError(
                "encode returns codes, so wrap needs codebook=, the codewords or their number."
            )
        codebook = self._codebook.to(codes.device)
        num_codebooks, size, _ = codebook.shape
        lowest, highest = int(codes.min()), int(codes.max())
        if lowest < 0 or highest >= size:
            raise UserError(
                f"encode returned codes from {lowest} to {highest}, but the codebook has {size:,} "
                "codewords, counted from 0."
            )
        if codes.shape[1] % num_codebooks:
            raise UserError(
                f"encode returned {counted(codes.shape[1], 'code')} per image, which"
                f" {num_codebooks} codebooks cannot share equally."
            )
        blocks = rearrange(codes, "b (g m) -> g b m", g=num_codebooks)
        vectors = torch.stack([codebook[i][block] for i, block in enumerate(blocks)])
        return rearrange(vectors, "g b m d -> b (g m) d")

    def _nearest(self, latents: Float[Tensor, "b n d"]) -> Int[Tensor, "b n"] | None:
        """Return the nearest codeword of each token; None if the codewords are not known."""
        if self._codebook is None or not self._codebook.shape[2]:
            return None
        codebook = self._codebook.to(latents.device)
        self._check_channels(latents)
        blocks = rearrange(latents, "b (g m) d -> g (b m) d", g=len(codebook))
        codes = torch.stack([nearest_code(part, codebook[i]) for i, part in enumerate(blocks)])
        return rearrange(codes, "g (b m) -> b (g m)", b=len(latents))

    def _check_channels(self, latents: Float[Tensor, "b n d"]) -> None:
        """Raise UserError unless latents have as many channels as the codewords."""
        assert self._codebook is not None
        if latents.shape[2] != self._codebook.shape[2]:
            raise UserError(
                f"encode returned latents with {latents.shape[2]:,} channels, but the codewords "
                f"have {self._codebook.shape[2]:,}. If the decoder projects its codewords, let "
                "encode return them before the projection; otherwise give only their number."
            )

    def _are_codewords(self, tokens: Tokens) -> bool:
        if tokens.codes is None or self._codebook is None or not self._codebook.shape[2]:
            return False
        self._check_channels(tokens.latents)
        distance = (tokens.latents - self._look_up(tokens.codes)).abs().max()
        return bool(distance <= CODEWORD_TOLERANCE * self._codebook.abs().max())

    def _device(self) -> torch.device:
        parameter = next(self.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def _input_dtype(self) -> torch.dtype:
        parameter = next(self.parameters(), None)
        if self._dtype is not None:
            return self._dtype
        return torch.float32 if parameter is None else parameter.dtype


def _as_codebook(codebook: "np.ndarray | Tensor | int | None") -> Tensor | None:
    """Return codewords of shape (g, k, d); without channels if only their number is given."""
    if codebook is None:
        return None
    if isinstance(codebook, int):
        if not 1 <= codebook <= MAX_CODES:
            raise UserError(
                f"codebook must be codewords, or their number from 1 to {MAX_CODES:,}; got "
                f"{codebook:,}."
            )
        return torch.zeros(1, codebook, 0)
    table = torch.as_tensor(codebook).detach().float()
    if table.ndim == 2:
        table = table[None]
    if table.ndim != 3 or not table.shape[1]:
        raise UserError(
            f"codebook must have the shape (k, d) or (g, k, d), got {tuple(table.shape)}."
        )
    return table.clone()


def _layout_of(output: Any) -> Layout:
    if isinstance(output, Tokens):
        return Layout.TOKENS
    if isinstance(output, Tensor):
        is_code = not output.is_floating_point() and not output.is_complex()
        layouts = {
            (False, 3): Layout.VECTORS,
            (False, 4): Layout.VECTOR_MAP,
            (True, 2): Layout.CODES,
            (True, 3): Layout.CODE_MAP,
        }
        layout = layouts.get((is_code, output.ndim))
        if layout is not None:
            return layout
    accepted = ", ".join(layout.value for layout in Layout)
    raise UserError(f"encode must return one of {accepted}; got {_describe(output)}.")


def _to_device(tokens: Tokens, device: torch.device) -> Tokens:
    return replace(
        tokens,
        latents=tokens.latents.to(device),
        codes=None if tokens.codes is None else tokens.codes.to(device),
        active=None if tokens.active is None else tokens.active.to(device),
    )


def _gradients(channels: int, size: ImageSize) -> Images:
    """Return two smooth images in [-1, 1]."""
    horizontal = torch.linspace(-1, 1, size.width).expand(channels, *size)
    vertical = torch.linspace(-1, 1, size.height)[:, None].expand(channels, *size)
    return torch.stack([horizontal, vertical])


def _psnr(decoded: Images, images: Images) -> float:
    """Return the PSNR of all pixels together, in dB."""
    mse = ((decoded.clamp(-1, 1) - images) / 2).square().mean()
    return float(-10 * torch.log10(mse.clamp_min(1e-10)))


def _center_and_half(value_range: tuple[float, float]) -> tuple[float, float]:
    """Return the middle of a range, and half of its length."""
    low, high = value_range
    return (high + low) / 2, (high - low) / 2


def _format_range(value_range: tuple[float, float]) -> str:
    return f"({value_range[0]:g}, {value_range[1]:g})"


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of {output.dtype} {tuple(output.shape)}"
    if isinstance(output, Sequence) and not isinstance(output, str):
        return f"a {type(output).__name__} of {len(output)}"
    return f"a {type(output).__name__}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
