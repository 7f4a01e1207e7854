"""Tests of UniCode2: the frozen index, the sparse values, the other modes, and preparation."""

import copy

import forked_python
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from workbench.core.errors import UserError
from workbench.core.progress import progress_listener
from workbench.core.types import Tokens
from workbench.data import ImageSet, load
from workbench.launch.in_process import prepare_training, train
from workbench.quantizers.cascaded import CascadedCodebook, displacement, self_retrieval
from workbench.quantizers.nearest import nearest_code
from workbench.tokenizers.unicode2 import UniCode2
from workbench.training import fit

MODES = ["cascade", "frozen", "random", "single", "projector", "online", "continuous"]
SMALL = {
    "side": 8,
    "channels": 1,
    "patch": 4,
    "codebook_size": 32,
    "width": 16,
    "depth": 1,
    "heads": 2,
}


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load("digits")


def make(**settings) -> UniCode2:
    torch.manual_seed(0)
    return UniCode2(UniCode2.Config(**(SMALL | settings)))


def prepared(digits: ImageSet, **settings) -> UniCode2:
    model = make(**settings)
    model.prepare(digits, 0)
    return model


def tables(model: nn.Module) -> list[nn.Parameter]:
    return [m.weight for m in model.modules() if isinstance(m, nn.Embedding) and m.sparse]


def trained(
    model: UniCode2, digits: ImageSet, steps: int = 40, lr: float = 1e-2, first: int = 64
) -> UniCode2:
    """Return a copy after some steps of AdamW with decay, and SparseAdam for the values."""
    model = copy.deepcopy(model).train()
    sparse = tables(model)
    dense = [
        p for p in model.parameters() if p.requires_grad and not any(p is table for table in sparse)
    ]
    optimizers = [torch.optim.AdamW(dense, lr=lr)] if dense else []
    optimizers += [torch.optim.SparseAdam(sparse, lr=lr)] if sparse else []
    for step in range(steps):
        torch.manual_seed(step)
        model.zero_grad()
        model.objective(digits.images(torch.randint(first, (16,)))).total.backward()
        for optimizer in optimizers:
            optimizer.step()
    return model.eval()


def pixel(model: UniCode2, images: torch.Tensor) -> float:
    with torch.no_grad():
        return F.mse_loss(model.decode(model.encode(images)), images).item()


def test_training_moves_only_values_of_selected_codes(digits):
    """Churn is exactly 0, and momentum or weight decay never move rows of unused codes."""
    before = prepared(digits, codebook_size=256)
    after, images = trained(before, digits), digits.images()
    assert torch.equal(after.quantizer.index, before.quantizer.index)
    assert torch.equal(after.encode(images).codes, before.encode(images).codes)
    is_used = torch.zeros(256, dtype=torch.bool)
    is_used[before.encode(images[:64]).codes.unique()] = True
    assert 20 < is_used.sum() < 236
    distance = displacement(after.quantizer.index, after.quantizer.table)
    assert (
        torch.equal(after.codebook[0, ~is_used], before.quantizer.index[~is_used])
        and (distance[~is_used] == 0).all()
    )
    assert (distance[is_used] > 0).all()


def test_dense_adam_moves_unused_rows():
    """This is the reason for sparse gradients: rows drift after their last use, others shrink."""
    index = torch.randn(6, 4)
    sparse, dense = nn.Embedding(6, 4, sparse=True), nn.Embedding(6, 4)
    for table in (sparse, dense):
        table.weight.data.copy_(index)
    optimizers = [
        torch.optim.SparseAdam(sparse.parameters(), lr=0.1),
        torch.optim.AdamW(dense.parameters(), lr=0.1),
    ]
    after_one = []
    for step in range(5):
        for table, optimizer in zip((sparse, dense), optimizers, strict=True):
            optimizer.zero_grad()
            table(torch.tensor([0] if step == 0 else [1])).square().sum().backward()
            optimizer.step()
        if step == 0:
            after_one = [table.weight.detach().clone() for table in (sparse, dense)]
    assert torch.equal(sparse.weight[2:], index[2:]) and torch.equal(
        sparse.weight[0], after_one[0][0]
    )
    assert (dense.weight[2:].abs() < index[2:].abs()).all()
    assert not torch.equal(dense.weight[0], after_one[1][0])


