"""The decision between runs: the choice for each goal, ties, and what was not measured."""

import re
from dataclasses import replace

import numpy as np
import pytest

from workbench.analysis.diagnosis.checks import checks
from workbench.analysis.runs.commands import GENERATOR_DATA
from workbench.analysis.runs.decision import decision
from workbench.analysis.runs.metrics import metric_comparison
from workbench.core.errors import NotApplicable
from workbench.core.result_columns import decimals, number_text
from workbench.launch.recipes import RECIPES, SIZES
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run
from workbench.workspace.run_metrics import metrics_of

N = 60
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (N, 8, 8, 1), dtype=np.uint8)
LABELS = RANDOM.integers(0, 2, N)
FEATURES = RANDOM.normal(size=(N, 3)).astype(np.float32)
TRAIN_FEATURES = RANDOM.normal(size=(2 * N, 3)).astype(np.float32)


def tokenizer(
    name: str,
    error: float | np.ndarray,
    tokens: int,
    *,
    seed: int = 1,
    separable: float = 0,
    **provenance,
) -> Evidence:
    """A tokenizer with noise of `error` gray levels, whose latents separate the two classes."""
    random = np.random.default_rng(seed)
    noise = random.normal(0, error, IMAGES.shape)
    latents = random.normal(size=(N, tokens, 2))
    latents[:, :, 0] += separable * LABELS[:, None]
    return Evidence(
        {"run": name, "step": 1, "fingerprint": "f", "data": "photos", "split": "test", "n": N}
        | {"class": "workbench:T", "recipe": "softvq-photos", "feature_extractor": "hog"}
        | {"settings": {"num_tokens": tokens}}
        | provenance,
        images=IMAGES,
        reconstructions=np.clip(IMAGES + noise, 0, 255).astype(np.uint8),
        latents=latents.astype(np.float32),
        labels=LABELS,
        features=FEATURES,
        reconstruction_features=FEATURES + np.float32(np.mean(error) / 100),
    )


def generator(name: str, source: str, shift: float) -> Evidence:
    """A generator whose samples are `shift` away from the training images."""
    return Evidence(
        {"run": name, "step": 1, "tokenizer": {"run": f"../{source}", "step": 1}}
        | {"feature_extractor": "hog", "class": "m:G", "settings": {}},
        samples=IMAGES,
        sample_features=TRAIN_FEATURES[:N] + np.float32(shift),
        train_features=TRAIN_FEATURES,
    )


FINE = tokenizer("fine", 10, 16)
COARSE = tokenizer("coarse", 40, 4, separable=4)
EQUAL = tokenizer("equal", 10, 8, seed=2)


def test_best_reconstruction_agrees_with_the_comparison_of_metrics():
    result = decision([COARSE, FINE], goal="best reconstruction")
    expected = metric_comparison([COARSE, FINE]).differences[0]
    assert result.recommended.run == "fine" and result.versus.reference == "coarse"
    versus = result.versus
    assert (versus.difference, versus.low, versus.high) == (
        expected.difference,
        expected.low,
        expected.high,
    )
    assert versus.better_share == expected.better_share == 1
    assert result.recommended.measurements["psnr"].standing == "best"
    assert result.candidate("coarse").measurements["psnr"].standing == ""
    assert f"{expected.difference:+.1f} dB" in result.summary()


def test_the_cheapest_of_tied_runs_is_chosen():
    result = decision([FINE, EQUAL, COARSE], goal="best reconstruction")
    assert set(result.tied) == {"fine", "equal"}
    assert result.recommended.run == "equal" and result.versus.verdict == "undecided"


@pytest.mark.parametrize(("error", "expected"), [(10.5, "near"), (20, "fine")])
def test_cheapest_within_one_decibel(error, expected):
    near = tokenizer("near", error, 4, seed=3)
    result = decision([FINE, near, COARSE], goal="cheapest within 1 dB")
    assert result.recommended.run == expected


