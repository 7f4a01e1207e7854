"""The autoregressive generator: causality, sampling, both tasks and the chunked loss."""

import dataclasses
import math
import warnings

import forked_python
import pytest
import torch
import torch.nn.functional as F

from workbench.core.errors import UserError
from workbench.generators import autoregressive, vocabulary
from workbench.generators.autoregressive import AR
from workbench.generators.vocabulary import chunked_cross_entropy, sample_codes, shortlist
from workbench.nn.transformer import Attention, Block, KVCache

SMALL = {
    "num_tokens": 4,
    "codebook_size": 7,
    "dim": 3,
    "classes": 5,
    "width": 16,
    "depth": 2,
    "heads": 2,
}
OTHER = {
    "num_tokens": 6,
    "codebook_size": 9,
    "dim": 5,
    "classes": 7,
    "num_codebooks": 2,
    "width": 32,
    "depth": 1,
    "heads": 1,
}
OTHER |= {"drop_class": 0.9, "understand": 2.0, "head": "tied", "table": "codebook"}
KINDS = [
    {"head": h, "table": t, "num_codebooks": g}
    for h in ("free", "tied")
    for t in ("learned", "codebook")
    for g in (1, 2)
]
each = pytest.mark.parametrize(
    "settings", KINDS, ids=lambda s: f"{s['head']}-{s['table']}-{s['num_codebooks']}"
)


def small(**settings) -> AR:
    torch.manual_seed(0)
    return AR(AR.Config(**(SMALL | settings)))


def perturbed(noise: float = 0.3, **settings) -> AR:
    """A network with larger weights than initial ones, so that its logits differ clearly."""
    model = small(**settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model.eval()


def random_codes(
    count: int = 6, *, tokens: int = 4, codes: int = 7
) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.randint(codes, (count, tokens), generator=torch.Generator().manual_seed(1))
    return drawn, torch.arange(count) % 5


# Causality


@each
def test_logits_depend_on_earlier_codes_only(settings):
    model, (codes, labels) = perturbed(**settings), random_codes()
    base = model(codes, labels)
    for position in range(4):
        changed_codes = codes.clone()
        changed_codes[:, position] = (changed_codes[:, position] + 1) % 7
        differs = (model(changed_codes, labels) - base).abs().amax(dim=(0, 2)) > 1e-4
        assert differs.tolist() == [later > position for later in range(4)]
    # Every position depends on the class.
    difference = (model(codes, (labels + 1) % 5) - base).abs().amax(dim=(0, 2))
    assert difference.min() > 1e-4


@each
def test_items_are_independent_and_parameters_learn(settings):
    model, (codes, labels) = small(**settings), random_codes(64)
    torch.testing.assert_close(model(codes[3:4], labels[3:4]), model(codes, labels)[3:4])
    model.objective(codes, labels).total.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert not [
        name for name, gradient in gradients.items() if not gradient.to_dense().abs().sum() > 0
    ]
    sparse = [name for name, gradient in gradients.items() if gradient.is_sparse]
    assert sparse == (
        ["table.weight"] if settings["head"] == "free" and settings["table"] == "codebook" else []
    )


def test_sparse_gradients_of_used_codes_only():
    model = small(table="codebook")
    codes = torch.tensor([[0, 2, 2, 0], [2, 0, 0, 2]])
    model.objective(codes, torch.tensor([0, 1])).total.backward()
    assert model.table.weight.grad.coalesce().indices()[0].tolist() == [0, 2]


def test_codebooks_have_separate_rows():
    """Code i of codebook 1 is row K + i, in the input table and in the output layer."""
    model, codes = perturbed(num_codebooks=2, table="codebook"), torch.full((1, 4), 3)
    model.adopt(torch.arange(2 * 7 * 3).float().view(2, 7, 3))
    seen = []
    model.table.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].tolist())
    )
    base = model(codes, torch.tensor([0]))
    assert seen == [[[3, 3, 10]]]  # the last code is predicted but not read
    with torch.no_grad():
        model.to_codes.bias[7:] += 1.0
    assert (model(codes, torch.tensor([0])) - base).mean(dim=(0, 2)).tolist() == pytest.approx(
        [0, 0, 1, 1], abs=1e-5
    )


