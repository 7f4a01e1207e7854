import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import entropy, zipfian

from workbench.analysis.codebook import codes as reading
from workbench.analysis.codebook import distances
from workbench.analysis.codebook.usage import CodebookUsage, codebook_stats, codebook_usage, rarefy
from workbench.analysis.codebook.zipf import exponent, zipf
from workbench.core.errors import NotApplicable, UserError


def book(size: int, books: int = 1) -> np.ndarray:
    return np.zeros((books, size, 2), np.float32)


def counted(codes: np.ndarray, size: int):
    return codebook_stats(np.bincount(codes, minlength=size))


def skewed(size: int = 300, tokens: int = 2000) -> np.ndarray:
    weights = 1 / np.arange(1, size + 1)
    return np.random.default_rng(0).choice(size, tokens, p=weights / weights.sum())


def test_four_tokens_on_two_codes_are_said_in_a_sentence():
    summary = codebook_usage(np.array([[0, 0, 1, 1]]), book(4)).summary()
    assert summary.startswith("2 of 4 codes are used, as evenly as 2.0 codes.")
    assert "A uniform source would have used 2.7 of them with 4 tokens." in summary
    assert "under-sampled" in summary


def test_perplexity_is_the_exponential_of_scipys_entropy():
    codes = skewed()
    share = np.bincount(codes, minlength=300) / len(codes)
    assert counted(codes, 300).perplexity == pytest.approx(np.exp(entropy(share)))


def test_gini_agrees_with_a_double_loop_over_pairs_of_codes():
    counts = np.bincount(skewed(30, 200), minlength=30)
    pairs = sum(abs(int(a) - int(b)) for a in counts for b in counts)
    assert codebook_stats(counts).gini == pytest.approx(pairs / (2 * 30**2 * counts.mean()))


def test_rarefaction_agrees_with_drawing_tokens_without_replacement():
    codes, random = skewed(), np.random.default_rng(1)
    for size in (10, 500, 1999):
        drawn = [len(np.unique(random.choice(codes, size, replace=False))) for _ in range(300)]
        expected = rarefy(np.bincount(codes, minlength=300), np.array([size]))[0]
        assert expected == pytest.approx(
            np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(300) + 1e-9
        )


def test_rarefaction_ends_at_the_used_codes():
    found = counted(skewed(), 300)
    assert found.rarefaction[0] == pytest.approx(1)
    assert found.rarefaction[-1] == pytest.approx(found.used)


# Zipf's law


@pytest.mark.parametrize("true", [0.5, 1.0, 1.7])
def test_shares_that_fall_as_a_power_of_the_rank_have_that_exponent(true):
    found = zipf((1e12 * np.arange(1.0, 1001) ** -true).astype(np.int64))
    assert found.exponent == pytest.approx(true, abs=1e-3)
    assert (found.low, found.high) == (10, 500)


def test_the_exponent_is_the_likeliest_of_scipys_zipf_laws():
    counts = np.bincount(skewed(200, 3000), minlength=200)
    ranked = np.sort(counts)[::-1][:80]
    tried = np.arange(0.5, 1.5, 0.01)
    likelihood = [(ranked * zipfian.logpmf(np.arange(1, 81), s, 80)).sum() for s in tried]
    assert exponent(counts, 1, 80) == pytest.approx(tried[np.argmax(likelihood)], abs=0.006)


def test_noise_alone_falls_off_too_and_the_uniform_exponent_says_how_much():
    even = zipf(np.random.default_rng(1).multinomial(5000, np.full(1000, 1 / 1000)))
    assert even.exponent > 0.1
    assert even.exponent == pytest.approx(even.uniform, abs=0.03)


def test_of_few_used_codes_no_exponent_is_told():
    result = codebook_usage(np.arange(20).reshape(5, 4), book(20))
    assert np.isnan(result.books[0].zipf.exponent)
    assert "rank" not in result.summary()
    many = codebook_usage(skewed().reshape(500, 4), book(300))
    assert (
        f"Shares fall as rank to the -{many.books[0].zipf.exponent:.2f} (ranks 10 to"
        in many.summary()
    )
    assert any((trace.name or "").startswith("rank to the -") for trace in many.figure().data)


