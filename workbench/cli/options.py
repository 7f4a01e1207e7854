"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

TrustOption = Annotated[
    list[str] | None,
    typer.Option(
        help="A module or package whose code may be imported; repeatable.", metavar="MODULE"
    ),
]
RunFolder = Annotated[Path, typer.Argument(help="The folder of a run.", metavar="RUN")]
FeatureExtractorName = Annotated[
    str,
    typer.Option(
        help="Feature extractor for Fréchet distances and precision/recall: inception, dinov2, "
        "efficientnet, hog, ...; by default the first of these that needs no download."
    ),
]
ReferenceFile = Annotated[
    Path | None,
    typer.Option(help="Reference statistics or images, an .npz file in the format of ADM."),
]
Guidance = Annotated[
    float, typer.Option(help="Scale of classifier-free guidance of a generator's samples.")
]
OnlyCollectors = Annotated[
    list[str] | None,
    typer.Option(help="Run only this collector, and those it requires; repeatable."),
]
SkippedCollectors = Annotated[
    list[str] | None, typer.Option(help="Leave out this collector; repeatable.")
]
RequestedCollectors = Annotated[
    list[str] | None,
    typer.Option(help="Also run this collector, which runs only on request; repeatable."),
]
PicturesOption = Annotated[
    int,
    typer.Option(
        help="Number of images whose pictures are stored; statistics use all images.", min=1
    ),
]
NumSamples = Annotated[
    int | None,
    typer.Option(
        help="Number of samples of a generator; by default 64 per class, and 640 or more if the"
        " limit allows.",
        min=1,
    ),
]
ImageSide = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Height and width of the images, as in 256 or 128x256."),
]
CheckpointStep = Annotated[
    int | None, typer.Option(help="Step of the checkpoint; the last by default.")
]
Limit = Annotated[int, typer.Option(help="Largest number of held-out images or samples.", min=1)]
OptionalLimit = Annotated[
    int | None, typer.Option(help="Largest number of images; all by default.", min=1)
]
DaskScheduler = Annotated[
    str | None, typer.Option(help="The address of a Dask scheduler; this machine by default.")
]
