"""The contract of all analyses, which are discovered and not listed here."""

import inspect
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import workbench.analysis
from workbench.analysis import analyses, get, groups, result_serialization
from workbench.analysis.curve_overlay import can_overlay
from workbench.analysis.side_by_side import SideBySide
from workbench.core.errors import UserError
from workbench.storage.analysis_arguments import PARTNERS, array_names, kwargs_for
from workbench.storage.evidence import Evidence
from workbench.storage.training_log import TrainingLog

PROVENANCE = {
    "run": "a",
    "step": 1,
    "fingerprint": "f",
    "class": "m:Mine",
    "names": ["cat", "dog"],
    "discrete": True,
    "training": {"lr": 1.0, "precision": "no"},
    "imported": {"address": "llamagen:vq_ds16_c2i.pt"},
}
GRID = (
    np.stack(np.meshgrid(np.arange(4), np.arange(4)), axis=-1).reshape(1, 16, 2).astype(np.float32)
)  # a grid of codewords, as in FSQ


def evidence(n: int) -> Evidence:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)
    return Evidence(
        PROVENANCE | {"feature_extractor": "resnet56", "teacher": "hog", "grid": [4, 4]},
        images=images,
        reconstructions=np.roll(images, 1, axis=1),
        latents=random.normal(size=(n, 16, 2)).astype(np.float32),
        codes=random.integers(0, 16, (n, 16)).astype(np.int32),
        codebook=np.tile(GRID, (2, 1, 1)),
        labels=random.integers(0, 2, n),
        prefixes=np.array([1, 2], np.int32),
        prefix_mse=random.uniform(0.1, 0.2, (n, 2)).astype(np.float32),
        samples=images,
        sample_labels=random.integers(0, 2, n),
        features=random.normal(size=(n, 3)).astype(np.float32),
        reconstruction_features=random.normal(size=(n, 3)).astype(np.float32),
        train_features=random.normal(size=(2 * n, 3)).astype(np.float32),
        train_images=np.concatenate([images, images]),
        sample_features=random.normal(size=(n, 3)).astype(np.float32),
        midpoint_features=random.normal(size=(n, 3)).astype(np.float32),
        teacher_features=random.normal(size=(n, 16, 3)).astype(np.float16),
        noise_levels=np.array([0.1, 0.2], np.float32),
        noise_mse=random.uniform(0.1, 0.2, (n, 2)).astype(np.float32),
        loss_times=np.array([0.25, 0.75], np.float32)[:n],
        loss_by_time=np.array([1, 2], np.float32)[:n],
        predicted=random.integers(0, 2, n),
        code_bits=np.array([3.5], np.float32),
        untrained_latents=random.normal(size=(n, 16, 2)).astype(np.float32),
        prefix_l1=random.uniform(0.1, 0.2, (n, 2)).astype(np.float32),
        prefix_ssim=random.uniform(0.5, 0.9, (n, 2)).astype(np.float32),
        prefix_features=random.normal(size=(2, n, 3)).astype(np.float32),
        previous_codes=random.integers(0, 16, (n, 16)).astype(np.int32),
        complexity=random.uniform(10, 20, n),
        requested=np.array([0.1, 0.2], np.float32),
        reached=random.uniform(0.1, 0.2, (2, n)).astype(np.float32),
        spent=random.integers(1, 5, (2, n)).astype(np.int32),
        log=LOG,
        budgets=np.array([1, 2, 4], np.int32),
        budget_l1=random.uniform(0.05, 0.3, (3, n)).astype(np.float32),
        posterior=random.uniform([1, 0.1], [9, 0.9], (n, 16, 2)).astype(np.float32),
        mean_posterior=np.full((2, 16), 1 / 16, np.float32),
        cascade_start=np.tile(GRID, (2, 1, 1)) + random.normal(size=(2, 16, 2)).astype(np.float32),
        interpolation_features=random.normal(size=(n, 3)).astype(np.float32),
        interpolation_partners=random.integers(0, 5, n).astype(np.int32),
        random_interpolation_features=random.normal(size=(n, 3)).astype(np.float32),
        perturbed_code_shares=np.array([0.1, 0.5], np.float32),
        perturbed_code_features=random.normal(size=(2, n, 3)).astype(np.float32),
        gaussian_features=random.normal(size=(n, 3)).astype(np.float32),
        isotropic_features=random.normal(size=(n, 3)).astype(np.float32),
        interpolative_noise_shares=np.array([0.1, 0.5], np.float32),
        interpolative_noise_mse=random.uniform(0.1, 0.2, (n, 2)).astype(np.float32),
        equivariance_mse=random.uniform(0.1, 0.2, (3, n)).astype(np.float32),
        equivariance_direct_mse=random.uniform(0.1, 0.2, (3, n)).astype(np.float32),
        equivariance_latent_errors=random.uniform(0.5, 2, (3, 2)),
    )


