"""What every analysis promises; the analyses are found, not listed, so a new one is tested by existing."""

import inspect
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from workbench.analysis import analyses, get
from workbench.errors import UserError
from workbench.evidence import Evidence, arguments

NAMES = ("reconstruction", "token_budget", "codebook_usage", "mixture_modes", "latent_map", "latent_geometry")
NAMES += ("probes", "teacher_alignment", "samples", "fidelity", "denoising_loss")
PROVENANCE = {"run": "a", "step": 1, "fingerprint": "f", "class": "m:Mine", "names": ["cat", "dog"], "discrete": True}


def evidence(n: int) -> Evidence:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)
    return Evidence(
        PROVENANCE | {"judge": "resnet56", "teacher": "hog", "grid": [2, 2]},
        images=images,
        reconstructions=np.roll(images, 1, axis=1),
        latents=random.normal(size=(n, 4, 2)).astype(np.float32),
        codes=random.integers(0, 16, (n, 4)).astype(np.int32),
        codebook=random.normal(size=(2, 16, 2)).astype(np.float32),
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
        teacher_features=random.normal(size=(n, 4, 3)).astype(np.float16),
        noise_levels=np.array([0.1, 0.2], np.float32),
        noise_mse=random.uniform(0.1, 0.2, (n, 2)).astype(np.float32),
        loss_times=np.array([0.25, 0.75], np.float32)[:n],
        loss_by_time=np.array([1, 2], np.float32)[:n],
    )


@pytest.fixture(scope="module")
def results():
    found = {}
    for name, analysis in analyses().items():
        given = arguments(analysis, [evidence(60)])
        found[name] = (analysis(**given), analysis(**given))
    return found


def test_analyses_are_found_in_the_order_hosts_list_them():
    assert tuple(analyses()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_evidence_or_an_annotated_control_with_a_default(name):
    for parameter in inspect.signature(get(name)).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            assert parameter.default is not parameter.empty
            assert parameter.annotation is not parameter.empty
        else:
            assert parameter.name == "evidences" or hasattr(Evidence, parameter.name)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_call_twice_gives_the_same_table(results, name):
    first, again = results[name]
    assert len(first.table())
    pd.testing.assert_frame_equal(first.table(), again.table())


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_names_every_axis_it_shows_has_a_title_and_keeps_off_the_cloud(results, name):
    figure = results[name][0].figure()
    for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
        assert axis.title.text or axis.ticktext
    assert figure.layout.title.text
    assert figure.layout.height
    assert figure.layout.template.layout.colorway[0] == "#0072B2"
    assert "sendChartToCloud" not in figure.to_json()


@pytest.mark.parametrize("name", NAMES)
def test_a_summary_is_whole_sentences(results, name):
    summary = results[name][0].summary()
    assert summary.endswith(".")
    assert "nan" not in summary.lower()


@pytest.mark.parametrize("n", [0, 1, 2, 5])
@pytest.mark.parametrize("name", NAMES)
def test_with_next_to_no_images_it_works_or_says_in_one_sentence_why_not(name, n):
    analysis = get(name)
    try:
        result = analysis(**arguments(analysis, [evidence(n)]))
    except UserError as error:
        assert str(error).endswith(".")
        assert "\n" not in str(error)
    else:
        assert n > 0
        assert result.figure().data
        assert len(result.table())
        assert result.summary()


def test_a_misspelled_analysis_is_answered_with_the_nearest_name():
    with pytest.raises(UserError, match=r"There is no analysis `latent_mop`; .* Did you mean `latent_map`\?"):
        get("latent_mop")


def test_importing_the_folder_imports_no_plotting_and_finding_analyses_no_model():
    code = "import sys, workbench.analysis as a; assert not {'plotly', 'pandas'} & set(sys.modules);"
    code += "a.analyses(); assert not {'torch', 'umap', 'ipywidgets', 'panel'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
