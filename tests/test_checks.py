from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from workbench.analysis.diagnosis.checks import SYMBOLS, checks, rules, wording
from workbench.analysis.diagnosis.remedies import REMEDIES, contradictions
from workbench.core.errors import UserError
from workbench.storage.evidence import Evidence
from workbench.storage.training_log import TrainingLog
from workbench.workspace.controls import controls

IMAGES = np.random.default_rng(0).integers(1, 255, (60, 8, 8, 1), dtype=np.uint8)
OTHER_IMAGES = np.random.default_rng(1).integers(1, 255, (60, 8, 8, 1), dtype=np.uint8)
CODEBOOK = np.random.default_rng(2).normal(size=(1, 64, 4)).astype(np.float32)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def evidence(run: str = "a", /, **arrays) -> Evidence:
    """Return evidence without findings, except for the arrays that are passed."""
    provenance = {
        "run": run,
        "step": 1,
        "fingerprint": "f",
        "split": "test",
        "n": 60,
        "seed": 0,
        "feature_extractor": "hog",
    }
    default_arrays = {"images": IMAGES, "reconstructions": IMAGES, "latents": normal(60, 16, 4)}
    return Evidence(provenance, **(default_arrays | arrays))


def codes(share: float, tokens: int = 16, images: int = 60, size: int = 64) -> np.ndarray:
    """Return codes drawn uniformly from the first fraction of a codebook."""
    random = np.random.default_rng(3)
    return random.integers(0, max(1, int(share * size)), (images, tokens)).astype(np.int32)


def observations(*evidences: Evidence) -> dict[str, str]:
    """Return the observation of each finding by its code."""
    return {check.code: check.finding.observation for check in checks(evidences).findings}


# Codebooks


def test_findings_by_codebook_verdict():
    healthy = evidence("healthy", codes=codes(1.0), codebook=CODEBOOK)
    collapsed = evidence("collapsed", codes=codes(0.1), codebook=CODEBOOK)
    large_codebook = normal(1, 4096, 4, seed=4)
    under_sampled = evidence("under-sampled", codes=codes(1.0, size=4096), codebook=large_codebook)
    assert observations(healthy) == {}
    assert set(observations(collapsed)) == {"TK013"}
    assert set(observations(under_sampled)) == {"TK002", "TK003"}


def test_dead_codes_are_counted():
    codes_of_most = codes(0.8, tokens=64)
    observed = observations(evidence(codes=codes_of_most, codebook=CODEBOOK))
    assert set(observed) == {"TK001"}
    assert observed["TK001"].startswith("13 of 64 codes (20 %)")


def test_nearly_collapsed_codes_are_a_warning():
    result = checks([evidence(codes=codes(0.6, tokens=64), codebook=CODEBOOK)])
    assert [(c.code, c.status) for c in result.findings] == [("TK018", "warning")]


def collapsed_run(settings: dict, **provenance) -> Evidence:
    run = evidence("collapsed", codes=codes(0.1), codebook=CODEBOOK)
    run.provenance.update({"settings": settings, "class": "m:C"} | provenance)
    return run


def finding_of(code: str, *evidences: Evidence):
    return next(c.finding for c in checks(evidences).findings if c.code == code)


def test_remedy_of_collapse_is_the_command_of_the_recipe():
    settings = {"learn": "gradient", "revive": 0.0, "codebook_size": 64}
    changes = {"learn": "gradient", "revive": 0.0, "steps": 300}
    run = collapsed_run(settings, recipe="vqvae-digits", changes=changes)
    finding = finding_of("TK013", run)
    assert "revive = 0" in finding.observation and "learn = gradient" in finding.observation
    assert not any(
        "`" in text for column in checks([run]).figure().data[0].cells.values for text in column
    )
    assert (
        "workbench train vqvae-digits --out runs/collapsed-2 --learn ema --revive 0.1 --steps 300"
        in finding.advice
    )


