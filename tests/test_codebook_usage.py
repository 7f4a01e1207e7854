import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import binom, entropy, zipfian

from benchmarks.codebook_verdicts import SOURCES, has_dead_codes, num_right, verdicts
from workbench.analysis import get
from workbench.analysis.codebook import codes as codes_module
from workbench.analysis.codebook import distances
from workbench.analysis.codebook.richness import chao1
from workbench.analysis.codebook.uniform_usage import uniform_counts
from workbench.analysis.codebook.usage import CodebookUsage, codebook_stats, codebook_usage, rarefy
from workbench.analysis.codebook.zipf import exponent, zipf
from workbench.core.errors import NotApplicable, UserError
from workbench.quantizers.vector import VectorQuantizer
from workbench.storage.evidence import Evidence


def zero_codebook(size: int, count: int = 1) -> np.ndarray:
    return np.zeros((count, size, 2), np.float32)


def stats_of(codes: np.ndarray, size: int):
    return codebook_stats(np.bincount(codes, minlength=size))


def skewed(size: int = 300, tokens: int = 2000) -> np.ndarray:
    weights = 1 / np.arange(1, size + 1)
    return np.random.default_rng(0).choice(size, tokens, p=weights / weights.sum())


@pytest.mark.parametrize(("size", "tokens"), [(1, 5), (2, 7), (256, 10), (1024, 10**6)])
def test_uniform_counts_are_binomial(size, tokens):
    counts, probability = uniform_counts(size, tokens)
    expected = binom.pmf(counts, tokens, 1 / size)
    np.testing.assert_allclose(probability, expected, rtol=1e-9, atol=1e-15)


def test_usage_of_four_tokens_on_two_codes():
    result = codebook_usage(np.array([[0, 0, 1, 1]]), zero_codebook(4))
    stats = result.codebooks[0]
    assert result.verdict == "under-sampled"
    assert (stats.used, stats.size, stats.tokens) == (2, 4, 4)
    assert stats.perplexity == pytest.approx(2)
    assert stats.used_uniform == pytest.approx(4 * (1 - 0.75**4))
    assert all(number in result.summary() for number in ("2 of 4", "2.7", "4 tokens"))


def test_perplexity_matches_scipy_entropy():
    codes = skewed()
    share = np.bincount(codes, minlength=300) / len(codes)
    assert stats_of(codes, 300).perplexity == pytest.approx(np.exp(entropy(share)))


def test_gini_matches_double_loop():
    counts = np.bincount(skewed(30, 200), minlength=30)
    pairs = sum(abs(int(a) - int(b)) for a in counts for b in counts)
    assert codebook_stats(counts).gini == pytest.approx(pairs / (2 * 30**2 * counts.mean()))


def test_rarefaction_matches_sampling_without_replacement():
    codes, random = skewed(), np.random.default_rng(1)
    for size in (10, 500, 1999):
        distinct = [len(np.unique(random.choice(codes, size, replace=False))) for _ in range(300)]
        expected = rarefy(np.bincount(codes, minlength=300), np.array([size]))[0]
        assert expected == pytest.approx(
            np.mean(distinct), abs=4 * np.std(distinct) / np.sqrt(300) + 1e-9
        )


def test_rarefaction_ends_at_used_codes():
    stats = stats_of(skewed(), 300)
    assert stats.rarefaction[0] == pytest.approx(1)
    assert stats.rarefaction[-1] == pytest.approx(stats.used)


# Zipf's law


@pytest.mark.parametrize("true", [0.5, 1.0, 1.7])
def test_zipf_recovers_exponent_of_power_law(true):
    stats = zipf((1e12 * np.arange(1.0, 1001) ** -true).astype(np.int64))
    assert stats.exponent == pytest.approx(true, abs=1e-3)
    assert (stats.low, stats.high) == (10, 500)


def test_exponent_maximizes_scipy_zipf_likelihood():
    counts = np.bincount(skewed(200, 3000), minlength=200)
    ranked = np.sort(counts)[::-1][:80]
    candidates = np.arange(0.5, 1.5, 0.01)
    likelihood = [(ranked * zipfian.logpmf(np.arange(1, 81), s, 80)).sum() for s in candidates]
    assert exponent(counts, 1, 80) == pytest.approx(candidates[np.argmax(likelihood)], abs=0.006)


