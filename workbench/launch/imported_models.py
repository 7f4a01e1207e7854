"""Models that were trained elsewhere: loading, and the configurations of their runs."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench.core.coerce import to_json
from workbench.core.errors import UserError
from workbench.core.image_size import Side, as_side
from workbench.launch.setup import absolute_source, layout_fields
from workbench.storage.array_evidence import ARRAYS_FAMILY
from workbench.storage.imported import digests
from workbench.storage.published import Address
from workbench.storage.run import Run
from workbench.storage.run_config import (
    DataConfig,
    ImportedConfig,
    RunConfig,
    RunReference,
    ScaleConfig,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from workbench.collect import LoadedModels
    from workbench.data import ImageSet
    from workbench.generators.base import Generator
    from workbench.generators.pretrained import PretrainedGenerator
    from workbench.tokenizers.base import Tokenizer
    from workbench.tokenizers.pretrained import Pretrained

NUM_PROBED_IMAGES = 2


@dataclass(frozen=True, kw_only=True)
class PreparedModel:
    """Models in memory, and the configuration of their run.

    Attributes
    ----------
    config : RunConfig
        The configuration.
    tokenizer : Tokenizer
        The evaluated tokenizer, or that of the evaluated generator.
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


@dataclass(frozen=True, kw_only=True)
class _ModelSource:
    """The address of a model and the options of its family; no address for an object."""

    address: str | None = None
    revision: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: "str | Tokenizer | Generator",
        revision: str | None,
        options: Mapping[str, Any],
    ) -> "_ModelSource":
        """Make paths absolute, and refuse options of an object."""
        if isinstance(model, str):
            return cls(
                address=_absolute_address(model),
                revision=revision,
                options=_absolute_paths(options),
            )
        names = [*options, *(["revision"] if revision else [])]
        if names:
            raise UserError(f"{', '.join(names)} can only be given with the address of a model.")
        return cls()

    def section(
        self,
        kind: Literal["tokenizer", "generator"],
        pretrained: "Pretrained | PretrainedGenerator",
        **sizes: Any,
    ) -> ImportedConfig:
        """Return the section `imported` of config.json."""
        return ImportedConfig(
            kind=kind,
            address=self.address,
            revision=self.revision,
            options=self.options,
            files=digests(pretrained.files),
            license=pretrained.license,
            notes=pretrained.notes,
            **sizes,
        )


def is_generator(model: "str | Tokenizer | Generator") -> bool:
    """Return True if the model is a generator, by its type or the family of its address."""
    from workbench.generators.base import Generator
    from workbench.generators.pretrained import FAMILIES as GENERATORS
    from workbench.tokenizers.pretrained import FAMILIES as TOKENIZERS

    if isinstance(model, str):
        families = [*TOKENIZERS, *GENERATORS, ARRAYS_FAMILY]
        return Address.parse(model, families=families).family in GENERATORS
    return isinstance(model, Generator)


def prepare_tokenizer(
    model: "str | Tokenizer | Generator",
    source: Mapping[str, Any],
    side: Side | None,
    revision: str | None,
    trust: Sequence[str],
    options: Mapping[str, Any],
) -> PreparedModel:
    """Load a tokenizer, and the images of a source (arguments of `workbench.data.load`)."""
    from workbench.data import load

    source_model = _ModelSource.of(model, revision, options)
    takes_side = False
    if source_model.address is not None:
        from workbench.tokenizers.pretrained import accepts_side
        from workbench.tokenizers.pretrained import load as load_pretrained

        takes_side = accepts_side(source_model.address)
        if takes_side and side is not None:
            source_model.options["side"] = to_json(side)
        pretrained = load_pretrained(
            source_model.address, revision=revision, trust=trust, **source_model.options
        )
    else:
        from workbench.tokenizers.pretrained.python import from_tokenizer

        pretrained = from_tokenizer(model, name="model", side=side)
    images = load(
        split="all",
        side=_image_side(pretrained, source_model.address or "This tokenizer", side),
        channels=pretrained.channels,
        resize=pretrained.resize,
        **source,
    )
    if takes_side:
        source_model.options["side"] = to_json(images.side)
    imported = source_model.section(
        "tokenizer",
        pretrained,
        side=pretrained.side,
        flexible=pretrained.flexible,
        scale=None if pretrained.scale is None else ScaleConfig(**asdict(pretrained.scale)),
    )
    settings, digest = _probe(pretrained.tokenizer, images)
    _check_scale(pretrained, settings["dim"])
    config = _run_config(
        pretrained.tokenizer,
        settings=settings,
        imported=imported,
        data=_data_section(pretrained, images, source),
    )
    return PreparedModel(config=config, tokenizer=pretrained.tokenizer, digest=digest)


def _data_section(
    pretrained: "Pretrained", images: "ImageSet", source: Mapping[str, Any]
) -> DataConfig:
    """Return the images of a run as config.json stores them."""
    from workbench.data import BUNDLED

    data = source["source"]
    value_range = source["value_range"]
    return DataConfig(
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


def prepare_generator(
    model: "str | Tokenizer | Generator",
    folder: Path,
    source: Run,
    revision: str | None,
    trust: Sequence[str],
    options: Mapping[str, Any],
) -> PreparedModel:
    """Load a generator, and its tokenizer from a run."""
    from workbench.collect.models import load_tokenizer
    from workbench.generators.base import Generator
    from workbench.generators.pretrained import PretrainedGenerator
    from workbench.generators.pretrained import load as load_pretrained

    source_model = _ModelSource.of(model, revision, options)
    if source_model.address is not None:
        pretrained = load_pretrained(
            source_model.address, revision=revision, **source_model.options
        )
    else:
        assert isinstance(model, Generator)  # of any other object, `is_generator` is false
        pretrained = PretrainedGenerator(generator=model)
    generator = pretrained.generator
    step = source.find_step()
    tokenizer = load_tokenizer(source, step, trust)
    _check_same_tokens(generator, source)
    imported = source_model.section("generator", pretrained)
    config = _run_config(
        generator,
        settings=_settings_of(generator.config),
        imported=imported,
        tokenizer=RunReference(run=relpath(source.folder, folder), step=step),
    )
    return PreparedModel(
        config=config,
        tokenizer=tokenizer,
        generator=generator,
        source=source,
        digest=_weights_digest(generator) if source_model.address is None else "",
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


def _check_scale(pretrained: "Pretrained", dim: int | None) -> None:
    """Raise UserError unless the scale has one number, or one per channel."""
    scale = pretrained.scale
    if scale is None or dim is None:
        return
    for name, values in (("mean", scale.mean), ("std", scale.std)):
        if len(values) not in (1, dim):
            raise UserError(
                f"The {name} of the latents must be one number, or one for each of the {dim} "
                f"channels; the checkpoint has {len(values)}."
            )


def _probe(tokenizer: "Tokenizer", images: "ImageSet") -> tuple[dict[str, Any], str]:
    """Return the sizes of a tokenizer and its own settings, and a hash of what it computes.

    Both are measured on a few images. The hash distinguishes models that are functions.
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
        return None if pretrained.side is None else as_side(pretrained.side, f"The side of {name}")
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
