"""What the tabs Lens, Map and Codes of a view show: a lens, a map or a codebook, set as the view says."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from workbench.analysis.latents.projection import latent_map as lay_out
from workbench.core.errors import UserError, unknown
from workbench.storage.run import Run
from workbench.workspace.codebook import Codebook, CodebookState
from workbench.workspace.controls import Value, coerce_controls
from workbench.workspace.image_selection import Layout, SelectedImages, resolve, selected_indices
from workbench.workspace.latent_map import Map, MapState
from workbench.workspace.lens import Lens, LensState
from workbench.workspace.selection import Selection, parse_condition
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

SELECTED_ORDER = "selected"  # a lens's order: the images of the selection
SETTINGS = tuple(one.name for one in fields(LensState) if one.name != "places")


@dataclass(frozen=True)
class TabContent:
    """What a tab shows, and the same as its module takes it, in JSON."""

    thing: Lens | Map | Codebook
    data: str


def tab_content(bench: Workspace, state: ViewState) -> TabContent:
    """What the state's tab shows, with all that takes time computed: it can be sent to another process."""
    thing = build_tab(bench, state)
    return TabContent(thing, json.dumps(thing.data()))


def build_tab(bench: Workspace, state: ViewState) -> Lens | Map | Codebook:
    """What the state's tab shows. Raises UserError for a setting that does not exist, or where it does not apply."""
    if not state.runs:
        raise UserError("No run is selected. Select one in the list of runs.")
    return {"map": map_of, "lens": lens_of, "codes": codes_of}[state.tab](bench, state)


def lens_of(bench: Workspace, state: ViewState) -> Lens:
    """A lens on the selected runs that its tab's settings describe; on the selection, where that is asked for."""
    told = dict(state.looks)
    for name in told:
        if name not in SETTINGS:
            raise unknown("setting of a lens", name, SETTINGS)
    runs = [bench.run(name) for name in state.runs]
    runs = [run for run in runs if (run.tokenizer is None) == (runs[0].tokenizer is None)]
    over = told.pop("over", None)
    if told.get("order") == SELECTED_ORDER:
        del told["order"]
        told["places"] = tuple(selected_image_indices(bench, state))
    lens = Lens(runs, None if over is None else str(over), (), told)
    if over is None and lens.axes[0] == "run" and len(lens.axes) > 1:
        lens = Lens(runs, lens.axes[1], (), told)
    return lens


def map_of(bench: Workspace, state: ViewState) -> Map:
    """The leading run's map, with the selection's lasso if it was drawn there, else with its points marked."""
    run, controls = bench.run(state.runs[0]), coerce_controls(lay_out, state.looks)
    how, found = MapState(state.step, controls), bench.result(_laid(run.name, state.step, controls))
    here = Map(run, how, found)
    if state.selection is not None and _drawn_on(state, here):
        return Map(run, replace(how, polygon=state.selection.polygon), found)
    here.marked = tuple(selected_image_indices(bench, state))
    return here


def codes_of(bench: Workspace, state: ViewState) -> Codebook:
    """The leading run's codes, those picked that the selection asks for."""
    for name in state.looks:
        if name != "sort":
            raise unknown("setting of the codes", name, ("sort",))
    codes = (
        codes_in(state.selection)
        if state.selection is not None and state.selection.run == state.runs[0]
        else ()
    )
    return Codebook(
        bench.run(state.runs[0]),
        CodebookState(state.step, codes, state.looks.get("sort", "number")),
    )


def select_polygon(state: ViewState, shown: Map, polygon: Any) -> Selection | None:
    """The selection of a polygon on a map; of none, None."""
    if not polygon:
        return None
    corners = tuple((float(x), float(y)) for x, y in polygon)
    return Selection(state.runs[0], state.step, corners, moved(shown.state.controls))


