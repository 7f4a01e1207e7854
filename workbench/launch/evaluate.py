"""Evaluation of a model that was trained elsewhere: its evidence as an ordinary run folder."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.coerce import coerce
from workbench.core.errors import UserError
from workbench.core.image_size import AnySide, as_side
from workbench.core.progress_bar import collecting_bar
from workbench.launch.evaluate_arrays import ARRAYS_PREFIX, evaluate_arrays
from workbench.launch.imported_models import (
    PreparedModel,
    is_generator,
    prepare_generator,
    prepare_tokenizer,
)
from workbench.launch.setup import print_summary
from workbench.storage.run import IMPORTED_STEP, Run, check_new_run
from workbench.storage.unfinished_run import unfinished_folder, unfinished_run

if TYPE_CHECKING:
    from workbench.collect import CollectOptions
    from workbench.collect.processes import Processes
    from workbench.generators.base import Generator
    from workbench.tokenizers.base import Tokenizer


def evaluate(
    model: "str | Tokenizer | Generator",
    data: str | Path | None = None,
    out: str | Path | None = None,
    *,
    tokenizer: str | Path | None = None,
    side: AnySide | None = None,
    value_range: tuple[float, float] | str | None = None,
    limit: int = 2000,
    pictures: int = 2000,
    samples: int | None = None,
    seed: int = 0,
    guidance: float = 2.0,
    feature_extractor: str = "auto",
    reference: str | Path | None = None,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    also: Iterable[str] = (),
    revision: str | None = None,
    trust: Sequence[str] = (),
    overwrite: bool = False,
    processes: "Processes | None" = None,
    progress: bool = True,
    **options: Any,
) -> Run:
    """Evaluate a tokenizer or a generator that was trained elsewhere.

    The result is a run in the state `imported`, which analyses, the dashboard and reports treat as
    any other. It contains no weights: the model is loaded again from its address when it is needed.
    Until it is complete, it is made in a hidden folder. If the process is killed, or the disk is
    full, the same call resumes there. After any other error no folder is left.

    Parameters
    ----------
    model : str, Tokenizer or Generator
        An address such as `softvq:SoftVQVAE/softvq-l-64`, or an object: a `Tokenizer`, or the
        result of `wb.wrap`. The model of an object cannot be loaded again. `arrays:FOLDER_OR_FILE`
        evaluates latents, codes or images in files, without a model; see `wb.evidence`.
    data : str or Path
        The images of a tokenizer: a folder, a parquet file, `hub:owner/name`, or a bundled set.
        The test images are evaluated, or every image of a source without splits. With arrays,
        `data` is optional and must have the same images in the same order.
    out : str or Path
        The folder of the run.
    tokenizer : str or Path, optional
        The run of the tokenizer whose latents a generator samples. Its images are used.
    side : int, str or pair of int, optional
        Height and width of the images in pixels, as in 256, "128x256" or (128, 256); by default
        those of the checkpoint.
    value_range : tuple of float or str, optional
        The values of black and white of images with more than 8 bits, such as (0, 4095) or
        "0,4095"; see `workbench.data.load`.
    limit : int
        Largest number of images or samples.
    pictures : int
        Largest number of images whose pictures are stored; all images contribute numbers.
    samples : int, optional
        Number of samples of a generator; see `workbench.collect.collect`.
    seed : int
        Seed of all random choices, also of samples of the posterior.
    guidance : float
        Scale of classifier-free guidance of a generator's samples.
    feature_extractor : str
        Name of the network whose features compare sets of images: inception, dinov2, hog, ...;
        "auto" is the first of them that needs no download.
    reference : path, optional
        A file of reference statistics or images, such as those of ADM's evaluator.
    only, skip : iterable of str
        Names of collectors to run, or to leave out; see `workbench collect`.
    also : iterable of str
        Names of collectors that run only on request, to run besides the others.
    revision : str, optional
        A branch, tag or commit on the hub.
    trust : sequence of str
        Modules whose code may be run, for addresses of the family `python`.
    overwrite : bool
        Whether to replace an imported run, with all files in its folder.
    processes : Processes, optional
        This process among those that evaluate together; see
        `workbench.collect.processes.joined_processes`.
    progress : bool
        Whether to print the layout of the images and to show a progress bar.
    **options
        Options of the family, such as `config` of ldm. Those of arrays are `codebook`, the number
        of codes, and `grid`, the rows and columns of the tokens.

    Returns
    -------
    Run
        The run.

    Raises
    ------
    UserError
        If the model cannot be loaded or does not fit the images, or the folder is in use.

    Examples
    --------
    >>> evaluate("softvq:SoftVQVAE/softvq-l-64", "imagenet/val", "runs/a")  # doctest: +SKIP
    """
    from workbench.collect import CollectOptions, select_collectors
    from workbench.collect.processes import Processes

    processes = processes or Processes()
    size = None if side is None else as_side(side)
    if out is None:
        raise UserError("Give out, the folder of the run, as in out='runs/a'.")
    folder = Path(out)
    check_new_run(folder, overwrite=overwrite)
    if isinstance(model, str) and model.startswith(ARRAYS_PREFIX):
        _check_none_given(
            {"tokenizer": tokenizer, "revision": revision, "trust": trust}
            | {"value_range": value_range}
            | {"only": only, "skip": skip, "also": also}
        )
        if processes.count > 1:
            raise UserError("Arrays are read by one process; start it without torchrun.")
        return evaluate_arrays(
            model.removeprefix(ARRAYS_PREFIX),
            folder,
            data=data,
            side=size,
            limit=limit,
            seed=seed,
            **options,
        )
    collect_options = CollectOptions(
        limit=limit,
        pictures=pictures,
        samples=samples,
        seed=seed,
        guidance=guidance,
        feature_extractor=feature_extractor,
        reference=None if reference is None else Path(reference),
        only=tuple(only),
        skip=tuple(skip),
        also=tuple(also),
        trust=tuple(trust),
    )
    if is_generator(model):
        select_collectors("generator", only=only, skip=skip, also=also)
        source = _tokenizer_run(tokenizer, data)
        prepared = prepare_generator(model, folder, source, revision, trust, options)
    else:
        select_collectors("tokenizer", only=only, skip=skip, also=also)
        images = _evaluated_images(data, tokenizer, limit, value_range)
        if "posterior" in options:
            options["seed"] = seed  # of the samples of the posterior
        prepared = prepare_tokenizer(model, images, size, revision, trust, options)
    return _collect_run(
        prepared, folder, collect_options, processes, is_shown=progress and processes.is_main
    )


def _tokenizer_run(tokenizer: str | Path | None, data: str | Path | None) -> Run:
    """Return the run of a generator's tokenizer, whose images are used."""
    if data is not None or tokenizer is None:
        raise UserError(
            "A generator samples the latents of a tokenizer, whose images are used: give the "
            "run of the tokenizer instead of data, as in tokenizer='runs/a'."
        )
    return Run(tokenizer)


