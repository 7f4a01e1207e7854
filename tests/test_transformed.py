"""Linear maps of latents: closed forms, equal reconstructions, and runs that train as any other."""

import numpy as np
import pytest
import torch

from workbench.core.errors import NotApplicable, UserError
from workbench.launch.in_process import train
from workbench.launch.transformed import transformed
from workbench.storage.run import Run
from workbench.tokenizers.transformed import TRANSFORMS, LatentMap, fit_map

GRID = (4, 4)


def latents(n: int = 400) -> np.ndarray:
    random = np.random.default_rng(0)
    return 3 + random.normal(size=(n, 16, 2)) @ np.array([[1.0, 0.8], [0.0, 0.5]])


def mapped(rows: np.ndarray, latent_map: LatentMap) -> np.ndarray:
    flat = rows.reshape(len(rows), -1) - latent_map.center
    return (flat @ latent_map.matrix.T + latent_map.center).reshape(rows.shape)


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_maps_are_inverted(name):
    latent_map = fit_map(name, latents(), GRID)
    back = LatentMap(latent_map.inverse, latent_map.matrix, latent_map.center)
    np.testing.assert_allclose(mapped(mapped(latents(), latent_map), back), latents(), atol=1e-9)


def test_powers_change_the_eigenvalues():
    before = np.linalg.eigvalsh(np.cov(latents().reshape(400, -1), rowvar=False))
    for name, exponent in (("whitened", 0.0), ("flatter", 0.5), ("steeper", 1.5)):
        after = mapped(latents(), fit_map(name, latents())).reshape(400, -1)
        values = np.linalg.eigvalsh(np.cov(after, rowvar=False))
        np.testing.assert_allclose(values, np.sort(before**exponent), rtol=1e-6)


def test_rotations_keep_eigenvalues_and_permutations_keep_tokens():
    before = np.linalg.eigvalsh(np.cov(latents().reshape(400, -1), rowvar=False))
    for name in ("channels rotated", "tokens permuted", "all rotated"):
        after = mapped(latents(), fit_map(name, latents())).reshape(400, -1)
        np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(after, rowvar=False)), before)
    permuted = mapped(latents(), fit_map("tokens permuted", latents()))
    assert not np.array_equal(permuted, latents())
    np.testing.assert_allclose(np.sort(permuted, axis=1), np.sort(latents(), axis=1))


def test_gains_of_frequencies_scale_waves_and_keep_the_mean():
    wave = np.cos(np.pi * (np.arange(4) + 0.5) * 3 / 4)
    rows = np.broadcast_to(np.tile(wave, 4)[:, None], (16, 2))
    still = np.zeros((2, 16, 2))
    latent_map = fit_map("rougher", still, GRID)
    np.testing.assert_allclose(mapped(rows[None], latent_map)[0], 2 * rows, atol=1e-9)
    np.testing.assert_allclose(mapped(np.ones((1, 16, 2)), latent_map), 1, atol=1e-9)


def test_unsuitable_latents_are_refused():
    with pytest.raises(NotApplicable, match="grid"):
        fit_map("smoother", latents())
    with pytest.raises(NotApplicable, match="at least 64"):
        fit_map("whitened", latents(40))
    with pytest.raises(UserError, match="4,096"):
        fit_map("none", np.zeros((1, 5000, 1)))
    with pytest.raises(UserError, match="whitened"):
        fit_map("whitend", latents())


def test_transformed_run_reconstructs_equally_and_trains_a_generator(trained, tmp_path):
    source = Run(trained / "plain")
    run = transformed(source, "whitened", tmp_path / "white")
    images = torch.rand(5, *(source.config.settings[name] for name in ("channels", "side", "side")))
    model, original = run.load(), source.load()
    with torch.no_grad():
        tokens = model.encode(images)
        expected = original.decode(original.encode(images))
        torch.testing.assert_close(model.decode(tokens), expected, atol=1e-3, rtol=0)
        assert not torch.allclose(tokens.latents, original.encode(images).latents, atol=0.1)
    small = {"width": 16, "depth": 1, "steps": 2, "save_every": 2, "warmup_steps": 1}
    flow = train("sit-digits", tmp_path / "flow", tokenizer=run.folder, collect=False, **small)
    assert flow.tokenizer.name == "white" and flow.status()["state"] == "finished"
    with pytest.raises(UserError):
        transformed(flow, "whitened", tmp_path / "other")
