from dataclasses import replace

import numpy as np
import pytest

from workbench.analysis.checks.checks import SYMBOLS, checks, rules
from workbench.core.errors import UserError
from workbench.storage.evidence import Evidence
from workbench.workspace.controls import controls

IMAGES = np.random.default_rng(0).integers(1, 255, (60, 8, 8, 1), dtype=np.uint8)
OTHERS = np.random.default_rng(1).integers(1, 255, (60, 8, 8, 1), dtype=np.uint8)
BOOK = np.random.default_rng(2).normal(size=(1, 64, 4)).astype(np.float32)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def evidence(run: str = "a", /, **arrays) -> Evidence:
    """Evidence in which nothing is wrong, except for what is given."""
    told = {
        "run": run,
        "step": 1,
        "fingerprint": "f",
        "split": "test",
        "n": 60,
        "seed": 0,
        "feature_extractor": "hog",
    }
    sound = {"images": IMAGES, "reconstructions": IMAGES, "latents": normal(60, 16, 4)}
    return Evidence(told, **(sound | arrays))


def codes(share_of_book: float, tokens: int = 16, images: int = 60, size: int = 64) -> np.ndarray:
    """Codes drawn evenly from the first of a book."""
    random = np.random.default_rng(3)
    return random.integers(0, max(1, int(share_of_book * size)), (images, tokens)).astype(np.int32)


def found(*evidences: Evidence) -> dict[str, str]:
    """What each finding's code says."""
    return {check.code: check.finding.found for check in checks(evidences).findings}


# Codebooks


def test_a_healthy_a_collapsed_and_an_under_sampled_codebook_get_three_verdicts():
    healthy = evidence("healthy", codes=codes(1.0), codebook=BOOK)
    collapsed = evidence("collapsed", codes=codes(0.1), codebook=BOOK)
    wide = normal(1, 4096, 4, seed=4)
    under_sampled = evidence("under-sampled", codes=codes(1.0, size=4096), codebook=wide)
    assert found(healthy) == {}
    assert set(found(collapsed)) == {"TK001", "TK013"}
    assert set(found(under_sampled)) == {"TK002", "TK003"}


def test_dead_codes_are_counted():
    codes_of_six = codes(0.1)
    assert found(evidence(codes=codes_of_six, codebook=BOOK))["TK001"] == (
        "58 of 64 codes (91 %) were never chosen by 960 tokens."
    )


def test_tokens_that_nearly_all_choose_one_code_are_uneven_but_not_collapsed():
    skewed = codes(1.0, tokens=64)
    skewed[np.random.default_rng(5).random(skewed.shape) < 0.9] = 7
    assert set(found(evidence(codes=skewed, codebook=BOOK))) == {"TK015"}


def test_copies_of_codes_are_found():
    twins = BOOK.copy()
    twins[:, 32:] = twins[:, :32]
    assert found(evidence(codes=codes(1.0), codebook=twins))["TK014"].startswith(
        "About 64 of 64 codes (100 %)"
    )


def test_of_a_soft_quantizer_dead_codes_are_only_noted():
    soft = evidence(codes=codes(0.1), codebook=BOOK)
    soft.provenance["discrete"] = False
    assert {c.status for c in checks([soft]).findings} == {"info"}
    assert "most probable of soft codes" in found(soft)["TK001"]


# Latents


def test_latents_of_a_usual_scale_pass_and_others_are_told_their_factor():
    assert found(evidence()) == {}
    result = checks([evidence(latents=100 * normal(60, 16, 4))])
    assert [c.code for c in result.findings] == ["TK004"]
    assert "scale them by 0.01" in result.findings[0].finding.advice


def test_a_channel_that_only_tells_the_place_of_a_token_is_idle():
    latents = normal(60, 16, 4)
    latents[..., 2] = np.arange(16)
    assert found(evidence(latents=latents))["TK005"].startswith("1 of 4 channels")


