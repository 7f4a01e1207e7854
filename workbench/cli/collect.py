"""Commands that write the arrays of a trained model or of images."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.options import (
    CheckpointStep,
    FeatureExtractorName,
    Guidance,
    ImageSide,
    Limit,
    NumSamples,
    OnlyCollectors,
    OptionalLimit,
    PicturesOption,
    ReferenceFile,
    RequestedCollectors,
    RunFolder,
    SkippedCollectors,
    TrustOption,
)
from workbench.cli.output import echo, shorten_warnings


def collect(
    run: RunFolder,
    step: CheckpointStep = None,
    limit: Limit = 2000,
    pictures: PicturesOption = 2000,
    samples: NumSamples = None,
    guidance: Guidance = 2.0,
    feature_extractor: FeatureExtractorName = "auto",
    reference: ReferenceFile = None,
    only: OnlyCollectors = None,
    skip: SkippedCollectors = None,
    also: RequestedCollectors = None,
    trust: TrustOption = None,
) -> None:
    """Run a trained model on held-out images and save the arrays that analyses read.

    The same command resumes a collection that was killed.

    \b
    workbench collect runs/a
    workbench collect runs/a --skip prefixes
    workbench collect runs/a --also perturbed_codes
    torchrun --nproc_per_node 8 -m workbench collect runs/a --limit 50000
    """
    from workbench.collect import collect as collect_evidence
    from workbench.collect.processes import joined_processes
    from workbench.core.progress_bar import collecting_bar
    from workbench.storage.run import Run

    opened = Run(run)
    source = opened if opened.tokenizer is None else opened.tokenizer
    with joined_processes() as processes:
        is_main = processes.is_main
        if is_main and source.config.data is not None and source.config.data.summary is not None:
            echo(source.config.data.summary, err=True)
        with collecting_bar(opened.name, is_shown=is_main):
            evidence = collect_evidence(
                opened,
                step=step,
                limit=limit,
                pictures=pictures,
                samples=samples,
                guidance=guidance,
                feature_extractor=feature_extractor,
                reference=reference,
                only=only or (),
                skip=skip or (),
                also=also or (),
                trust=trust or (),
                processes=processes,
            )
        if is_main:
            echo(evidence)


def statistics(
    source: Annotated[
        str,
        typer.Argument(help="A folder or parquet file of images, or an .npz with arr_0."),
    ],
    out: Annotated[Path, typer.Option(help="The .npz file to write.", dir_okay=False)],
    feature_extractor: Annotated[
        str, typer.Option(help="The network; only inception is comparable with published values.")
    ] = "inception",
    split: Annotated[str, typer.Option(help="train, test or all.")] = "all",
    side: ImageSide = None,
    resize: Annotated[str, typer.Option(help="Resizing to this side: adm, bicubic or lanczos.")] = (
        "adm"
    ),
    limit: OptionalLimit = None,
) -> None:
    """Write statistics of a reference set's features, in the format of ADM's evaluator.

    \b
    workbench statistics path/to/images --side 256 --out reference.npz
    workbench collect runs/a --reference reference.npz
    """
    from workbench.collect.statistics import write_statistics

    shorten_warnings()
    written = write_statistics(
        source,
        out,
        feature_extractor=feature_extractor,
        split=split,
        side=side,
        resize=resize,
        limit=limit,
    )
    echo(
        f"Wrote the statistics of {written.features.count:,} images"
        f" ({written.features.dim:,} features) to {out}."
    )


def export(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="A new folder for the files.", file_okay=False)],
    latents: Annotated[bool, typer.Option("--latents", help="Write the latents.")] = False,
    codes: Annotated[bool, typer.Option("--codes", help="Write the codes.")] = False,
    images: Annotated[bool, typer.Option("--images", help="Write the images.")] = False,
    reconstructions: Annotated[
        bool, typer.Option("--reconstructions", help="Write the decoded images.")
    ] = False,
    file_format: Annotated[
        str, typer.Option("--format", help="safetensors, npz, npy or parquet.")
    ] = "safetensors",
    split: Annotated[
        str,
        typer.Option(help="test: the images of the evidence. train: encode the training images."),
    ] = "test",
    step: CheckpointStep = None,
    limit: OptionalLimit = None,
    trust: TrustOption = None,
) -> None:
    """Write latents, codes or images to files for other programs.

    latent_stats.json contains the mean, standard deviation, scale and shift of the latents.

    \b
    workbench export runs/a --latents --split train --out latents/a
    workbench export runs/a --latents --codes --format npy --out arrays/a
    """
    from workbench.collect.export import export as export_arrays

    result = export_arrays(
        run,
        out,
        latents=latents,
        codes=codes,
        images=images,
        reconstructions=reconstructions,
        format=file_format,
        split=split,
        step=step,
        limit=limit,
        trust=trust or (),
    )
    echo(f"Wrote {', '.join(result.arrays)} of {result.images:,} images to {out}.")
    if result.stats is not None:
        echo(
            f"scaling_factor {result.stats.scaling_factor:.6g}, "
            f"shift_factor {result.stats.mean:.6g} (see latent_stats.json)"
        )


def adm_batch(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="The .npz file to write.", dir_okay=False)],
    step: CheckpointStep = None,
) -> None:
    """Write samples or reconstructions as a batch (arr_0) for the evaluator of ADM.

    A generator gives the samples of its evidence, a tokenizer the reconstructions.

    \b
    workbench collect runs/sit --samples 50000
    workbench adm-batch runs/sit --out samples.npz
    """
    from workbench.collect.adm_batch import write_adm_batch

    count = write_adm_batch(run, out, step=step)
    echo(f"Wrote {count:,} images to {out}.")


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(collect)
    app.command()(statistics)
    app.command()(export)
    app.command()(adm_batch)