def test_dropped_labels_do_not_matter():
    codes, labels = random_codes()
    always, never = (small(drop_class=share).objective for share in (1.0, 0.0))
    assert (
        always(codes, labels).terms["generate"] == always(codes, labels.flip(0)).terms["generate"]
    )
    assert never(codes, labels).terms["generate"] != never(codes, labels.flip(0)).terms["generate"]


def test_label_dropout_rate():
    seen, model = [], small(drop_class=0.25, understand=0.0)
    model.words.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model.objective(*random_codes(8000))
    assert (seen[0][:, 1] == 5).float().mean().item() == pytest.approx(0.25, abs=0.02)


# The cache


def test_attention_with_a_cache():
    torch.manual_seed(0)
    attention, x, past = Attention(16, 2), torch.randn(3, 7, 16), KVCache()
    together = attention(x, causal=True)
    parts = [attention(part, causal=True, past=past) for part in x.split([2, 1, 3, 1], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), together)
    # Without the causal mask, the first row depends on later rows.
    assert not torch.allclose(together[:, 0], attention(x)[:, 0])


def test_last_row_of_a_causal_block():
    torch.manual_seed(0)
    block, x = Block(16, 2), torch.randn(3, 7, 16)
    torch.testing.assert_close(block(x, causal=True)[:, -1], block(x)[:, -1])


@each
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_greedy_sampling_takes_the_largest_logit(settings, guidance):
    model, labels = perturbed(1.0, **settings), torch.arange(5)
    codes, null = torch.zeros(5, 4, dtype=torch.int64), torch.full((5,), 5)
    for position in range(4):
        logits = model(codes, null) + guidance * (model(codes, labels) - model(codes, null))
        codes[:, position] = logits[:, position].argmax(dim=-1)
    assert torch.equal(model.generate(labels, top_k=1, guidance=guidance), codes)
    assert len(codes.unique()) > 1


# Sampling


def test_top_k_keeps_exactly_k():
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    remaining = shortlist(logits, top_k=2).isfinite()
    assert remaining.tolist() == [[False, True, False, True], [True, True, False, False]]
    assert torch.equal(shortlist(logits, top_k=2)[0, [1, 3]], logits[0, [1, 3]])
    assert torch.equal(shortlist(logits, top_k=9), logits)


@pytest.mark.parametrize(
    ("top_p", "remaining"),
    [
        (0.01, {2}),
        (0.49, {2}),
        (0.51, {2, 0}),
        (0.74, {2, 0}),
        (0.76, {2, 0, 3}),
        (1.0, {0, 1, 2, 3}),
    ],
)
def test_top_p_keeps_the_fewest_codes(top_p, remaining):
    logits = torch.tensor([[0.25, 0.1, 0.5, 0.15]]).log()
    assert set(shortlist(logits, top_p=top_p)[0].isfinite().nonzero()[:, 0].tolist()) == remaining


def test_top_p_keeps_at_least_one_code():
    even = torch.zeros(1, 4)
    assert [
        shortlist(even, top_p=p).isfinite().sum().item() for p in (1e-9, 0.25, 0.26, 0.5, 0.75)
    ] == [1, 1, 2, 2, 3]


def test_top_p_within_top_k():
    """The two largest of 0.4, 0.3, 0.2, 0.1 become 4/7 and 3/7; the first exceeds 0.55 alone."""
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert shortlist(logits, top_k=2, top_p=0.55).isfinite().tolist() == [
        [True, False, False, False]
    ]
    assert shortlist(logits, top_p=0.55).isfinite().tolist() == [[True, True, False, False]]


