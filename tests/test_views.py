"""Tests of view states, controls from signatures, and equal tables in all hosts."""

import json
import sys
import types
from inspect import signature
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from workbench import analysis
from workbench.analysis.base import Range, Result
from workbench.core.errors import NotApplicable, UserError
from workbench.hosts.dashboard.app import Session
from workbench.hosts.notebook.explorer import Explorer
from workbench.workspace.controls import coerce_controls, controls
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace


def example(
    latents: np.ndarray,
    *,
    log: bool = True,
    kind: Literal["a", "b"] = "a",
    count: Annotated[int, Range(2, 8)] = 4,
    share: Annotated[float, Range(0, 1)] = 0.5,
) -> Result: ...


def test_controls_follow_the_signature():
    flag, choice, integer, number = controls(example)
    assert (flag.kind, flag.default) == ("flag", True)
    assert (choice.kind, choice.choices) == ("choice", ("a", "b"))
    assert (integer.kind, integer.low, integer.high, integer.step) == ("integer", 2, 8, 1)
    assert (number.kind, number.step) == ("number", 0.01)


def test_values_from_a_url_are_converted():
    assert coerce_controls(example, {"log": "False", "count": "3"}) == {
        "log": False,
        "kind": "a",
        "count": 3,
        "share": 0.5,
    }


@pytest.mark.parametrize(
    ("values", "culprit"),
    [
        ({"cuont": 3}, "count"),
        ({"count": 9}, "9"),
        ({"count": 2.5}, "2.5"),
        ({"share": "much"}, "much"),
        ({"share": float("nan")}, "nan"),
        ({"share": float("inf")}, "inf"),
        ({"kind": "c"}, "`c`"),
        ({"kind": ["a"]}, "kind"),
        ({"log": "perhaps"}, "perhaps"),
    ],
)
def test_invalid_control_values_are_refused(values, culprit):
    with pytest.raises(UserError) as error:
        coerce_controls(example, values)
    assert culprit in str(error.value)


def test_controls_accept_their_defaults():
    for function in analysis.analyses().values():
        for control in controls(function):
            assert control.accept(control.default) == control.default


def test_state_round_trips_through_url_and_json():
    state = ViewState(("a b", "c&d=1"), 500, "token_budget", {"metric": "mse", "prefixes": False})
    state = state.change(side_by_side=True)
    assert ViewState.from_query("?" + state.to_query()) == state
    assert ViewState.from_json(state.to_json()) == state


@pytest.mark.parametrize(
    ("query", "culprit"),
    [
        ("analysis=token_bugdet", "token_budget"),
        ("analysis=token_budget&metrci=mse", "metric"),
        ("step=-1", "-1"),
        ("step=²", "²"),
        ("step=" + "9" * 5000, "step"),
        ("tab=" + "x" * 5000, "tab"),
        ("selection=" + "[" * 50_000, ""),
        ("selection=[1]", ""),
    ],
)
def test_invalid_addresses_are_refused(query, culprit):
    with pytest.raises(UserError) as error:
        ViewState.from_query(query)
    assert culprit in str(error.value)


def test_saved_views_of_earlier_versions_open():
    text = '{"runs": ["a"], "tab": "lens", "looks": {"over": "tokens"}}'
    state = ViewState.from_json(text)
    assert state == ViewState(("a",), tab="lens", tab_options={"over": "tokens"})
    state = ViewState.from_query("run=a&analysis=latent_map&colour=error&tab=map&map.colour=code")
    assert state.controls == {"color_by": "error"}
    assert state.tab_options == {"color_by": "code"}


def test_new_analysis_starts_with_default_controls():
    state = ViewState((), None, "token_budget", {"metric": "mse"})
    assert state.change(analysis="codebook_usage").controls == {}
    assert state.change(runs=("a",)).controls == {"metric": "mse"}


def test_default_view_starts_with_the_run_of_most_analyses(trained):
    state = Workspace(trained).default_view()
    assert state.runs[0] == "soft-4"
    assert sorted(state.runs) == ["flow", "plain", "soft-2", "soft-4"]


def test_samples_need_the_generator_of_the_tokenizer(trained):
    workspace = Workspace(trained)
    state = ViewState(("soft-4", "flow"), analysis="samples")
    assert workspace.result(state).n == 640
    with pytest.raises(UserError) as error:
        workspace.result(state.change(runs=("soft-2", "flow")))
    assert "soft-2" in str(error.value)


def test_analysis_of_one_run_is_shown_for_all_of_its_kind(trained):
    workspace = Workspace(trained)
    state = ViewState(("soft-4", "plain", "flow", "soft-2"), None, "codebook_usage")
    result = workspace.result(state.change(side_by_side=True))
    assert result.runs == ("soft-4", "soft-2") and result.not_applicable == ("plain",)
    assert result.results[0] is workspace.result(state)
    alone = ViewState(("soft-4", "plain"), None, "codebook_usage", side_by_side=True)
    assert type(workspace.result(alone)) is type(result.results[0])
    maps = state.change(analysis="latent_map", side_by_side=True)
    assert workspace.compared_runs(maps) == ()  # another analysis compares them


def test_results_are_cached_per_state(trained):
    workspace = Workspace(trained)
    state = ViewState(("soft-4",), analysis="codebook_usage")
    result = workspace.result(state)
    assert workspace.result(state) is result
    assert workspace.result(state.change(runs=("soft-2",))) is not result


