"""Covers and text to speech: song or stems, or a text, and a voice in; a player, files and jobs out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from infer.song.options import CoverOptions
from infer.speech.options import SpeechOptions
from lib.audio import AUDIO_FORMATS
from lib.errors import ConfigError
from web.i18n.translator import Translator
from web.jobs.requests import CoverRequest, SayRequest
from web.limits import client_of_request
from web.services import Services
from web.tabs.convert_inputs import chosen_options, listed_voice, wait_for
from web.tabs.form import Form
from web.tabs.handlers import CancelButton, with_names
from web.tabs.jobs import job_panel
from web.tabs.remembered import initial_rate, recommended_rate
from web.tabs.voice_names import updated_list, voice_choices
from web.validation import checked

FORMATS = sorted(AUDIO_FORMATS)
MIX = ("pitch_shift", "auto_pitch", "vocal_level", "instrumental_level", "vocal_pan", "vocal_reverb")
SPOKEN = ("pitch_shift", "speed", "engine", "edge_voice")
SKIP = frozenset({"device", "channel", "resample_rate"})  # of the page; what a song itself decides
REFRESH_SECONDS = 5
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build_cover_tab(t: Translator, services: Services) -> None:
    """Lay out the tab and connect its events, inside the current Blocks."""
    voice = gr.Dropdown(
        label=t("convert.voice"),
        choices=voice_choices(t, services, open_files=False),
        allow_custom_value=True,
        elem_id="cover-voice",
    )
    _build_cover(t, services, voice)
    with gr.Accordion(t("say.title"), open=False, elem_id="say-section"):
        _build_say(t, services, voice)
    with gr.Accordion(t("jobs.title"), open=True):
        job_panel(t, services, ("cover", "say"), "songs")

    def refresh(known: list[list[str]], chosen: str | None) -> tuple[Any, Any]:
        choices = [*map(list, voice_choices(t, services))]
        voices = [name for _, name in choices]
        value = chosen if chosen in voices else next(iter(voices), None)
        if choices == known:
            return gr.skip(), gr.skip()
        return choices, updated_list(choices, chosen, value, first=not known)

    known = gr.State([])
    gr.Timer(REFRESH_SECONDS).tick(refresh, [known, voice], [known, voice], **_QUIET)


def _build_cover(t: Translator, services: Services, voice: Any) -> None:
    pressed, fields = CancelButton(t), frozenset(CoverOptions.model_fields)
    with gr.Row():
        with gr.Column():
            song = gr.File(label=t("cover.song"), type="filepath", height=190, elem_id="song")
            gr.Markdown(t("cover.stems_info"))
            with gr.Row():
                vocals = gr.File(label=t("cover.vocals"), type="filepath", height=190)
                instrumental = gr.File(label=t("cover.instrumental"), type="filepath", height=190)
            with gr.Row():
                form = Form(CoverOptions, t, skip=fields - frozenset(MIX), tab="cover")
            with gr.Row():
                run = gr.Button(t("cover.run"), variant="primary", scale=2, elem_id="cover")
                cancel = pressed.lay_out("cover-cancel")
        with gr.Column():
            player = gr.Audio(label=t("convert.result"), type="filepath", interactive=False, buttons=["download"])
            report = gr.Textbox(label=t("convert.report"), lines=3, interactive=False)
            stems = gr.Files(label=t("cover.stems"), interactive=False)
    with gr.Accordion(t("convert.options"), open=False), gr.Row():
        form += Form(CoverOptions, t, SKIP | {*MIX}, {"index_rate": initial_rate(services)}, "cover")
        form_at = gr.Dropdown(label=t("convert.format"), choices=FORMATS, value="wav")

    def make_cover(request: gr.Request, bar: gr.Progress, values: Mapping[str, Any]) -> tuple[str, str, list[str]]:
        """Create a cover of a song, or of its stems; returns the cover, a report and the stems."""
        job_id = services.registry.submit(*_cover_request(t, services, form, values), client_of_request(request))
        done = wait_for(t, services, job_id, request, bar, pressed)
        return done.results[0], _report(t, done.details["cover"]), list(done.results[1:])

    rate = form.components[form.names.index("index_rate")]
    gr.on(None, lambda name: recommended_rate(services, name), [voice], rate, **_QUIET)
    names = ["voice", "song", "vocals", "instrumental", "format", *form.names]
    event = pressed.wire(cancel, run).then(
        with_names(t, make_cover, names, (None, t("convert.cancelled"), None)),
        [voice, song, vocals, instrumental, form_at, *form.components],
        [player, report, stems],
        api_name="make_cover",
        show_progress_on=player,
        concurrency_limit=8,
    )
    pressed.end(event, cancel)


def _cover_request(
    t: Translator, services: Services, form: Form[CoverOptions], values: Mapping[str, Any]
) -> tuple[str, CoverRequest]:
    """Return the title and the request of a cover. Raises ConfigError if the files are not sufficient."""
    name = listed_voice(t, services, values["voice"])
    files = {key: Path(values[key]) if values[key] else None for key in ("song", "vocals", "instrumental")}
    main = files["song"] or files["instrumental"]
    if main is None or (files["song"] is None and files["vocals"] is None):
        raise ConfigError("A cover needs the song, or both its vocals and its instrumental.")
    options = chosen_options(services, form, values)
    work = checked(CoverRequest, {"voice": name, "options": options, "format": values["format"] or "wav", **files})
    return f"{main.name} → {name}", work


def _report(t: Translator, cover: Mapping[str, Any]) -> str:
    return t(
        "cover.report_text", seconds=f"{cover['seconds']:.1f}", elapsed=f"{cover['elapsed']:.1f}", rate=cover["rate"],
        shift=f"{cover['shift']:+d}",
    )  # fmt: skip


def _build_say(t: Translator, services: Services, voice: Any) -> None:
    pressed, fields = CancelButton(t), frozenset(SpeechOptions.model_fields)
    with gr.Row():
        text = gr.Textbox(label=t("say.text"), lines=4, elem_id="say-text")
        file = gr.File(label=t("say.file"), type="filepath", height=190)
    with gr.Row():
        form = Form(SpeechOptions, t, skip=fields - frozenset(SPOKEN))
        form_at = gr.Dropdown(label=t("convert.format"), choices=FORMATS, value="wav")
    with gr.Row():
        run = gr.Button(t("say.run"), variant="primary", scale=2, elem_id="say")
        cancel = pressed.lay_out("say-cancel")
    player = gr.Audio(label=t("convert.result"), type="filepath", interactive=False, buttons=["download"])

    def say(request: gr.Request, bar: gr.Progress, values: Mapping[str, Any]) -> str:
        """Synthesise text, a text file or subtitles in a voice; returns the recording."""
        name = listed_voice(t, services, values["voice"])
        chosen = {key: values[key] for key in form.names} | {"device": services.device}
        work = checked(SayRequest, {
            "voice": name, "options": checked(SpeechOptions, chosen), "format": values["format"] or "wav",
            "text": values["text"] or "", "file": values["file"] or None,
        })  # fmt: skip
        title = f"{Path(values['file']).name if values['file'] else work.text[:40]} → {name}"
        job_id = services.registry.submit(title, work, client_of_request(request))
        return wait_for(t, services, job_id, request, bar, pressed).results[0]

    names = ["voice", "text", "file", "format", *form.names]
    event = pressed.wire(cancel, run).then(
        with_names(t, say, names, None),
        [voice, text, file, form_at, *form.components],
        [player],
        api_name="say",
        show_progress_on=player,
        concurrency_limit=8,
    )
    pressed.end(event, cancel)
