"""The scales, and what they need before training: small images and a feature extractor.

`laptop` and `gpu` read CIFAR-10; `photos` and `digits` use the bundled images. Their tables are
never mixed. The latter two have half the training steps of `laptop`, so that both together take as
long. CIFAR-10 is a folder with train.parquet, test.parquet and resnet56.safetensors, which is the
teacher; elsewhere HOG is. Teachers are standardized per channel, because features that are never
negative all point in one direction, and errors of raw HOG are far smaller than those of unit
variance. On a CPU there are as many tokens as patches; only SoftVQ-VAE and KARL are run with
fewer. The feature extractor is a contrastive network that is trained here on the images of the
first seed. No tokenizer uses its features.
"""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np

from workbench.core.errors import UserError
from workbench.data import load
from workbench.features import get_feature_extractor
from workbench.features.contrastive import train_contrastive
from workbench.features.standardized import fit_standardization
from workbench.training import TrainConfig

from .arms import Scale

# Latents of every generator have unit variance per channel, as in LightningDiT. In the papers of
# SoftVQ-VAE and MAETok all channels share one scale.
BY_CHANNEL = {"by_channel": True}
LAPTOP = Scale(
    name="laptop",
    data="cifar10",
    images={"limit": 8000, "side": 16, "channels": 3},
    vit={"side": 16, "patch": 4, "num_tokens": 16, "dim": 16, "width": 64, "depth": 2, "heads": 4},
    grid={"side": 16, "width": 16, "multipliers": [1, 2, 2], "blocks": 1},
    plan={
        "steps": 300, "batch_size": 64, "lr": 2e-3, "warmup_steps": 50, "precision": "no",
        "save_every": 300,
    },
    network={"width": 96, "depth": 3, "heads": 4},
    generator_plan={
        "steps": 400, "batch_size": 64, "lr": 2e-3, "warmup_steps": 50, "precision": "no",
        "save_every": 400, "ema_decay": 0.99,
    },
    teacher="",
    feature_extractor="",
    extra={
        **dict.fromkeys(("karl", "taildrop", "alit"), {"steps": 600, "save_every": 600}),
        "unicode2": {"steps": 200, "save_every": 200},
        **dict.fromkeys(("sit", "lightningdit"), BY_CHANNEL),
        "ar": {"steps": 200, "save_every": 200, "lr": 1e-3},
    },
)  # fmt: skip
GPU = Scale(
    name="gpu",
    data="cifar10",
    images={"limit": 50_000, "side": 32, "channels": 3},
    vit={"side": 32, "patch": 4, "num_tokens": 16, "dim": 16, "width": 192, "depth": 4, "heads": 6},
    grid={"side": 32, "width": 48, "multipliers": [1, 2, 2, 2], "blocks": 1},
    plan={
        "steps": 2000, "batch_size": 256, "lr": 1e-3, "warmup_steps": 200, "precision": "bf16",
        "save_every": 2000,
    },
    network={"width": 256, "depth": 6, "heads": 8},
    generator_plan={
        "steps": 2000, "batch_size": 256, "lr": 1e-3, "warmup_steps": 200, "precision": "bf16",
        "save_every": 2000, "ema_decay": 0.999,
    },
    teacher="",
    feature_extractor="",
    num_samples=5000,
    full=True,
    extra={
        **dict.fromkeys(("karl", "taildrop", "alit"), {"steps": 4000, "save_every": 4000}),
        **dict.fromkeys(("sit", "lightningdit"), BY_CHANNEL),
        "ar": {"steps": 2000, "save_every": 2000},
    },
)  # fmt: skip
PHOTOS = replace(
    LAPTOP,
    name="photos",
    data="photos",
    images={"side": 16, "channels": 3},
    teacher="hog",
    plan=LAPTOP.plan | {"steps": 150, "save_every": 150},
    generator_plan=LAPTOP.generator_plan | {"steps": 200, "save_every": 200},
    extra={
        **dict.fromkeys(("karl", "taildrop", "alit"), {"steps": 300, "save_every": 300}),
        "unicode2": {"steps": 100, "save_every": 100},
        **dict.fromkeys(("sit", "lightningdit"), BY_CHANNEL),
        "ar": {"steps": 100, "save_every": 100, "lr": 1e-3},
    },
)
DIGITS = replace(
    PHOTOS,
    name="digits",
    data="digits",
    images={"side": 8, "channels": 1},
    vit=LAPTOP.vit | {"side": 8, "patch": 2},
    grid=LAPTOP.grid | {"side": 8, "multipliers": [1, 2]},
    channels=(2, 8),
    numbers=32,
    num_samples=360,
)
SCALES = {scale.name: scale for scale in (LAPTOP, GPU, PHOTOS, DIGITS)}
FEATURE_EXTRACTOR_STEPS = {"laptop": 400, "gpu": 3000, "photos": 300, "digits": 300}