LOG = TrainingLog(
    run="a",
    records=[
        {"step": 10 * i, "pixel": 1 / i, "kl": 0.1, "lr": 0.1, "gradient": 1.0, "time": i}
        for i in range(1, 30)
    ],
    statistics=[
        {"step": 10 * i, "held_out_pixel": 1 / i, "codes_used": 8, "perplexity": 6.0}
        for i in range(1, 30)
    ],
    events=[{"event": "weight", "step": 100, "term": "kl", "value": 2.0}],
)


def several(n: int) -> list[Evidence]:
    """Return five tokenizers of the same images, each worse than the last, and generators."""
    first, random = evidence(n), np.random.default_rng(1)
    tokenizers = [first]
    for i in range(1, 5):
        noisy = np.clip(first.images + random.normal(0, 10 * i, first.images.shape), 0, 255).astype(
            np.uint8
        )
        latents = first.latents + random.normal(size=first.latents.shape).astype(np.float32)
        training = {"lr": 10.0**-i, "precision": "bf16" if i % 2 else "no"}
        provenance = first.provenance | {"run": f"a{i}", "training": training}
        tokenizers.append(
            replace(first, provenance=provenance, reconstructions=noisy, latents=latents)
        )
    generators = [
        Evidence(
            tokenizer.provenance
            | {"run": f"flow-{i}", "tokenizer": {"run": f"../{tokenizer.run_name}", "step": 1}},
            samples=tokenizer.reconstructions,
            sample_features=first.sample_features + np.float32(0.2 * i),
            train_features=first.train_features,
        )
        for i, tokenizer in enumerate(tokenizers)
    ]
    return tokenizers + generators


@pytest.fixture(scope="module")
def results():
    """Compute every analysis twice, which takes seconds."""
    pairs = {}
    for name, analysis in analyses().items():
        arguments = kwargs_for(analysis, several(60))
        pairs[name] = (analysis(**arguments), analysis(**arguments))
    return pairs


NAMES = tuple(analyses())


def test_groups_list_all_analyses_in_order():
    firsts = {group: names[0] for group, names in groups().items()}
    assert firsts == {
        "images": "image_comparison",
        "tokens": "token_budget",
        "codebook": "codebook_usage",
        "latents": "mixture_modes",
        "learnability": "diffusability",
        "generation": "samples",
        "runs": "decision",
        "diagnosis": "checks",
    }
    assert [name for names in groups().values() for name in names] == list(NAMES)
    assert len(NAMES) > 25
    # No package of a group hides an analysis of the same name.
    assert all(callable(getattr(workbench.analysis, name)) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_evidence_or_controls(name):
    for parameter in inspect.signature(get(name)).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            assert parameter.default is not parameter.empty
            assert parameter.annotation is not parameter.empty
        else:
            is_runs = parameter.name in ("evidences", "training_logs", PARTNERS)
            assert is_runs or hasattr(Evidence, parameter.name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_equal_calls_give_equal_tables(results, name):
    first, again = results[name]
    assert len(first.table())
    pd.testing.assert_frame_equal(first.table(), again.table())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_figure_has_titles_and_no_upload_button(results, name):
    figure = results[name][0].figure()
    is_table = all(trace.type == "table" for trace in figure.data)  # its axes are invisible
    for axis in () if is_table else (*figure.select_xaxes(), *figure.select_yaxes()):
        # The axes of several maps have neither ticks nor a unit.
        assert axis.title.text or axis.ticktext or axis.showticklabels is False
    assert figure.layout.title.text
    assert figure.layout.height
    assert figure.layout.template.layout.colorway[0] == "#0072B2"
    assert "sendChartToCloud" not in figure.to_json()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if array_names(get(name)) is not None])
