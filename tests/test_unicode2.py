"""UniCode2: the index never moves, only rows that were hit do, and the controls differ from it in what they say."""

import copy
import subprocess
import sys

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

ROLES = ["cascade", "frozen", "random", "single", "projector", "online", "continuous"]
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
    """A copy after some steps on the first images: AdamW with decay, and SparseAdam for the value table."""
    model = copy.deepcopy(model).train()
    sparse = tables(model)
    dense = [
        p for p in model.parameters() if p.requires_grad and not any(p is table for table in sparse)
    ]
    steppers = [torch.optim.AdamW(dense, lr=lr)] if dense else []
    steppers += [torch.optim.SparseAdam(sparse, lr=lr)] if sparse else []
    for step in range(steps):
        torch.manual_seed(step)
        model.zero_grad()
        model.objective(digits.images(torch.randint(first, (16,)))).total.backward()
        for stepper in steppers:
            stepper.step()
    return model.eval()


def pixel(model: UniCode2, images: torch.Tensor) -> float:
    with torch.no_grad():
        return F.mse_loss(model.decode(model.encode(images)), images).item()


def test_the_index_and_the_codes_never_move_and_only_rows_that_were_hit_do(digits):
    """Churn is exactly 0, and so is what momentum or weight decay could do to the rows of codes never chosen."""
    before = prepared(digits, codebook_size=256)
    after, images = trained(before, digits), digits.images()
    assert torch.equal(after.quantizer.index, before.quantizer.index)
    assert torch.equal(after.encode(images).codes, before.encode(images).codes)
    hit = torch.zeros(256, dtype=torch.bool)
    hit[before.encode(images[:64]).codes.unique()] = True
    assert 20 < hit.sum() < 236
    gone = displacement(after.quantizer.index, after.quantizer.table)
    assert (
        torch.equal(after.codebook[0, ~hit], before.quantizer.index[~hit])
        and (gone[~hit] == 0).all()
    )
    assert (gone[hit] > 0).all()


def test_dense_adam_with_weight_decay_would_move_rows_that_no_token_ever_hit():
    """The reason for sparse gradients: rows drift after their last hit, and unused ones shrink towards 0."""
    index = torch.randn(6, 4)
    sparse, dense = nn.Embedding(6, 4, sparse=True), nn.Embedding(6, 4)
    for table in (sparse, dense):
        table.weight.data.copy_(index)
    steppers = [
        torch.optim.SparseAdam(sparse.parameters(), lr=0.1),
        torch.optim.AdamW(dense.parameters(), lr=0.1),
    ]
    after_one = []
    for step in range(5):
        for table, stepper in zip((sparse, dense), steppers, strict=True):
            stepper.zero_grad()
            table(torch.tensor([0] if step == 0 else [1])).square().sum().backward()
            stepper.step()
        if step == 0:
            after_one = [table.weight.detach().clone() for table in (sparse, dense)]
    assert torch.equal(sparse.weight[2:], index[2:]) and torch.equal(
        sparse.weight[0], after_one[0][0]
    )
    assert (dense.weight[2:].abs() < index[2:].abs()).all()
    assert not torch.equal(dense.weight[0], after_one[1][0])


def test_the_cascades_gradient_is_sparse_and_reaches_the_rows_of_the_batch_alone():
    cascade, x = CascadedCodebook(codebook_size=50, dim=4), torch.randn(2, 3, 4)
    quantized = cascade(x)
    quantized.latents.square().sum().backward()
    gradient = cascade.values.weight.grad
    assert gradient.is_sparse
    assert gradient.coalesce().indices()[0].tolist() == sorted(
        set(quantized.codes.flatten().tolist())
    )
    assert not cascade.index.requires_grad


