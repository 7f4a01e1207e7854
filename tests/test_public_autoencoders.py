"""Autoencoders of other repositories, wrapped by hand, give the figures that are known of them.

They run if WORKBENCH_PRETRAINED names the folder of their weights, CIFAR10 that of CIFAR-10 and
IMAGENET_SAMPLE that of two tables of ImageNet images. The networks are those of
swasun/VQ-VAE-Images, NimbleBoxAI/explore-weights and madebyollin/taesd.
"""

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import workbench as wb

VARIABLES = ("WORKBENCH_PRETRAINED", "CIFAR10", "IMAGENET_SAMPLE")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(name not in os.environ for name in VARIABLES), reason=f"needs {', '.join(VARIABLES)}"
    ),
]


class Network:
    """A network as functions of its weights."""

    def __init__(self, *names):
        folder = Path(os.environ["WORKBENCH_PRETRAINED"])
        files = [load_file(folder / f"{name}.safetensors") for name in names]
        self.weights = {name: w.float() for file in files for name, w in file.items()}

    def conv(self, x, name, **options):
        bias = self.weights.get(f"{name}.bias")
        return F.conv2d(x, self.weights[f"{name}.weight"], bias, **options)

    def enlarge(self, x, name):
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.conv_transpose2d(x, weight, bias, stride=2, padding=1)


class VQVAE(Network):
    """A VQ-VAE of two stride-two convolutions and two residual layers."""

    value_range = (-1.0, 1.0)
    encoder, decoder = "_encoder._conv_{}", "_decoder._conv_{}"
    enlarging, to_codes = "_decoder._conv_trans_{}", "_pre_vq_conv"
    table = "_vq_vae._embedding.weight"

    @property
    def codebook(self):
        return self.weights[self.table]

    def residual_layers(self, part):
        """Return the names of both convolutions of each layer; here both layers are the same."""
        block = f"_{part}._residual_stack._layers.0._block"
        return [(f"{block}.1", f"{block}.3")] * 2

    def residual_stack(self, x, part):
        for first, second in self.residual_layers(part):
            x = F.relu(x)
            x = x + self.conv(F.relu(self.conv(x, first, padding=1)), second)
        return F.relu(x)

    def encode(self, images):
        x = F.relu(self.conv(images, self.encoder.format(1), stride=2, padding=1))
        x = F.relu(self.conv(x, self.encoder.format(2), stride=2, padding=1))
        x = self.residual_stack(self.conv(x, self.encoder.format(3), padding=1), "encoder")
        vectors = self.conv(x, self.to_codes).movedim(1, -1)
        return torch.cdist(vectors.flatten(0, 2), self.codebook).argmin(1).view(vectors.shape[:3])

    def decode(self, codes):
        x = self.conv(self.codebook[codes].movedim(-1, 1), self.decoder.format(1), padding=1)
        x = self.enlarge(self.residual_stack(x, "decoder"), self.enlarging.format(1))
        return self.enlarge(F.relu(x), self.enlarging.format(2))


class NimbleBox(VQVAE):
    """The same with residual layers of their own."""

    value_range = (-0.5, 0.5)
    encoder, decoder = "encoder._blocks.conv_{}", "decoder._blocks.conv_{}"
    enlarging, to_codes = "decoder._blocks.conv_t_{}", "pre_vq_conv"
    table = "vq_vae.codebook.weight"

    def residual_layers(self, part):
        blocks = [
            f"{part}._blocks.residual.residual_blocks.residual_{index}._block" for index in (0, 1)
        ]
        return [(f"{block}.conv_1", f"{block}.conv_2") for block in blocks]


class TAEF2(Network):
    """A small distillation of the autoencoder of FLUX.2."""

    value_range = (0.0, 1.0)

    def block(self, x, name):
        if f"{name}.pool.0.weight" in self.weights:
            pooled = self.conv(x, f"{name}.pool.0")
            scale, shift = (
                self.weights[f"{name}.pool.1.weight"],
                self.weights[f"{name}.pool.1.bias"],
            )
            pooled = F.relu(F.group_norm(pooled, 4, scale, shift))
            x = x + self.conv(pooled, f"{name}.pool.3")
        y = F.relu(self.conv(x, f"{name}.conv.0", padding=1))
        y = F.relu(self.conv(y, f"{name}.conv.2", padding=1))
        return F.relu(x + self.conv(y, f"{name}.conv.4", padding=1))