def test_table_of_runs_has_psnr(trained):
    table = Workspace(trained).table().set_index("run")
    evidence = Workspace(trained).run("soft-4").evidence()
    error = (evidence.images.astype(float) - evidence.reconstructions.astype(float)) / 255
    psnr = -10 * np.log10((error**2).mean(axis=(1, 2, 3)))
    assert table.loc["soft-4", "PSNR (dB)"] == pytest.approx(psnr.mean(), abs=1e-3)
    assert np.isnan(table.loc["flow", "PSNR (dB)"])


DEFAULT_RUNS = ("soft-4", "soft-2", "flow")


def report_table(
    trained, name: str, values: dict, runs: tuple[str, ...] = DEFAULT_RUNS
) -> pd.DataFrame:
    from workbench.hosts.reports.report import ReportWriter

    primary, *compared = (str(trained / run) for run in runs)
    report = ReportWriter(primary, compared)
    return report.workspace.result(report.state.change(analysis=name, controls=values)).table()


def test_every_analysis_of_a_report_has_its_seed(trained, monkeypatch):
    from workbench.hosts.reports.report import ReportWriter

    report = ReportWriter(str(trained / "soft-4"), seed=7)
    seeds: dict[str, int | None] = {}

    def result(state: ViewState) -> Result:
        seeds[state.analysis] = state.controls.get("seed")
        raise NotApplicable("Not computed here.")

    monkeypatch.setattr(report.workspace, "result", result)
    report.show("mixture_modes")
    report.remaining()
    drawing = {n for n, f in analysis.analyses().items() if "seed" in signature(f).parameters}
    assert len(drawing) > 10
    assert seeds == {name: 7 if name in drawing else None for name in analysis.analyses()}


CONTROL_VALUES = {
    "reconstruction": {"show": 8, "order": "worst"},
    "token_budget": {"metric": "mse"},
    "mixture_modes": {"components": 4, "max_modes": 6, "seed": 1},
    "latent_map": {"method": "pca"},
    "latent_maps": {"method": "pca"},
    "samples": {"per_class": 3},
    "decision": {"goal": "best probe"},
    "settings_comparison": {"show": "all"},
    "metric_comparison": {"metric": "l1"},
    "checks": {"show": "all"},
}
# Analyses without evidence in these runs. They need tokens on a grid, codes on levels, a cascade,
# targets of the error, an autoregressive generator, or four tokenizers with generators.
NOT_APPLICABLE = {
    "published_figures",
    "error_target",
    "token_complexity",
    "cascade_displacement",
    "level_usage",
    "class_prediction",
    "generation_predictors",
    # Need a grid of tokens, or arrays that are collected on request.
    "spectral_energy",
    "latent_pictures",
    "equivariance",
    "perturbed_codes",
}


@pytest.fixture(scope="module")
def hosts(trained) -> tuple[Explorer, Session]:
    """Return an explorer and a session of the dashboard, which show one view after another."""
    return Explorer(Workspace(trained)), Session(trained)


@pytest.mark.parametrize("name", list(analysis.analyses()))
def test_hosts_have_equal_tables(trained, hosts, name):
    values = CONTROL_VALUES.get(name, {})
    runs = DEFAULT_RUNS
    if name in ("samples", "denoising_loss"):
        runs = ("flow", "soft-4")
    if name == "setting_effects":
        runs = ("soft-4", "soft-2", "plain")
    if name in NOT_APPLICABLE:
        with pytest.raises(NotApplicable):
            Workspace(trained).result(ViewState(runs, analysis=name))
        return
    explorer, session = hosts
    explorer.state = explorer.state.change(runs=runs)
    notebook_table = explorer.show(name, **values).table
    session.state.open_analysis(name, runs=runs, controls=values, side_by_side=False)
    pd.testing.assert_frame_equal(notebook_table, session.analyses[name].table.value)
    pd.testing.assert_frame_equal(notebook_table, report_table(trained, name, values, runs))


class Count(Result):
    """Result with one number."""

    def __init__(self, n: int) -> None:
        self.n = n

    def figure(self) -> go.Figure:
        return go.Figure(go.Bar(x=["images"], y=[self.n])).update_layout(title="Image count")

    def table(self) -> pd.DataFrame:
        return pd.DataFrame({"n": [self.n]})

    def summary(self) -> str:
        return f"{self.n} images."


def test_new_analysis_appears_in_every_host(trained, tmp_path, monkeypatch):
    """A module in a group of analyses is enough; no file of a host changes."""

    def image_count(images: np.ndarray, *, double: bool = False) -> Count:
        return Count(len(images) * (2 if double else 1))

    from workbench.analysis import images as group

    module = types.ModuleType("workbench.analysis.images.zz_counting")
    image_count.__module__ = module.__name__
    module.image_count = image_count
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(group, "__path__", [group.__path__[0], str(tmp_path)])
    (tmp_path / "zz_counting.py").write_text("", encoding="utf-8")
    assert Explorer(Workspace(trained)).show("image_count", double=True).table["n"][0] == 720
    session = Session(trained)
    session.state.open_analysis("image_count")
    assert session.analyses["image_count"].table.value["n"][0] == 360
    assert report_table(trained, "image_count", {})["n"][0] == 360


def test_notebook_figure_has_no_cloud_button(trained):
    from workbench.analysis.base import mime_bundle

    result = Workspace(trained).result(ViewState(("soft-4",), analysis="codebook_usage"))
    bundle = mime_bundle(result.figure())["application/vnd.plotly.v1+json"]
    assert "sendChartToCloud" in bundle["config"]["modeBarButtonsToRemove"]
    assert "codes are used" in result._repr_html_()
    json.dumps(bundle, default=lambda array: array.tolist())