def test_each_role_says_what_its_name_promises():
    torch.manual_seed(0)
    index, x = 3 + 2 * torch.randn(9, 4), 3 + 2 * torch.randn(2, 5, 4)
    own = torch.stack(
        [torch.stack([(index - token).norm(dim=-1).argmin() for token in image]) for image in x]
    )
    for role in ROLES:
        cascade = CascadedCodebook(codebook_size=9, dim=4, role=role).eval()
        cascade.fill(index, seed=0)
        quantized = cascade(x)
        assert quantized.losses == {}
        if role == "continuous":
            assert (
                quantized.codes is None
                and cascade.table is None
                and torch.equal(quantized.latents, x)
            )
            continue
        assert torch.equal(quantized.latents, cascade.table[quantized.codes])
        if role != "online":  # all others start from the same choice
            assert torch.equal(quantized.codes, own)
        assert torch.equal(cascade.table, index) == (role not in ("random", "online"))
        if role in (
            "random",
            "online",
        ):  # noise, but neither far from the index nor too small to be chosen
            torch.testing.assert_close(cascade.table.mean(), index.mean(), atol=1.0, rtol=0)
            torch.testing.assert_close(cascade.table.std(), index.std(), rtol=0.3, atol=0)


def test_online_codes_may_begin_as_tokens_and_come_back_when_they_are_out_of_use():
    torch.manual_seed(0)
    plain, revived = (
        CascadedCodebook(codebook_size=9, dim=4, role="online", revive=revive)
        for revive in (0.0, 0.1)
    )
    far = 100 + torch.randn(2, 20, 4)
    for cascade in (plain, revived):
        for _ in range(3):
            cascade(far)
    assert (plain.table > 50).all(dim=1).sum() == 1  # the nearest wins every token
    assert (revived.table > 50).all()
    assert len(revived.eval()(far).codes.unique()) == 9


@pytest.mark.parametrize(
    ("role", "moves"),
    [("frozen", []), ("single", ["values"]), ("projector", ["projection"]), ("online", ["online"])],
)
def test_what_learns_beside_the_index_and_whether_codes_move_with_it(digits, role, moves):
    before = prepared(digits, role=role, codebook_size=128)
    after, images = trained(before, digits, lr=5e-2), digits.images()
    changed = {
        name
        for name, tensor in after.quantizer.state_dict().items()
        if not torch.equal(tensor, before.quantizer.state_dict()[name])
    }
    assert {name.split(".")[0] for name in changed} == set(moves)
    churn = (after.encode(images).codes != before.encode(images).codes).float().mean().item()
    assert churn == 0 if role == "frozen" else churn > 0.01


def test_a_single_table_chooses_again_in_each_batch_and_the_cascade_does_not():
    torch.manual_seed(0)
    cascade, single, x = (
        CascadedCodebook(codebook_size=9, dim=4),
        CascadedCodebook(codebook_size=9, dim=4, role="single"),
        torch.randn(2, 5, 4),
    )
    for quantizer in (cascade, single):
        quantizer.fill(torch.randn(9, 4, generator=torch.Generator().manual_seed(1)), seed=0)
    before = cascade(x).codes
    for quantizer in (cascade, single):
        quantizer.values.weight.data.copy_(torch.randn(9, 4))
    assert torch.equal(cascade(x).codes, before) and not torch.equal(single(x).codes, before)
    assert torch.equal(single(x).codes[0], nearest_code(x[0], single.values.weight))


