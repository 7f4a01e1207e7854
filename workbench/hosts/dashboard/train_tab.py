"""The Train tab: start, clone and sweep runs from a form, resume runs, and follow the queue."""

import html
import re
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import panel as pn
import panel_material_ui as pmui

from workbench.core.counted import counted
from workbench.core.errors import UserError
from workbench.core.glossary import tooltip
from workbench.hosts.dashboard.page_lifecycle import PageLifecycle
from workbench.hosts.dashboard.setting_field import SettingField
from workbench.hosts.dashboard.settings_service import SettingsService
from workbench.hosts.dashboard.state import DashboardState
from workbench.hosts.dashboard.training_queue_card import TAB, TrainingQueueCard
from workbench.hosts.reports.sweep import parse_grid
from workbench.launch.settings import Setting, setting_text
from workbench.launch.trainables import recipe_names
from workbench.launch.training_queue import TrainingQueue
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

DEFAULT_RECIPE = "softvq-photos"
MAX_TRIALS = 100
# Fields that are always shown, besides those that the recipe itself sets.
ESSENTIAL = ("data", "limit", "tokenizer", "steps", "batch_size", "lr", "save_every", "seed")
NOT_ALLOWED = (
    "Trainings can be started only by visitors who bring the token of the link, or on this machine."
    " Start the dashboard without --no-token."
)
TITLES = {"data": "Data", "training": "Training", "model": "Model"}