def test_codes_are_sampled_by_probability():
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log().expand(20_000, 4)
    plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}

    def shares(**settings) -> list[float]:
        drawn = sample_codes(logits, torch.Generator().manual_seed(0), **(plain | settings))
        return (torch.bincount(drawn, minlength=4) / len(drawn)).tolist()

    assert shares() == pytest.approx([0.5, 0.25, 0.125, 0.125], abs=0.015)  # 4 standard errors
    assert shares(top_k=2) == pytest.approx([2 / 3, 1 / 3, 0, 0], abs=0.015)
    assert shares(top_p=0.8) == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0], abs=0.015)
    assert shares(temperature=0.5) == pytest.approx(
        [16 / 22, 4 / 22, 1 / 22, 1 / 22], abs=0.015
    )  # squares
    assert shares(temperature=1e-3) == [1, 0, 0, 0]
    assert shares(temperature=1e3) == pytest.approx([0.25] * 4, abs=0.015)


def test_the_seed_decides_the_codes():
    model, labels = perturbed(), torch.arange(5)
    torch.manual_seed(3)
    first, state = model.generate(labels, seed=1), torch.get_rng_state()
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, model.generate(labels, seed=1))
    assert not torch.equal(first, model.generate(labels, seed=2))
    assert first.shape == (5, 4) and first.min() >= 0 and first.max() < 7
    assert model.generate(labels[:0]).shape == (0, 4)


def test_guidance_of_one_is_conditional():
    model, seen = perturbed(), []
    model.words.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0][:, 1].tolist())
    )
    plain = model.generate(torch.arange(5), seed=1)
    assert seen == [[0, 1, 2, 3, 4]]
    with torch.no_grad():
        model.words.weight[5] += 9.0
    assert torch.equal(model.generate(torch.arange(5), seed=1, guidance=1.0), plain)
    assert not torch.equal(model.generate(torch.arange(5), seed=1, guidance=3.0), plain)


def test_guidance_of_zero_is_the_null_class():
    model = perturbed()
    drawn = model.generate(torch.arange(5), guidance=0.0, top_k=1)
    assert len(drawn.unique(dim=0)) == 1


# The loss


@each
def test_losses_of_an_untrained_model(settings):
    terms = (
        small(**settings, codebook_size=64, understand=1.0)
        .objective(*random_codes(512, codes=64))
        .terms
    )
    assert terms["generate"].item() == pytest.approx(math.log(64), abs=0.1)
    assert terms["understand"].item() == pytest.approx(math.log(5), abs=0.1)


def test_first_loss_is_independent_of_codebook_scale():
    codes, labels = random_codes(64)
    for scale in (1e-3, 1.0, 50.0):
        model = small(head="tied", table="codebook", understand=0.0)
        model.adopt(scale * torch.randn(1, 7, 3, generator=torch.Generator().manual_seed(2)))
        loss = model.objective(codes, labels).total.item()
        assert loss == pytest.approx(math.log(7), abs=0.1)


@each
def test_loss_and_bits_are_cross_entropies(settings):
    model, (codes, labels) = perturbed(**settings, drop_class=0.0), random_codes(700)
    expected = F.cross_entropy(model(codes, labels).flatten(0, 1), codes.flatten()).item()
    assert model.objective(codes, labels).terms["generate"].item() == pytest.approx(
        expected, rel=1e-5
    )
    assert model.bits(codes, labels) == pytest.approx(expected / math.log(2), rel=1e-5)


def test_understanding_loss_is_weighted():
    codes, labels = random_codes()
    expected = F.cross_entropy(perturbed().classify(codes), labels).item()
    for weight in (0.5, 2.0):
        term = perturbed(understand=weight).objective(codes, labels).terms["understand"].item()
        assert term == pytest.approx(weight * expected, rel=1e-5)
    assert list(small(understand=0.0).objective(codes, labels).terms) == ["generate"]


@pytest.mark.parametrize("chunk", [1, 4, 10, 99])
@pytest.mark.parametrize("with_bias", [False, True])
def test_chunked_cross_entropy_equals_torch(chunk, with_bias):
    torch.manual_seed(0)
    tensors = [torch.randn(10, 6, dtype=torch.float64), torch.randn(50, 6, dtype=torch.float64)]
    tensors += [torch.randn(50, dtype=torch.float64)] if with_bias else []
    targets = torch.randint(50, (10,))

    def gradients(loss) -> list[torch.Tensor]:
        leaves = [tensor.float().requires_grad_() for tensor in tensors]
        value = loss(*leaves)
        return [value, *torch.autograd.grad(value, leaves)]

    ours = gradients(
        lambda rows, weight, bias=None: chunked_cross_entropy(
            rows, weight, targets, bias=bias, chunk=chunk
        )
    )
    theirs = gradients(
        lambda rows, weight, bias=None: F.cross_entropy(F.linear(rows, weight, bias), targets)
    )
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its, atol=1e-6, rtol=1e-6)


