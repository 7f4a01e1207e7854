"""The requirements on every tokenizer, as checks that run on a small batch.

`check_tokenizer(MyTokenizer, config)` runs them all. Each promise is a function that raises
`BrokenPromise` with one sentence.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.core.image_size import ImageSize
from workbench.core.types import Tokens
from workbench.tokenizers.base import TrainableTokenizer

BATCH = 5
TRAINING_BATCH = 16
STEPS = 3  # before and after a stop, in the check of resuming
STEP_SIZE = 0.1
FAR_VALUE = 1e3  # of a latent that must not be read


class BrokenPromise(Exception):
    """A promise of tokenizers that a class does not keep."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A tokenizer to check.

    Attributes
    ----------
    kind : type of TrainableTokenizer
        Its class.
    config : Config
        Its settings. Small ones make the checks fast.
    """

    kind: type[TrainableTokenizer]
    config: Any

    def make(self) -> TrainableTokenizer:
        """Return a new tokenizer, always with the same initial weights, in evaluation mode."""
        torch.manual_seed(0)
        return self.kind(self.config).eval()

    def images(self, count: int = BATCH) -> Tensor:
        """Return random images, always the same."""
        generator = torch.Generator().manual_seed(1)
        size = (count, self.config.channels, *ImageSize.of(self.config.side))
        return torch.rand(size, generator=generator) * 2 - 1


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of one check.

    Attributes
    ----------
    promise : str
        The promise in a few words.
    is_kept : bool
        Whether the tokenizer keeps it.
    is_required : bool
        Whether analyses and training rely on it.
    reason : str
        Why it is not kept; empty if it is.
    """

    promise: str
    is_kept: bool
    is_required: bool
    reason: str = ""


def same_shape(subject: Subject) -> None:
    """Check the shapes of tokens and images."""
    model = subject.make()
    images = subject.images()
    tokens = model.encode(images)
    if not isinstance(tokens, Tokens):
        raise BrokenPromise(f"encode must return Tokens, got {type(tokens).__name__}.")
    if tokens.latents.ndim != 3 or len(tokens.latents) != len(images):
        raise BrokenPromise(
            "Latents must have the shape (batch, tokens, dim), got"
            f" {tuple(tokens.latents.shape)} for {len(images)} images."
        )
    decoded = model.decode(tokens)
    if decoded.shape != images.shape:
        raise BrokenPromise(
            f"decode must return images of {tuple(images.shape)}, got {tuple(decoded.shape)}."
        )
    if not torch.isfinite(decoded).all():
        raise BrokenPromise("decode returns numbers that are not finite.")


def grid_is_declared(subject: Subject) -> None:
    """Check that the grid of the tokens is the model's, and has as many cells as tokens."""
    model = subject.make()
    tokens = model.encode(subject.images())
    if tokens.grid != model.grid:
        raise BrokenPromise(
            f"encode returns tokens with the grid {tokens.grid}, and the property grid is"
            f" {model.grid}."
        )
    if tokens.grid is not None and tokens.grid[0] * tokens.grid[1] != tokens.latents.shape[1]:
        raise BrokenPromise(
            f"A grid of {tokens.grid[0]} x {tokens.grid[1]} does not have"
            f" {tokens.latents.shape[1]} tokens."
        )


def deterministic(subject: Subject) -> None:
    """Check that the same image gives the same tokens."""
    model = subject.make()
    images = subject.images()
    if not torch.equal(model.encode(images).latents, model.encode(images).latents):
        raise BrokenPromise("Encoding the same images twice gives other latents.")


def independent_images(subject: Subject) -> None:
    """Check that the images of a batch do not influence each other."""
    model = subject.make()
    images = subject.images()
    order = torch.tensor([3, 0, 4, 1, 2])
    tokens, permuted = model.encode(images), model.encode(images[order])
    single = model.encode(images[:1])
    if not _close(permuted.latents, tokens.latents[order]):
        raise BrokenPromise("The latents of an image depend on its position in the batch.")
    if not _close(single.latents, tokens.latents[:1]):
        raise BrokenPromise("The latents of an image depend on the other images of the batch.")
    if not _close(model.decode(permuted), model.decode(tokens)[order]):
        raise BrokenPromise("A decoded image depends on the other images of the batch.")
    codes, permuted_codes = tokens.codes, permuted.codes
    if codes is None or permuted_codes is None:
        return
    if not torch.equal(permuted_codes, codes[order]):
        raise BrokenPromise("The codes of an image depend on its position in the batch.")


