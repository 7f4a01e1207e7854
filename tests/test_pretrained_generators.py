"""LightningDiT and SiT in their published formats, against references in plain PyTorch.

The references compute the networks in the conventions of the published code: for LightningDiT time
0 is noise, and the velocity is data - noise.
"""

import json
import math
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import workbench as wb
from workbench.core.errors import UserError
from workbench.generators.embeddings import published_positions, token_coordinates
from workbench.generators.pretrained import load
from workbench.generators.samplers import (
    euler,
    guided_velocity,
    initial_noise,
    sampling_times,
)
from workbench.generators.transformer import SiT

TOLERANCE = 5e-5  # largest difference over the standard deviation; 2e-4 is allowed
SIDE, CHANNELS, WIDTH, DEPTH, HEADS, CLASSES = 4, 6, 48, 2, 3, 5
NUM_TOKENS = SIDE**2
MEAN = [0.5, -1.0, 0.0, 2.0, 0.1, -0.3]
STD = [0.5, 1.5, 1.0, 0.7, 1.2, 0.9]


def difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.std()).item()


def as_tokens(maps: torch.Tensor) -> torch.Tensor:
    return maps.flatten(2).transpose(1, 2)


# The published formats with random weights


def transformer_weights(seed: int, mlp: dict[str, tuple[int, ...]], **extra: tuple[int, ...]):
    """Random tensors of such a size that each of them is felt."""
    shapes = {
        "pos_embed": (1, NUM_TOKENS, WIDTH),
        "t_embedder.mlp.0.weight": (WIDTH, 256),
        "t_embedder.mlp.0.bias": (WIDTH,),
        "t_embedder.mlp.2.weight": (WIDTH, WIDTH),
        "t_embedder.mlp.2.bias": (WIDTH,),
        "y_embedder.embedding_table.weight": (CLASSES + 1, WIDTH),
        "final_layer.linear.weight": (CHANNELS, WIDTH),
        "final_layer.linear.bias": (CHANNELS,),
        "final_layer.adaLN_modulation.1.weight": (2 * WIDTH, WIDTH),
        "final_layer.adaLN_modulation.1.bias": (2 * WIDTH,),
        **extra,
    }
    block = {
        "attn.qkv.weight": (3 * WIDTH, WIDTH),
        "attn.qkv.bias": (3 * WIDTH,),
        "attn.proj.weight": (WIDTH, WIDTH),
        "attn.proj.bias": (WIDTH,),
        "adaLN_modulation.1.weight": (6 * WIDTH, WIDTH),
        "adaLN_modulation.1.bias": (6 * WIDTH,),
        **mlp,
    }
    for number in range(DEPTH):
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        scale = 1.5 / math.sqrt(shape[-1]) if len(shape) > 1 else 0.3
        if name in ("pos_embed", "y_embedder.embedding_table.weight"):
            scale = 1.0
        weights[name] = scale * torch.randn(shape, generator=generator)
        if "norm" in name:
            weights[name] += 1
    return weights