@pytest.fixture
def logit_shapes(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of all logits that a cross-entropy is taken of."""
    shapes, plain = [], F.cross_entropy

    def watched(logits: torch.Tensor, *rest, **named) -> torch.Tensor:
        shapes.append(tuple(logits.shape))
        return plain(logits, *rest, **named)

    monkeypatch.setattr(vocabulary.F, "cross_entropy", watched)
    return shapes


def test_chunked_cross_entropy_memory(logit_shapes):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.numel()) or t, lambda t: t
    ):
        rows, weight = (
            torch.randn(10, 6, requires_grad=True),
            torch.randn(500, 6, requires_grad=True),
        )
        loss = chunked_cross_entropy(rows, weight, torch.zeros(10, dtype=torch.int64), chunk=4)
    assert logit_shapes == [(4, 500), (4, 500), (2, 500)]
    assert max(saved, default=0) <= 500 * 6  # for the backward pass: no logits
    loss.backward()
    assert len(logit_shapes) == 6  # once more each


def test_large_vocabularies_use_chunks(monkeypatch, logit_shapes):
    model, (codes, labels) = perturbed(drop_class=0.0, understand=0.0), random_codes()
    total = model.objective(codes, labels).total
    monkeypatch.setattr(autoregressive, "MAX_LOGITS", 15)  # logits of two codes
    torch.testing.assert_close(model.objective(codes, labels).total, total)
    assert logit_shapes == [(24, 7)] + [(2, 7)] * 12


# The codebook


@pytest.mark.parametrize("head", ["free", "tied"])
def test_adopt_copies_rows_by_codebook_and_code(head):
    model, codebook = small(table="codebook", num_codebooks=2, head=head), torch.randn(2, 7, 3)
    model.adopt(codebook)
    assert torch.equal(model.table.weight[:7], codebook[0]) and torch.equal(
        model.table.weight[7:], codebook[1]
    )
    assert model.table.weight.requires_grad
    model.table.weight.data.zero_()
    assert codebook.abs().sum() > 0  # a copy


def test_logits_are_independent_of_codebook_scale():
    codes, labels = random_codes()
    codebook = torch.randn(1, 7, 3)
    seen = []
    for scale in (0.01, 10.0):
        model = perturbed(table="codebook")
        model.adopt(scale * codebook)
        seen.append(model(codes, labels))
    torch.testing.assert_close(*seen)


def test_adopt_a_codebook_of_one_code():
    model = small(table="codebook", codebook_size=1)
    model.adopt(torch.ones(1, 1, 3))
    assert model(torch.zeros(2, 4, dtype=torch.int64), torch.tensor([0, 1])).isfinite().all()
    assert model.generate(torch.tensor([0, 1])).tolist() == [[0] * 4] * 2


# Learning


@pytest.fixture(
    scope="module", params=[KINDS[0], KINDS[3], KINDS[6]], ids=["free", "sparse-2-books", "tied"]
)
def learned(request) -> tuple[AR, torch.Tensor, torch.Tensor]:
    """A model that has memorized eight sequences, one per class."""
    codes = torch.randint(16, (8, 6), generator=torch.Generator().manual_seed(4))
    labels = torch.arange(8)
    model = small(**request.param, num_tokens=6, codebook_size=16, dim=8, classes=8, width=32)
    tables = [p for n, p in model.named_parameters() if n == "table.weight" and model.table.sparse]
    rest = [p for n, p in model.named_parameters() if n != "table.weight" or not model.table.sparse]
    optimizers = [torch.optim.AdamW(rest, lr=5e-3)] + (
        [torch.optim.SparseAdam(tables, lr=5e-3)] if tables else []
    )
    torch.manual_seed(0)
    for _ in range(150):
        for optimizer in optimizers:
            optimizer.zero_grad()
        model.objective(codes, labels).total.backward()
        for optimizer in optimizers:
            optimizer.step()
    return model.eval(), codes, labels


def test_memorized_classes_generate_their_codes(learned):
    model, codes, labels = learned
    assert torch.equal(model.generate(labels, top_k=1), codes)
    assert torch.equal(model.generate(labels, top_k=1, guidance=1.5), codes)


def test_memorized_codes_are_classified(learned):
    model, codes, labels = learned
    assert torch.equal(model.classify(codes).argmax(dim=-1), labels)


def test_bits_of_the_right_and_a_wrong_class(learned):
    model, codes, labels = learned
    assert model.bits(codes, labels) < 0.2 < 1 < model.bits(codes, labels.roll(1))


# Errors


@pytest.mark.parametrize(
    "settings",
    [
        {"depth": 0},
        {"num_codebooks": 3},
        {"heads": 3},
        {"drop_class": 1.5},
        {"understand": -1.0},
    ],
)
def test_invalid_settings_raise(settings):
    with pytest.raises(UserError) as error:
        AR.Config(**(SMALL | settings))
    assert any(name in str(error.value).lower() for name in settings)


@pytest.mark.slow
def test_misspelled_choice_raises():
    """In a separate process, because the type checker of the tests would raise first."""
    code = "from workbench.generators.autoregressive import AR\n"
    code += "AR.Config(num_tokens=4, codebook_size=7, dim=3, classes=5, head='tide')"
    assert "`tied`" in forked_python.message_of(code)


@pytest.mark.parametrize(
    "options",
    [
        {"labels": [5]},
        {"temperature": 0.0},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
    ],
)
def test_invalid_sampling_options_raise(options):
    labels = torch.tensor(options.get("labels", [0]))
    others = {name: options[name] for name in options if name != "labels"}
    with pytest.raises(UserError) as error:
        small().generate(labels, **others)
    assert any(name in str(error.value).lower() for name in options)


def test_tasks_that_were_not_trained_raise():
    codes, labels = random_codes()
    with pytest.raises(UserError):
        small(understand=0.0).classify(codes)
    with pytest.raises(UserError):
        small(drop_class=0.0).generate(labels, guidance=2.0)


def test_codes_of_another_tokenizer_raise():
    model, (codes, labels) = small(table="codebook"), random_codes(tokens=5)
    with pytest.raises(UserError):
        model.objective(codes, labels)
    with pytest.raises(UserError):
        model.bits(torch.full((1, 4), 9), torch.tensor([0]))
    with pytest.raises(UserError):
        model.classify(torch.full((1, 4), -2))
    with pytest.raises(UserError):
        model.adopt(torch.zeros(1, 8, 3))
    with pytest.raises(UserError):
        small().adopt(torch.zeros(1, 7, 3))


def test_every_setting_changes_something():
    """Each setting, changed alone, changes a loss term, a shape or the samples."""

    def behaviour(**settings) -> list[torch.Tensor]:
        model = perturbed(**({"table": "codebook"} | settings))
        codes, labels = random_codes(64, tokens=model.config.num_tokens)
        torch.manual_seed(1)
        terms = model.objective(codes, labels).terms
        return [*terms.values(), model.generate(torch.arange(5)), model.classify(codes)]

    usual = behaviour()
    for field in dataclasses.fields(AR.Config):
        now = behaviour(**{field.name: "learned" if field.name == "table" else OTHER[field.name]})
        same = len(now) == len(usual) and all(map(torch.equal, now, usual))
        assert not same, f"{field.name} changes nothing"


@each
def test_mixed_precision_trains_without_a_warning(settings):
    model, (codes, labels) = perturbed(**settings, drop_class=0.0), random_codes(64)
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
        warnings.simplefilter("error")
        low = model.objective(codes, labels).total
        low.backward()
    assert low.item() == pytest.approx(model.objective(codes, labels).total.item(), rel=0.05)