class TrainTab:
    """A form that is generated from the settings of a recipe, and the queue of trainings.

    Parameters
    ----------
    state, workspace, lifecycle
        The state of the page, the folder of runs, and the life cycle of the page.
    trainings : TrainingQueue or None
        The queue of the server; None if this visitor must not start trainings.
    service : SettingsService or None
        Describes and checks settings.
    """

    def __init__(
        self,
        state: DashboardState,
        workspace: Workspace,
        lifecycle: PageLifecycle,
        trainings: TrainingQueue | None,
        service: SettingsService | None,
    ) -> None:
        self.state = state
        self.workspace = workspace
        self.lifecycle = lifecycle
        self.trainings = trainings
        self.service = service
        self.fields: dict[str, SettingField] = {}
        self._settings: tuple[Setting, ...] = ()
        self._values: dict[str, str] = {}  # of the run that is cloned
        self._shown: tuple[str, str] | None = None  # the recipe and the cloned run of the form
        self._follows_view = False
        self.recipe = pmui.AutocompleteInput(
            label="Recipe",
            options=list(recipe_names()),
            value=DEFAULT_RECIPE,
            restrict=False,
            width=260,
            size="small",
            description=tooltip("recipe"),
        )
        self.name = pmui.TextInput(
            label="Name of the run", width=260, size="small", description=tooltip("run")
        )
        self.show_all = pmui.Checkbox(
            label="All settings", value=False, description=tooltip("all settings")
        )
        self.sweep = pmui.TextInput(
            label="Several values",
            placeholder="num_tokens=4,8,16; lr=0.001,0.002",
            width=420,
            size="small",
            styles={"max-width": "calc(100% - 20px)"},
            description=tooltip("several values"),
        )
        self.start_button = pmui.Button(label="Start training", variant="contained", size="small")
        self.message = pn.pane.HTML("", sizing_mode="stretch_width")
        self.place = pn.Column(sizing_mode="stretch_width")
        self.queue = TrainingQueueCard(state, workspace, lifecycle, trainings)
        self.recipe.param.watch(lambda event: self._open(recipe=event.new), "value")
        self.show_all.param.watch(lambda _: self._draw(), "value")
        self.start_button.on_click(lambda _: self.start())
        self.sweep.param.watch(lambda _: self._count(), "value")
        layout: dict[str, Any] = {"gap": "12px", "align_items": "center"}
        layout["sizing_mode"] = "stretch_width"
        head = pn.FlexBox(self.recipe, self.name, self.show_all, **layout)
        foot = pn.FlexBox(self.sweep, self.start_button, **layout)
        title = pn.pane.HTML("<b>New run</b>", margin=(12, 10, 0, 10))
        parts = [self.queue.body, title, head, self.place, foot, self.message]
        if trainings is None:
            parts = [pmui.Alert(NOT_ALLOWED, severity="info")]
        self.body = pn.Column(*parts, sizing_mode="stretch_width")

    def show(self, view: ViewState) -> None:
        """Show the form for the recipe of the view, or for the run that is cloned."""
        if self.trainings is None:
            return
        options = view.tab_options if view.tab == TAB else {}
        source = str(options.get("clone", ""))
        try:
            values, recipe = self._origin(source)
        except UserError as error:
            self._show_message(str(error))
            return
        recipe = str(options.get("recipe", recipe or self._usual_recipe()))
        self.queue.show()
        if self._shown == (recipe, source):
            return
        self._shown = (recipe, source)
        self._values = values
        self._follows_view = True
        self.recipe.value = recipe
        self._follows_view = False
        self.name.value = self._free_name(source or recipe)
        self.lifecycle.after_load(lambda: self._describe(recipe))

    def hide(self) -> None:
        """Stop following the queue."""
        self.queue.hide()

    def move_slider(self, steps: int) -> None:
        """Do nothing: the tab has no slider."""

    def start(self) -> None:
        """Check the form, and put its trainings into the queue."""
        if self.service is None:
            return
        self._show_message("")
        checked = [field.check() for field in self.fields.values()]  # marks every problem
        if not all(checked):
            self._show_message("Correct the marked settings.")
            return
        try:
            trials = self._trials()
        except UserError as error:
            self._show_message(str(error))
            return
        self.start_button.loading = True
        recipe = self.recipe.value  # it may change while the settings are checked
        future = self.service.check(recipe, list(trials.values()))
        self._when_done(future, lambda: self._submit(recipe, trials, future))

    def _submit(
        self,
        recipe: str,
        trials: Mapping[str, Mapping[str, str]],
        future: Future[list[dict[str, str]]],
    ) -> None:
        self.start_button.loading = False
        try:
            problems = {name: text for found in future.result() for name, text in found.items()}
            if problems:
                self._show_problems(problems)
                return
            assert self.trainings is not None  # the form is not shown otherwise
            self.trainings.submit(recipe, trials)
        except UserError as error:
            self._show_message(str(error))
            return
        count = len(trials)
        self._show_message(f"{counted(count, 'training')} added to the queue.")
        self.name.value = self._free_name(self.name.value)
        self.queue.show()

    def _show_problems(self, problems: Mapping[str, str]) -> None:
        elsewhere = []
        for name, sentence in problems.items():
            if name in self.fields:
                self.fields[name].show_problem(sentence)
            else:
                elsewhere.append(sentence)
        self._show_message(" ".join(elsewhere) or "Correct the marked settings.")

    def _trials(self) -> dict[str, dict[str, str]]:
        """Return the changed settings of each run, by its name."""
        shared = {
            name: field.text
            for name, field in self.fields.items()
            if field.is_changed and field.text
        }
        # Settings of a cloned run whose fields are not shown.
        shared = {k: v for k, v in self._values.items() if k not in self.fields} | shared
        name = str(self.name.value or "").strip()
        if not str(self.sweep.value or "").strip():
            return {name: shared}
        points = parse_grid(self.sweep.value)
        if len(points) > MAX_TRIALS:
            raise UserError(f"{len(points):,} combinations are too many; at most {MAX_TRIALS}.")
        trials = {f"{name}-{_suffix(point)}": shared | point for point in points}
        if len(trials) < len(points):
            raise UserError("Two combinations have the same run name; start them separately.")
        return trials

    def _count(self) -> None:
        """Show how many trainings the form starts."""
        try:
            count = len(parse_grid(self.sweep.value)) if self.sweep.value else 1
            self.sweep.param.update(error_state=False, helper_text="")
        except UserError as error:
            self.sweep.param.update(error_state=True, helper_text=str(error))
            return
        self.start_button.label = "Start training" if count == 1 else f"Start {count} trainings"

    def _open(self, recipe: str) -> None:
        if recipe and not self._follows_view:
            self.state.open_tab(TAB, tab_options={"recipe": recipe})

    def _describe(self, recipe: str) -> None:
        """Request the settings of a recipe and show its form."""
        if self.service is None:
            return
        future = self.service.describe(recipe)
        if not future.done():
            text = html.escape(f"Reading the settings of {recipe} …")
            self.place.objects = [pn.pane.HTML(text)]
            self.start_button.disabled = True
        self._when_done(future, lambda: self._receive(recipe, future))

    def _receive(self, recipe: str, future: Future[tuple[Setting, ...]]) -> None:
        if self._shown is None or self._shown[0] != recipe:  # another recipe was chosen since
            return
        try:
            self._settings = future.result()
        except UserError as error:
            self._shown = None
            self.place.objects = []
            self._show_message(str(error))
            return
        self._show_message("")
        self.fields = {}
        self._draw()
        self.start_button.disabled = False

    def _draw(self) -> None:
        """Show the most important fields, or all of them; texts that were typed are kept."""
        typed = self._values | {name: field.text for name, field in self.fields.items()}
        self.fields = {
            setting.name: self._field(setting, typed.get(setting.name))
            for setting in self._settings
            if self.show_all.value or self._is_essential(setting, typed)
        }
        groups: list[pn.viewable.Viewable] = []
        for group, title in TITLES.items():
            fields = [field for field in self.fields.values() if field.setting.group == group]
            if fields:
                groups.append(pn.pane.HTML(f"<b>{title}</b>", margin=(8, 10, 0, 10)))
                widgets = [field.widget for field in fields]
                groups.append(pn.FlexBox(*widgets, gap="4px", sizing_mode="stretch_width"))
        self.place.objects = groups

    def _is_essential(self, setting: Setting, typed: Mapping[str, str]) -> bool:
        is_typed = typed.get(setting.name, setting.default_text) != setting.default_text
        return setting.is_of_recipe or setting.name in ESSENTIAL or is_typed

    def _field(self, setting: Setting, value: str | None) -> SettingField:
        if setting.name != "tokenizer":
            return SettingField(setting, value)
        runs = {
            name: str(run.folder)
            for name, run in self.workspace.runs.items()
            if not run.is_generator
        }
        options = {"choose a run": "", **runs}
        return SettingField(setting, value, options)

    def _origin(self, source: str) -> tuple[dict[str, str], str]:
        """Return the changed settings and the recipe of a run that is cloned."""
        if not source:
            return {}, ""
        config = self.workspace.run(source).config
        if config.imported is not None:
            raise UserError(f"{source} was imported: it has no training to clone.")
        values = {name: setting_text(value) for name, value in config.changes.items()}
        return values, config.recipe or config.class_path

    def _usual_recipe(self) -> str:
        primary = self.state.primary
        run = self.workspace.runs.get(primary) if primary else None
        return (run.config.recipe if run else None) or DEFAULT_RECIPE

    def _free_name(self, name: str) -> str:
        """Return the name, or the name with the next number if it is in use."""
        stem = name.replace(":", "-")
        trainings = () if self.trainings is None else self.trainings.trainings
        queued = {training.name for training in trainings}
        taken = queued | {path.name for path in self.workspace.folder.iterdir()}
        series = re.sub(r"-\d+$", "", stem)
        stem = series if series in taken else stem
        names = [stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 3))]
        return next(candidate for candidate in names if candidate not in taken)

    def _when_done(self, future: Future[Any], action: Any) -> None:
        if future.done():
            action()
        elif self.lifecycle.document is None:  # without a page
            future.exception()
            action()
        else:
            future.add_done_callback(lambda _: self.lifecycle.call_soon(action))

    def _show_message(self, text: str) -> None:
        self.message.object = html.escape(text)


def _suffix(point: Mapping[str, str]) -> str:
    """Return the end of the name of a run in a sweep."""
    text = "-".join(f"{name}={value}" for name, value in point.items())
    return re.sub(r"[^\w.=+-]", "_", text)
