"""Form: one Gradio component per field of an options model, and checked options from the components' values."""

from collections.abc import Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Any, Generic, Literal, get_args, get_origin

import gradio as gr
from pydantic.fields import FieldInfo

from web.i18n.translator import MASTER, Translator, texts_of
from web.validation import Options, checked

COMPONENT_WIDTH = 280  # pixels; in a row, as many stand side by side as there is room for
MAX_SLIDER_STEPS = 1000  # a wider range cannot be set with a mouse


class Form(Generic[Options]):
    """The components of an options model, with the model's ranges and defaults.

    The constructor adds them to the current Blocks. Fields listed in `skip` get no component; their values are passed
    to `parse`. `shown` gives initial values for fields that have a numeric component but whose default is None.
    `tab` is the name of the tab, for texts that apply to it only.
    """

    def __init__(
        self,
        model: type[Options],
        t: Translator,
        skip: frozenset[str] = frozenset(),
        shown: Mapping[str, object] | None = None,
        tab: str = "",
    ) -> None:
        self.model = model
        self._t = t
        self.names = [name for name in model.model_fields if name not in skip]
        first = {name: model.model_fields[name].get_default() for name in self.names} | dict(shown or {})
        self.components = [_component(name, model.model_fields[name], first[name], t, tab) for name in self.names]

    def __add__(self, other: "Form[Options]") -> "Form[Options]":
        """Combine two forms into one: the components of an options model may be laid out in several places."""
        both = Form(self.model, self._t, frozenset(self.model.model_fields))
        both.names, both.components = self.names + other.names, self.components + other.components
        return both

    def parse(self, values: Sequence[object], **fixed: object) -> Options:
        """Build the options from the components' values, in order.

        Raises ConfigError, listing the invalid fields, if there are any.
        """
        return checked(self.model, dict(zip(self.names, values, strict=True)) | fixed)


def _component(name: str, field: FieldInfo, value: object, t: Translator, tab: str) -> Any:
    """Create the component for a field's type and range, with its initial value."""
    look = {
        "label": option_text(t, name, "label", tab),
        "info": f"{option_text(t, name, 'info', tab)} {manual_link(t, name)}",
        "value": value,
        "min_width": COMPONENT_WIDTH,
    }
    kind = without_none(field.annotation)
    if get_origin(kind) is Literal:
        return gr.Dropdown(choices=[(str(choice), choice) for choice in get_args(kind)], **look)
    if kind is bool:
        return gr.Checkbox(**look, elem_classes="flag")  # a style gives it the width that Gradio does not
    if field.examples:  # choices; other values can be typed
        choices = [(_choice_label(name, choice, t), choice) for choice in field.examples]
        return gr.Dropdown(choices=choices, allow_custom_value=True, **look)
    if kind not in (int, float):
        return gr.Textbox(**look)
    low, high = bound(field, "ge"), bound(field, "le")
    if look["value"] is None:  # neither a slider nor a number can be empty; the model reads numbers from text
        return gr.Textbox(**look | {"value": ""})
    if low is not None and high is not None:
        step = 1 if kind is int else _step(high - low)
        if (high - low) / step <= MAX_SLIDER_STEPS:
            _let_sliders_accept_none()
            return gr.Slider(minimum=low, maximum=high, step=step, **look)
    return gr.Number(minimum=low, maximum=high, precision=0 if kind is int else None, **look)


def option_text(t: Translator, name: str, part: str, tab: str) -> str:
    """Return an option's label or info; if a string applies to one tab only, its key ends with the name of that tab."""
    own = f"_{tab}" if f"options.{name}.{part}_{tab}" in texts_of(MASTER) else ""
    return t(f"options.{name}.{part}{own}")


def manual_link(t: Translator, option: str) -> str:
    """Return a Markdown link to the manual's paragraph about an option; Gradio opens it in a new tab."""
    return f"[{t('manual.title')}](manual/options#{option})"


def _choice_label(name: str, choice: Any, t: Translator) -> str:
    """The text of a choice in a list; for a pitch method with its purpose."""
    if name != "pitch_method":
        return str(choice)
    method = choice.replace("-", "_")
    return f"{choice}: {t(f'pitch.{method}')}"


@cache
def _let_sliders_accept_none() -> None:
    """Make sliders accept None from API clients, for options whose default depends on the voice.

    This changes Gradio's class, because a session creates a new component of a slider that was changed in it, and
    because Gradio writes a stub file for every class derived from its components.
    """
    check = gr.Slider.preprocess
    gr.Slider.preprocess = lambda slider, payload: None if payload is None else check(slider, payload)


def without_none(kind: Any) -> Any:
    """Return the type of an optional field: `int` for `int | None`."""
    kept = [part for part in get_args(kind) if part is not NoneType] if isinstance(kind, UnionType) else []
    return kept[0] if len(kept) == 1 else kind


def bound(field: FieldInfo, name: str) -> float | None:
    """Return the field's lowest ("ge") or highest ("le") allowed value, if it has one."""
    return next((getattr(rule, name) for rule in field.metadata if hasattr(rule, name)), None)


def _step(width: float) -> float:
    """Return the smallest of 0.01, 0.1, 1, ... that crosses `width` in at most MAX_SLIDER_STEPS steps."""
    exponent = -2
    while width / 10.0**exponent > MAX_SLIDER_STEPS:
        exponent += 1
    return 10.0**exponent
