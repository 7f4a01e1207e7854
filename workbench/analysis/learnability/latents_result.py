"""The fields that results of measures of scaled latents share."""

from dataclasses import dataclass

from workbench.analysis.perspectives import PerspectiveResult
from workbench.analysis.stats.sampling import Subset


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentsResult(PerspectiveResult):
    """A result that was computed on `ScaledLatents`.

    Attributes
    ----------
    images, of : int
        Number of images that were measured, and in the evidence.
    selection : Subset or None
        The images that were measured, if they are not all.
    tokens, channels : int
        Shape of the latents of an image.
    scaling : str
        `by channel` or `all alike`.
    """

    images: int
    of: int
    selection: Subset | None
    tokens: int
    channels: int
    scaling: str

    @property
    def subset(self) -> Subset | None:
        """The images that were measured, if they are not all."""
        return self.selection
