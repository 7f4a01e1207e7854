"""A tokenizer that a function of the user returns: `python:my_package.my_module:make_tokenizer`.

Nothing is imported unless the user trusts the module by its name.
"""

from collections.abc import Sequence

from workbench.core.errors import UserError
from workbench.core.image_size import Side
from workbench.core.trusted import describe_failure, import_trusted
from workbench.storage.published import Address
from workbench.tokenizers.base import Tokenizer, TrainableTokenizer
from workbench.tokenizers.pretrained.base import Pretrained
from workbench.tokenizers.pretrained.wrapped import WrappedTokenizer


def load(
    address: Address,
    *,
    revision: str | None = None,
    side: Side | None = None,
    trust: Sequence[str] = (),
) -> Pretrained:
    """Call a function without arguments, and return the tokenizer that it returns.

    Parameters
    ----------
    address : Address
        `python:module:function`. The function returns a `Tokenizer`, such as the result of
        `wb.wrap`, or a `Pretrained` with the facts of the checkpoint.
    revision : str, optional
        Not supported.
    side : int or ImageSize, optional
        Height and width of the images in pixels, if the function's result does not determine it.
    trust : sequence of str
        Modules that may be imported.

    Raises
    ------
    UserError
        If the module is not trusted or cannot be imported, or the function fails or returns
        anything else.
    """
    if revision is not None:
        raise UserError(f"{address} is code of this machine and has no revision `{revision}`.")
    make = import_trusted(address.location, trust)
    if not callable(make):
        raise UserError(
            f"{address} must be a function without arguments that returns a Tokenizer; got a "
            f"{type(make).__name__}."
        )
    try:
        tokenizer = make()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # of the user's code
        raise UserError(f"{address} failed: {describe_failure(error)}.") from error
    if isinstance(tokenizer, Pretrained):
        return tokenizer
    return from_tokenizer(tokenizer, name=str(address), side=side)


def from_tokenizer(tokenizer: object, *, name: str, side: Side | None = None) -> Pretrained:
    """Return a tokenizer with what is known of its images.

    Parameters
    ----------
    tokenizer : Tokenizer
        An object whose class is a subclass of `Tokenizer`.
    name : str
        Its origin, for messages.
    side : int or ImageSize, optional
        Height and width of the images in pixels, if the tokenizer does not determine it.

    Raises
    ------
    UserError
        If it is not a `Tokenizer`.
    """
    if isinstance(tokenizer, WrappedTokenizer):
        is_flexible = tokenizer.side is None
        if is_flexible:
            tokenizer.side = side
        return Pretrained(
            tokenizer=tokenizer,
            side=tokenizer.side,
            channels=tokenizer.channels,
            flexible=is_flexible,
            resize=tokenizer.resize,
        )
    if isinstance(tokenizer, TrainableTokenizer):
        config = tokenizer.config
        return Pretrained(tokenizer=tokenizer, side=config.side, channels=config.channels)
    if isinstance(tokenizer, Tokenizer):
        return Pretrained(tokenizer=tokenizer, side=side, flexible=side is None)
    raise UserError(
        f"{name} must be a Tokenizer, or two functions wrapped by wb.wrap(encode, decode); got "
        f"{type(tokenizer).__name__}."
    )