def test_an_undecided_difference_above_one_decibel_is_not_within_it():
    spread = np.tile([-8, 10.6], N // 2).reshape(N, 1, 1, 1)  # decibels of the smaller one
    small = tokenizer("small", 10 * 10 ** (spread / 20), 4, seed=3)
    result = decision([FINE, small], goal="cheapest within 1 dB")
    assert result.recommended.run == "fine" and result.versus.verdict == "undecided"
    assert result.versus.difference > 1
    assert "the best run" not in result.summary()


def test_checkpoints_of_one_run_are_candidates_of_their_own():
    later = replace(FINE, provenance=FINE.provenance | {"step": 5})
    earlier = tokenizer("fine", 40, 16, seed=3)
    partners = [
        replace(partner, provenance=partner.provenance | {"tokenizer": source, "run": name})
        for name, source, partner in (
            ("g-early", {"run": "../fine", "step": 1}, generator("g", "fine", 2)),
            ("g-late", {"run": "../fine", "step": 5}, generator("g", "fine", 0.1)),
        )
    ]
    result = decision([later, earlier], partners, goal="best generation")
    assert [c.run for c in result.candidates] == ["fine @ 5", "fine @ 1"]
    psnr = {c.run: c.measurements["psnr"].value for c in result.candidates}
    assert psnr["fine @ 5"] > psnr["fine @ 1"] + 5
    assert [c.generators for c in result.candidates] == [("g-late",), ("g-early",)]
    single = {c.run: checks([e]) for c, e in zip(result.candidates, (later, earlier), strict=True)}
    for candidate in result.candidates:
        expected = sum(f.status == "error" for f in single[candidate.run].findings)
        assert candidate.findings["error"] == expected


def test_best_generation_uses_generators_that_are_not_selected():
    partners = [generator("g-fine", "fine", 2), generator("g-coarse", "coarse", 0.1)]
    result = decision([FINE, COARSE], partners)
    assert result.basis == "gfd" and result.recommended.run == "coarse"
    assert result.recommended.generators == ("g-coarse",) and result.samples == N
    # A shift of all three features by s adds 3 s^2 to the distance.
    values = [result.candidate(run).measurements["gfd"].value for run in ("fine", "coarse")]
    assert values[0] - values[1] == pytest.approx(3 * (2**2 - 0.1**2), rel=0.3)
    assert [c.metric for c in result.also] == ["psnr"] and result.also[0].verdict == "worse"
    assert not any(item.metric == "gfd" for item in result.missing)


def test_generation_is_the_same_number_in_the_table_of_runs(tmp_path):
    partner = generator("g-fine", "fine", 2)
    result = decision([FINE, COARSE], [partner, generator("g-coarse", "coarse", 0.1)])
    run = Run.create(tmp_path / "g-fine", {"class": "m:G", "settings": {}})
    partner.save(run.evidence_folder(1))
    value = result.candidate("fine").measurements["gfd"].value
    assert metrics_of(run)["gFD"] == pytest.approx(value)


def test_best_probe():
    best = decision([FINE, COARSE], goal="best probe").recommended
    assert best.run == "coarse" and best.measurements["probe"].value > 0.9


def test_without_generators_reconstruction_decides_and_the_command_is_named():
    result = decision([FINE, COARSE])
    assert result.goal == "best generation" and result.basis == "psnr"
    missing = next(item for item in result.missing if item.metric == "gfd")
    assert missing.runs == ("fine", "coarse")
    command = "workbench train sit-photos --tokenizer runs/fine --out runs/sit-fine"
    assert missing.command == command and command in result.summary()


def test_commands_name_the_folder_that_the_run_was_opened_from(tmp_path):
    folders = {name: tmp_path / "my runs" / name for name in ("fine", "coarse")}
    for name, evidence in {"fine": FINE, "coarse": COARSE}.items():
        evidence.save(folders[name] / "evidence" / "step-000001")
    opened = [Evidence.open(path / "evidence" / "step-000001") for path in folders.values()]
    missing = next(item for item in decision(opened).missing if item.metric == "gfd")
    assert missing.command == (
        f"workbench train sit-photos --tokenizer '{folders['fine']}'"
        f" --out '{tmp_path / 'my runs' / 'sit-fine'}'"
    )
    assert f"collect '{folders['fine']}' --also" in opened[0].reason_for_missing(
        "perturbed_code_shares"
    )


def imported(name: str, address: str | None) -> Evidence:
    """Return a tokenizer that was evaluated from an address, or from Python objects."""
    origin = {"kind": "tokenizer", "address": address}
    return tokenizer(name, 0, 4, recipe=None, data="photos", imported=origin)


def test_channels_of_a_feature_extractor_have_a_generator():
    features = tokenizer("u", 0, 4, recipe="unicode2-photos", settings={"dim": None})
    missing = next(item for item in decision([features]).missing if item.metric == "gfd")
    assert missing.command == "workbench train sit-photos --tokenizer runs/u --out runs/sit-u"


def test_no_command_imports_the_class_of_a_notebook():
    own = tokenizer("own", 0, 4, **{"class": "__main__:Signs"})
    result = decision([own, tokenizer("soft", 2, 4)])
    missing = next(item for item in result.missing if item.metric == "gfd")
    assert missing.without_command == ("own",) and "runs/soft" in missing.command
    assert "No command can train a generator on own," in result.summary()


def test_no_command_trains_a_generator_on_python_objects():
    result = decision([imported("objects", None), imported("module", "python:mine.nets:make")])
    missing = next(item for item in result.missing if item.metric == "gfd")
    assert missing.without_command == ("objects",)
    assert missing.command == (
        "workbench train sit-photos --tokenizer runs/module --out runs/sit-module --trust mine"
    )
    alone = decision([imported("objects", None)])
    missing = next(item for item in alone.missing if item.metric == "gfd")
    assert missing.command == "" and "workbench train" not in alone.summary()


def test_generators_are_candidates_if_the_first_run_is_one():
    generators = [generator("near", "fine", 0.1), generator("far", "fine", 2)]
    result = decision(generators, [FINE])
    assert [c.run for c in result.candidates] == ["near", "far"]
    assert result.recommended.tokenizer == "fine"
    assert result.recommended.measurements["psnr"].standing == ""  # of one tokenizer


def test_runs_on_other_images_are_not_ranked():
    other = tokenizer("other", 1, 2, fingerprint="another", data="digits")
    result = decision([FINE, other, COARSE], goal="best reconstruction")
    assert {c.run for c in result.candidates} == {"fine", "coarse"}
    assert len(result.excluded) == 1 and "digits" in result.excluded[0]


def test_a_single_run_is_described_with_a_command_to_compare_with():
    result = decision([FINE])
    assert result.versus is None and result.recommended.measurements["psnr"].standing == ""
    assert "--num-tokens 8" in result.suggestion and result.suggestion in result.summary()


def test_the_strip_shows_the_largest_disagreement():
    decoded = FINE.reconstructions.copy()
    decoded[7] = 255 - decoded[7]
    result = decision([FINE, replace(EQUAL, reconstructions=decoded)])
    assert result.strip.captions[0] == "#7" and len(result.strip.rows) == 3


def test_names_are_escaped():
    result = decision([replace(FINE, provenance=FINE.provenance | {"run": "<b>"}), COARSE])
    assert "<b><b>" not in result._repr_html_() and "&lt;b&gt;" in result._repr_html_()


def test_every_column_of_a_static_page_has_a_definition():
    for page in (decision([FINE, COARSE])._repr_html_(), checks([FINE])._repr_html_()):
        headers = re.findall("<th [^>]*>|<th>", page)
        assert ">NaN<" not in page
        assert headers and all(re.search('title="[^"]', header) for header in headers), headers


def test_values_of_a_column_have_equal_decimals():
    page = decision([FINE, COARSE]).table_html()
    for column in ("psnr", "rfd"):
        values = decision([FINE, COARSE]).table()[column]
        texts = [number_text(decimals(values), value) for value in values]
        assert len({len(text.partition(".")[2]) for text in texts}) == 1
        assert all(f"<td>{text}</td>" in page for text in texts)


def test_runs_without_reconstructions():
    with pytest.raises(NotApplicable):
        decision([Evidence({"run": "a", "step": 1})])


def test_commands_name_existing_recipes():
    assert set(GENERATOR_DATA) == set(SIZES)
    assert all(f"sit-{data}" in RECIPES for data in GENERATOR_DATA)
