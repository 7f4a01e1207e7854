"""Loading a run's model as the type that it must be."""

from collections.abc import Sequence

from workbench.core.errors import RunError
from workbench.generators.base import Generator
from workbench.storage.run import Run
from workbench.tokenizers.base import Tokenizer


def tokenizer_run(run: Run) -> Run:
    """Return the run of the tokenizer that a generator was trained on.

    Raises
    ------
    RunError
        If the run's config.json does not refer to a tokenizer.
    """
    if run.tokenizer is None:
        raise RunError(
            f"{run.folder} has no tokenizer in its config.json; a generator's run must have one."
        )
    return run.tokenizer


def load_tokenizer(run: Run, step: int | None = None, modules: Sequence[str] = ()) -> Tokenizer:
    """Load the tokenizer of a checkpoint (None: the last).

    Raises
    ------
    RunError
        If there is no such checkpoint, or the model is not a tokenizer.
    """
    model = run.load(step, trust=modules)
    if not isinstance(model, Tokenizer):
        raise RunError(f"{run.folder} must hold a Tokenizer, got {run.kind}.")
    return model


def build_tokenizer(run: Run, modules: Sequence[str] = ()) -> Tokenizer:
    """Build the untrained tokenizer of a run, in evaluation mode.

    Raises
    ------
    RunError
        If the model is not a tokenizer.
    """
    model = run.build(modules).eval()
    if not isinstance(model, Tokenizer):
        raise RunError(f"{run.folder} must hold a Tokenizer, got {run.kind}.")
    return model


def load_generator(run: Run, step: int | None = None, modules: Sequence[str] = ()) -> Generator:
    """Load the generator of a checkpoint (None: the last).

    Raises
    ------
    RunError
        If there is no such checkpoint, or the model is not a generator.
    """
    model = run.load(step, trust=modules)
    if not isinstance(model, Generator):
        raise RunError(f"{run.folder} must hold a Generator, got {run.kind}.")
    return model


def load_source_tokenizer(run: Run, modules: Sequence[str] = ()) -> Tokenizer:
    """Load the tokenizer that a generator was trained on, at the step of its training data."""
    return load_tokenizer(tokenizer_run(run), run.tokenizer_step, modules)