def moved(told: Mapping[str, Value]) -> dict[str, Value]:
    """The controls of a map that are not where they start."""
    plain = coerce_controls(lay_out, {})
    return {name: value for name, value in told.items() if value != plain[name]}


def select_codes(state: ViewState, codes: Any) -> Selection | None:
    """The selection of the images that hold some codes; of none, None."""
    where = f"code = {', '.join(str(int(code)) for code in codes)}"
    return Selection(state.runs[0], state.step, where=where) if codes else None


def pictured(bench: Workspace, state: ViewState) -> ViewState:
    """The state led by the first of its runs that holds images: those that figures of images are drawn of."""
    own = [i for i, name in enumerate(state.runs) if bench.run(name).tokenizer is None]
    return state if not own or own[0] == 0 else state.change(runs=state.runs[own[0] :], step=None)


def select_indices(bench: Workspace, state: ViewState, places: Iterable[Any]) -> Selection | None:
    """The selection of the images at some places; of none, None."""
    shown, ids = pictured(bench, state), tuple(sorted({int(place) for place in places}))
    return Selection(shown.runs[0], shown.step, ids=ids) if ids else None


def codes_in(selection: Selection) -> tuple[int, ...]:
    """The codes that a selection asks for."""
    parts = parse_condition(selection.where)
    if len(parts) != 1 or parts[0][:2] != ("code", "="):
        return ()
    return tuple(int(float(value)) for value in parts[0][2])


def selected_run(bench: Workspace, state: ViewState) -> Run:
    """The run that the selection was made in."""
    name = state.selection.run if state.selection is not None else ""
    return bench.run(name or state.runs[0])


def selected_image_indices(bench: Workspace, state: ViewState) -> list[int]:
    """The places of the selected images, of the leading run's images; none where it has other ones."""
    if state.selection is None:
        return []
    run, leading = selected_run(bench, state), bench.run(state.runs[0])
    same = leading.name == run.name or _images(leading) == _images(run)
    return selected_indices(run, state.selection, _layout(bench)).tolist() if same else []


def selected_images(bench: Workspace, state: ViewState) -> SelectedImages | None:
    """The selected images: of the leading run where its images are the same, else of the run they were picked in."""
    if state.selection is None or not state.runs:
        return None
    run, leading = selected_run(bench, state), bench.run(state.runs[0])
    if leading.name != run.name and (ids := tuple(selected_image_indices(bench, state))):
        return resolve(leading, Selection(leading.name, state.step, ids=ids))
    return resolve(run, state.selection, _layout(bench))


def selection_code(bench: Workspace, state: ViewState) -> str:
    """The Python that picks the same images."""
    if state.selection is None:
        return ""
    told = {**state.selection.told(), **state.selection.layout}
    told |= {"ids": list(state.selection.ids)} if state.selection.ids else {}
    told = {name: value for name, value in told.items() if name not in ("run", "layout", "color_by")}
    run = selected_run(bench, state)
    arguments = ", ".join(
        [repr(str(run.folder)), *(f"{name}={value!r}" for name, value in told.items())]
    )
    return f"import workbench as wb\n\nselected = wb.select({arguments})\nselected.table()"


def _laid(run: str, step: int | None, controls: Any) -> ViewState:
    return ViewState((run,), step, "latent_map", controls)


def _layout(bench: Workspace) -> Layout:
    return lambda run, selection: bench.result(_laid(run.name, selection.step, selection.layout))


def _drawn_on(state: ViewState, shown: Map) -> bool:
    """Whether the selection is a lasso on this map; what it is coloured by does not matter."""
    told, plain = state.selection, {"color_by": ""}
    same = {**coerce_controls(lay_out, told.layout), **plain} == {**shown.state.controls, **plain}
    return bool(told.polygon) and (told.run, told.step) == (state.runs[0], state.step) and same


def _images(run: Run) -> str | None:
    return None if run.tokenizer is not None else run.evidence().provenance.get("fingerprint")