def test_figures_of_two_runs_are_one_figure(results, name):
    first = results[name][0]
    stack = SideBySide(runs=("a", "b"), results=(first, first)).figure()
    own = first.figure()
    if can_overlay([own, own]):  # what both have in common occurs once, except the first curve
        assert len(stack.data) == len(own.data) + 1
        assert {trace.yaxis for trace in stack.data} == {trace.yaxis for trace in own.data}
        return
    assert len(stack.data) == 2 * len(own.data)
    assert stack.layout.height == 2 * (own.layout.height or 480)
    if own.data[0].type != "table":
        above, below = stack.data[0].yaxis, stack.data[len(own.data)].yaxis
        assert (above or "y") != below


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_summary_consists_of_sentences(results, name):
    summary = results[name][0].summary()
    assert summary.endswith(".")
    assert "nan" not in summary.lower()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_stored_result_equals_the_original(results, name, tmp_path):
    first = results[name][0]
    result_serialization.write(first, tmp_path)
    again = result_serialization.read(tmp_path)
    assert type(again) is type(first)
    assert again.figure().to_json() == first.figure().to_json()
    pd.testing.assert_frame_equal(again.table(), first.table(), check_exact=True)
    assert again.summary() == first.summary()


@pytest.mark.parametrize("n", [0, 1, 2, 5])
@pytest.mark.parametrize("name", NAMES)
def test_few_images_work_or_raise_a_user_error(name, n):
    analysis = get(name)
    try:
        result = analysis(**kwargs_for(analysis, several(n)))
    except UserError as error:
        assert str(error).endswith(".")
        assert "\n" not in str(error)
    else:
        # These read the provenance or the log, and not the images.
        assert n > 0 or name in ("settings_comparison", "checks", "training_curves")
        assert result.figure().data
        assert len(result.table())
        assert result.summary()


# Faults in the arrays of all runs at once.
FAULTS = {
    "one class": lambda e: {
        "labels": np.zeros_like(e.labels),
        "sample_labels": np.zeros_like(e.labels),
    },
    "constant latents": lambda e: {"latents": np.ones_like(e.latents)},
    "nan": lambda e: {
        name: np.where(np.arange(array.size).reshape(array.shape) % 7 == 3, np.nan, array)
        for name, array in e.arrays().items()
        if array.dtype.kind == "f"
    },
    "codes out of range": lambda e: {"codes": e.codes + 12},
    "no active token": lambda e: {"active": np.zeros(e.codes.shape, bool)},
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", NAMES)
def test_faulty_arrays_work_or_raise_a_user_error(name, fault):
    analysis = get(name)
    runs = [e if e.codes is None else replace(e, **FAULTS[fault](e)) for e in several(12)]
    try:
        result = analysis(**kwargs_for(analysis, runs))
    except UserError as error:
        assert str(error).endswith((".", "?")) and "\n" not in str(error)
    else:
        assert result.figure().data
        assert len(result.table())
        assert not re.search(r"\bnan\b", result.summary())


def test_misspelled_analysis_suggests_the_nearest_name():
    with pytest.raises(UserError, match="latent_mop.*latent_map"):
        get("latent_mop")


def test_analyses_are_attributes_of_the_package():
    assert workbench.analysis.mixture_modes is get("mixture_modes")
    with pytest.raises(AttributeError, match="latent_mop.*latent_map"):
        workbench.analysis.latent_mop  # noqa: B018


@pytest.mark.slow
def test_importing_analyses_is_lightweight():
    code = (
        "import sys, workbench.analysis as a; assert not {'plotly', 'pandas'} & set(sys.modules);"
    )
    code += "a.analyses(); assert not {'torch', 'umap', 'ipywidgets', 'panel'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