def test_remedy_without_a_known_cause_is_a_smaller_codebook():
    settings = {"learn": "ema", "revive": 0.1, "codebook_size": 64}
    run = collapsed_run(settings, recipe="vqvae-digits")
    assert "--codebook-size" not in finding_of("TK013", run).advice  # 6 codes are too few
    run = replace(run, codes=codes(0.4))
    assert "--codebook-size 32" in finding_of("TK013", run).advice


def test_collapse_names_a_comparable_healthy_run():
    fine = evidence("fine", codes=codes(1.0), codebook=CODEBOOK)
    fine.provenance.update({"settings": {"revive": 0.1, "learn": "ema"}, "class": "m:C"})
    run = collapsed_run({"revive": 0.0, "learn": "ema"})
    observation = finding_of("TK013", run, fine).observation
    assert "fine uses 64 of 64 codes with revive = 0.1." in observation
    fine.provenance["class"] = "m:D"
    assert "fine" not in finding_of("TK013", run, fine).observation


def test_concentrated_codes_are_uneven():
    skewed = codes(1.0, tokens=64)
    skewed[np.random.default_rng(5).random(skewed.shape) < 0.9] = 7
    assert set(observations(evidence(codes=skewed, codebook=CODEBOOK))) == {"TK015"}


def test_duplicate_codes_are_reported():
    duplicated = CODEBOOK.copy()
    duplicated[:, 32:] = duplicated[:, :32]
    assert observations(evidence(codes=codes(1.0), codebook=duplicated))["TK014"].startswith(
        "About 64 of 64 codes (100 %)"
    )


def test_dead_codes_of_soft_quantizer_are_info():
    soft = evidence(codes=codes(0.1), codebook=CODEBOOK)
    soft.provenance["discrete"] = False
    assert {c.status for c in checks([soft]).findings} == {"info"}
    assert "most probable of soft codes" in observations(soft)["TK013"]


# Latents


def test_latent_scale_and_its_factor():
    assert observations(evidence()) == {}
    result = checks([evidence(latents=100 * normal(60, 16, 4))])
    assert [c.code for c in result.findings] == ["TK004"]
    assert "0.01" in result.findings[0].finding.advice


def test_position_only_channel_is_idle():
    latents = normal(60, 16, 4)
    latents[..., 2] = np.arange(16)
    assert observations(evidence(latents=latents))["TK005"].startswith("1 of 4 channels")


def test_dominant_channel_does_not_idle_others():
    latents = normal(60, 16, 4) * np.float32([1, 1, 30, 1])
    assert observations(evidence(latents=latents))["TK017"].startswith("Channel 2 has 100 %")
    assert "TK005" not in observations(evidence(latents=latents))


def test_nan_and_constant_latents_are_errors():
    broken, constant = normal(60, 16, 4), np.ones((60, 16, 4), np.float32)
    broken[3, 0, 0] = np.nan
    assert list(observations(evidence(latents=broken))) == ["TK016"]
    assert "1 of 60 images" in observations(evidence(latents=broken))["TK016"]
    assert "TK016" in observations(evidence(latents=constant))
    assert checks([evidence(latents=constant)]).findings[0].status == "error"


def test_more_tokens_that_decode_worse():
    falling = np.linspace([0.4, 0.2, 0.1], [0.5, 0.3, 0.2], 60)
    first = {"prefixes": np.array([1, 2, 4]), "prefix_mse": falling}
    assert observations(evidence(**first)) == {}
    assert observations(evidence(**(first | {"prefix_mse": falling[:, [0, 2, 1]]})))[
        "TK012"
    ].startswith("4 tokens decode worse")


def test_missed_targets_with_tokens_left():
    requests = {"requested": np.array([0.02, 0.1]), "reached": np.full((2, 60), 0.05)}
    assert observations(evidence(**requests, spent=np.full((2, 60), 4)))["TK050"].startswith(
        "100 % of the images miss a requested error of 0.02"
    )
    assert observations(evidence(**requests, spent=np.full((2, 60), 16))) == {}


# Images


def test_runs_on_other_images_are_not_comparable():
    other_run = evidence("b")
    other_run.provenance["fingerprint"] = "g"
    assert observations(evidence(), other_run) == {"TK007": "b and a differ in data."}
    assert observations(evidence(), evidence("b")) == {}