def test_one_loud_channel_is_dominant_and_does_not_make_the_others_idle():
    latents = normal(60, 16, 4) * np.float32([1, 1, 30, 1])
    assert found(evidence(latents=latents))["TK017"].startswith(
        "Channel 2 holds 100 % of the variance of 4"
    )
    assert "TK005" not in found(evidence(latents=latents))


def test_nan_and_latents_that_never_change_are_errors():
    broken, constant = normal(60, 16, 4), np.ones((60, 16, 4), np.float32)
    broken[3, 0, 0] = np.nan
    assert found(evidence(latents=broken)) == {
        "TK016": "The latents of 1 of 60 images hold NaN or infinity."
    }
    assert "TK016" in found(evidence(latents=constant))
    assert checks([evidence(latents=constant)]).findings[0].status == "error"


def test_first_tokens_that_decode_worse_the_more_there_are():
    falling = np.linspace([0.4, 0.2, 0.1], [0.5, 0.3, 0.2], 60)
    first = {"prefixes": np.array([1, 2, 4]), "prefix_mse": falling}
    assert found(evidence(**first)) == {}
    assert found(evidence(**(first | {"prefix_mse": falling[:, [0, 2, 1]]})))["TK012"].startswith(
        "4 tokens decode worse"
    )


def test_errors_missed_with_tokens_left_are_told_from_errors_out_of_reach():
    asked = {"requested": np.array([0.02, 0.1]), "reached": np.full((2, 60), 0.05)}
    assert found(evidence(**asked, spent=np.full((2, 60), 4)))["TK050"].startswith(
        "Asked for an error of 0.02, 100 %"
    )
    assert found(evidence(**asked, spent=np.full((2, 60), 16))) == {}


# Images


def test_numbers_of_runs_on_other_images_are_not_comparable():
    other = evidence("b")
    other.provenance["fingerprint"] = "g"
    assert found(evidence(), other) == {"TK007": "b and a differ in data."}
    assert found(evidence(), evidence("b")) == {}


def test_reconstructions_are_held_against_the_distance_of_real_images():
    features, training = normal(2000, 3), normal(2000, 3, seed=1)
    given = {"features": features, "train_features": training}
    assert found(evidence(**given, reconstruction_features=features)) == {}
    said = found(evidence(**given, reconstruction_features=features + [1, 0, 0]))
    assert set(said) == {"TK020"}
    assert said["TK020"].startswith("Reconstructions are 1 from images, real images 0.0")


def test_distances_of_few_images_are_noted_and_inception_asks_for_more():
    given = {"features": normal(2000, 3), "reconstruction_features": normal(2000, 3)}
    of_inception = evidence(**given)
    assert found(of_inception) == {}
    of_inception.provenance["feature_extractor"] = "inception"
    assert (
        found(of_inception)["TK006"] == "Distances are taken of 2,000 images with 3 features each."
    )
    assert "TK006" in found(evidence(**{name: x[:500] for name, x in given.items()}))


def test_clamped_pixels_are_found_where_images_have_none():
    dark = np.where(IMAGES < 128, 0, IMAGES)
    assert "TK021" in found(evidence(reconstructions=dark))
    assert found(evidence(images=dark, reconstructions=dark)) == {}


def test_few_images_are_warned_of():
    few = {
        name: getattr(evidence(), name)[:20] for name in ("images", "reconstructions", "latents")
    }
    assert found(evidence(**few))["TK030"] == "There are 20 images."


def test_held_out_images_that_were_trained_on_are_found_and_blank_ones_are_not_counted():
    assert found(evidence(train_images=OTHERS)) == {}
    leaked = OTHERS.copy()
    leaked[:3] = IMAGES[10:13]
    said = found(evidence(train_images=leaked))["TK031"]
    assert said == "3 of 60 held-out images (5.0 %) were trained on, at least."
    blank = {"images": np.zeros_like(IMAGES), "reconstructions": np.zeros_like(IMAGES)}
    assert found(evidence(**blank, train_images=np.zeros_like(IMAGES))) == {}


# Generators