def _evaluated_images(
    data: str | Path | None,
    tokenizer: str | Path | None,
    limit: int,
    value_range: tuple[float, float] | str | None,
) -> dict[str, Any]:
    """Return the images on which a tokenizer is evaluated, as the settings of their source."""
    if data is None:
        raise UserError("Give data, the images to evaluate on, as in data='imagenet/val'.")
    if tokenizer is not None:
        raise UserError("tokenizer is only given for a generator.")
    return {
        "source": str(data),
        "limit": limit,
        "value_range": coerce(tuple[float, float] | None, "value_range", value_range),
    }


def _collect_run(
    prepared: PreparedModel,
    folder: Path,
    options: "CollectOptions",
    processes: "Processes",
    *,
    is_shown: bool,
) -> Run:
    """Collect the evidence of a run in its unfinished folder, and move it to its own."""
    from workbench.collect import collect_from

    source = prepared.config if prepared.source is None else prepared.source.config
    if is_shown:
        print_summary(prepared.config, source.data)
    with unfinished_run(folder, prepared.config) if processes.is_main else nullcontext():
        processes.wait()
        run = Run(unfinished_folder(folder))
        with collecting_bar(folder.name, is_shown=is_shown):
            collect_from(
                run, prepared.models(run), options, step=IMPORTED_STEP, processes=processes
            )
        processes.wait()  # all have read the evidence
    processes.wait()
    return Run(folder)


def _check_none_given(options: Mapping[str, Any]) -> None:
    """Raise UserError if an option that only a model has is given with arrays."""
    names = [name for name, value in options.items() if value]
    if names:
        raise UserError(f"{', '.join(names)} cannot be given with arrays, which have no model.")