@pytest.mark.parametrize(
    ("tokens_a_code", "active", "plug_in", "corrected", "gini", "top"),
    [
        (0.5, 0.393, 0.365, 0.541, 0.674, 0.064),
        (1, 0.632, 0.563, 0.773, 0.524, 0.044),
        (5, 0.993, 0.901, 0.995, 0.249, 0.024),
    ],
)
def test_a_uniform_source_of_half_a_million_codes_shows_its_known_null_values(
    tokens_a_code, active, plug_in, corrected, gini, top
):
    size = 500_000
    found = counted(np.random.default_rng(0).integers(0, size, int(size * tokens_a_code)), size)
    empty = np.exp(-tokens_a_code)
    error = 3 * np.sqrt(
        empty * (1 - (1 + tokens_a_code) * empty) / size
    )  # three standard errors of the share in use
    rounding = 0.001  # the table has three digits
    assert found.used / size == pytest.approx(1 - empty, abs=error)
    assert found.ceiling / size == pytest.approx(active, abs=rounding)
    assert found.perplexity / size == pytest.approx(plug_in, abs=error + rounding)
    assert found.perplexity_null / size == pytest.approx(plug_in, abs=rounding)
    assert found.perplexity_corrected / size == pytest.approx(corrected, abs=2 * error + rounding)
    assert found.gini == pytest.approx(gini, abs=error + rounding)
    assert found.top == pytest.approx(top, abs=0.001)
    assert found.chao1 / size == pytest.approx(1, abs=0.01)


def test_giving_the_codes_other_numbers_changes_nothing_but_their_places():
    codes = skewed().reshape(-1, 4)
    shuffled = np.random.default_rng(2).permutation(300)[codes]
    columns = codebook_usage(codes, book(300)).table().drop(columns="verdict").astype(float)
    again = codebook_usage(shuffled, book(300)).table().drop(columns="verdict").astype(float)
    np.testing.assert_allclose(columns, again)


def test_a_book_that_uses_every_code_often_is_healthy():
    assert counted(np.random.default_rng(0).integers(0, 64, 2000), 64).verdict == "healthy"


@pytest.mark.parametrize("tokens", [2000, 500])
def test_a_book_that_uses_few_codes_again_and_again_is_collapsed(tokens):
    found = counted(np.random.default_rng(0).integers(0, 10, tokens), 512)
    assert found.verdict == "collapsed"
    assert found.chao1 == 10


@pytest.mark.parametrize("tokens", [100, 512, 2000])
def test_a_healthy_book_seen_through_few_tokens_is_under_sampled_not_collapsed(tokens):
    found = counted(np.random.default_rng(0).integers(0, 512, tokens), 512)
    assert found.verdict == "under-sampled"
    assert found.chao1 == pytest.approx(512, rel=0.25)


def test_a_book_whose_tokens_nearly_all_choose_three_codes_is_uneven_and_not_healthy():
    codes = np.concatenate([np.arange(512), np.random.default_rng(0).integers(0, 3, 50_000)])
    found = counted(codes, 512)
    assert (found.used, found.verdict) == (512, "uneven")
    summary = codebook_usage(codes[:, None], book(512)).summary()
    assert summary.endswith(
        "uneven: few codes carry most tokens, which tell 1.7 bits each, a uniform source's 9.0."
    )


def test_a_book_used_as_unevenly_as_words_are_is_healthy():
    """Zipf's law: frequency is one over rank."""
    weights = 1 / np.arange(1, 1025)
    codes = np.random.default_rng(0).choice(1024, 200_000, p=weights / weights.sum())
    assert counted(codes, 1024).verdict == "healthy"


def test_every_token_with_a_code_of_its_own_is_as_even_as_can_be():
    found = counted(np.arange(200), 200)
    assert found.used == 200
    assert found.perplexity == pytest.approx(200)
    assert found.gini == pytest.approx(0)