def test_gradient_of_values_is_sparse():
    cascade, x = CascadedCodebook(codebook_size=50, dim=4), torch.randn(2, 3, 4)
    quantized = cascade(x)
    quantized.latents.square().sum().backward()
    gradient = cascade.values.weight.grad
    assert gradient.is_sparse
    assert gradient.coalesce().indices()[0].tolist() == sorted(
        set(quantized.codes.flatten().tolist())
    )
    assert not cascade.index.requires_grad


def test_latents_and_codes_of_each_mode():
    torch.manual_seed(0)
    index, x = 3 + 2 * torch.randn(9, 4), 3 + 2 * torch.randn(2, 5, 4)
    nearest = torch.stack(
        [torch.stack([(index - token).norm(dim=-1).argmin() for token in image]) for image in x]
    )
    for mode in MODES:
        cascade = CascadedCodebook(codebook_size=9, dim=4, mode=mode).eval()
        cascade.fill(index, seed=0)
        quantized = cascade(x)
        assert quantized.losses == {}
        if mode == "continuous":
            assert (
                quantized.codes is None
                and cascade.table is None
                and torch.equal(quantized.latents, x)
            )
            continue
        assert torch.equal(quantized.latents, cascade.table[quantized.codes])
        if mode != "online":  # all other modes start with the same codes
            assert torch.equal(quantized.codes, nearest)
        assert torch.equal(cascade.table, index) == (mode not in ("random", "online"))
        if mode in (
            "random",
            "online",
        ):  # noise at the scale of the index
            torch.testing.assert_close(cascade.table.mean(), index.mean(), atol=1.0, rtol=0)
            torch.testing.assert_close(cascade.table.std(), index.std(), rtol=0.3, atol=0)


def test_online_codes_are_revived():
    torch.manual_seed(0)
    plain, revived = (
        CascadedCodebook(codebook_size=9, dim=4, mode="online", revive=revive)
        for revive in (0.0, 0.1)
    )
    far = 100 + torch.randn(2, 20, 4)
    for cascade in (plain, revived):
        for _ in range(3):
            cascade(far)
    assert (plain.table > 50).all(dim=1).sum() == 1  # the nearest code gets every token
    assert (revived.table > 50).all()
    assert len(revived.eval()(far).codes.unique()) == 9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "moves"),
    [("frozen", []), ("single", ["values"]), ("projector", ["projection"]), ("online", ["online"])],
)
def test_trained_tables_and_churn_of_each_mode(digits, mode, moves):
    before = prepared(digits, mode=mode, codebook_size=128)
    after, images = trained(before, digits, lr=5e-2), digits.images()
    changed = {
        name
        for name, tensor in after.quantizer.state_dict().items()
        if not torch.equal(tensor, before.quantizer.state_dict()[name])
    }
    assert {name.split(".")[0] for name in changed} == set(moves)
    churn = (after.encode(images).codes != before.encode(images).codes).float().mean().item()
    assert churn == 0 if mode == "frozen" else churn > 0.01


def test_only_a_single_table_changes_its_selection():
    torch.manual_seed(0)
    cascade, single, x = (
        CascadedCodebook(codebook_size=9, dim=4),
        CascadedCodebook(codebook_size=9, dim=4, mode="single"),
        torch.randn(2, 5, 4),
    )
    for quantizer in (cascade, single):
        quantizer.fill(torch.randn(9, 4, generator=torch.Generator().manual_seed(1)), seed=0)
    before = cascade(x).codes
    for quantizer in (cascade, single):
        quantizer.values.weight.data.copy_(torch.randn(9, 4))
    assert torch.equal(cascade(x).codes, before) and not torch.equal(single(x).codes, before)
    assert torch.equal(single(x).codes[0], nearest_code(x[0], single.values.weight))