def codes_index_codebook(subject: Subject) -> None:
    """Check that codes and codebook belong together."""
    model = subject.make()
    tokens = model.encode(subject.images())
    codebook = model.codebook
    if (tokens.codes is None) != (codebook is None):
        raise BrokenPromise("Tokens have codes if and only if the property codebook is not None.")
    if tokens.codes is None or codebook is None:
        return
    if codebook.ndim != 3:
        raise BrokenPromise(
            f"codebook must have the shape (codebooks, codes, dim), got {tuple(codebook.shape)}."
        )
    num_codebooks, codebook_size, dim = codebook.shape
    if int(tokens.codes.min()) < 0 or int(tokens.codes.max()) >= codebook_size:
        raise BrokenPromise(
            f"Codes must be in 0..{codebook_size - 1}, got {int(tokens.codes.min())} to"
            f" {int(tokens.codes.max())}."
        )
    if dim != tokens.latents.shape[2]:
        raise BrokenPromise(
            f"Codewords have {dim} channels, and latents have {tokens.latents.shape[2]}."
        )
    if tokens.codes.shape[1] % num_codebooks:
        raise BrokenPromise(
            f"{tokens.codes.shape[1]} tokens do not divide into {num_codebooks} codebooks."
        )
    if subject.kind.discrete and not torch.equal(codebook[0][tokens.codes], tokens.latents):
        raise BrokenPromise(
            "With discrete = True, the codewords of the codes must be the latents exactly."
        )


def hidden_tokens_are_not_read(subject: Subject) -> None:
    """Check that the decoder does not read tokens that are not active."""
    model = subject.make()
    tokens = model.encode(subject.images())
    num_tokens = tokens.latents.shape[1]
    if num_tokens < 2:
        return
    active = (torch.arange(num_tokens) < num_tokens // 2).expand(BATCH, num_tokens)
    decoded = model.decode(Tokens(tokens.latents, active=active))
    changed = torch.where(active[..., None], tokens.latents, FAR_VALUE)
    if not _close(model.decode(Tokens(changed, active=active)), decoded):
        raise BrokenPromise(
            "decode reads tokens that `active` hides, so the token budget is not applicable."
        )
    if torch.allclose(decoded, model.decode(tokens)):
        raise BrokenPromise("Hiding half of the tokens changes no image.")


def objective_trains_every_parameter(subject: Subject) -> None:
    """Check that the loss is finite and has a gradient in every parameter."""
    model = subject.make().train()
    objective = model.objective(subject.images(TRAINING_BATCH))
    if not objective.terms:
        raise BrokenPromise("objective returns no terms.")
    for name, term in objective.terms.items():
        if term.ndim or not torch.isfinite(term):
            raise BrokenPromise(f"The term {name} of the objective must be one finite number.")
    objective.total.backward()
    without = [name for name, parameter in model.named_parameters() if not _has_gradient(parameter)]
    if without:
        raise BrokenPromise(f"No gradient reaches {', '.join(without[:5])}.")


def decoder_gradient_reaches_encoder(subject: Subject) -> None:
    """Check that an error of the image changes the encoder, unless it is frozen."""
    if subject.kind.frozen_encoder:
        return
    model = subject.make()
    tokens = model.encode(subject.images(TRAINING_BATCH))
    if not tokens.latents.requires_grad:
        raise BrokenPromise("The latents have no gradient. Quantize with a straight-through step.")
    tokens.latents.retain_grad()
    model.decode(tokens).square().mean().backward()
    gradient = tokens.latents.grad
    if gradient is None or not gradient.abs().sum() > 0:
        raise BrokenPromise("The gradient of the decoded image does not reach the latents.")
    parameters = [p for p in model.parameters() if p.requires_grad]
    again = model.encode(subject.images(TRAINING_BATCH)).latents
    gradients = torch.autograd.grad(again, parameters, gradient, allow_unused=True)
    if not any(part is not None and part.abs().sum() > 0 for part in gradients):
        raise BrokenPromise("The gradient of the latents reaches no parameter of the encoder.")


def frozen_encoder_ignores_parameters(subject: Subject) -> None:
    """Check that trained parameters do not select the codes of a frozen encoder."""
    if not subject.kind.frozen_encoder:
        return
    model = subject.make()
    images = subject.images()
    before = model.encode(images).codes
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    after = model.encode(images).codes
    if before is None or after is None or not torch.equal(before, after):
        raise BrokenPromise("With frozen_encoder = True, the codes depend on trained parameters.")


def evaluation_changes_nothing(subject: Subject) -> None:
    """Check that evaluation leaves weights and running averages as they are."""
    model = subject.make().train()
    model.objective(subject.images(TRAINING_BATCH)).total.backward()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model.objective(subject.images())
    model.eval().encode(subject.images())
    for name, tensor in model.state_dict().items():
        if not torch.equal(tensor, before[name]):
            raise BrokenPromise(f"Evaluation without gradients changes {name}.")


def resumes_to_equal_weights(subject: Subject) -> None:
    """Check that the state dict holds everything that training changes."""
    uninterrupted = _trained(subject, subject.make(), 0, 2 * STEPS)
    resumed = subject.make()
    resumed.load_state_dict(_trained(subject, subject.make(), 0, STEPS).state_dict())
    _trained(subject, resumed, STEPS, 2 * STEPS)
    for name, tensor in uninterrupted.state_dict().items():
        if not torch.equal(tensor, resumed.state_dict()[name]):
            raise BrokenPromise(
                f"A training that was stopped and resumed gives another {name}. Everything that"
                " training changes must be a parameter or a buffer."
            )


def config_can_be_stored(subject: Subject) -> None:
    """Check that the settings survive JSON, and that an unknown setting is refused."""
    config = subject.config
    try:
        stored = json.loads(json.dumps(dataclasses.asdict(config)))
    except TypeError as error:
        raise BrokenPromise(f"The Config cannot be stored as JSON: {error}.") from None
    again = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}
    if type(config)(**again) != config:
        raise BrokenPromise("The Config is another one after it was stored as JSON.")
    try:
        type(config)(no_such_setting=0)
    except TypeError:
        return
    raise BrokenPromise("The Config accepts a setting that it does not have.")