def test_displacement_and_self_retrieval_by_hand():
    index = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-4.0, 0.0]])
    values = torch.tensor([[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    torch.testing.assert_close(displacement(index, values), torch.tensor([0.0, 0.5, 26**0.5 / 4]))
    assert self_retrieval(index, values) == pytest.approx(
        2 / 3
    )  # the last went over to the first's cell
    assert self_retrieval(index, index) == 1


def test_as_many_codes_as_different_patches_lose_nothing(digits):
    few = ImageSet(digits.pixels[:8], digits.labels[:8], digits.names, "digits", "train")
    images = few.images()
    features = make().features(images).flatten(0, 1)
    exact, continuous = (
        prepared(few, codebook_size=len(features.unique(dim=0)), role=r)
        for r in ("frozen", "continuous")
    )
    torch.testing.assert_close(
        exact.encode(images).latents, continuous.encode(images).latents, atol=1e-5, rtol=0
    )


def test_finer_codebooks_come_nearer_to_the_features(digits):
    images, held_out = digits.images(), load("digits", split="test").images()
    for kind, dim in (("none", None), ("unit", None), ("channel", None), ("whiten", 4)):
        target = (
            prepared(digits, role="continuous", normalise=kind, dim=dim).encode(held_out).latents
        )
        errors = []
        for codes in (1, 16, 256):
            model = prepared(digits, codebook_size=codes, normalise=kind, dim=dim)
            errors.append(F.mse_loss(model.encode(held_out).latents, target).item())
            if codes == 256:
                assert len(model.encode(images).codes.unique()) > 240
        assert errors[0] > 1.2 * errors[1] > 1.4 * errors[2], kind


def test_unit_features_have_unit_codes_before_and_after_clustering(digits):
    online = trained(prepared(digits, normalise="unit", role="online"), digits, 3)
    for model in (make(normalise="unit"), prepared(digits, normalise="unit"), online):
        torch.testing.assert_close(model.quantizer.index.norm(dim=-1), torch.ones(32))
        torch.testing.assert_close(model.codebook.norm(dim=-1), torch.ones(1, 32))


def test_where_the_decoder_is_finished_the_value_table_adapts_to_it(digits):
    """The decoder was trained on continuous features; only E learns, and held-out images are the better for it."""
    held_out = load("digits", split="test").images()
    continuous = trained(
        prepared(digits, role="continuous", codebook_size=64), digits, 100, first=len(digits)
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


def test_all_roles_share_the_names_of_their_weights_so_that_a_decoder_moves_between_them(digits):
    """Trained on continuous features, then fed centroids, then mended by a linear map alone."""
    images = load("digits", split="test").images()
    continuous = trained(prepared(digits, role="continuous", codebook_size=64), digits, 150)
    swapped = make(role="frozen", codebook_size=64, adapter=True, train="adapter")
    missing = swapped.load_state_dict(continuous.state_dict(), strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) == {
        "adapter.weight",
        "adapter.bias",
    }
    frozen = make(role="frozen", codebook_size=64)
    frozen.load_state_dict(continuous.state_dict())  # not a name more or less
    assert pixel(swapped.eval(), images) == pytest.approx(
        pixel(frozen.eval(), images)
    )  # the adapter begins as nothing
    gap = pixel(swapped, images) - pixel(continuous, images)
    assert 0 < gap < pixel(shuffled(swapped), images) - pixel(continuous, images)
    assert [n for n, p in swapped.named_parameters() if p.requires_grad] == [
        "adapter.weight",
        "adapter.bias",
    ]
    mended = trained(swapped, digits, 60, lr=2e-3)
    assert pixel(mended, digits.images()[:64]) < pixel(swapped, digits.images()[:64])
    still = {
        name: tensor
        for name, tensor in swapped.state_dict().items()
        if not name.startswith("adapter")
    }
    assert all(torch.equal(mended.state_dict()[name], tensor) for name, tensor in still.items())


def shuffled(model: UniCode2) -> UniCode2:
    """A control: the right codes say another code's vector."""
    model = copy.deepcopy(model)
    index = model.quantizer.index.clone()
    model.decode = lambda tokens, decode=model.decode: decode(
        Tokens(index.roll(1, 0)[tokens.codes], tokens.codes, grid=tokens.grid)
    )
    return model


def test_an_online_codebook_stands_still_while_only_the_adapter_learns(digits):
    before = prepared(digits, role="online", adapter=True, train="adapter")
    after = trained(before, digits, 5)
    assert torch.equal(after.quantizer.online.codebook, before.quantizer.online.codebook)


def test_features_that_come_with_the_images_spare_the_teacher(digits):
    model, images = prepared(digits), digits.images(slice(8))
    features = model.features(images)
    assert torch.equal(model.objective(images, features).total, model.objective(images).total)
    assert not torch.equal(
        model.objective(images, features.flip(0)).total, model.objective(images).total
    )
    with pytest.raises(UserError, match="features are 3 x 36; hog on this grid gives 4 x 36."):
        model.objective(images, features[:, :3])


def test_preparing_uses_features_that_come_with_the_data(digits):
    class Turned:
        def __len__(self):
            return 64

        def batch(self, indices):
            images = digits.images(indices)
            return images, -make().features(images)

    model = make(normalise="none", builder="sample")
    model.prepare(Turned(), 0)
    assert (model.quantizer.index <= 0).all() and model.quantizer.index.min() < 0


def test_preparing_is_decided_by_the_seed_and_sees_no_more_tokens_than_it_may(digits):
    first, again, other = (make(tokens_per_code=8) for _ in range(3))
    for model, seed in ((first, 1), (again, 1), (other, 2)):
        model.prepare(digits, seed)
    assert torch.equal(first.quantizer.index, again.quantizer.index)
    assert not torch.equal(first.quantizer.index, other.quantizer.index)

    class Counting:
        asked: list[int] = []

        def __len__(self):
            return len(digits)

        def batch(self, indices):
            self.asked += indices.tolist()
            return digits.batch(indices)

    data = Counting()
    make(tokens_per_code=8).prepare(data, 0)
    assert len(data.asked) == len(set(data.asked)) == 32 * 8 / 4


def test_classes_clustered_apart_have_equally_many_codes(digits):
    rare = np.concatenate([np.where(digits.labels == 0)[0][:20], np.where(digits.labels == 1)[0]])
    two = ImageSet(digits.pixels[rare], digits.labels[rare], digits.names, "digits", "train")
    model = prepared(two, per_class=True, normalise="none")
    used = [model.encode(two.images()[two.labels == label]).codes for label in (0, 1)]
    assert (used[0] < 16).float().mean() > 0.6 and (used[1] >= 16).float().mean() > 0.6


def test_a_saved_tokenizer_loads_as_the_same(digits):
    model = trained(prepared(digits, dim=6, normalise="whiten"), digits, 3)
    loaded = make(dim=6, normalise="whiten").eval()
    loaded.load_state_dict(model.state_dict())
    images = digits.images(slice(9))
    assert torch.equal(loaded.encode(images).codes, model.encode(images).codes)
    assert torch.equal(loaded.decode(loaded.encode(images)), model.decode(model.encode(images)))


def test_tokens_lie_on_the_grid_of_patches_each_with_its_own_code(digits):
    model = prepared(digits, patch=2)
    image = digits.images(slice(1))
    tokens = model.encode(image)
    assert tokens.grid == (4, 4) and tokens.latents.shape == (1, 16, 36)
    image[..., :2, 6:] = -image[..., :2, 6:]  # the corner at the top right
    changed = (model.features(image) != model.features(digits.images(slice(1)))).any(dim=-1)[0]
    assert changed[3] and not changed[8:].any()


def test_the_flow_decoder_learns_and_draws_the_same_image_again(digits):
    model = trained(prepared(digits, decoder="flow"), digits, 60)
    images = digits.images(slice(16))
    assert model.objective(images).terms.keys() == {"flow"}
    tokens = model.encode(images)
    assert (
        torch.equal(model.decode(tokens), model.decode(tokens))
        and model.decode(tokens).shape == images.shape
    )
    active = torch.arange(4).expand(16, 4) < 2  # what is not active is not seen
    loud = torch.where(active[..., None], tokens.latents, 1e3)
    seen, same = (
        model.decode(Tokens(latents, active=active)) for latents in (tokens.latents, loud)
    )
    assert torch.equal(seen, same) and not torch.equal(seen, model.decode(tokens))
    torch.manual_seed(0)
    begun = prepared(digits, decoder="flow").objective(images).total.item()
    torch.manual_seed(0)
    assert model.objective(images).total.item() < 0.8 * begun


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"side": 30, "patch": 4}, "image side 30 is not a multiple of patch 4. Use 28 or 32."),
        ({"patch": 0}, "patch is 0; it must be at least 1."),
        ({"dim": 0}, "dim is 0; it must be at least 1."),
        ({"width": 18, "heads": 4}, "width 18 does not divide into 4 heads."),
        ({"codebook_size": 0}, "codebook_size is 0; it must be at least 1."),
        ({"tokens_per_code": 0}, "tokens_per_code is 0; it must be at least 1."),
        ({"shrinkage": -0.1}, "shrinkage is -0.1; it must not be below 0."),
        ({"train": "adapter"}, 'With train "adapter" there must be one; set adapter to true.'),
    ],
)
def test_what_it_cannot_be_is_refused_in_one_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        UniCode2.Config(**settings)