def prepared(scale: Scale, out: Path, cifar: Path | None) -> Scale:
    """Return the scale with the folders of its images, teacher and feature extractor.

    Raises
    ------
    UserError
        If CIFAR-10 is needed and its folder is not given.
    """
    images = dict(scale.images)
    if scale.data == "cifar10":
        if cifar is None:
            raise UserError(
                f"The scale {scale.name} needs CIFAR-10: use --cifar FOLDER or CIFAR10=FOLDER."
            )
        images["data"] = str(
            _small(cifar, out / "images", scale.images["side"], scale.images["limit"])
        )
        scale = replace(scale, teacher=f"resnet56:{cifar.resolve() / 'resnet56.safetensors'}")
    means, cells = (out / "teacher.safetensors").resolve(), scale.vit["side"] // scale.vit["patch"]
    training_images = load(
        images.get("data", scale.data),
        side=images["side"],
        channels=images["channels"],
        limit=images.get("limit"),
    )
    where = {}
    for role, name in (("teacher", scale.teacher), ("hog", "hog"), ("untrained", scale.untrained)):
        path = means if name == scale.teacher else means.with_name(f"{role}.safetensors")
        fit_standardization(
            get_feature_extractor(name, channels=images["channels"]),
            training_images,
            (cells, cells),
            path,
        )
        where[role] = f"standardised:{path}:{name}"
    plan = TrainConfig(
        steps=FEATURE_EXTRACTOR_STEPS[scale.name],
        batch_size=128,
        warmup_steps=20,
        save_every=FEATURE_EXTRACTOR_STEPS[scale.name],
        seed=100,
    )
    feature_extractor = train_contrastive(
        training_images, out / "feature_extractor", width=16, train_config=plan
    )
    channels = {"channels": images["channels"]}
    where |= {
        "feature_extractor": str(feature_extractor.folder.resolve()),
        "cache": str((out / "features").resolve()),
    }
    return replace(
        scale, images=images, vit=scale.vit | channels, grid=scale.grid | channels, **where
    )


def _small(cifar: Path, folder: Path, side: int, limit: int) -> Path:
    """Write resized CIFAR-10 images, so that a hundred runs do not resize them again.

    Returns the path of train.parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for split, max_images in (("train", limit), ("test", 10_000)):
        path = folder / f"{split}.parquet"
        if path.exists():
            continue
        images = load(
            str(cifar / "train.parquet"), split=split, side=side, channels=3, limit=max_images
        )
        rows = []
        for pixels in images.pixels:
            buffer = io.BytesIO()
            Image.fromarray(np.asarray(pixels)).save(buffer, "PNG", compress_level=1)
            rows.append({"bytes": buffer.getvalue(), "path": None})
        names = [images.names[label] for label in images.labels]
        aside = path.with_suffix(".part")
        pq.write_table(pa.table({"image": rows, "label": names}), aside)
        aside.replace(path)
    return folder / "train.parquet"