def test_the_counts_of_two_shards_add_up_to_those_of_the_union():
    codes = skewed().reshape(-1, 4)
    whole, (first, second) = codebook_usage(codes, book(300)), np.split(codes, [123])
    counts = sum(codebook_usage(part, book(300)).books[0].counts for part in (first, second))
    pd.testing.assert_frame_equal(
        whole.table(), CodebookUsage((codebook_stats(counts),), log=True).table()
    )


def test_how_many_tokens_are_read_at_a_time_does_not_matter(monkeypatch):
    tokens, words = (
        skewed(tokens=2000).reshape(500, 4),
        np.random.default_rng(1).normal(size=(2, 300, 3)),
    )
    latents = words[0][tokens] + 0.1
    found = []
    for at_once in (7, 1 << 20):
        monkeypatch.setattr(reading, "AT_ONCE", at_once)
        monkeypatch.setattr(distances, "AT_ONCE", at_once)
        found.append(
            (
                codebook_usage(tokens, words).table(),
                distances.code_distances(tokens, words, latents).table(),
            )
        )
    for few, all_at_once in zip(*found, strict=True):
        pd.testing.assert_frame_equal(few, all_at_once)


def test_a_second_copy_of_a_code_never_raises_the_share_in_use():
    before = counted(skewed(), 300)
    after = counted(skewed(), 301)  # nobody chooses the copy: the first of equals is nearest
    assert after.used / after.size < before.used / before.size


def test_tokens_that_are_not_active_are_counted_nowhere():
    codes, active = np.array([[0, 1], [0, 99]]), np.array([[True, True], [True, False]])
    assert codebook_usage(codes, book(4), active).books[0].counts.tolist() == [2, 1, 0, 0]
    with pytest.raises(NotApplicable, match="active tokens in every book"):
        codebook_usage(codes, book(4, books=2), np.array([[True, False], [True, False]]))


def test_each_book_counts_its_own_block_of_tokens():
    codes = np.tile([0, 1, 2, 3, 0, 0, 0, 0], (50, 1))
    result = codebook_usage(codes, book(4, books=2))
    assert [b.used for b in result.books] == [4, 1]
    assert [b.verdict for b in result.books] == ["healthy", "collapsed"]
    assert result.table().set_index("book").loc["mean", "used"] == 2.5
    assert result.summary().startswith("2.5 of 4 codes are used in each of 2 books, on average,")
    assert "1 of 2 books is collapsed" in result.summary()


def test_a_book_of_one_code_is_fully_used():
    found = codebook_usage(np.zeros((3, 4), int), book(1)).books[0]
    assert (found.used, found.dead, found.verdict) == (1, 0, "healthy")
    assert found.perplexity == pytest.approx(1)
    assert found.gini == pytest.approx(0)


def test_dead_codes_are_crossed_out_in_the_grid():
    figure = codebook_usage(np.array([[0, 0, 1, 1]]), book(4)).figure()
    crosses = next(trace for trace in figure.data if trace.name == "× dead")
    assert len(crosses.x) == 2


def test_half_a_million_codes_fit_in_a_small_figure():
    codes = np.random.default_rng(0).integers(0, 500_000, (1000, 1000))
    assert len(codebook_usage(codes, book(500_000)[..., :1]).figure().to_json()) < 500_000


def test_a_code_outside_the_book_is_refused():
    with pytest.raises(
        UserError, match=re.escape("code 9 in a codebook of 4. Do both come from the same run?")
    ):
        codebook_usage(np.array([[0, 9]]), book(4))


def test_tokens_that_the_books_cannot_share_are_refused():
    with pytest.raises(UserError, match="3 tokens cannot be shared by 2 books"):
        codebook_usage(np.zeros((5, 3), int), book(4, books=2))


def test_no_images_are_answered_with_a_sentence():
    with pytest.raises(NotApplicable, match="needs at least one image with codes"):
        codebook_usage(np.zeros((0, 4), int), book(4))
