"""The interface of families of published generators."""

from dataclasses import dataclass
from pathlib import Path

from workbench.generators.base import Generator


@dataclass(frozen=True, kw_only=True)
class PretrainedGenerator:
    """A generator that was trained elsewhere.

    Attributes
    ----------
    generator : Generator
        The generator, in evaluation mode. Its samples are latents as the tokenizer's decoder reads
        them, that is, the published normalization is undone.
    files : tuple of Path
        The files that were read. Their digests are stored in the run.
    license : str or None
        The license of the weights; None if none is stated.
    notes : tuple of str
        Remarks for the user, one sentence each.
    """

    generator: Generator
    files: tuple[Path, ...] = ()
    license: str | None = None
    notes: tuple[str, ...] = ()
