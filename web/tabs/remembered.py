"""The options last used with each voice, stored in the browser, with a note in the web UI that they are used."""

import contextlib
import html
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from pydantic import ValidationError

from infer.options import ConvertOptions
from lib.config import USUAL_INDEX_RATE
from lib.errors import RevoiceError
from lib.voice.facts import VoiceFacts
from web.i18n.translator import Translator
from web.services import Services
from web.tabs.convert_inputs import chosen_options
from web.tabs.form import Form

STORAGE = "revoice-options"  # key in the browser's storage
MAX_VOICES = 100  # whose options a browser keeps; those used longest ago are dropped
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class Remembered:
    """A note that the options are those last used, and a button that restores the defaults.

    The constructor adds them to the current Blocks.
    """

    def __init__(self, t: Translator, services: Services) -> None:
        self._t = t
        self._services = services
        self.memory = gr.BrowserState({}, storage_key=STORAGE, secret=STORAGE)  # voice -> its options; no secrets
        with gr.Row(visible=False) as self.row:
            self.note = gr.Markdown(elem_id="remembered")
            self.reset = gr.Button(t("presets.defaults"), size="sm", scale=0, min_width=160, elem_id="defaults")

    def wire(self, voice: Any, form: Form[ConvertOptions]) -> list[Any]:
        """Fill the form when the web UI opens and when a voice is chosen; return the events that do this."""

        def recall(name: str | None, memory: object) -> list[Any]:
            options = last_options(self._services, name, memory)
            note = self._t("presets.remembered", voice=html.escape(name or ""))
            return [
                gr.update(visible=options is not None),
                note,
                *values_for(self._services, name, form.names, options),
            ]

        def forget(name: str | None, memory: object) -> list[Any]:
            kept = dict(memory) if isinstance(memory, Mapping) else {}
            kept[name or ""] = None  # also hides what an earlier version kept on the server
            values = values_for(self._services, name, form.names, ConvertOptions())
            return [kept, gr.update(visible=False), *values]

        shown = [self.row, self.note, *form.components]
        self.reset.click(forget, [voice, self.memory], [self.memory, self.row, *form.components], **_QUIET)
        opened = gr.on(None, lambda: None, **_QUIET)
        return [
            opened.then(recall, [voice, self.memory], shown, **_QUIET),
            voice.change(recall, [voice, self.memory], shown, **_QUIET),
        ]

    def keep(self, form: Form[ConvertOptions], memory: object, voice: str | None, values: Sequence[Any]) -> Any:
        """When a conversion starts, store its options in the browser; invalid options change nothing.

        `memory` is the stored value; returns the new one.
        """
        if voice not in self._services.list_voices():
            return gr.skip()
        try:
            given = {"voice": voice, **dict(zip(form.names, values, strict=True))}
            options = chosen_options(self._services, form, given)
        except RevoiceError:  # reported by the conversion
            return gr.skip()
        others = memory.items() if isinstance(memory, Mapping) else ()
        kept = [(name, value) for name, value in others if name != voice][1 - MAX_VOICES :]
        return dict([*kept, (voice, options.model_dump(mode="json", exclude={"device"}))])


def last_options(services: Services, voice: str | None, memory: object) -> ConvertOptions | None:
    """Return the options last used with a voice in this browser; None if there are no valid ones.

    If only this machine can reach the web UI, options stored on the server by an earlier version are used until the
    browser has some.
    """
    if not voice:
        return None
    if isinstance(memory, Mapping) and voice in memory:
        try:
            return ConvertOptions.model_validate(memory[voice])
        except ValidationError:
            return None
    return services.presets.remembered(voice) if services.local else None


def values_of(options: ConvertOptions, names: Sequence[str]) -> list[Any]:
    """Return the values of the components for these options; without an index rate, its slider does not change."""
    values = {name: getattr(options, name) for name in names}
    return [gr.skip() if name == "index_rate" and value is None else value for name, value in values.items()]


def values_for(
    services: Services, voice: str | None, names: Sequence[str], options: ConvertOptions | None
) -> list[Any]:
    """Return the values of the components for a chosen voice: `options`, if any, and its recommended index rate.

    An index rate among the options takes precedence over the recommended one.
    """
    values = values_of(options, names) if options else [gr.skip()] * len(names)
    if options is None or options.index_rate is None:
        values[names.index("index_rate")] = recommended_rate(services, voice)
    return values


def recommended_rate(services: Services, voice: str | None) -> Any:
    """Return the index rate recommended for a voice; the slider does not change if the voice cannot be read."""
    if voice in services.list_voices():
        with contextlib.suppress(RevoiceError):  # a damaged voice: reported when it is used
            return services.index_rate(voice)
    return gr.skip()


def initial_rate(services: Services) -> float:
    """Return the index rate to show until the browser has asked for that of the selected voice, the first one.

    It is the recommended one if the voice is included; the files of other voices are not read while a page is built.
    """
    first = next(iter(services.list_voices()), "")
    included = services.voice_facts(False).get(first, VoiceFacts()) != VoiceFacts()
    return services.index_rate(first) if included else USUAL_INDEX_RATE
