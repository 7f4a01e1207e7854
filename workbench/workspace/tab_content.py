"""The content of the tabs Lens, Map and Codes of a view, and how they change its selection."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from workbench.analysis.latents.projection import LatentMap
from workbench.analysis.latents.projection import latent_map as compute_layout
from workbench.core.coerce import coerce
from workbench.core.errors import UserError, unknown
from workbench.storage.run import Run
from workbench.workspace.codebook import Codebook, CodebookState
from workbench.workspace.controls import Value, coerce_controls, current_names
from workbench.workspace.filters import parse_filter
from workbench.workspace.image_selection import Layout, SelectedImages, resolve, selected_indices
from workbench.workspace.latent_map import Map, MapState
from workbench.workspace.lens import Lens, LensState
from workbench.workspace.selection import Selection
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

SELECTED_ORDER = "selected"  # order of a lens that shows the selected images
LENS_OPTIONS = tuple(item.name for item in fields(LensState) if item.name != "indices")
NO_RUN = "No run is selected. Select one in the list of runs."


@dataclass(frozen=True)
class TabContent:
    """The content of a tab, and the data of its JavaScript module as JSON."""

    content: Lens | Map | Codebook
    data: str


def tab_content(workspace: Workspace, state: ViewState) -> TabContent:
    """Compute the content of a state's tab; it can be sent to another process."""
    content = build_tab(workspace, state)
    return TabContent(content=content, data=json.dumps(content.data()))


def build_tab(workspace: Workspace, state: ViewState) -> Lens | Map | Codebook:
    """Return the content of a state's tab.

    Raises
    ------
    UserError
        If an option of the tab does not exist, or the tab does not apply to the runs.
    """
    if not state.runs:
        raise UserError(NO_RUN)
    if state.tab == "lens":
        lens = build_lens(workspace, state)
        lens.run_colors = workspace.run_colors
        return lens
    if state.tab == "map":
        return build_map(workspace, state)
    if state.tab == "codes":
        return build_codebook(workspace, state)
    raise unknown("tab with content of its own", state.tab, ("lens", "map", "codes"))


def build_lens(workspace: Workspace, state: ViewState) -> Lens:
    """Return a lens on the runs of a state that are of the same type as the primary run."""
    options: dict[str, Any] = dict(state.tab_options)
    for name in options:
        if name not in LENS_OPTIONS:
            raise unknown("setting", name, LENS_OPTIONS, within="of a lens")
    primary, *rest = (workspace.run(name) for name in state.runs)
    runs = [primary]
    runs += [run for run in rest if run.is_generator == primary.is_generator]
    axis = options.pop("over", None)
    if options.get("order") == SELECTED_ORDER:
        del options["order"]
        options["indices"] = tuple(selected_image_indices(workspace, state))
    if axis is not None:
        return Lens(runs, over=str(axis), trust=workspace.trust, state=options)
    lens = Lens(runs, trust=workspace.trust, state=options)
    # Runs are compared only on request: the first axis of the primary run shows more.
    if lens.axes[0] == "run" and len(lens.axes) > 1:
        return Lens(runs, over=lens.axes[1], trust=workspace.trust, state=options)
    return lens


def build_map(workspace: Workspace, state: ViewState) -> Map:
    """Return the latent map of the primary run.

    It has the lasso of the selection if it was drawn on this map; otherwise the selected images
    are marked.
    """
    run = workspace.run(state.runs[0])
    controls = coerce_controls(compute_layout, state.tab_options)
    map_state = MapState(step=state.step, controls=controls)
    layout = _compute_layout(workspace, run.name, state.step, controls)
    if state.selection is not None and _is_drawn_on(state.selection, state, controls):
        map_state = replace(map_state, polygon=state.selection.polygon)
    else:
        map_state = replace(map_state, ids=tuple(selected_image_indices(workspace, state)))
    return Map(run, map_state, layout)


def build_codebook(workspace: Workspace, state: ViewState) -> Codebook:
    """Return the codebook of the primary run.

    It has the codes of the selection, or else the codes of the selected images are counted.
    """
    for name in state.tab_options:
        if name != "sort":
            raise unknown("setting", name, ("sort",), within="of the codes")
    codes: tuple[int, ...] = ()
    if state.selection is not None and state.selection.run == state.runs[0]:
        codes = codes_in(state.selection)
    sort = str(state.tab_options.get("sort", "number"))
    codebook = Codebook(workspace.run(state.runs[0]), CodebookState.create(state.step, codes, sort))
    if not codes:
        codebook.within = tuple(selected_image_indices(workspace, state))
    return codebook


def select_on_map(state: ViewState, map_state: MapState) -> Selection | None:
    """Return the selection of a lasso on a map, or of single points; None without either."""
    if map_state.polygon:
        return Selection(
            run=state.runs[0],
            step=state.step,
            polygon=map_state.polygon,
            layout=changed_map_controls(map_state.controls),
        )
    if map_state.ids:
        return Selection(run=state.runs[0], step=state.step, ids=map_state.ids)
    return None