def test_reconstruction_distance_relative_to_floor():
    features, training = normal(2000, 3), normal(2000, 3, seed=1)
    feature_sets = {"features": features, "train_features": training}
    assert observations(evidence(**feature_sets, reconstruction_features=features)) == {}
    observed = observations(evidence(**feature_sets, reconstruction_features=features + [1, 0, 0]))
    assert set(observed) == {"TK020"}
    assert observed["TK020"].startswith("The distance of reconstructions to images is 1;")


def test_few_images_for_distances():
    feature_sets = {"features": normal(2000, 3), "reconstruction_features": normal(2000, 3)}
    inception = evidence(**feature_sets)
    assert observations(inception) == {}
    inception.provenance["feature_extractor"] = "inception"
    assert "2,000 images with 3 features" in observations(inception)["TK006"]
    assert "TK006" in observations(evidence(**{name: x[:500] for name, x in feature_sets.items()}))


def test_saturated_pixels_relative_to_images():
    dark = np.where(IMAGES < 128, 0, IMAGES)
    assert "TK021" in observations(evidence(reconstructions=dark))
    assert observations(evidence(images=dark, reconstructions=dark)) == {}


def test_few_images_are_reported():
    twenty_images = {
        name: getattr(evidence(), name)[:20] for name in ("images", "reconstructions", "latents")
    }
    assert observations(evidence(**twenty_images))["TK030"] == "There are 20 images."


def test_leaked_images_except_constant_ones():
    assert observations(evidence(train_images=OTHER_IMAGES)) == {}
    leaked = OTHER_IMAGES.copy()
    leaked[:3] = IMAGES[10:13]
    observed = observations(evidence(train_images=leaked))["TK031"]
    assert "3 of 60 held-out images (5.0 %)" in observed
    blank = {"images": np.zeros_like(IMAGES), "reconstructions": np.zeros_like(IMAGES)}
    assert observations(evidence(**blank, train_images=np.zeros_like(IMAGES))) == {}


# Generators


def generator_evidence(samples: np.ndarray) -> Evidence:
    provenance = {
        "run": "g",
        "step": 1,
        "tokenizer": {"run": "../a", "step": 1},
        "feature_extractor": "hog",
    }
    return Evidence(
        provenance,
        features=normal(1500, 3),
        train_features=normal(1500, 3, seed=1),
        sample_features=samples,
    )


def test_copied_samples_are_reported():
    assert observations(generator_evidence(normal(1500, 3, seed=2))) == {}
    copies = np.concatenate([normal(1300, 3, seed=2), normal(1500, 3, seed=1)[:200]])
    assert observations(generator_evidence(copies))["TK040"].startswith("14.")


def test_lost_diversity_of_samples():
    assert "TK041" in observations(generator_evidence(normal(1500, 3, seed=2) * 0.2))
    twice = np.repeat(normal(750, 3, seed=2), 2, axis=0)
    assert (
        "50.0 % of the samples are duplicates" in observations(generator_evidence(twice))["TK041"]
    )


def test_nan_and_codes_outside_codebook_are_errors():
    broken = evidence(loss_by_time=np.array([1, np.nan]), codes=codes(1.0) + 60, codebook=CODEBOOK)
    observed = observations(broken)["TK060"]
    assert "loss by time" in observed
    assert "codes are outside the codebook" in observed


# All checks


def test_rule_texts_contain_their_numbers():
    rule_texts = {check.code: check.rule for check in checks([evidence()]).checks}
    assert list(rule_texts) and set(rule_texts) == set(rules())
    assert all("{" not in rule and rule.endswith(".") for rule in rule_texts.values())
    assert "10 %" in rule_texts["TK001"]


def test_muted_check_keeps_its_finding():
    muted = evidence(latents=100 * normal(60, 16, 4))
    muted.provenance["mute"] = ["TK004"]
    result = checks([muted])
    assert result.findings == ()
    assert result.counts["muted"] == 1
    assert "deviation" in result.table().set_index("code").loc["TK004", "observation"]
    muted.provenance["mute"] = ["TK400"]
    with pytest.raises(UserError, match="TK400"):
        checks([muted])


