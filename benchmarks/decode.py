"""Decoding rate of training images, next to a plain DataLoader and to webdataset.

    python benchmarks/decode.py --side 256 --images 400

All read the same JPEG files of 500 x 375 pixels (the mean of ImageNet), resize and crop them with
Pillow, flip them at random and stack them in batches of 32. The rates are those of the best of
several rounds, which alternate. The plain DataLoader returns bytes, as ours does; the usual
ToTensor and Normalize in its workers are a row of their own. CPU time per image, measured in one
process without workers, depends little on what else the machine does.
"""

import argparse
import importlib.util
import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset

from workbench.data import lazy, load
from workbench.training import TrainConfig
from workbench.training.dataloading import Rank, load_batches

BATCH = 32
SIZE = (500, 375)
ROUNDS = 3
CPU_ROUNDS = 8
CPU_BATCHES = 4  # per round
NOISE_CELLS = (40, 30)


def write_images(folder: Path, count: int) -> None:
    """Write JPEG files of noise of low frequency, of about 100 kB."""
    random = np.random.default_rng(0)
    for index in range(count):
        cells = random.integers(0, 256, (*NOISE_CELLS[::-1], 3), np.uint8)
        image = Image.fromarray(cells).resize(SIZE, Image.Resampling.BICUBIC)
        image.save(folder / f"{index:05}.jpg", quality=95)


def write_shard(folder: Path, path: Path) -> None:
    """Write the files into a tar file."""
    with tarfile.open(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, file.name)


class PlainImages(Dataset[torch.Tensor]):
    """A plain dataset, as users write it by hand."""

    def __init__(self, folder: Path, side: int, *, normalize: bool) -> None:
        self.files = sorted(folder.iterdir())
        self.side = side
        self.normalize = normalize

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return to_tensor(self.files[index].read_bytes(), self.side, normalize=self.normalize)


def to_tensor(content: bytes, side: int, *, normalize: bool = False) -> torch.Tensor:
    """Decode, resize, crop and flip one image with Pillow."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    image = ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
    if torch.rand(()) < 0.5:
        image = ImageOps.mirror(image)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return pixels.float().div_(127.5).sub_(1) if normalize else pixels.contiguous()


def plain_batches(folder: Path, side: int, num_workers: int, *, normalize: bool) -> Iterator[Any]:
    """Yield batches of a plain DataLoader, epoch after epoch."""
    loader = DataLoader(
        PlainImages(folder, side, normalize=normalize),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    while True:
        yield from loader


def webdataset_batches(shard: Path, side: int, num_workers: int) -> Iterator[Any]:
    """Yield batches of webdataset, epoch after epoch."""
    import webdataset

    data = (
        webdataset.WebDataset([str(shard)] * max(1, num_workers), shardshuffle=False)
        .shuffle(1000)
        .to_tuple("jpg")
        .map_tuple(lambda content: to_tensor(content, side))
        .batched(BATCH, partial=False)
    )
    loader = webdataset.WebLoader(data, batch_size=None, num_workers=num_workers)
    while True:
        yield from loader


def our_batches(
    folder: Path, side: int, num_workers: int, *, reduced: bool = False
) -> Iterator[Any]:
    """Yield the batches that training reads."""
    config = TrainConfig(
        batch_size=BATCH, flip=0.5, num_workers=num_workers, reduced_decoding=reduced
    )
    return load_batches(load(str(folder), side=side, channels=3, split="all"), config, Rank())


def rate(batches: Iterator[Any], count: int, num_workers: int) -> float:
    """Return images per second, after the batches that were loaded ahead."""
    for _ in islice(batches, 2 * num_workers + 1):
        pass
    start = time.perf_counter()
    for _ in islice(batches, count):
        pass
    return count * BATCH / (time.perf_counter() - start)


def cpu_times(loaders: dict[str, Callable[[int], Iterator[Any]]]) -> dict[str, float]:
    """Return the CPU time per image in milliseconds, the least of several rounds."""
    iterators = {name: loader(0) for name, loader in loaders.items()}
    least = dict.fromkeys(loaders, float("inf"))
    for _ in range(CPU_ROUNDS):
        for name, batches in iterators.items():
            start = time.process_time()
            for _ in islice(batches, CPU_BATCHES):
                pass
            seconds = time.process_time() - start
            least[name] = min(least[name], seconds / (CPU_BATCHES * BATCH) * 1000)
    return least


def print_cpu_times(loaders: dict[str, Callable[[int], Iterator[Any]]]) -> None:
    """Print the CPU times per image."""
    times = cpu_times(loaders)
    print("CPU time, without workers")
    for name, milliseconds in times.items():
        ratio = milliseconds / times["workbench"]  # of the rates
        print(f"  {name:<34}{milliseconds:8.2f} ms/image   ours / this {ratio:5.2f}")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--batches", type=int, default=15, help="that are measured per round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lazy.MAX_ARRAY_BYTES = 0  # decode when read, also if there are few images
    has_webdataset = importlib.util.find_spec("webdataset") is not None
    with tempfile.TemporaryDirectory() as temporary:
        folder, shard = Path(temporary) / "images", Path(temporary) / "images.tar"
        folder.mkdir()
        write_images(folder, options.images)
        write_shard(folder, shard)
        side = options.side
        loaders: dict[str, Callable[[int], Iterator[Any]]] = {
            "workbench": lambda n: our_batches(folder, side, n),
            "workbench, reduced decoding": lambda n: our_batches(folder, side, n, reduced=True),
            "Pillow + DataLoader": lambda n: plain_batches(folder, side, n, normalize=False),
            "Pillow + DataLoader, normalized": lambda n: plain_batches(
                folder, side, n, normalize=True
            ),
        }
        if has_webdataset:
            loaders["webdataset"] = lambda n: webdataset_batches(shard, side, n)
        print_cpu_times(loaders)
        for num_workers in (1, 2):
            best = dict.fromkeys(loaders, 0.0)
            for _ in range(ROUNDS):
                for name, loader in loaders.items():
                    measured = rate(loader(num_workers), options.batches, num_workers)
                    best[name] = max(best[name], measured)
            print(f"{num_workers} worker{'' if num_workers == 1 else 's'}, side {side}")
            for name, images_per_second in best.items():
                ratio = best["workbench"] / images_per_second
                print(f"  {name:<34}{images_per_second:8.0f} images/s   ours / this {ratio:5.2f}")
    if not has_webdataset:
        print("webdataset is not installed; it is left out (pip install webdataset).")


if __name__ == "__main__":
    main()
