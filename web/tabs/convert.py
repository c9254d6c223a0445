"""Convert one recording or many: voice, audio and options in; results, a short report and a table out."""

import contextlib
from collections.abc import Mapping
from typing import Any

import gradio as gr

from infer.options import ConvertOptions
from lib.audio import AUDIO_FORMATS
from lib.errors import RevoiceError
from web.i18n.translator import Translator
from web.jobs.requests import ConvertRequest, Kind
from web.limits import client_of_request
from web.services import OWN_INDEX, Services
from web.tabs.convert_extras import build_example, build_pitch_shift, build_presets
from web.tabs.convert_inputs import chosen_options, listed_index, report_text, voice_and_recording, wait_for
from web.tabs.convert_many import build_batch, build_compare
from web.tabs.device_choice import device_choice
from web.tabs.form import COMPONENT_WIDTH, Form
from web.tabs.handlers import CancelButton, with_names
from web.tabs.jobs import job_panel
from web.tabs.listening import build_listening
from web.tabs.needs import Needs, NeedsPanel, needs_of_conversion
from web.tabs.remembered import Remembered, initial_rate
from web.tabs.results import ResultPanel
from web.tabs.voice_names import updated_list, voice_choices
from web.validation import checked

REFRESH_SECONDS = 5
FORMATS = sorted(AUDIO_FORMATS)
CONVERSIONS: tuple[Kind, ...] = ("convert", "batch", "compare")
SIMPLE = frozenset({"pitch_shift"})  # options above the accordion
MAIN = frozenset({"index_rate", "pitch_method", "protect"})  # options that often matter
SKIP = frozenset({"device"})  # has its own list
_ALL = frozenset(ConvertOptions.model_fields)


def build_convert_tab(t: Translator, services: Services) -> None:
    """Lay out the tab and connect its events, inside the current Blocks."""
    tab = _ConvertTab(t, services)
    with gr.Row():
        with gr.Column():
            tab.lay_out_input()
        with gr.Column():
            tab.results = ResultPanel(t, services, CONVERSIONS)
            with gr.Accordion(t("listen.title"), open=False, elem_id="listen"):
                build_listening(t, services, tab.results)
    with gr.Accordion(t("convert.options"), open=False, elem_id="options"):
        tab.lay_out_options()
    tab.wire()
    with gr.Accordion(t("convert.compare"), open=False), gr.Row():
        build_compare(t, services, tab.form, (tab.voice, tab.audio), tab.results)
    with gr.Accordion(t("batch.title"), open=False, elem_id="batch"):
        build_batch(t, services, tab.form, (tab.voice, tab.format, tab.index, tab.device), tab.results)
    with gr.Accordion(t("jobs.title"), open=True):
        job_panel(t, services, CONVERSIONS, "conversions", results=False)