def test_errors_come_first_with_symbol_and_word():
    broken = normal(60, 16, 4)
    broken[0] = np.nan
    dark = np.where(IMAGES < 128, 0, IMAGES)
    result = checks(
        [
            evidence("a", reconstructions=dark, codes=codes(0.1), codebook=CODEBOOK),
            evidence("b", latents=broken),
        ]
    )
    assert [c.status for c in result.findings] == ["error", "error", "warning"]
    cells = result.figure().data[0].cells.values
    assert set(cells[0]) == {"✖ error", "▲ warning"}
    assert len(set(SYMBOLS.values())) == len(SYMBOLS)


def test_run_without_findings_shows_all_checks():
    result = checks([evidence()])
    assert result.findings == ()
    assert len(result.figure().data[0].cells.values[0]) == len(result.checks) == len(result.table())


def test_checks_of_empty_run_are_not_applicable():
    empty = Evidence({"run": "a", "step": 1})
    assert {c.status for c in checks([empty]).checks} == {"not applicable"}


def test_summary_states_counts_and_worst():
    result = checks([evidence(codes=codes(0.1), codebook=CODEBOOK)])
    summary = result.summary()
    assert summary.startswith(f"1 error, {result.counts['passed']} passed, ")
    assert "TK013 a: At most about 6 of 64 codes are reachable" in summary


def test_checkpoints_have_distinct_names():
    checkpoints = [evidence(), replace(evidence(), provenance=evidence().provenance | {"step": 2})]
    assert {c.run for c in checks(checkpoints).checks} == {"a @ 1", "a @ 2"}


def test_controls_of_checks():
    assert [(c.name, c.choices) for c in controls(checks)] == [("show", ("findings", "all"))]


# Training


def trained(held_out=(), beta: float = 0.01, **terms) -> Evidence:
    """Return evidence with a log of one record per value of the terms."""
    names, columns = list(terms), list(terms.values())
    records = [
        {"step": 10 * (i + 1), **dict(zip(names, row, strict=True))}
        for i, row in enumerate(zip(*columns, strict=True))
    ]
    statistics = [{"step": 10 * (i + 1), "held_out_pixel": v} for i, v in enumerate(held_out)]
    log = TrainingLog(run="a", records=records, statistics=statistics)
    base = evidence()
    return replace(base, log=log, provenance=base.provenance | {"settings": {"beta": beta}})


STEPS = np.arange(1, 41)
FALLING = 0.1 + 1 / STEPS


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (trained(pixel=FALLING), {}),
        (trained(pixel=FALLING, adversarial=STEPS / 10), {}),
        (trained(pixel=np.where(STEPS < 20, FALLING, 2.0)), {"TK070": "error"}),
        (trained(pixel=np.where(STEPS < 20, FALLING, 0.8)), {"TK070": "warning"}),
        (trained(pixel=np.where(STEPS < 8, FALLING, 0.2)), {"TK071": "info"}),
        (trained(pixel=1 - STEPS / 1000), {"TK073": "error"}),
        (trained(pixel=FALLING, kl=0.001 / STEPS, beta=0.01), {"TK072": "error"}),
        (trained(pixel=FALLING, kl=0.1 + 0.1 / STEPS, beta=0.01), {}),
        (trained(pixel=FALLING, held_out=FALLING), {}),
        (trained(pixel=FALLING, held_out=FALLING + STEPS / 100), {"TK074": "warning"}),
    ],
)
def test_findings_of_training_by_its_log(run, expected):
    assert {check.code: check.status for check in checks([run]).findings} == expected