def test_uniform_exponent_measures_noise():
    fit = zipf(np.random.default_rng(1).multinomial(5000, np.full(1000, 1 / 1000)))
    assert fit.exponent > 0.1
    assert fit.exponent == pytest.approx(fit.uniform, abs=0.03)


def test_exponent_is_nan_for_few_used_codes():
    result = codebook_usage(np.arange(20).reshape(5, 4), zero_codebook(20))
    assert np.isnan(result.codebooks[0].zipf.exponent)
    assert "rank" not in result.summary()
    result = codebook_usage(skewed().reshape(500, 4), zero_codebook(300))
    exponent_text = f"{result.codebooks[0].zipf.exponent:.2f}"
    assert exponent_text in result.summary()
    assert any(exponent_text in (trace.name or "") for trace in result.figure().data)


@pytest.mark.parametrize(
    ("tokens_per_code", "active", "plug_in", "corrected", "gini", "top"),
    [
        (0.5, 0.393, 0.365, 0.541, 0.674, 0.064),
        (1, 0.632, 0.563, 0.773, 0.524, 0.044),
        (5, 0.993, 0.901, 0.995, 0.249, 0.024),
    ],
)
def test_uniform_source_matches_known_values(
    tokens_per_code, active, plug_in, corrected, gini, top
):
    size = 500_000
    stats = stats_of(np.random.default_rng(0).integers(0, size, int(size * tokens_per_code)), size)
    empty = np.exp(-tokens_per_code)
    error = 3 * np.sqrt(
        empty * (1 - (1 + tokens_per_code) * empty) / size
    )  # three standard errors of the share in use
    rounding = 0.001  # the table has three digits
    assert stats.used / size == pytest.approx(1 - empty, abs=error)
    assert stats.used_uniform / size == pytest.approx(active, abs=rounding)
    assert stats.perplexity / size == pytest.approx(plug_in, abs=error + rounding)
    assert stats.perplexity_uniform / size == pytest.approx(plug_in, abs=rounding)
    assert stats.perplexity_corrected / size == pytest.approx(corrected, abs=2 * error + rounding)
    assert stats.gini == pytest.approx(gini, abs=error + rounding)
    assert stats.top_share == pytest.approx(top, abs=0.001)
    assert stats.chao1 / size == pytest.approx(1, abs=0.01)


def test_usage_is_invariant_to_renumbering():
    codes = skewed().reshape(-1, 4)
    shuffled = np.random.default_rng(2).permutation(300)[codes]
    columns = (
        codebook_usage(codes, zero_codebook(300)).table().drop(columns="verdict").astype(float)
    )
    again = (
        codebook_usage(shuffled, zero_codebook(300)).table().drop(columns="verdict").astype(float)
    )
    np.testing.assert_allclose(columns, again)


def test_verdict_healthy():
    assert stats_of(np.random.default_rng(0).integers(0, 64, 2000), 64).verdict == "healthy"


@pytest.mark.parametrize("tokens", [2000, 500])
def test_verdict_collapsed(tokens):
    stats = stats_of(np.random.default_rng(0).integers(0, 10, tokens), 512)
    assert stats.verdict == "collapsed"
    assert stats.chao1 == 10


@pytest.mark.parametrize("tokens", [100, 512, 2000])
def test_verdict_under_sampled(tokens):
    stats = stats_of(np.random.default_rng(0).integers(0, 512, tokens), 512)
    assert stats.verdict == "under-sampled"
    assert stats.chao1 == pytest.approx(512, rel=0.25)


def test_verdict_uneven():
    codes = np.concatenate([np.arange(512), np.random.default_rng(0).integers(0, 3, 50_000)])
    stats = stats_of(codes, 512)
    assert (stats.used, stats.verdict) == (512, "uneven")
    assert stats.bits == pytest.approx(1.7, abs=0.05)
    assert stats.bits_uniform == pytest.approx(9.0, abs=0.05)