def changed_map_controls(values: Mapping[str, Value]) -> dict[str, Value]:
    """Return the controls of a map that differ from their defaults."""
    defaults = coerce_controls(compute_layout, {})
    return {name: value for name, value in values.items() if value != defaults[name]}


def select_codes(state: ViewState, codes: Iterable[int]) -> Selection | None:
    """Return the selection of the images that contain any of the codes; None without codes."""
    numbers = ", ".join(str(int(code)) for code in codes)
    if not numbers:
        return None
    return Selection(run=state.runs[0], step=state.step, where=f"code = {numbers}")


def led_by_images(workspace: Workspace, state: ViewState) -> ViewState:
    """Return the state with the first run that has images as its primary run.

    Figures of images show the images of that run.
    """
    for i, name in enumerate(state.runs):
        if not workspace.run(name).is_generator:
            return state if i == 0 else state.change(runs=state.runs[i:], step=None)
    return state


def select_indices(
    workspace: Workspace, state: ViewState, indices: Iterable[int]
) -> Selection | None:
    """Return the selection of images by their indices; None without indices."""
    ids = [int(index) for index in indices]
    if not ids:
        return None
    primary = led_by_images(workspace, state)
    return Selection(run=primary.runs[0], step=primary.step, ids=ids)


def codes_in(selection: Selection) -> tuple[int, ...]:
    """Return the codes of a selection by codes; empty for any other selection."""
    conditions = parse_filter(selection.where)
    if len(conditions) != 1 or (conditions[0].column, conditions[0].operator) != ("code", "="):
        return ()
    return coerce(tuple[int, ...], "code", ",".join(conditions[0].values))


def selected_run(workspace: Workspace, state: ViewState) -> Run:
    """Return the run in which the selection was made."""
    name = state.selection.run if state.selection is not None else ""
    return workspace.run(name or state.runs[0])


def selected_image_indices(workspace: Workspace, state: ViewState) -> list[int]:
    """Return the indices of the selected images among those of the primary run.

    They are empty if the selection was made in a run with other images.
    """
    if state.selection is None:
        return []
    run = selected_run(workspace, state)
    primary = workspace.run(state.runs[0])
    if primary.name != run.name and _fingerprint(primary) != _fingerprint(run):
        return []
    return selected_indices(run, state.selection, _layout(workspace)).tolist()


def selected_images(workspace: Workspace, state: ViewState) -> SelectedImages | None:
    """Return the selected images; None without a selection.

    They are those of the primary run if it has the same images, otherwise of the run in which the
    selection was made.
    """
    if state.selection is None or not state.runs:
        return None
    run = selected_run(workspace, state)
    primary = workspace.run(state.runs[0])
    if primary.name != run.name:
        indices = selected_image_indices(workspace, state)
        if indices:
            return resolve(primary, Selection(run=primary.name, step=state.step, ids=indices))
    return resolve(run, state.selection, _layout(workspace))


def selection_code(workspace: Workspace, state: ViewState) -> str:
    """Return the Python code that selects the same images; empty without a selection."""
    selection = state.selection
    if selection is None:
        return ""
    values = {**selection.to_dict(), **current_names(compute_layout, selection.layout)}
    if "ids" in values:
        values["ids"] = selection.indices.tolist()
    # The color of the points does not change which points a lasso contains.
    for name in ("run", "layout", "color_by"):
        values.pop(name, None)
    keywords = [f"{name}={value!r}" for name, value in values.items()]
    arguments = ", ".join([repr(str(selected_run(workspace, state).folder)), *keywords])
    return f"import workbench as wb\n\nselected = wb.select({arguments})\nselected.table()"


def _compute_layout(
    workspace: Workspace, run: str, step: int | None, controls: Mapping[str, Value]
) -> LatentMap:
    result = workspace.result(ViewState((run,), step, "latent_map", controls))
    assert isinstance(result, LatentMap)
    return result


def _layout(workspace: Workspace) -> Layout:
    def compute(run: Run, selection: Selection) -> LatentMap:
        return _compute_layout(workspace, run.name, selection.step, selection.layout)

    return compute


def _is_drawn_on(selection: Selection, state: ViewState, map_controls: Mapping[str, Value]) -> bool:
    """Return True if the selection is a lasso on this map; the color of points is ignored."""
    if not selection.polygon or (selection.run, selection.step) != (state.runs[0], state.step):
        return False
    drawn_on = dict(coerce_controls(compute_layout, selection.layout))
    controls = dict(map_controls)
    drawn_on.pop("color_by", None)
    controls.pop("color_by", None)
    return drawn_on == controls


def _fingerprint(run: Run) -> str | None:
    """Return the fingerprint of a run's images; None for a generator."""
    return None if run.is_generator else run.evidence().provenance.get("fingerprint")
