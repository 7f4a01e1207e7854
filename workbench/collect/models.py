"""Loading a run's model as the type that it must be."""

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.core.errors import RunError
from workbench.generators.base import Generator
from workbench.storage.run import Run
from workbench.tokenizers.base import Tokenizer


@dataclass(frozen=True, kw_only=True)
class LoadedModels:
    """The models of a run in memory.

    Attributes
    ----------
    tokenizer : Tokenizer
        The tokenizer of the run, or of the run's generator.
    source : Run
        The run of the tokenizer, which has the images.
    generator : Generator or None
        The generator; None for a tokenizer's run.
    digest : str
        A hash of what a model computes that has no checkpoint, by which an interrupted collection
        recognizes it.
    """

    tokenizer: Tokenizer
    source: Run
    generator: Generator | None = None
    digest: str = ""


def load_models(run: Run, step: int | None = None, trust: Sequence[str] = ()) -> LoadedModels:
    """Load the model of a checkpoint (None: the last), and the tokenizer of a generator.

    Raises
    ------
    RunError
        If there is no such checkpoint, or a model is of another kind than the run.
    """
    if not run.is_generator:
        return LoadedModels(tokenizer=load_tokenizer(run, step, trust), source=run)
    return LoadedModels(
        tokenizer=load_source_tokenizer(run, trust),
        source=tokenizer_run(run),
        generator=load_generator(run, step, trust),
    )


def tokenizer_run(run: Run) -> Run:
    """Return the run of the tokenizer that a generator was trained on.

    Raises
    ------
    RunError
        If the run's config.json does not refer to a tokenizer.
    """
    if run.config.latents is not None and run.tokenizer is None:
        raise RunError(
            f"{run.folder} was trained on the latents in {run.config.latents.folder} without a"
            " tokenizer, so that its samples cannot be decoded. Train it in a new folder with"
            " --tokenizer RUN as well, the run of the tokenizer of these latents."
        )
    if run.tokenizer is None:
        raise RunError(
            f"{run.folder} has no tokenizer in its config.json; a generator's run must have one."
        )
    return run.tokenizer


def load_tokenizer(run: Run, step: int | None = None, trust: Sequence[str] = ()) -> Tokenizer:
    """Load the tokenizer of a checkpoint (None: the last).

    Raises
    ------
    RunError
        If there is no such checkpoint, or the model is not a tokenizer.
    """
    model = run.load(step, trust=trust)
    if not isinstance(model, Tokenizer):
        raise RunError(f"{run.folder} must hold a Tokenizer, got {run.kind}.")
    return model


def build_tokenizer(run: Run, trust: Sequence[str] = ()) -> Tokenizer:
    """Build the untrained tokenizer of a run, in evaluation mode.

    Raises
    ------
    RunError
        If the model is not a tokenizer.
    """
    model = run.build(trust).eval()
    if not isinstance(model, Tokenizer):
        raise RunError(f"{run.folder} must hold a Tokenizer, got {run.kind}.")
    return model


def load_generator(run: Run, step: int | None = None, trust: Sequence[str] = ()) -> Generator:
    """Load the generator of a checkpoint (None: the last).

    Raises
    ------
    RunError
        If there is no such checkpoint, or the model is not a generator.
    """
    model = run.load(step, trust=trust)
    if not isinstance(model, Generator):
        raise RunError(f"{run.folder} must hold a Generator, got {run.kind}.")
    return model


def load_source_tokenizer(run: Run, trust: Sequence[str] = ()) -> Tokenizer:
    """Load the tokenizer that a generator was trained on, at the step of its training data."""
    return load_tokenizer(tokenizer_run(run), run.tokenizer_step, trust)
