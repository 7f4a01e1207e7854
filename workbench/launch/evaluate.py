"""Evaluation of a model that was trained elsewhere: its evidence as an ordinary run folder."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.coerce import coerce, to_json
from workbench.core.errors import UserError
from workbench.core.image_size import AnySide, Side, as_side
from workbench.launch.evaluate_arrays import ARRAYS_PREFIX, evaluate_arrays
from workbench.launch.progress_bar import collecting_bar
from workbench.launch.setup import absolute_source, layout_fields, print_summary
from workbench.storage.array_evidence import ARRAYS_FAMILY
from workbench.storage.imported import digests
from workbench.storage.published import Address
from workbench.storage.run import IMPORTED_STEP, Run, check_new_run
from workbench.storage.run_config import (
    DataConfig,
    ImportedConfig,
    RunConfig,
    RunReference,
    ScaleConfig,
)
from workbench.storage.unfinished_run import unfinished_folder, unfinished_run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from workbench.collect import CollectOptions, LoadedModels
    from workbench.collect.processes import Processes
    from workbench.data import ImageSet
    from workbench.generators.base import Generator
    from workbench.tokenizers.base import Tokenizer
    from workbench.tokenizers.pretrained import Pretrained

NUM_PROBED_IMAGES = 2


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
    seed : int
        Seed of all random choices.
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
        seed=seed,
        guidance=guidance,
        feature_extractor=feature_extractor,
        reference=None if reference is None else Path(reference),
        only=tuple(only),
        skip=tuple(skip),
        also=tuple(also),
        trust=tuple(trust),
    )
    if _is_generator(model):
        select_collectors("generator", only=only, skip=skip, also=also)
        if data is not None or tokenizer is None:
            raise UserError(
                "A generator samples the latents of a tokenizer, whose images are used: give the "
                "run of the tokenizer instead of data, as in tokenizer='runs/a'."
            )
        prepared = _prepare_generator(model, folder, Run(tokenizer), revision, trust, options)
    else:
        select_collectors("tokenizer", only=only, skip=skip, also=also)
        if data is None:
            raise UserError("Give data, the images to evaluate on, as in data='imagenet/val'.")
        if tokenizer is not None:
            raise UserError("tokenizer is only given for a generator.")
        images = {
            "source": str(data),
            "limit": limit,
            "value_range": coerce(tuple[float, float] | None, "value_range", value_range),
        }
        prepared = _prepare_tokenizer(model, images, size, revision, trust, options)
    return _collect_run(
        prepared, folder, collect_options, processes, is_shown=progress and processes.is_main
    )


def _collect_run(
    prepared: "_Prepared",
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


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """Models in memory, and the configuration of their run.

    Attributes
    ----------
    config : RunConfig
        The configuration.
    tokenizer : Tokenizer
        The tokenizer.
    generator : Generator or None
        The generator; None if the run is the tokenizer's.
    source : Run or None
        The run of a generator's tokenizer.
    digest : str
        A hash of what the model computes; see `LoadedModels`.
    """

    config: RunConfig
    tokenizer: "Tokenizer"
    generator: "Generator | None" = None
    source: Run | None = None
    digest: str = ""

    def models(self, run: Run) -> "LoadedModels":
        """Return the models as those of a run."""
        from workbench.collect import LoadedModels

        return LoadedModels(
            tokenizer=self.tokenizer,
            source=self.source or run,
            generator=self.generator,
            digest=self.digest,
        )


def _is_generator(model: "str | Tokenizer | Generator") -> bool:
    """Return True if the model is a generator, by its type or the family of its address."""
    from workbench.generators.base import Generator
    from workbench.generators.pretrained import FAMILIES as GENERATORS
    from workbench.tokenizers.pretrained import FAMILIES as TOKENIZERS

    if isinstance(model, str):
        families = [*TOKENIZERS, *GENERATORS, ARRAYS_FAMILY]
        return Address.parse(model, families=families).family in GENERATORS
    return isinstance(model, Generator)


def _prepare_tokenizer(
    model: "str | Tokenizer | Generator",
    source: Mapping[str, Any],
    side: Side | None,
    revision: str | None,
    trust: Sequence[str],
    options: Mapping[str, Any],
) -> _Prepared:
    """Load a tokenizer, and the images of a source (arguments of `workbench.data.load`)."""
    from workbench.data import BUNDLED, load

    options = _absolute_paths(options)
    address: str | None = None
    if isinstance(model, str):
        from workbench.tokenizers.pretrained import accepts_side
        from workbench.tokenizers.pretrained import load as load_pretrained

        address = _absolute_address(model)
        takes_side = accepts_side(address)
        if takes_side and side is not None:
            options["side"] = to_json(side)
        pretrained = load_pretrained(address, revision=revision, trust=trust, **options)
    else:
        from workbench.tokenizers.pretrained.python import from_tokenizer

        _check_no_options(options | {"revision": revision} if revision else options)
        takes_side = False
        pretrained = from_tokenizer(model, name="model", side=side)
    images = load(
        split="all",
        side=_image_side(pretrained, address or "This tokenizer", side),
        channels=pretrained.channels,
        resize=pretrained.resize,
        **source,
    )
    data = source["source"]
    value_range = source["value_range"]
    if takes_side:
        options["side"] = to_json(images.side)
    imported = ImportedConfig(
        kind="tokenizer",
        address=address,
        revision=revision,
        options=options,
        files=digests(pretrained.files),
        license=pretrained.license,
        side=pretrained.side,
        flexible=pretrained.flexible,
        scale=None if pretrained.scale is None else ScaleConfig(**asdict(pretrained.scale)),
        notes=pretrained.notes,
    )
    section = DataConfig(
        source=absolute_source(data),
        side=images.side,
        channels=images.pixels.shape[3],
        names=images.names,
        skipped=images.skipped,
        split=images.split,
        resize=None if data in BUNDLED else pretrained.resize,
        **({} if value_range is None else {"value_range": value_range}),
        **layout_fields(images),
    )
    settings, digest = _probe(pretrained.tokenizer, images)
    config = _run_config(
        pretrained.tokenizer,
        settings=settings,
        imported=imported,
        data=section,
    )
    return _Prepared(config=config, tokenizer=pretrained.tokenizer, digest=digest)


def _prepare_generator(
    model: "str | Tokenizer | Generator",
    folder: Path,
    source: Run,
    revision: str | None,
    trust: Sequence[str],
    options: Mapping[str, Any],
) -> _Prepared:
    from workbench.collect.models import load_tokenizer
    from workbench.generators.base import Generator
    from workbench.generators.pretrained import PretrainedGenerator
    from workbench.generators.pretrained import load as load_pretrained

    options = _absolute_paths(options)
    address: str | None = None
    if isinstance(model, str):
        address = _absolute_address(model)
        pretrained = load_pretrained(address, revision=revision, **options)
    else:
        assert isinstance(model, Generator)  # of any other object, `_is_generator` is false
        _check_no_options(options | {"revision": revision} if revision else options)
        pretrained = PretrainedGenerator(generator=model)
    generator = pretrained.generator
    step = source.find_step()
    tokenizer = load_tokenizer(source, step, trust)
    _check_same_tokens(generator, source)
    imported = ImportedConfig(
        kind="generator",
        address=address,
        revision=revision,
        options=options,
        files=digests(pretrained.files),
        license=pretrained.license,
        notes=pretrained.notes,
    )
    config = _run_config(
        generator,
        settings=_settings_of(generator.config),
        imported=imported,
        tokenizer=RunReference(run=relpath(source.folder, folder), step=step),
    )
    return _Prepared(
        config=config,
        tokenizer=tokenizer,
        generator=generator,
        source=source,
        digest=_weights_digest(generator) if address is None else "",
    )


def _run_config(
    model: "nn.Module",
    *,
    settings: dict[str, Any],
    imported: ImportedConfig,
    data: DataConfig | None = None,
    tokenizer: RunReference | None = None,
) -> RunConfig:
    from workbench.collect import versions

    kind = type(model)
    sections: dict[str, Any] = {
        "class": f"{kind.__module__}:{kind.__qualname__}",
        "settings": settings,
        "imported": imported,
        "versions": versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if data is not None:
        sections["data"] = data
    if tokenizer is not None:
        sections["tokenizer"] = tokenizer
    return RunConfig.from_dict(sections)


def _probe(tokenizer: "Tokenizer", images: "ImageSet") -> tuple[dict[str, Any], str]:
    """Return the sizes of a tokenizer and its own settings, and a hash of what it computes.

    Both are measured on a few images. The hash tells models apart that are functions.
    """
    import torch

    from workbench.tokenizers.base import TrainableTokenizer

    batch = images.images(slice(0, NUM_PROBED_IMAGES))
    tokenizer.check_round_trip(batch)
    with torch.no_grad():
        tokens = tokenizer.encode(batch)
        decoded = tokenizer.decode(tokens)
    latents = tokens.latents
    settings: dict[str, Any] = {}
    if isinstance(tokenizer, TrainableTokenizer):
        settings |= _settings_of(tokenizer.config)
    settings |= {
        "side": to_json(images.side),
        "channels": images.pixels.shape[3],
        "num_tokens": latents.shape[1],
        "dim": latents.shape[2] or None,  # no channels if only the codes are known
    }
    if tokenizer.codebook is not None:
        settings["codebook_size"] = tokenizer.codebook.shape[1]
    return settings, _digest([latents, decoded])


def _weights_digest(model: "nn.Module") -> str:
    """Return a hash of the weights of a model that was given as an object."""
    return _digest(model.state_dict().values())


def _digest(tensors: "Iterable[Tensor]") -> str:
    """Return a hash of the values of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def _settings_of(config: Any) -> dict[str, Any]:
    return {name: to_json(value) for name, value in asdict(config).items()}