class _ConvertTab:
    """The components for one conversion, and the actions of its buttons."""

    results: ResultPanel

    def __init__(self, t: Translator, services: Services) -> None:
        self.t = t
        self.services = services
        self.pressed = CancelButton(t)

    def lay_out_input(self) -> None:
        """Voice, recording, pitch shift and the buttons."""
        t, services = self.t, self.services
        self.voice = gr.Dropdown(
            label=t("convert.voice"), info=t("convert.voice_info"),
            choices=voice_choices(t, services, open_files=False), elem_id="voice",
            allow_custom_value=True,  # else the API would accept only voices that existed at startup
        )  # fmt: skip
        self.remembered = Remembered(t, services)
        self.audio = gr.Audio(
            label=t("convert.audio"), sources=["upload", "microphone"], type="filepath", buttons=[], elem_id="recording"
        )
        build_example(t, services, self.audio)
        self.form = Form(ConvertOptions, t, skip=_ALL - SIMPLE)
        build_pitch_shift(t, services, (self.voice, self.audio), self.form.components[0])
        with gr.Row():
            self.run = gr.Button(t("convert.run"), variant="primary", scale=2, elem_id="convert")
            self.cancel = self.pressed.lay_out("convert-cancel")
        self.needs = NeedsPanel(t, "convert")

    def lay_out_options(self) -> None:
        """The commonly used options, the others collapsed, and presets for all of them."""
        t, services = self.t, self.services
        with gr.Row():
            self.form += Form(ConvertOptions, t, skip=_ALL - MAIN, shown={"index_rate": initial_rate(services)})
        with gr.Accordion(t("convert.more"), open=False, elem_id="more-options"):
            with gr.Row():
                self.form += Form(ConvertOptions, t, skip=SKIP | SIMPLE | MAIN)
            with gr.Row():
                self.format = gr.Dropdown(
                    label=t("convert.format"), choices=FORMATS, value="wav", min_width=COMPONENT_WIDTH, elem_id="format"
                )
                self.index = gr.Dropdown(
                    label=t("convert.index"), info=t("convert.index_info"), choices=_index_choices(t, services),
                    value="auto", allow_custom_value=True, min_width=COMPONENT_WIDTH, elem_id="index",
                )  # fmt: skip
                self.device = device_choice(t, services, "convert-device")
                self.f0_file = gr.File(label=t("convert.f0_file"), type="filepath", height=190)
                self.f0_curve = gr.Checkbox(
                    label=t("convert.f0_curve"), info=t("convert.f0_curve_info"), elem_id="f0-curve",
                    elem_classes="flag",
                )  # fmt: skip
        build_presets(t, services, self.form)

    def wire(self) -> None:
        """Connect all events except those of presets."""
        t, results, form = self.t, self.results, self.form
        results.wire(self.audio)
        inputs = [self.voice, self.audio, self.format, self.f0_file, self.index, self.device]
        names = ["voice", "recording", "format", "f0_file", "index", "device", *form.names, "f0_curve"]
        memory = self.remembered.memory
        started = self.pressed.wire(
            self.cancel, self.run, self._begin, [memory, self.voice, *form.components],
            [memory, *results.begin_outputs()],
        )  # fmt: skip
        done = started.then(
            with_names(t, self.convert, names, (None, t("convert.cancelled")), required=2),
            [*inputs, *form.components, self.f0_curve],
            [results.player, results.report],
            api_name="convert",
            show_progress_on=results.player,
            concurrency_limit=8,  # they only wait: the registry does one conversion after the other
        )
        self.pressed.end(done, self.cancel)
        results.follow(done)
        for event in self.remembered.wire(self.voice, form):
            _name_speakers(self.services, self.voice, form, event)
        _keep_fresh(t, self.services, self.voice, self.index)
        method = form.components[form.names.index("pitch_method")]
        fields = [self.voice, method, self.device]
        self.needs.wire(self._needs, fields, [field.change for field in fields])

    def convert(self, request: gr.Request, bar: gr.Progress, values: Mapping[str, Any]) -> tuple[str | None, str]:
        """Convert one recording; returns the result and a report."""
        t, services = self.t, self.services
        voice, recording = voice_and_recording(t, services, values)
        options = chosen_options(services, self.form, values)
        work = checked(ConvertRequest, {
            "voice": voice, "options": options, "format": values["format"] or "wav", "recording": recording,
            "f0_file": values["f0_file"] or None, "f0_curve": bool(values["f0_curve"]),
            "index": listed_index(t, services, values["index"]),
        })  # fmt: skip
        job_id = services.registry.submit(f"{recording.name} → {voice}", work, client_of_request(request))
        done = wait_for(t, services, job_id, request, bar, self.pressed)
        return done.results[0], report_text(t, done.details["report"])

    def _needs(self, voice: str | None, pitch_method: str, device: str) -> Needs:
        family = self.services.voice_family(voice) if voice in self.services.list_voices() else "lite"
        return needs_of_conversion(family, pitch_method, device or self.services.device)

    def _begin(self, memory: object, voice: str | None, *values: Any) -> list[Any]:
        return [self.remembered.keep(self.form, memory, voice, values), *self.results.begin()]


def _index_choices(t: Translator, services: Services) -> list[tuple[str, str]]:
    own = [(t(f"convert.index_{name}"), name) for name in OWN_INDEX]
    return own + [(name, name) for name in services.list_indexes()]


def _name_speakers(services: Services, voice: Any, form: Form[ConvertOptions], chosen: Any) -> None:
    """Show the speaker names of a voice in the list of speakers once it is chosen; numbers can be typed, too."""
    speaker = form.components[form.names.index("speaker_id")]

    def show(name: str | None, number: Any) -> Any:
        names: Mapping[int, str] = {}
        if name in services.list_voices():
            with contextlib.suppress(RevoiceError):  # the error of a damaged voice is shown when it is used
                names = services.speaker_names(name)
        choices = [(f"{name} ({number})", number) for number, name in names.items()] or [("0", 0)]
        return gr.update(choices=choices, value=number)

    chosen.then(show, [voice, speaker], speaker, show_progress="hidden", api_visibility="private")


def _keep_fresh(t: Translator, services: Services, voice: Any, index: Any) -> None:
    """Update the lists of voices and indexes from the disk; the user's choices are kept while they exist."""
    known = gr.State(None)

    def refresh(shown: Any, chosen: str | None) -> tuple[Any, Any, Any]:
        choices, indexes = voice_choices(t, services), list(services.list_indexes())
        voices = [name for _, name in choices]
        lists = [[*map(list, choices)], indexes]
        if lists == shown:
            return gr.skip(), gr.skip(), gr.skip()
        # One that is gone is not replaced by another behind the user's back.
        value = chosen if chosen in voices else None if chosen else next(iter(voices), None)
        return (
            lists, updated_list(choices, chosen, value, first=shown is None),
            gr.update(choices=_index_choices(t, services)),
        )  # fmt: skip

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on([gr.Timer(REFRESH_SECONDS).tick], refresh, [known, voice], [known, voice, index], **quiet)