def test_displacement_and_self_retrieval():
    index = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-4.0, 0.0]])
    values = torch.tensor([[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    torch.testing.assert_close(displacement(index, values), torch.tensor([0.0, 0.5, 26**0.5 / 4]))
    assert self_retrieval(index, values) == pytest.approx(
        2 / 3
    )  # the last is in the cell of the first
    assert self_retrieval(index, index) == 1


def test_one_code_per_distinct_patch_is_lossless(digits):
    few = ImageSet(digits.pixels[:8], digits.labels[:8], digits.names, "digits", "train")
    images = few.images()
    features = make().features(images).flatten(0, 1)
    exact, continuous = (
        prepared(few, codebook_size=len(features.unique(dim=0)), mode=mode)
        for mode in ("frozen", "continuous")
    )
    torch.testing.assert_close(
        exact.encode(images).latents, continuous.encode(images).latents, atol=1e-5, rtol=0
    )


@pytest.mark.slow
def test_larger_codebooks_have_smaller_errors(digits):
    images, held_out = digits.images(), load("digits", split="test").images()
    for kind, dim in (("none", None), ("unit", None), ("channel", None), ("whiten", 4)):
        target = (
            prepared(digits, mode="continuous", normalize=kind, dim=dim).encode(held_out).latents
        )
        errors = []
        for codes in (1, 16, 256):
            model = prepared(digits, codebook_size=codes, normalize=kind, dim=dim)
            errors.append(F.mse_loss(model.encode(held_out).latents, target).item())
            if codes == 256:
                assert len(model.encode(images).codes.unique()) > 240
        assert errors[0] > 1.2 * errors[1] > 1.4 * errors[2], kind


def test_unit_features_have_unit_codes(digits):
    online = trained(prepared(digits, normalize="unit", mode="online"), digits, 3)
    for model in (make(normalize="unit"), prepared(digits, normalize="unit"), online):
        torch.testing.assert_close(model.quantizer.index.norm(dim=-1), torch.ones(32))
        torch.testing.assert_close(model.codebook.norm(dim=-1), torch.ones(1, 32))


@pytest.mark.slow
def test_values_adapt_to_a_frozen_decoder(digits):
    """The decoder was trained on continuous features. Training E improves held-out images."""
    held_out = load("digits", split="test").images()
    continuous = trained(
        prepared(digits, mode="continuous", codebook_size=64), digits, 100, first=len(digits)
    )
    model = make(codebook_size=64)
    model.load_state_dict(continuous.state_dict(), strict=False)
    model.quantizer.fill(continuous.quantizer.index, seed=0)
    model.decoder.requires_grad_(False)
    adapted = trained(model, digits, 100, lr=2e-2, first=len(digits))
    assert (
        pixel(continuous, held_out)
        < pixel(adapted, held_out)
        < 0.97 * pixel(model.eval(), held_out)
    )


@pytest.mark.slow
def test_decoder_can_be_moved_between_modes(digits):
    """The decoder is trained on features, used with centers, and improved by a linear map."""
    images = load("digits", split="test").images()
    continuous = trained(prepared(digits, mode="continuous", codebook_size=64), digits, 150)
    swapped = make(mode="frozen", codebook_size=64, adapter=True, train="adapter")
    missing = swapped.load_state_dict(continuous.state_dict(), strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) == {
        "adapter.weight",
        "adapter.bias",
    }
    frozen = make(mode="frozen", codebook_size=64)
    frozen.load_state_dict(continuous.state_dict())  # the same names
    assert pixel(swapped.eval(), images) == pytest.approx(
        pixel(frozen.eval(), images)
    )  # the adapter starts as the identity
    gap = pixel(swapped, images) - pixel(continuous, images)
    assert 0 < gap < pixel(shuffled(swapped), images) - pixel(continuous, images)
    assert [n for n, p in swapped.named_parameters() if p.requires_grad] == [
        "adapter.weight",
        "adapter.bias",
    ]
    tuned = trained(swapped, digits, 60, lr=2e-3)
    assert pixel(tuned, digits.images()[:64]) < pixel(swapped, digits.images()[:64])
    frozen_state = {
        name: tensor
        for name, tensor in swapped.state_dict().items()
        if not name.startswith("adapter")
    }
    assert all(
        torch.equal(tuned.state_dict()[name], tensor) for name, tensor in frozen_state.items()
    )


def shuffled(model: UniCode2) -> UniCode2:
    """Return a control in which each code has the value of another code."""
    model = copy.deepcopy(model)
    index = model.quantizer.index.clone()
    model.decode = lambda tokens, decode=model.decode: decode(
        Tokens(index.roll(1, 0)[tokens.codes], tokens.codes, grid=tokens.grid)
    )
    return model


def test_adapter_training_leaves_online_codes_unchanged(digits):
    before = prepared(digits, mode="online", adapter=True, train="adapter")
    after = trained(before, digits, 5)
    assert torch.equal(after.quantizer.online.codebook, before.quantizer.online.codebook)


def test_precomputed_features_give_an_equal_objective(digits):
    model, images = prepared(digits), digits.images(slice(8))
    features = model.features(images)
    assert torch.equal(model.objective(images, features).total, model.objective(images).total)
    assert not torch.equal(
        model.objective(images, features.flip(0)).total, model.objective(images).total
    )
    with pytest.raises(UserError) as error:
        model.objective(images, features[:, :3])
    assert "4 x 36" in str(error.value) and "3 x 36" in str(error.value)


def test_prepare_uses_precomputed_features(digits):
    class Negated:
        def __len__(self):
            return 64

        def batch(self, indices):
            images = digits.images(indices)
            return images, -make().features(images)

    model = make(normalize="none", builder="sample")
    model.prepare(Negated(), 0)
    assert (model.quantizer.index <= 0).all() and model.quantizer.index.min() < 0


def test_prepare_depends_on_the_seed_and_limits_tokens(digits):
    first, again, other = (make(tokens_per_code=8) for _ in range(3))
    for model, seed in ((first, 1), (again, 1), (other, 2)):
        model.prepare(digits, seed)
    assert torch.equal(first.quantizer.index, again.quantizer.index)
    assert not torch.equal(first.quantizer.index, other.quantizer.index)

    class Counting:
        indices: list[int] = []

        def __len__(self):
            return len(digits)

        def batch(self, indices):
            self.indices += indices.tolist()
            return digits.batch(indices)

    data = Counting()
    make(tokens_per_code=8).prepare(data, 0)
    assert len(data.indices) == len(set(data.indices)) == 32 * 8 / 4


def test_per_class_codes_are_equally_many(digits):
    rare = np.concatenate([np.where(digits.labels == 0)[0][:20], np.where(digits.labels == 1)[0]])
    two = ImageSet(digits.pixels[rare], digits.labels[rare], digits.names, "digits", "train")
    model = prepared(two, per_class=True, normalize="none")
    used = [model.encode(two.images()[two.labels == label]).codes for label in (0, 1)]
    assert (used[0] < 16).float().mean() > 0.6 and (used[1] >= 16).float().mean() > 0.6


def test_saved_tokenizer_loads_equal(digits):
    model = trained(prepared(digits, dim=6, normalize="whiten"), digits, 3)
    loaded = make(dim=6, normalize="whiten").eval()
    loaded.load_state_dict(model.state_dict())
    images = digits.images(slice(9))
    assert torch.equal(loaded.encode(images).codes, model.encode(images).codes)
    assert torch.equal(loaded.decode(loaded.encode(images)), model.decode(model.encode(images)))


def test_tokens_are_on_the_grid_of_patches(digits):
    model = prepared(digits, patch=2)
    image = digits.images(slice(1))
    tokens = model.encode(image)
    assert tokens.grid == (4, 4) and tokens.latents.shape == (1, 16, 36)
    image[..., :2, 6:] = -image[..., :2, 6:]  # the corner at the top right
    changed = (model.features(image) != model.features(digits.images(slice(1)))).any(dim=-1)[0]
    assert changed[3] and not changed[8:].any()


def test_flow_decoder_learns_and_is_deterministic(digits):
    model = trained(prepared(digits, decoder="flow"), digits, 60)
    images = digits.images(slice(16))
    assert model.objective(images).terms.keys() == {"flow"}
    tokens = model.encode(images)
    assert (
        torch.equal(model.decode(tokens), model.decode(tokens))
        and model.decode(tokens).shape == images.shape
    )
    active = torch.arange(4).expand(16, 4) < 2  # inactive tokens are ignored
    changed = torch.where(active[..., None], tokens.latents, 1e3)
    decoded, decoded_changed = (
        model.decode(Tokens(latents, active=active)) for latents in (tokens.latents, changed)
    )
    assert torch.equal(decoded, decoded_changed)
    assert not torch.equal(decoded, model.decode(tokens))
    torch.manual_seed(0)
    initial_loss = prepared(digits, decoder="flow").objective(images).total.item()
    torch.manual_seed(0)
    assert model.objective(images).total.item() < 0.8 * initial_loss


@pytest.mark.parametrize(
    ("settings", "fragments"),
    [
        ({"side": 30, "patch": 4}, ("side", "30", "28 or 32")),
        ({"patch": 0}, ("patch", "0")),
        ({"dim": 0}, ("dim", "0")),
        ({"width": 18, "heads": 4}, ("width", "18", "4 heads")),
        ({"codebook_size": 0}, ("codebook_size", "0")),
        ({"tokens_per_code": 0}, ("tokens_per_code", "0")),
        ({"shrinkage": -0.1}, ("shrinkage", "-0.1")),
        ({"train": "adapter"}, ("adapter", "train")),
    ],
)
def test_invalid_settings_raise(settings, fragments):
    with pytest.raises(UserError) as error:
        UniCode2.Config(**settings)
    assert all(fragment in str(error.value) for fragment in fragments)


def test_too_many_channels_raise():
    with pytest.raises(UserError) as error:
        make(dim=37)
    assert "37" in str(error.value) and "36" in str(error.value)


def test_unsuitable_training_data_raise(digits):
    with pytest.raises(UserError) as error:
        make(per_class=True).prepare(ImageSet(digits.pixels, None, (), "digits", "train"), 0)
    assert "per_class" in str(error.value)
    with pytest.raises(UserError) as error:
        make(codebook_size=4000, tokens_per_code=1).prepare(digits, 0)
    assert "4000" in str(error.value)


@pytest.mark.slow
def test_unknown_choices_raise():
    """In a separate process, because the type checker of the tests would raise first."""
    code = """
import torch
from workbench.quantizers.cascaded import CascadedCodebook
from workbench.quantizers.clustering import cluster
from workbench.tokenizers.unicode2 import UniCode2
for make in (
    lambda: UniCode2.Config(mode="frozn"),
    lambda: UniCode2.Config(decoder="flows"),
    lambda: CascadedCodebook(codebook_size=2, dim=2, mode="casacde"),
    lambda: cluster(torch.rand(9, 2), 2, builder="twolevel"),
):
    try:
        make()
    except ValueError as error:
        print(str(error).partition(" Available")[0])
"""
    assert forked_python.run(code).splitlines() == [
        "There is no mode `frozn`. Did you mean `frozen`?",
        "There is no decoder `flows`. Did you mean `flow`?",
        "There is no mode `casacde`. Did you mean `cascade`?",
        "There is no builder `twolevel`. Did you mean `two-level`?",
    ]


def test_clustering_reports_its_progress(tmp_path):
    job = prepare_training(
        "unicode2-digits", tmp_path / "a", codebook_size=16, limit=60, steps=1, width=8, depth=1
    )
    reports = []
    with progress_listener(lambda done, total: reports.append((done, total))):
        records = list(fit(job.model, job.data, job.train_config, job.run))
    assert [record.step for record in records] == [1]
    assert reports == sorted(reports) and reports[-1][0] == reports[-1][1] > 1


@pytest.mark.slow
def test_run_that_starts_from_another_run(tmp_path, digits):
    small = {
        "limit": 200,
        "side": 8,
        "patch": 4,
        "width": 16,
        "depth": 1,
        "heads": 2,
        "steps": 3,
        "save_every": 3,
    }

    def run(name: str, **changes):
        return train("unicode2-digits", tmp_path / name, collect=False, **(small | changes))

    def relative_error(model: UniCode2) -> float:
        with torch.no_grad():
            features = model.features(digits.images(slice(200)))
            target = model.normalizer(features)
            return (F.mse_loss(model.quantize(features).latents, target) / target.var()).item()

    first = run("first", mode="continuous", codebook_size=8)
    few = run("few", mode="frozen", codebook_size=8, start=str(first.folder)).load(0)
    many = run("many", mode="frozen", codebook_size=64, start=str(first.folder)).load(0)
    assert relative_error(many) < relative_error(few) < 1
    for model in (few, many):  # both use the normalization of the first
        assert torch.equal(model.normalizer.matrix, first.load().normalizer.matrix)
        assert torch.equal(model.decoder.decoder.mix, first.load().decoder.decoder.mix)
    cascade = run("cascade", mode="cascade", codebook_size=64, start=str(tmp_path / "many"))
    initial, learned = (cascade.load(step).quantizer.values.weight for step in (0, None))
    assert torch.equal(initial, cascade.load(0).quantizer.index)
    assert not torch.equal(initial, learned)
    again = run("again", mode="cascade", codebook_size=64, start=str(cascade.folder))
    assert torch.equal(again.load(0).quantizer.values.weight, learned)