def lightningdit_weights(*, qk_norm: bool) -> dict[str, torch.Tensor]:
    hidden = int(2 / 3 * 4 * WIDTH)
    mlp = {
        "mlp.w12.weight": (2 * hidden, WIDTH),
        "mlp.w12.bias": (2 * hidden,),
        "mlp.w3.weight": (WIDTH, hidden),
        "mlp.w3.bias": (WIDTH,),
        "norm1.weight": (WIDTH,),
        "norm2.weight": (WIDTH,),
    }
    if qk_norm:
        mlp |= {"attn.q_norm.weight": (WIDTH // HEADS,), "attn.k_norm.weight": (WIDTH // HEADS,)}
    extra = {
        "x_embedder.proj.weight": (WIDTH, CHANNELS, 1, 1),
        "x_embedder.proj.bias": (WIDTH,),
        "final_layer.norm_final.weight": (WIDTH,),
        "feat_rope.freqs_cos": (NUM_TOKENS, WIDTH // HEADS),
        "feat_rope.freqs_sin": (NUM_TOKENS, WIDTH // HEADS),
    }
    weights = transformer_weights(0, mlp, **extra)
    weights["x_embedder.proj.weight"] = weights["x_embedder.proj.weight"] / 4
    return weights


def sit_weights() -> dict[str, torch.Tensor]:
    mlp = {
        "mlp.fc1.weight": (4 * WIDTH, WIDTH),
        "mlp.fc1.bias": (4 * WIDTH,),
        "mlp.fc2.weight": (WIDTH, 4 * WIDTH),
        "mlp.fc2.bias": (WIDTH,),
    }
    extra = {"x_embedder.weight": (WIDTH, CHANNELS), "x_embedder.bias": (WIDTH,)}
    return transformer_weights(1, mlp, **extra)


PATCH, PATCH_CHANNELS = 2, 3


def dit_weights() -> dict[str, torch.Tensor]:
    """A DiT with patches of 2 x 2 tokens and learned variances."""
    weights = sit_weights()
    weights = {n: value for n, value in weights.items() if not n.startswith("x_embedder")}
    inputs, outputs = PATCH**2 * PATCH_CHANNELS, PATCH**2 * 2 * PATCH_CHANNELS
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "x_embedder.proj.weight": (WIDTH, PATCH_CHANNELS, PATCH, PATCH),
        "x_embedder.proj.bias": (WIDTH,),
        "final_layer.linear.weight": (outputs, WIDTH),
        "final_layer.linear.bias": (outputs,),
    }
    scale = 1 / math.sqrt(inputs)
    return weights | {n: scale * torch.randn(s, generator=generator) for n, s in shapes.items()}


# The references


def linear(weights: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, weights[f"{name}.weight"].flatten(1), weights[f"{name}.bias"])


def time_features(t: torch.Tensor, mistake: str) -> torch.Tensor:
    if mistake == "1000 t":
        t = 1000 * t
    if mistake == "time backwards":
        t = 1 - t
    exponent = torch.arange(128) / (127 if mistake == "inclusive frequencies" else 128)
    angles = t[:, None] * 10000**-exponent
    parts = [angles.cos(), angles.sin()]
    return torch.cat(parts[::-1] if mistake == "sines first" else parts, dim=1)


def condition_of(
    weights: dict[str, torch.Tensor], t: torch.Tensor, y: torch.Tensor, mistake: str
) -> torch.Tensor:
    hidden = linear(weights, "t_embedder.mlp.0", time_features(t, mistake))
    time = linear(weights, "t_embedder.mlp.2", F.silu(hidden))
    return F.silu(time + weights["y_embedder.embedding_table.weight"][y])


def norm(x: torch.Tensor, gain: torch.Tensor | None, mistake: str) -> torch.Tensor:
    eps = 1e-5 if mistake == "eps" else 1e-6
    if gain is None:
        return F.layer_norm(x, x.shape[-1:], eps=eps)
    if mistake == "layer norm":
        return F.layer_norm(x, x.shape[-1:], gain, eps=1e-6)
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain


def modulate(
    x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, mistake: str
) -> torch.Tensor:
    if mistake == "shift and scale swapped":
        shift, scale = scale, shift
    return x * (1 + scale[:, None]) + shift[:, None]


def rotate(x: torch.Tensor, mistake: str) -> torch.Tensor:
    """Turn pairs of neighboring channels: the first half by the row, the second by the column."""
    width = x.shape[-1]
    frequencies = 10000 ** (-torch.arange(width // 4) / (width // 4))
    index = torch.arange(NUM_TOKENS)
    row, column = index // SIDE, index % SIDE
    places = [column, row] if mistake == "columns first" else [row, column]
    angles = torch.cat([place[:, None] * frequencies for place in places], dim=1)
    if mistake == "halves":
        a, b = x.chunk(2, dim=-1)
        turned = (a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin())
        return torch.cat(turned, dim=-1)
    a, b = x[..., 0::2], x[..., 1::2]
    turned = (a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin())
    return torch.stack(turned, dim=-1).flatten(-2)


def attention(
    weights: dict[str, torch.Tensor], block: str, x: torch.Tensor, *, rope: bool, mistake: str
) -> torch.Tensor:
    batch, rows, width = x.shape
    parts = linear(weights, f"{block}.attn.qkv", x).chunk(3, dim=-1)
    q, k, v = (part.reshape(batch, rows, HEADS, width // HEADS).transpose(1, 2) for part in parts)
    if f"{block}.attn.q_norm.weight" in weights:
        q = norm(q, weights[f"{block}.attn.q_norm.weight"], "")
        k = norm(k, weights[f"{block}.attn.k_norm.weight"], "")
    if rope:
        q, k = rotate(q, mistake), rotate(k, mistake)
    scores = q @ k.transpose(-1, -2) / math.sqrt(width // HEADS)
    mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(batch, rows, width)
    return linear(weights, f"{block}.attn.proj", mixed)


def mlp(weights: dict[str, torch.Tensor], block: str, x: torch.Tensor, mistake: str):
    if f"{block}.mlp.fc1.weight" in weights:
        form = "none" if mistake == "exact gelu" else "tanh"
        hidden = F.gelu(linear(weights, f"{block}.mlp.fc1", x), approximate=form)
        return linear(weights, f"{block}.mlp.fc2", hidden)
    gate, value = linear(weights, f"{block}.mlp.w12", x).chunk(2, dim=-1)
    if mistake == "gate and value swapped":
        gate, value = value, gate
    return linear(weights, f"{block}.mlp.w3", F.silu(gate) * value)


def reference(
    weights: dict[str, torch.Tensor],
    x: torch.Tensor,
    t: torch.Tensor,
    y: torch.Tensor,
    mistake: str = "",
) -> torch.Tensor:
    """Compute the velocity of tokens x (b, n, c) in the convention of the published code."""
    embed = "x_embedder.proj" if "x_embedder.proj.weight" in weights else "x_embedder"
    rope = "feat_rope.freqs_cos" in weights
    condition = condition_of(weights, t, y, mistake)
    x = linear(weights, embed, x)
    if mistake != "no added positions":
        x = x + weights["pos_embed"]
    for number in range(DEPTH):
        block = f"blocks.{number}"
        parts = linear(weights, f"{block}.adaLN_modulation.1", condition).chunk(6, dim=-1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts
        normed = norm(x, weights.get(f"{block}.norm1.weight"), mistake)
        attended = attention(
            weights,
            block,
            modulate(normed, shift_1, scale_1, mistake),
            rope=rope,
            mistake=mistake,
        )
        x = x + gate_1[:, None] * attended
        normed = norm(x, weights.get(f"{block}.norm2.weight"), mistake)
        hidden = mlp(weights, block, modulate(normed, shift_2, scale_2, mistake), mistake)
        x = x + gate_2[:, None] * hidden
    shift, scale = linear(weights, "final_layer.adaLN_modulation.1", condition).chunk(2, dim=-1)
    x = modulate(norm(x, weights.get("final_layer.norm_final.weight"), mistake), shift, scale, "")
    return linear(weights, "final_layer.linear", x)


def dit_reference(
    weights: dict[str, torch.Tensor], maps: torch.Tensor, index: torch.Tensor, y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the noise and the variances of maps (b, c, h, w), as DiT's code does."""
    proj = weights["x_embedder.proj.weight"]
    patches = F.unfold(maps, PATCH, stride=PATCH).transpose(1, 2)  # channels before rows
    flat = weights | {"x_embedder.proj.weight": proj.flatten(1)}
    output = reference(flat, patches, index.float(), y)
    output = output.reshape(len(maps), SIDE, SIDE, PATCH, PATCH, 2 * PATCH_CHANNELS)
    output = torch.einsum("nhwpqc->nchpwq", output)
    return output.reshape(len(maps), -1, SIDE * PATCH, SIDE * PATCH).chunk(2, dim=1)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, NUM_TOKENS, CHANNELS, generator=generator)
    return x, torch.tensor([0.0, 0.05, 0.31, 0.97]), torch.tensor([0, 4, 3, CLASSES])


@pytest.fixture
def lightningdit_folder(tmp_path):
    save_file(lightningdit_weights(qk_norm=False), tmp_path / "lightningdit.safetensors")
    stats = {
        "mean": torch.tensor(MEAN).reshape(1, -1, 1, 1),
        "std": torch.tensor(STD).reshape(1, -1, 1, 1),
    }
    torch.save(stats, tmp_path / "latents_stats.pt")
    return tmp_path


@pytest.fixture
def sit_folder(tmp_path):
    save_file(sit_weights(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_heads": HEADS}))
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "config.json").write_text('{"vq_mean": 0.25, "vq_std": 0.5}')
    return tmp_path


# LightningDiT


@pytest.mark.parametrize("qk_norm", [False, True])
def test_lightningdit_equals_its_reference(lightningdit_folder, qk_norm):
    weights = lightningdit_weights(qk_norm=qk_norm)
    save_file(weights, lightningdit_folder / "lightningdit.safetensors")
    generator = wb.load_generator(f"lightningdit:{lightningdit_folder}")
    x, t, y = inputs()
    with torch.no_grad():
        velocity = -generator.velocity(x, 1 - t, y)
    assert difference(velocity, reference(weights, x, t, y)) < TOLERANCE


@pytest.mark.parametrize(
    "mistake",
    [
        "halves",
        "columns first",
        "no added positions",
        "sines first",
        "1000 t",
        "time backwards",
        "inclusive frequencies",
        "layer norm",
        "gate and value swapped",
        "shift and scale swapped",
    ],
)
def test_each_mistake_in_lightningdit_is_noticed(lightningdit_folder, mistake):
    generator = wb.load_generator(f"lightningdit:{lightningdit_folder}")
    x, t, y = inputs()
    with torch.no_grad():
        velocity = -generator.velocity(x, 1 - t, y)
    wrong = reference(lightningdit_weights(qk_norm=False), x, t, y, mistake)
    assert difference(velocity, wrong) > 4 * TOLERANCE


def test_lightningdit_without_stored_rotations_takes_those_of_its_config(lightningdit_folder):
    weights = lightningdit_weights(qk_norm=False)
    bare = {name: value for name, value in weights.items() if not name.startswith("feat_rope.")}
    assert len(bare) < len(weights)
    save_file(bare, lightningdit_folder / "lightningdit.safetensors")
    pretrained = load(f"lightningdit:{lightningdit_folder}", heads=str(HEADS))
    assert any("use_rope" in note for note in pretrained.notes)
    config = {"num_heads": HEADS, "use_rope": True}
    (lightningdit_folder / "config.json").write_text(json.dumps(config))
    generator = wb.load_generator(f"lightningdit:{lightningdit_folder}")
    x, t, y = inputs()
    with torch.no_grad():
        velocity = -generator.velocity(x, 1 - t, y)
    assert difference(velocity, reference(weights, x, t, y)) < TOLERANCE


def test_lightningdit_samples_as_published(lightningdit_folder):
    """Euler steps in the published direction of time, with guidance on the first 3 channels."""
    weights, labels, scale, steps = lightningdit_weights(qk_norm=False), torch.tensor([1, 2]), 4, 6
    generator = wb.load_generator(f"lightningdit:{lightningdit_folder}", sampling_steps=steps)
    null = torch.full_like(labels, CLASSES)
    x = initial_noise(generator, 2, torch.Generator().manual_seed(7))
    points = torch.linspace(0, 1, steps + 1)
    times = 0.3 * points / (1 - 0.7 * points)
    guided_steps = 0
    for now, then in zip(times[:-1], times[1:], strict=True):
        t = now.expand(2)
        velocity = reference(weights, x, t, labels)
        if now >= 0.1:
            guided_steps += 1
            without = reference(weights, x, t, null)
            velocity[..., :3] = without[..., :3] + scale * (velocity - without)[..., :3]
        x = x + (then - now) * velocity
    assert 0 < guided_steps < steps
    expected = x * torch.tensor(STD) + torch.tensor(MEAN)
    sample = generator.sample(labels, guidance=scale, seed=7).latents
    assert difference(sample, expected) < TOLERANCE
    everywhere = generator.sample(labels, guidance=scale, seed=7, guided_channels=CHANNELS)
    assert difference(everywhere.latents, expected) > 4 * TOLERANCE
    assert generator.sampling_config() == {
        "solver": "euler",
        "steps": steps,
        "shift": pytest.approx(1 / 0.3),
        "interval": [0.0, 0.9],
        "guided_channels": 3,
    }


def test_containers_hold_the_same_network(lightningdit_folder, tmp_path):
    """A training checkpoint is read by its moving average; wrapped names lose their prefix."""
    weights = lightningdit_weights(qk_norm=False)
    path = lightningdit_folder / "lightningdit.safetensors"
    expected = wb.load_generator(f"lightningdit:{path}").state_dict()
    path.unlink()
    prefixed = {f"module.{name}": value for name, value in weights.items()}
    other = {name: torch.zeros_like(value) for name, value in weights.items()}
    checkpoint = lightningdit_folder / "0080000.pt"
    torch.save({"model": other, "ema": prefixed, "opt": {}, "config": {"a": 1}}, checkpoint)
    for address in (f"lightningdit:{checkpoint}", f"lightningdit:{lightningdit_folder}"):
        loaded = wb.load_generator(address).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in expected.items())
    torch.save({name: value.bfloat16() for name, value in weights.items()}, checkpoint)
    rounded = wb.load_generator(f"lightningdit:{checkpoint}").state_dict()
    assert all(value.dtype == torch.float32 for value in rounded.values())


def test_facts_of_the_checkpoint(lightningdit_folder):
    pretrained = load(f"lightningdit:{lightningdit_folder}", guidance_start="0.125")
    assert [path.name for path in pretrained.files] == [
        "lightningdit.safetensors",
        "latents_stats.pt",
    ]
    config = pretrained.generator.config
    assert config.interval == (0.0, 0.875)
    assert (config.num_tokens, config.rows, config.dim, config.classes) == (16, 4, 6, 5)
    assert (config.width, config.depth, config.heads) == (WIDTH, DEPTH, HEADS)
    assert config.mean == pytest.approx(MEAN) and config.std == pytest.approx(STD)
    assert any("feat_rope" in note for note in pretrained.notes)
    assert not any(parameter.requires_grad for parameter in pretrained.generator.parameters())


def test_published_network_can_be_built_again_from_its_settings(lightningdit_folder):
    """A run stores the settings and the state dict, among it the stored positions."""
    generator = wb.load_generator(f"lightningdit:{lightningdit_folder}")
    again = SiT(generator.config)
    again.load_state_dict(generator.state_dict())
    x, t, y = inputs()
    with torch.no_grad():
        assert torch.equal(again.eval().velocity(x, t, y), generator.velocity(x, t, y))
    again.objective(x, torch.arange(4)).total.backward()
    assert again.embed.weight.grad.abs().sum() > 0


# SiT


def test_sit_equals_its_reference(sit_folder):
    generator = wb.load_generator(f"sit:{sit_folder}", stats=sit_folder / "tokenizer")
    x, t, y = inputs()
    with torch.no_grad():
        velocity = generator.velocity(x, t, y)
    assert difference(velocity, reference(sit_weights(), x, t, y)) < TOLERANCE
    config = generator.config
    assert config.mean == (0.25,) * CHANNELS and config.std == (0.5,) * CHANNELS
    assert (config.rows, config.interval) == (1, (0.0, 0.7))


@pytest.mark.parametrize(
    "mistake",
    [
        "exact gelu",
        "no added positions",
        "sines first",
        "1000 t",
        "time backwards",
        "inclusive frequencies",
        "shift and scale swapped",
    ],
)
def test_each_mistake_in_sit_is_noticed(sit_folder, mistake):
    generator = wb.load_generator(f"sit:{sit_folder}", stats=sit_folder / "tokenizer")
    x, t, y = inputs()
    with torch.no_grad():
        velocity = generator.velocity(x, t, y)
    assert difference(velocity, reference(sit_weights(), x, t, y, mistake)) > 4 * TOLERANCE


def test_eps_of_the_norms(sit_folder):
    """Rows of small variance show it: tokens near zero, and positions near zero."""
    weights = sit_weights()
    for name in ("pos_embed", "x_embedder.weight", "x_embedder.bias"):
        weights[name] = weights[name] * 1e-2
    save_file(weights, sit_folder / "model.safetensors")
    generator = wb.load_generator(f"sit:{sit_folder}", stats=sit_folder / "tokenizer")
    x, t, y = inputs()
    with torch.no_grad():
        velocity = generator.velocity(x, t, y)
    assert difference(velocity, reference(weights, x, t, y)) < TOLERANCE
    assert difference(velocity, reference(weights, x, t, y, "eps")) > 4 * TOLERANCE


def test_sit_samples_as_published(sit_folder):
    """Euler-Maruyama with diffusion 2 t, and a last step from 0.04 without noise."""
    weights, labels, scale, steps = sit_weights(), torch.tensor([1, 2]), 1.75, 5
    generator = wb.load_generator(
        f"sit:{sit_folder}", stats=sit_folder / "tokenizer", sampling_steps=steps
    )
    random = torch.Generator().manual_seed(3)
    x = initial_noise(generator, 2, random)
    null = torch.full_like(labels, CLASSES)
    times = [*torch.linspace(1, 0.04, steps).tolist(), 0.0]
    for now, then in zip(times[:-1], times[1:], strict=True):
        t = torch.full((2,), now)
        velocity = reference(weights, x, t, labels)
        if now <= 0.7:
            without = reference(weights, x, t, null)
            velocity = without + scale * (velocity - without)
        score = -(x + (1 - now) * velocity) / now
        x = x + (then - now) * (velocity - now * score)
        if then > 0:
            x = x + math.sqrt(2 * now * (now - then)) * torch.randn(x.shape, generator=random)
    sample = generator.sample(labels, guidance=scale, seed=3).latents
    assert difference(sample, x * 0.5 + 0.25) < TOLERANCE


def test_projections_of_an_alignment_loss_are_left_out(sit_folder):
    weights = sit_weights() | {"projectors.0.0.weight": torch.zeros(3, 3)}
    save_file(weights, sit_folder / "model.safetensors")
    pretrained = load(f"sit:{sit_folder}", stats=sit_folder / "tokenizer" / "config.json")
    assert any("projectors" in note for note in pretrained.notes)


# Positions of the papers' code


def test_published_positions_on_a_grid():
    """The column comes first, and the frequencies end above 1/10,000."""
    rows = published_positions(token_coordinates(6, 2), 8)
    row, column = 1, 2
    angles = (column, column / 100, row, row / 100)
    sines, cosines = [math.sin(a) for a in angles], [math.cos(a) for a in angles]
    expected = [*sines[:2], *cosines[:2], *sines[2:], *cosines[2:]]
    torch.testing.assert_close(rows[5], torch.tensor(expected))


def test_published_positions_on_a_line():
    """Sines and cosines alternate."""
    rows = published_positions(token_coordinates(4, 1), 4)
    expected = [math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)]
    torch.testing.assert_close(rows[3], torch.tensor(expected))


# Bad input


def assert_refused(address: str, *fragments: str, **options) -> None:
    with pytest.raises(UserError) as error:
        wb.load_generator(address, **options)
    assert all(fragment in str(error.value) for fragment in fragments)


def test_missing_moments_are_refused(lightningdit_folder):
    (lightningdit_folder / "latents_stats.pt").unlink()
    address = f"lightningdit:{lightningdit_folder}"
    assert_refused(address, "latents_stats.pt", "stats")
    assert_refused(address, "nowhere.pt", stats="nowhere.pt")


def test_moments_of_other_channels_are_refused(lightningdit_folder):
    torch.save({"mean": torch.zeros(4), "std": torch.ones(4)}, lightningdit_folder / "other.pt")
    (lightningdit_folder / "latents_stats.pt").unlink()
    (lightningdit_folder / "lightningdit.safetensors").rename(
        lightningdit_folder / "model.safetensors"
    )
    assert_refused(
        f"lightningdit:{lightningdit_folder}",
        "other.pt",
        "6",
        "4",
        stats=lightningdit_folder / "other.pt",
    )


def test_unknown_options_and_families_are_refused(lightningdit_folder):
    assert_refused(
        f"lightningdit:{lightningdit_folder}", "`stat` of lightningdit", "stats", stat="x"
    )
    assert_refused(f"lightningdit:{lightningdit_folder}", "heads", heads="many")
    assert_refused(f"lightningdot:{lightningdit_folder}", "lightningdit")


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"blocks.1.attn.proj.bias": None}, ("1 entry is missing", "attention.project_out")),
        ({"blocks.0.attn.proj.bias": torch.zeros(3)}, ("(3,)", "(48,)")),
        ({"surplus": torch.zeros(3)}, ("1 entry is unknown", "surplus")),
        ({"pos_embed": None}, ("no diffusion transformer", "positions")),
        ({"x_embedder.proj.weight": torch.zeros(WIDTH, 6, 2, 2)}, ("(6, 48)", "(24, 48)")),
        ({"x_embedder.proj.weight": torch.zeros(WIDTH, 6, 2, 1)}, ("2 x 1",)),
    ],
)
def test_networks_that_do_not_fit_are_refused(lightningdit_folder, change, fragments):
    weights = lightningdit_weights(qk_norm=False) | change
    kept = {name: value for name, value in weights.items() if value is not None}
    save_file(kept, lightningdit_folder / "lightningdit.safetensors")
    assert_refused(f"lightningdit:{lightningdit_folder}", *fragments)


def test_unknown_number_of_heads_is_refused(sit_folder):
    (sit_folder / "config.json").unlink()
    stats = sit_folder / "tokenizer"
    assert_refused(f"sit:{sit_folder}", "heads", stats=stats)
    assert wb.load_generator(f"sit:{sit_folder}", stats=stats, heads=HEADS).config.heads == HEADS


# A run


@pytest.mark.slow
def test_published_generator_is_evaluated_on_a_tokenizer(lightningdit_folder, tmp_path):
    sizes = {"dim": CHANNELS, "width": 32}
    steps = {"steps": 2, "batch_size": 8, "warmup_steps": 1, "save_every": 2}
    wb.train("vavae-digits", tmp_path / "vavae", collect=False, limit=60, **sizes, **steps)
    run = wb.evaluate(
        f"lightningdit:{lightningdit_folder}",
        out=tmp_path / "gen",
        tokenizer=tmp_path / "vavae",
        limit=10,
        guidance=6.7,
        only=["samples", "evaluation"],
        sampling_steps=4,
    )
    evidence = run.evidence()
    assert evidence.samples.shape == (CLASSES * 2, 8, 8, 1)
    assert evidence.sampling["guidance"] == 6.7 and evidence.sampling["guided_channels"] == 3
    assert evidence.loss_by_time is None  # digits have more classes
    generator = run.load()
    assert (
        generator.config
        == wb.load_generator(f"lightningdit:{lightningdit_folder}", sampling_steps=4).config
    )
    sample = generator.sample(torch.tensor([1]), steps=2).latents
    assert sample.shape == (1, NUM_TOKENS, CHANNELS)
    wb.train("vavae-digits", tmp_path / "wide", collect=False, limit=60, **steps)
    with pytest.raises(UserError) as error:
        wb.evaluate(
            f"lightningdit:{lightningdit_folder}",
            out=tmp_path / "other",
            tokenizer=tmp_path / "wide",
        )
    assert "6 channels" in str(error.value) and not (tmp_path / "other").exists()


# Outputs of the original modules, where they are at hand


@pytest.mark.skipif("WORKBENCH_CHECKPOINTS" not in os.environ, reason="needs oracle checkpoints")
@pytest.mark.parametrize("name", ["plain", "qk-norm"])
def test_lightningdit_equals_the_original_module(name):
    folder = Path(os.environ["WORKBENCH_CHECKPOINTS"]) / "lightningdit" / name
    generator = wb.load_generator(f"lightningdit:{folder}")
    outputs = load_file(folder / "outputs.safetensors")
    stored = json.loads((folder / "config.json").read_text())
    interval = (0.0, 1 - stored["guided"]["interval_start"])
    with torch.no_grad():
        x = as_tokens(outputs["x"])
        velocity = -generator.velocity(x, 1 - outputs["t"], outputs["y"])
        assert difference(velocity, as_tokens(outputs["velocity"])) < TOLERANCE
        x, labels = as_tokens(outputs["guided.x"]), outputs["guided.y"]
        scale = stored["guided"]["scale"]
        for t in (0.05, 0.4):
            velocity = -guided_velocity(generator, labels, scale, interval, 3)(x, 1 - t)
            assert difference(velocity, as_tokens(outputs[f"guided.t{t}"])) < TOLERANCE
        everywhere = -guided_velocity(generator, labels, scale, (0.0, 1.0), 3)(x, 1 - 0.05)
        expected = as_tokens(outputs["guided_without_interval.t0.05"])
        assert difference(everywhere, expected) < TOLERANCE
        times = sampling_times(stored["sampling"]["points"] - 1, shift=generator.config.shift)
        noise, labels = as_tokens(outputs["sampling.noise"]), outputs["sampling.y"]
        for label, scale in (("unguided", 1.0), ("guided", stored["sampling"]["cfg_scale"])):
            end = euler(guided_velocity(generator, labels, scale, interval, 3), noise, times)
            assert difference(end, as_tokens(outputs[f"sampling.{label}"])) < TOLERANCE
        latents = as_tokens(outputs["sampling.latents"])
        assert difference(generator.destandardize(end), latents) < TOLERANCE


# DiT


@pytest.fixture
def dit_folder(tmp_path):
    torch.save(dit_weights(), tmp_path / "dit.pt")
    return tmp_path


def test_dit_equals_its_reference(dit_folder):
    generator = wb.load_generator(f"dit:{dit_folder}", heads=HEADS, scale=0.5)
    maps = torch.randn(3, PATCH_CHANNELS, 8, 8, generator=torch.Generator().manual_seed(4))
    index, labels = torch.tensor([0, 417, 999]), torch.tensor([0, 3, CLASSES])
    noise, values = dit_reference(dit_weights(), maps, index, labels)
    with torch.no_grad():
        outputs = generator.outputs(as_tokens(maps), (index + 1) / 1000, labels)
    assert difference(outputs[..., :PATCH_CHANNELS], as_tokens(noise)) < TOLERANCE
    assert difference(outputs[..., PATCH_CHANNELS:], as_tokens(values)) < TOLERANCE
    config = generator.config
    assert (config.patch, config.rows, config.num_tokens) == (PATCH, 8, 64)
    assert config.std == (2.0,) * PATCH_CHANNELS


def test_dit_samples_as_published(dit_folder):
    """Reverse steps of the respaced process, written down from the code of improved DDPM."""
    steps, scale, labels = 4, 3.0, torch.tensor([1, 2])
    generator = wb.load_generator(
        f"dit:{dit_folder}", heads=HEADS, scale=0.5, sampling_steps=steps, guided_channels=2
    )
    weights, null = dit_weights(), torch.full_like(labels, CLASSES)
    random = torch.Generator().manual_seed(7)
    x = initial_noise(generator, 2, random).transpose(1, 2).reshape(2, PATCH_CHANNELS, 8, 8)
    whole = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    used = [0, 333, 666, 999]
    for step in (3, 2, 1, 0):
        abar = whole[used[step]].item()
        before = whole[used[step - 1]].item() if step else 1.0
        beta = 1 - abar / before
        index = torch.full((2,), used[step])
        noise, values = dit_reference(weights, x, index, labels)
        without, _ = dit_reference(weights, x, index, null)
        noise[:, :2] = without[:, :2] + scale * (noise - without)[:, :2]
        data = (x - math.sqrt(1 - abar) * noise) / math.sqrt(abar)
        mean = beta * math.sqrt(before) / (1 - abar) * data
        mean = mean + (1 - before) * math.sqrt(1 - beta) / (1 - abar) * x
        if step == 0:
            x = mean
            break
        smallest, share = beta * (1 - before) / (1 - abar), (values + 1) / 2
        log_variance = share * math.log(beta) + (1 - share) * math.log(smallest)
        drawn = torch.randn(2, 64, PATCH_CHANNELS, generator=random)
        drawn = drawn.transpose(1, 2).reshape_as(x)
        x = mean + (log_variance / 2).exp() * drawn
    sample = generator.sample(labels, guidance=scale, seed=7).latents
    assert difference(sample, 2 * as_tokens(x)) < 4 * TOLERANCE


def test_dit_needs_a_scale_and_sit_has_no_use_for_variances(dit_folder, sit_folder):
    with pytest.raises(UserError):
        wb.load_generator(f"dit:{dit_folder / 'dit.pt'}", heads=HEADS)
    weights = sit_weights()
    for name in ("weight", "bias"):
        part = weights[f"final_layer.linear.{name}"]
        weights[f"final_layer.linear.{name}"] = torch.cat([part, torch.randn_like(part)])
    expected = wb.load_generator(
        f"sit:{sit_folder / 'model.safetensors'}", stats=sit_folder / "tokenizer"
    )
    save_file(weights, sit_folder / "model.safetensors")
    pretrained = load(f"sit:{sit_folder / 'model.safetensors'}", stats=sit_folder / "tokenizer")
    x, t, y = inputs()
    with torch.no_grad():
        assert torch.equal(pretrained.generator(x, t, y), expected(x, t, y))