def _image_side(pretrained: "Pretrained", name: str, side: Side | None) -> Side | None:
    """Return the height and width of the images in pixels; None if they keep their own.

    Raises
    ------
    UserError
        If the tokenizer does not take images of the requested size.
    """
    if side is None or side == pretrained.side:
        return pretrained.side
    if pretrained.side is not None and not pretrained.flexible:
        raise UserError(f"{name} takes images of {pretrained.side} pixels, got side={side}.")
    return side


def _check_same_tokens(generator: "Generator", source: Run) -> None:
    """Raise UserError if a generator samples tokens of another shape than the tokenizer reads."""
    sampled = _settings_of(generator.config)
    for name, unit in (("num_tokens", "tokens per image"), ("dim", "channels per token")):
        expected = source.config.settings.get(name)
        count = sampled.get(name)
        if expected is not None and count is not None and count != expected:
            raise UserError(
                f"The generator samples {count} {unit}, but {source.folder} has {expected}."
            )
    _, height, width = source.config.image_shape
    rows, count = sampled.get("rows") or 1, sampled.get("num_tokens") or 1
    if rows > 1 and rows * width != count // rows * height:
        raise UserError(
            f"The generator samples a grid of {rows} x {count // rows} tokens, which does not have"
            f" the ratio of the images of {source.folder}, {height} x {width} pixels."
        )


def _check_none_given(options: Mapping[str, Any]) -> None:
    """Raise UserError if an option that only a model has is given with arrays."""
    names = [name for name, value in options.items() if value]
    if names:
        raise UserError(f"{', '.join(names)} cannot be given with arrays, which have no model.")


def _check_no_options(options: Mapping[str, Any]) -> None:
    if options:
        names = ", ".join(options)
        raise UserError(f"{names} can only be given with the address of a model.")


def _absolute_address(address: str) -> str:
    """Return an address with an absolute path, so that the model is found from any folder."""
    family, colon, location = address.partition(":")
    path = Path(location).expanduser()
    return f"{family}{colon}{path.resolve()}" if path.exists() else address


def _absolute_paths(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as JSON stores them, with absolute paths of files that exist."""
    absolute = {}
    for name, value in options.items():
        is_path = isinstance(value, str | Path) and str(value) and Path(value).exists()
        absolute[name] = str(Path(value).resolve()) if is_path else to_json(value)
    return absolute