def test_zipf_distributed_codes_are_healthy():
    """Zipf's law: frequency is one over rank."""
    weights = 1 / np.arange(1, 1025)
    codes = np.random.default_rng(0).choice(1024, 200_000, p=weights / weights.sum())
    assert stats_of(codes, 1024).verdict == "healthy"


def histogram(used: int, perplexity: float, tokens: int, size: int = 512) -> np.ndarray:
    """Return counts with these numbers of used codes and tokens, and about this perplexity."""
    rank = np.arange(used) / used

    def distribution(decay: float) -> np.ndarray:
        weights = np.exp(-decay * rank)
        return weights / weights.sum()

    decay = brentq(lambda a: np.exp(entropy(distribution(a))) - perplexity, 0, 100)
    counts = np.zeros(size, np.int64)
    counts[:used] = np.maximum(1, np.round(distribution(decay) * tokens))
    return counts


@pytest.mark.parametrize(
    ("used", "perplexity", "tokens", "verdict"),
    [
        (83, 67.7, 64_000, "collapsed"),  # a published VQ-VAE of CIFAR-10, 8 x 8 codes
        (69, 62.3, 64_000, "collapsed"),  # the same with running averages, collapsed
        (278, 179.0, 64_000, "borderline"),  # a published VQ-VAE of other images
        (512, 430.4, 64_000, "healthy"),  # as the first, with running averages
        (111, 66.6, 2_880, "collapsed"),
    ],
)
def test_verdicts_of_published_codebooks(used, perplexity, tokens, verdict):
    stats = codebook_stats(histogram(used, perplexity, tokens))
    assert stats.perplexity == pytest.approx(perplexity, rel=0.02)
    assert stats.verdict == verdict


def test_collapse_with_a_rising_curve_is_collapsed():
    """111 of 512 codes with a Chao1 of 121: rare codes still appear, but most never will."""
    counts = np.zeros(512, np.int64)
    counts[:111] = [1] * 13 + [2] * 8 + [31] * 90
    stats = codebook_stats(counts)
    assert stats.chao1 == pytest.approx(121, abs=1)
    assert stats.chao1_high < 160 and stats.verdict == "collapsed"


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.45, "collapsed"), (0.6, "borderline"), (0.85, "healthy")]
)
def test_verdict_on_both_sides_of_the_thresholds(share, verdict):
    for seed in range(5):
        codes = np.random.default_rng(seed).integers(0, int(share * 1024), 20_000)
        assert stats_of(codes, 1024).verdict == verdict


def test_under_sampled_zipf_codes_are_not_collapsed():
    """Chao1 is too low for a few tokens of a skewed source; the coverage says so."""
    weights = 1 / np.arange(1, 4097)
    for tokens in (200, 1000, 4000):
        codes = np.random.default_rng(0).choice(4096, tokens, p=weights / weights.sum())
        assert stats_of(codes, 4096).verdict == "under-sampled"


def test_stray_tokens_do_not_make_a_codebook_healthy():
    random = np.random.default_rng(0)
    codes = np.concatenate([random.integers(0, 60, 30_000), random.integers(0, 512, 250)])
    assert stats_of(codes, 512).verdict == "uneven"


@pytest.mark.parametrize("learn", ["gradient", "ema"])
@pytest.mark.parametrize(("revive", "verdict"), [(0.0, "collapsed"), (0.1, "healthy")])
def test_trained_collapse_is_found(learn, revive, verdict):
    """Codes that start far from the tokens win none and learn nothing, unless they are revived."""
    torch.manual_seed(0)
    tokens = torch.randn(64, 16, 4)
    quantizer = VectorQuantizer(codebook_size=128, dim=4, learn=learn, revive=revive)
    with torch.no_grad():
        quantizer.codebook[0, 20:] += 20
    parameters = list(quantizer.parameters())
    for _ in range(20):
        losses = quantizer(tokens.clone().requires_grad_()).losses
        sum(losses.values()).backward()
        with torch.no_grad():
            for parameter in parameters:
                parameter -= 10 * parameter.grad
                parameter.grad = None
    codes = quantizer.eval()(tokens).codes.numpy()
    assert stats_of(codes.ravel(), 128).verdict == verdict