def config_is_frozen(subject: Subject) -> None:
    """Check that the settings cannot change after the model is made."""
    name = dataclasses.fields(subject.config)[0].name
    try:
        setattr(subject.config, name, getattr(subject.config, name))
    except dataclasses.FrozenInstanceError:
        return
    raise BrokenPromise("The Config can be changed; declare it with dataclass(frozen=True).")


def other_sizes_are_refused(subject: Subject) -> None:
    """Check that images of another size are refused in a sentence."""
    height, width = (2 * length for length in ImageSize.of(subject.config.side))
    images = torch.zeros(1, subject.config.channels, height, width)
    try:
        subject.make().encode(images)
    except UserError:
        return
    except Exception as error:  # whatever the arithmetic raises
        raise BrokenPromise(
            f"Images of another size raise {type(error).__name__} instead of UserError."
        ) from None
    raise BrokenPromise(f"Images of {height} x {width} pixels are encoded without an error.")


REQUIRED: dict[str, Callable[[Subject], None]] = {
    "the settings can be stored": config_can_be_stored,
    "the settings are frozen": config_is_frozen,
    "decoded images have the shape of the images": same_shape,
    "tokens have the declared grid": grid_is_declared,
    "the same image gives the same tokens": deterministic,
    "images do not influence each other": independent_images,
    "codes are indices of the codebook": codes_index_codebook,
    "the objective trains every parameter": objective_trains_every_parameter,
    "the error of an image changes the encoder": decoder_gradient_reaches_encoder,
    "a frozen encoder stays as it is": frozen_encoder_ignores_parameters,
    "evaluation changes nothing": evaluation_changes_nothing,
    "a resumed training gives equal weights": resumes_to_equal_weights,
}
# Analyses state that they are not applicable to a tokenizer without them.
OPTIONAL: dict[str, Callable[[Subject], None]] = {
    "hidden tokens are not read": hidden_tokens_are_not_read,
    "images of another size are refused": other_sizes_are_refused,
}


def check_tokenizer(subject: Subject) -> list[Verdict]:
    """Check every promise.

    Parameters
    ----------
    subject : Subject
        The tokenizer and its settings.

    Returns
    -------
    list of Verdict
        One per promise, the required ones first. An error of the tokenizer's code is a reason.
    """
    return [
        *(_verdict(subject, name, check, required=True) for name, check in REQUIRED.items()),
        *(_verdict(subject, name, check, required=False) for name, check in OPTIONAL.items()),
    ]


def _verdict(
    subject: Subject, promise: str, check: Callable[[Subject], None], *, required: bool
) -> Verdict:
    try:
        check(subject)
    except BrokenPromise as error:
        reason = str(error)
    except Exception as error:  # the code of the tokenizer may raise anything
        first_line = (str(error).splitlines() or [""])[0]
        reason = f"{type(error).__name__}: {first_line}"
    else:
        return Verdict(promise=promise, is_kept=True, is_required=required)
    return Verdict(promise=promise, is_kept=False, is_required=required, reason=reason)


def _trained(
    subject: Subject, model: TrainableTokenizer, first: int, last: int
) -> TrainableTokenizer:
    """Take steps of gradient descent."""
    images = subject.images(TRAINING_BATCH)
    for step in range(first, last):
        torch.manual_seed(step)
        parameters = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(
            model.train().objective(images).total, parameters, allow_unused=True
        )
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(STEP_SIZE * gradient)
    return model


def _close(actual: Tensor, expected: Tensor) -> bool:
    return torch.allclose(actual, expected, rtol=1.3e-6, atol=1e-5)


def _has_gradient(parameter: nn.Parameter) -> bool:
    gradient = parameter.grad
    return gradient is not None and bool(gradient.to_dense().abs().sum() > 0)
