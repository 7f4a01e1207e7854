"""The fields that results of measures of scaled latents share."""

from collections.abc import Mapping
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
    constant_channels : int
        Channels that are equal in all images and tokens, and stay 0.
    scaling : str
        `by channel` or `all alike`.
    """

    images: int
    of: int
    selection: Subset | None
    tokens: int
    channels: int
    constant_channels: int
    scaling: str

    @property
    def subset(self) -> Subset | None:
        """The images that were measured, if they are not all."""
        return self.selection

    def control_limits(self) -> Mapping[str, int]:
        """Return the number of images."""
        return {"max_images": self.of}

    def remarks(self) -> str:
        """Return sentences, after a space, on constant channels and on a subsample."""
        if not self.constant_channels:
            return self.subset_note()
        verb = "is" if self.constant_channels == 1 else "are"
        return (
            f" {self.constant_channels} of {self.channels} channels {verb} constant and stay"
            f" 0.{self.subset_note()}"
        )