@pytest.mark.parametrize("is_rising", [True, False], ids=["rising weight", "switched off"])
def test_a_term_that_is_phased_in_is_no_divergence(is_rising):
    perceptual = 0.8 - STEPS / 100
    if is_rising:
        perceptual = perceptual * np.minimum(STEPS / 4, 1)
    run = trained(pixel=0.05 / STEPS, perceptual=perceptual)
    log, settings = run.log, {"perceptual_rise": 0.1} if is_rising else {}
    if not is_rising:  # from step 0 to 50
        events = [
            {"event": "weight", "step": step, "term": "perceptual", "value": value}
            for step, value in ((0, 0.0), (50, 1.0))
        ]
        records = [r | {"perceptual": r["perceptual"] * (r["step"] > 50)} for r in log.records]
        log = replace(log, events=events, records=records)
    provenance = run.provenance | {"settings": settings}
    found = checks([replace(run, log=log, provenance=provenance)]).findings
    assert "TK070" not in {check.code for check in found}


def test_training_that_started_from_another_run_has_no_trend():
    run = trained(pixel=1 - STEPS / 1000)
    started = replace(run.log, events=[{"event": "started from", "step": 0}])
    assert not checks([replace(run, log=started)]).findings


# Advice


def test_every_check_declares_its_remedy():
    assert set(REMEDIES) == set(rules())
    assert all(set(remedy.withheld_by) <= set(rules()) for remedy in REMEDIES.values())


@pytest.mark.parametrize(("one", "other"), list(combinations(sorted(REMEDIES), 2)))
def test_no_two_checks_give_opposite_advice(one, other):
    is_exclusive = one in REMEDIES[other].withheld_by or other in REMEDIES[one].withheld_by
    assert is_exclusive or not contradictions(REMEDIES[one], REMEDIES[other])


TRAINING_WORDS = ("train longer", "Train again", "Restart", "revive", "earlier step", "loss")


@pytest.mark.parametrize(
    ("code", "arrays"),
    [
        ("TK001", {"codes": codes(0.8, tokens=64), "codebook": CODEBOOK}),
        ("TK013", {"codes": codes(0.1), "codebook": CODEBOOK}),
        ("TK014", {"codes": codes(1.0), "codebook": np.ones_like(CODEBOOK)}),
        ("TK016", {"latents": np.full((60, 16, 4), np.nan, np.float32)}),
        (
            "TK050",
            {"requested": [0.02], "reached": np.full((1, 60), 0.1), "spent": np.ones((1, 60))},
        ),
        ("TK060", {"features": np.full((60, 3), np.nan)}),
    ],
)
def test_advice_for_a_model_trained_elsewhere_does_not_change_its_training(code, arrays):
    own = evidence(**arrays)
    own.provenance["settings"] = {"revive": 0.0, "codebook_size": 64}
    imported = replace(own, provenance=own.provenance | {"imported": {"kind": "tokenizer"}})
    advice = finding_of(code, imported).advice
    assert advice != finding_of(code, own).advice
    assert not [word for word in TRAINING_WORDS if word in advice]
    assert "Probable cause" not in finding_of(code, imported).observation


def test_samples_without_fidelity_are_not_called_copies():
    """Featureless samples are near to a featureless training image, but are no copies of it."""
    run = generator_evidence(normal(1500, 3, seed=2) * 0.01)
    statuses = {check.code: check.status for check in checks([run]).checks}
    assert (statuses["TK040"], statuses["TK041"]) == ("not applicable", "warning")


def test_equal_findings_of_several_runs_are_one_group():
    runs = [evidence(name, latents=100 * normal(60, 16, 4)) for name in "abcde"]
    runs[1] = evidence("b", latents=200 * normal(60, 16, 4))
    result = checks(runs)
    assert [group.runs for group in result.groups] == [("a", "c", "d", "e"), ("b",)]
    assert len(result.findings) == 5 and len(result.figure().data[0].cells.values[0]) == 2
    assert "4 runs: a, c, d, …" in result.summary()


def test_every_check_has_a_section_in_the_documentation():
    page = Path(__file__).parent.parent / "docs" / "concepts" / "checks.md"
    text = " ".join(page.read_text(encoding="utf-8").split())
    for check in checks([evidence()]).checks:
        assert f"({check.code.lower()})= ## {check.code}: {check.name}" in text
        assert wording(rules()[check.code]) in text
        assert check.documentation.endswith(f"checks.md#{check.code.lower()}")