def test_verdicts_on_books_of_known_sources():
    """The books of the table in the documentation, with another seed."""
    books = 20
    right = 0
    for source in SOURCES:
        counts = verdicts(source, books, seed=1)
        right += num_right(source, counts)
        assert not (has_dead_codes(source) and counts["healthy"])
    assert right >= 0.95 * books * len(SOURCES)


def test_chao1_interval_covers_the_reachable_codes():
    random = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        richness = chao1(np.bincount(random.integers(0, 200, 400), minlength=512))
        covered.append(richness.low <= 200 <= richness.high)
    assert 0.9 <= np.mean(covered) <= 1


def test_coverage_is_the_probability_of_a_used_code():
    random = np.random.default_rng(0)
    weights = 1 / np.arange(1, 513)
    weights /= weights.sum()
    errors = []
    for _ in range(100):
        counts = random.multinomial(600, weights)
        errors.append(chao1(counts).coverage - weights[counts > 0].sum())
    assert np.mean(errors) == pytest.approx(0, abs=0.01)


def test_distances_agree_with_usage():
    codes = np.random.default_rng(0).integers(0, 30, (60, 16))
    codewords = np.random.default_rng(1).normal(size=(1, 128, 4)).astype(np.float32)
    usage = codebook_usage(codes, codewords)
    apart = distances.code_distances(codes, codewords)
    assert apart.codebooks[0].verdict == usage.verdict == "collapsed"
    assert sum(apart.codebooks[0].dead.values()) == usage.codebooks[0].dead


def test_distinct_codes_have_maximal_perplexity():
    stats = stats_of(np.arange(200), 200)
    assert stats.used == 200
    assert stats.perplexity == pytest.approx(200)
    assert stats.gini == pytest.approx(0)


def test_counts_of_shards_add_up():
    codes = skewed().reshape(-1, 4)
    union, (first, second) = codebook_usage(codes, zero_codebook(300)), np.split(codes, [123])
    counts = sum(
        codebook_usage(part, zero_codebook(300)).codebooks[0].counts for part in (first, second)
    )
    pd.testing.assert_frame_equal(
        union.table(), CodebookUsage(codebooks=(codebook_stats(counts),), log=True).table()
    )


def test_part_size_does_not_change_results(monkeypatch):
    tokens, codewords = (
        skewed(tokens=2000).reshape(500, 4),
        np.random.default_rng(1).normal(size=(2, 300, 3)),
    )
    latents = codewords[0][tokens] + 0.1
    tables = []
    for max_tokens in (7, 1 << 20):
        monkeypatch.setattr(codes_module, "MAX_TOKENS_IN_MEMORY", max_tokens)
        monkeypatch.setattr(distances, "MAX_TOKENS_IN_MEMORY", max_tokens)
        tables.append(
            (
                codebook_usage(tokens, codewords).table(),
                distances.code_distances(tokens, codewords, latents).table(),
            )
        )
    for small_parts, one_part in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(small_parts, one_part)


def test_duplicate_code_does_not_raise_usage():
    before = stats_of(skewed(), 300)
    after = stats_of(skewed(), 301)  # the first of equal codes is nearest
    assert after.used / after.size < before.used / before.size


def test_inactive_tokens_are_not_counted():
    codes, active = np.array([[0, 1], [0, 99]]), np.array([[True, True], [True, False]])
    assert codebook_usage(codes, zero_codebook(4), active).codebooks[0].counts.tolist() == [
        2,
        1,
        0,
        0,
    ]
    with pytest.raises(NotApplicable):
        codebook_usage(codes, zero_codebook(4, count=2), np.array([[True, False], [True, False]]))


def test_each_codebook_counts_its_block():
    codes = np.tile([0, 1, 2, 3, 0, 0, 0, 0], (50, 1))
    result = codebook_usage(codes, zero_codebook(4, count=2))
    assert [b.used for b in result.codebooks] == [4, 1]
    assert [b.verdict for b in result.codebooks] == ["healthy", "collapsed"]
    assert result.table().set_index("codebook").loc["mean", "used"] == 2.5
    assert result.verdict == "collapsed"
    assert "1 of 2 codebooks" in result.summary()


