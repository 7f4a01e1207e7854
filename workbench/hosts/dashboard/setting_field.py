"""One field of the form that starts a training: a menu or a text, with its problem below it."""

from typing import Any

import panel_material_ui as pmui

from workbench.core.coerce import coerce
from workbench.core.errors import UserError
from workbench.launch.settings import Setting

FIELD_WIDTH_PX = 210


class SettingField:
    """The widget of a setting. Text is checked against the declared type when it changes.

    Parameters
    ----------
    setting : Setting
        The name, declared type, default and choices of the setting.
    value : str or None
        The text that is shown; the default if there is none.
    options : dict, optional
        Values by the text of a menu, in place of the setting's own choices.
    """

    def __init__(
        self, setting: Setting, value: str | None = None, options: dict[str, str] | None = None
    ) -> None:
        self.setting = setting
        text = setting.default_text if value is None else value
        if options is None and setting.choices:
            options = {choice: choice for choice in setting.choices}
        shared: dict[str, Any] = {
            "label": setting.name,
            "description": setting.description,
            "width": FIELD_WIDTH_PX,
            "size": "small",
        }
        self.widget: Any
        if options is None:
            self.widget = pmui.TextInput(value=text, **shared)
        else:
            if text not in options.values():
                options = {text: text, **options}
            self.widget = pmui.Select(options=options, value=text, **shared)
        self.widget.param.watch(lambda _: self.check(), "value")

    @property
    def text(self) -> str:
        """The value as it is typed."""
        return str(self.widget.value or "").strip()

    @property
    def is_changed(self) -> bool:
        """True if the value is not the default."""
        return self.text != self.setting.default_text

    def check(self) -> bool:
        """Show the problem of the value, and return True if there is none."""
        try:
            if self.is_changed and self.text:
                coerce(self.setting.kind, self.setting.name, self.text)
        except UserError as error:
            self.show_problem(str(error))
            return False
        self.show_problem("")
        return True

    def show_problem(self, sentence: str) -> None:
        """Show a sentence below the field; empty removes it."""
        self.widget.param.update(error_state=bool(sentence), helper_text=sentence)