def test_more_channels_than_the_teacher_has_are_refused():
    with pytest.raises(UserError, match="dim is 37, and features of hog have 36 channels."):
        make(dim=37)


def test_training_data_that_cannot_be_clustered_are_refused_in_one_sentence(digits):
    with pytest.raises(
        UserError,
        match="per_class needs the images' classes, and these training data have no labels.",
    ):
        make(per_class=True).prepare(ImageSet(digits.pixels, None, (), "digits", "train"), 0)
    with pytest.raises(
        UserError, match="4000 codes need as many different tokens, and there are 3"
    ):
        make(codebook_size=4000, tokens_per_code=1).prepare(digits, 0)


def test_names_that_are_none_are_refused():
    """In a process of its own: here the checker of shapes and types would speak first."""
    code = """
import torch
from workbench.quantizers.cascaded import CascadedCodebook
from workbench.quantizers.clustering import cluster
from workbench.tokenizers.unicode2 import UniCode2
for make in (
    lambda: UniCode2.Config(role="frozn"),
    lambda: UniCode2.Config(decoder="flows"),
    lambda: CascadedCodebook(codebook_size=2, dim=2, role="casacde"),
    lambda: cluster(torch.rand(9, 2), 2, builder="twolevel"),
):
    try:
        make()
    except ValueError as error:
        print(str(error).partition("; ")[0], str(error).rpartition(". ")[2])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.splitlines() == [
        "There is no role `frozn` Did you mean `frozen`?",
        "There is no decoder `flows` Did you mean `flow`?",
        "There is no role `casacde` Did you mean `cascade`?",
        "There is no builder `twolevel` Did you mean `two-level`?",
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


def test_a_run_that_starts_from_another_clusters_what_it_does_not_find_there(tmp_path, digits):
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

    def misfit(model: UniCode2) -> float:
        with torch.no_grad():
            features = model.features(digits.images(slice(200)))
            wanted = model.normaliser(features)
            return (F.mse_loss(model.quantize(features).latents, wanted) / wanted.var()).item()

    first = run("first", role="continuous", codebook_size=8)
    few = run("few", role="frozen", codebook_size=8, start=str(first.folder)).load(0)
    many = run("many", role="frozen", codebook_size=64, start=str(first.folder)).load(0)
    assert misfit(many) < misfit(few) < 1
    for model in (few, many):  # in the space that the decoder knows
        assert torch.equal(model.normaliser.matrix, first.load().normaliser.matrix)
        assert torch.equal(model.decoder.decoder.mix, first.load().decoder.decoder.mix)
    cascade = run("cascade", role="cascade", codebook_size=64, start=str(tmp_path / "many"))
    begun, learned = (cascade.load(step).quantizer.values.weight for step in (0, None))
    assert torch.equal(begun, cascade.load(0).quantizer.index) and not torch.equal(begun, learned)
    again = run("again", role="cascade", codebook_size=64, start=str(cascade.folder))
    assert torch.equal(again.load(0).quantizer.values.weight, learned)