def test_codebook_of_one_code_is_fully_used():
    stats = codebook_usage(np.zeros((3, 4), int), zero_codebook(1)).codebooks[0]
    assert (stats.used, stats.dead, stats.verdict) == (1, 0, "healthy")
    assert stats.perplexity == pytest.approx(1)
    assert stats.gini == pytest.approx(0)


def test_figure_marks_dead_codes():
    figure = codebook_usage(np.array([[0, 0, 1, 1]]), zero_codebook(4)).figure()
    crosses = next(trace for trace in figure.data if trace.name == "unused")
    assert len(crosses.x) == 2


def test_figure_of_half_a_million_codes_is_small():
    codes = np.random.default_rng(0).integers(0, 500_000, (1000, 1000))
    assert len(codebook_usage(codes, zero_codebook(500_000)[..., :1]).figure().to_json()) < 500_000


def test_code_outside_codebook_raises():
    with pytest.raises(UserError, match="9"):
        codebook_usage(np.array([[0, 9]]), zero_codebook(4))


def test_indivisible_tokens_raise():
    with pytest.raises(UserError):
        codebook_usage(np.zeros((5, 3), int), zero_codebook(4, count=2))


def test_no_images_raise_not_applicable():
    with pytest.raises(NotApplicable):
        codebook_usage(np.zeros((0, 4), int), zero_codebook(4))


def test_number_of_codes_replaces_a_codebook():
    codes = skewed(64, 400).reshape(20, 20)
    from_number = codebook_usage(codes, 64)
    from_vectors = codebook_usage(codes, np.random.default_rng(0).normal(size=(1, 64, 8)))
    pd.testing.assert_frame_equal(from_number.table(), from_vectors.table())


def test_number_of_codes_must_be_a_positive_integer():
    for number in (0, -1, 2.5, True):
        with pytest.raises(UserError):
            codebook_usage(np.array([[0]]), number)


def test_padding_is_not_counted():
    codes = skewed(64, 400).reshape(20, 20)
    is_padding = np.random.default_rng(1).random(codes.shape) < 0.3
    padded = np.where(is_padding, -1, codes)
    expected = codebook_usage(codes, 64, ~is_padding)
    pd.testing.assert_frame_equal(codebook_usage(padded, 64).table(), expected.table())
    assert codebook_usage(padded, 64).codebooks[0].tokens == 400 - is_padding.sum()


def test_codes_below_padding_are_refused():
    with pytest.raises(UserError):
        codebook_usage(np.array([[0, -2]]), 4)


def test_padding_of_several_codebooks_stays_padding():
    codes = codes_module.parse_codes(np.array([[0, -1, 1, -1]]), zero_codebook(2, 2), None, "This")
    assert codes.ids(slice(None)).tolist() == [[0, -1, 3, -1]]
    assert codes.counts.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("analysis", ["code_distances", "code_dropping", "level_usage"])
def test_analyses_of_vectors_are_not_applicable_without_vectors(analysis):
    with pytest.raises(NotApplicable):
        get(analysis)(codes=skewed(16, 200).reshape(50, 4), codebook=16)


def test_gallery_needs_no_vectors():
    codes = skewed(16, 200).reshape(50, 4)
    gallery = get("code_gallery")(np.zeros((50, 8, 8, 1), np.uint8), codes, 16)
    assert gallery.rows[0].count == np.bincount(codes.ravel()).max()
    assert np.isnan(gallery.rows[0].distance)


def test_checks_find_no_duplicates_without_vectors():
    evidence = Evidence(
        provenance={"run": "a", "step": 0, "discrete": True},
        codes=np.random.default_rng(0).integers(0, 64, (100, 16), np.int32),
        codebook=np.zeros((1, 64, 0), np.float32),
    )
    statuses = {check.code: check.status for check in get("checks")([evidence]).checks}
    assert statuses["TK014"] == "not applicable"
    assert statuses["TK013"] == "passed"
    assert not get("checks")([evidence]).findings