class TAEF2Encoder(TAEF2):
    def encode(self, images):
        x = self.block(self.conv(images, "0", padding=1), "1")
        for first in (2, 6, 10):
            x = self.conv(x, str(first), stride=2, padding=1)
            for index in range(first + 1, first + 4):
                x = self.block(x, str(index))
        return self.conv(x, "14", padding=1)


class TAEF2Decoder(TAEF2):
    def decode(self, latents):
        x = F.relu(self.conv(3 * torch.tanh(latents / 3), "1", padding=1))
        for first, last in ((3, 5), (8, 10), (13, 15)):
            for index in range(first, last + 1):
                x = self.block(x, str(index))
            x = self.conv(F.interpolate(x, scale_factor=2), str(last + 2), padding=1)
        return self.conv(self.block(x, "18"), "19", padding=1)


def first_rows(table, count, folder):
    """Write the first rows of a table, the images of the known figures, and return its path."""
    path = folder / "first.parquet"
    pq.write_table(pq.read_table(table).slice(0, count), path)
    return path


def evidence_of(tokenizer, table, count, folder):
    data = first_rows(table, count, folder)
    run = wb.evaluate(tokenizer, data=f"{data}", out=folder / "run", feature_extractor="hog")
    return run.evidence()


def psnr_of(evidence):
    return np.mean(-10 * np.log10(evidence.mse))


def usage_of(evidence):
    (usage,) = wb.analysis.codebook_usage(evidence.codes, evidence.codebook).codebooks
    return usage


def cifar10():
    return Path(os.environ["CIFAR10"]) / "test.parquet"


def imagenet(pixels):
    return Path(os.environ["IMAGENET_SAMPLE"]) / f"train-{pixels}px.parquet"


@pytest.mark.parametrize(
    ("network", "name", "psnr", "used", "perplexity", "verdict"),
    [
        (VQVAE, "vqvae_cifar10_plain", 20.89, 83, 67.7, "collapsed"),
        (VQVAE, "vqvae_cifar10_ema", 25.13, 512, 430.4, "healthy"),
        (VQVAE, "vqvae_cifar10_ema_collapsed", 21.65, 69, 62.3, "collapsed"),
        (NimbleBox, "vqvae_nimblebox", 24.77, 278, None, None),
    ],
)
def test_codes_of_cifar10(network, name, psnr, used, perplexity, verdict, tmp_path):
    model = network(name)
    tokenizer = wb.wrap(
        model.encode, model.decode, codebook=model.codebook, value_range=model.value_range
    )
    evidence = evidence_of(tokenizer, cifar10(), 1000, tmp_path)
    usage = usage_of(evidence)
    assert psnr_of(evidence) == pytest.approx(psnr, abs=0.02)
    assert usage.used == used
    assert perplexity is None or usage.perplexity == pytest.approx(perplexity, abs=0.2)
    assert verdict is None or usage.verdict == verdict


def test_codes_of_larger_images(tmp_path):
    model = NimbleBox("vqvae_nimblebox")
    tokenizer = wb.wrap(
        model.encode, model.decode, codebook=model.codebook, value_range=model.value_range
    )
    evidence = evidence_of(tokenizer, imagenet(128), 60, tmp_path)
    usage = usage_of(evidence)
    assert psnr_of(evidence) == pytest.approx(25.12, abs=0.02)
    assert usage.perplexity == pytest.approx(179.0, abs=0.2)


def test_continuous_latents(tmp_path):
    encoder, decoder = TAEF2Encoder("taef2_encoder"), TAEF2Decoder("taef2_decoder")
    tokenizer = wb.wrap(encoder.encode, decoder.decode, value_range=TAEF2.value_range)
    evidence = evidence_of(tokenizer, imagenet(256), 16, tmp_path)
    assert psnr_of(evidence) == pytest.approx(29.30, abs=0.02)
    assert np.mean(evidence.latents) == pytest.approx(0.014, abs=0.001)
    assert np.std(evidence.latents) == pytest.approx(0.848, abs=0.001)