def drawn(samples: np.ndarray) -> Evidence:
    told = {
        "run": "g",
        "step": 1,
        "tokenizer": {"run": "../a", "step": 1},
        "feature_extractor": "hog",
    }
    return Evidence(
        told,
        features=normal(1500, 3),
        train_features=normal(1500, 3, seed=1),
        sample_features=samples,
    )


def test_fresh_samples_pass_and_copies_of_training_images_do_not():
    assert found(drawn(normal(1500, 3, seed=2))) == {}
    copies = np.concatenate([normal(1300, 3, seed=2), normal(1500, 3, seed=1)[:200]])
    assert found(drawn(copies))["TK040"].startswith("14.")


def test_samples_of_one_mode_or_twice_the_same_have_lost_diversity():
    assert "TK041" in found(drawn(normal(1500, 3, seed=2) * 0.2))
    twice = np.repeat(normal(750, 3, seed=2), 2, axis=0)
    assert "50.0 % of the samples are twins" in found(drawn(twice))["TK041"]


def test_nan_and_codes_outside_their_book_are_errors():
    broken = evidence(loss_by_time=np.array([1, np.nan]), codes=codes(1.0) + 60, codebook=BOOK)
    said = found(broken)["TK060"]
    assert said.startswith("NaN or infinity is in: loss by time. ")
    assert said.endswith("codes lie outside their book.")


# The whole


def test_every_rule_says_in_its_docstring_when_it_speaks_with_its_numbers_filled_in():
    told = {check.code: check.rule for check in checks([evidence()]).checks}
    assert list(told) and set(told) == set(rules())
    assert all("{" not in rule and rule.endswith(".") for rule in told.values())
    assert told["TK001"].startswith("Over 10 % of a book's codes were chosen by no token")


def test_a_muted_check_keeps_its_finding_and_is_no_longer_counted():
    muted = evidence(latents=100 * normal(60, 16, 4))
    muted.provenance["mute"] = ["TK004"]
    result = checks([muted])
    assert result.findings == ()
    assert result.counts["muted"] == 1
    assert "deviation is" in result.table().set_index("code").loc["TK004", "found"]
    muted.provenance["mute"] = ["TK400"]
    with pytest.raises(UserError, match=r"There is no check `TK400`; .* Did you mean `TK0"):
        checks([muted])


def test_errors_come_first_and_every_status_has_a_symbol_and_a_word():
    broken = normal(60, 16, 4)
    broken[0] = np.nan
    result = checks(
        [
            evidence("a", train_images=OTHERS, codes=codes(0.1), codebook=BOOK),
            evidence("b", latents=broken),
        ]
    )
    assert [c.status for c in result.findings] == ["error", "error", "warning"]
    cells = result.figure().data[0].cells.values
    assert set(cells[0]) == {"✖ error", "▲ warning"}
    assert len(set(SYMBOLS.values())) == len(SYMBOLS)


def test_a_sound_run_shows_what_passed():
    result = checks([evidence()])
    assert result.summary().endswith("Nothing was found.")
    assert len(result.figure().data[0].cells.values[0]) == len(result.checks) == len(result.table())


def test_what_a_run_lacks_is_not_applicable():
    alone = Evidence({"run": "a", "step": 1})
    assert {c.status for c in checks([alone]).checks} == {"not applicable"}


def test_the_summary_counts_and_quotes_the_worst():
    result = checks([evidence(codes=codes(0.1), codebook=BOOK)])
    said = result.summary()
    assert said.startswith(f"1 error, 1 warning, {result.counts['passed']} passed, ")
    assert "TK013 a: Only 6 of 64 codes are in use" in said


def test_two_checkpoints_of_one_run_are_told_apart():
    both = [evidence(), replace(evidence(), provenance=evidence().provenance | {"step": 2})]
    assert {c.run for c in checks(both).checks} == {"a @ 1", "a @ 2"}


def test_hosts_can_draw_its_controls():
    assert [(c.name, c.choices) for c in controls(checks)] == [("show", ("findings", "all"))]
