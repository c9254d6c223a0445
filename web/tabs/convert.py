"""Convert one recording or many: voice, audio and options in; players, a short report and a table out."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from infer.options import ConvertOptions
from lib.audio import AUDIO_FORMATS
from lib.audio.decode import list_recordings
from lib.config import USUAL_INDEX_RATE
from lib.errors import ConfigError, RevoiceError
from lib.messages import Message
from lib.paths import given_path
from lib.progress import Cancelled
from web.i18n.messages import translated
from web.i18n.translator import Translator
from web.jobs.registry import JobView
from web.jobs.requests import BatchRequest, CompareRequest, ConvertRequest
from web.limits import client_of_request
from web.services import OWN_INDEX, Services
from web.tabs.convert_extras import build_picture, build_presets, build_suggestion
from web.tabs.device_choice import device_choice
from web.tabs.form import UPLOADED, Form
from web.tabs.handlers import CancelButton, with_names
from web.tabs.jobs import job_panel
from web.validation import checked

REFRESH_SECONDS = 5
POLL_SECONDS = 0.2
COMPARED_RATES = (0.0, 0.5, 1.0)  # index rates
FORMATS = sorted(AUDIO_FORMATS)
SIMPLE = frozenset({"pitch_shift"})  # options above the accordion
SKIP = frozenset({"device"})  # has its own list
SHOWN = {"index_rate": USUAL_INDEX_RATE}  # until a voice is chosen


def build_convert_tab(t: Translator, services: Services) -> None:
    """Lay out the tab and wire it, inside the Blocks that is being built."""
    with gr.Row():
        with gr.Column():
            voice = gr.Dropdown(
                label=t("convert.voice"), info=t("convert.voice_info"), choices=services.list_voices(), elem_id="voice",
                allow_custom_value=True,  # else the API would accept only voices that existed at startup
            )  # fmt: skip
            audio = gr.Audio(
                label=t("convert.audio"), sources=["upload", "microphone"], type="filepath", buttons=[],
                elem_id="recording",
            )  # fmt: skip
            simple = Form(ConvertOptions, t, skip=frozenset(ConvertOptions.model_fields) - SIMPLE)
            build_suggestion(t, services, (voice, audio), simple.components[0])
            with gr.Row():
                run = gr.Button(t("convert.run"), variant="primary", scale=2, elem_id="convert")
                cancel = gr.Button(t("convert.cancel"), scale=1, elem_id="convert-cancel")
        with gr.Column():
            result = gr.Audio(
                label=t("convert.result"), type="filepath", interactive=False, buttons=["download"], elem_id="result"
            )
            report = gr.Textbox(label=t("convert.report"), lines=5, interactive=False, elem_id="report")
            build_picture(t, services, audio, result)
    with gr.Accordion(t("convert.options"), open=False, elem_id="options"):
        with gr.Row():
            form = simple + Form(ConvertOptions, t, skip=SKIP | SIMPLE, shown=SHOWN)
        with gr.Row():
            form_at = gr.Dropdown(label=t("convert.format"), choices=FORMATS, value="wav", elem_id="format")
            index = gr.Dropdown(
                label=t("convert.index"), info=t("convert.index_info"), choices=_index_choices(t, services),
                value="auto", allow_custom_value=True, elem_id="index",
            )  # fmt: skip
            device = device_choice(t, services, "convert-device")
            f0_file = gr.File(label=t("convert.f0_file"), file_types=[".csv", ".txt"], type="filepath", height=190)
        remembered = build_presets(t, services, form, voice)
    _wire_one(t, services, form, (run, cancel), (voice, audio, form_at, f0_file, index, device), (result, report))
    with gr.Accordion(t("convert.compare"), open=False), gr.Row():
        compare = gr.Button(t("convert.compare_run"), elem_id="compare")
        players = [
            gr.Audio(
                label=t("convert.compare_rate", rate=rate), type="filepath", interactive=False, buttons=["download"]
            )
            for rate in COMPARED_RATES
        ]
    _wire_compare(t, services, form, compare, (voice, audio), players)
    with gr.Accordion(t("batch.title"), open=False, elem_id="batch"):
        _build_batch(t, services, form, (voice, form_at, index, device))
    with gr.Accordion(t("jobs.title"), open=True):
        job_panel(t, services, ("convert", "batch", "compare"), "conversions")
    _keep_fresh(t, services, voice, index)
    _name_speakers(services, voice, form, remembered)


def _wire_one(
    t: Translator, services: Services, form: Form[ConvertOptions], buttons: Sequence[Any], inputs: Sequence[Any],
    outputs: Sequence[Any],
) -> None:  # fmt: skip
    (run, cancel), (result, _) = buttons, outputs
    pressed = CancelButton()

    def convert(request: gr.Request, bar: gr.Progress, values: Mapping[str, Any]) -> tuple[str | None, str]:
        """Convert one recording; returns the result and a report."""
        voice, recording = _checked(t, services, values)
        options = _options(services, form, values)
        title = f"{recording.name} → {voice}"
        work = checked(ConvertRequest, {
            "voice": voice, "options": options, "format": values["format"] or "wav", "recording": recording,
            "f0_file": values["f0_file"] or None, "index": _index(t, services, values["index"]),
        })  # fmt: skip
        job_id = services.registry.submit(title, work, client_of_request(request))
        done = _follow(t, services, job_id, request, bar, pressed)
        services.presets.remember(voice, options)
        return done.results[0], _report(t, done.details["report"])

    def begin(request: gr.Request) -> tuple[None, str]:
        pressed.reset(request)
        return None, ""

    names = ["voice", "recording", "format", "f0_file", "index", "device", *form.names]
    run.click(begin, outputs=list(outputs), queue=False, api_visibility="private").then(
        with_names(t, convert, names, (None, t("convert.cancelled"))),
        [*inputs, *form.components],
        list(outputs),
        api_name="convert",
        show_progress_on=result,
        concurrency_limit=8,  # they only wait: the registry does one conversion after the other
    )
    cancel.click(pressed.press, queue=False, api_visibility="private")


def _options(services: Services, form: Form[ConvertOptions], values: Mapping[str, Any]) -> ConvertOptions:
    """The options of a request; the default device is that of the page."""
    device = values.get("device") or services.device
    chosen = {name: values[name] for name in form.names} | {"device": device}
    if isinstance(chosen["speaker_id"], str) and not chosen["speaker_id"].isdecimal():
        numbers = {name: number for number, name in services.speaker_names(values["voice"]).items()}
        chosen["speaker_id"] = numbers.get(chosen["speaker_id"], chosen["speaker_id"])
    return checked(ConvertOptions, chosen)


def _listed(t: Translator, services: Services, voice: str | None) -> str:
    """The name of a voice, if there is one of that name."""
    if not voice:
        raise ConfigError(t("convert.no_voice"))
    if voice not in services.list_voices():
        raise ConfigError(t("convert.unknown_voice", name=voice))
    return voice


def _checked(t: Translator, services: Services, values: Mapping[str, Any]) -> tuple[str, Path]:
    """The voice and the recording of a request."""
    voice = _listed(t, services, values["voice"])
    if not values["recording"]:
        raise ConfigError(t("convert.no_audio"))
    return voice, Path(values["recording"])


def _follow(
    t: Translator, services: Services, job_id: str, request: gr.Request, bar: gr.Progress,
    pressed: CancelButton | None = None,
) -> JobView:  # fmt: skip
    """Wait for a job while moving the page's bar; the cancel button cancels it. The error of a failed job is raised."""
    report = pressed.progress(request, bar) if pressed else lambda done, total, what: bar((done, total), desc=what)
    while True:
        job = services.registry.wait(job_id, POLL_SECONDS)
        if not job.active:
            break
        try:
            report(job.done, max(job.total, 1), translated(t, job.what))
        except Cancelled:
            services.registry.cancel(job_id)
            raise
    if job.state != "done":
        if job.error:
            message = job.error if isinstance(job.error, Message) else Message(job.error)
            raise ConfigError(message.template, **message.values)
        raise Cancelled
    return job


def _report(t: Translator, report: Mapping[str, Any]) -> str:
    """Describe a conversion in a few lines."""
    return t(
        "convert.report_text",
        seconds=f"{report['audio_seconds']:.1f}",
        elapsed=f"{report['elapsed_seconds']:.1f}",
        factor=f"{report['elapsed_seconds'] / max(report['audio_seconds'], 1e-3):.2f}",
        rate=report["sample_rate"],
        pitch=report["pitch_method"],
        index=report["index"] or t("convert.no_index"),
        device=f"{report['device']} ({translated(t, report['reason'])})",
    )


def _wire_compare(
    t: Translator, services: Services, form: Form[ConvertOptions], button: Any, inputs: Sequence[Any],
    players: Sequence[Any],
) -> None:  # fmt: skip
    def compare_index_rates(request: gr.Request, bar: gr.Progress, values: Mapping[str, Any]) -> list[str]:
        """Convert one recording with index rates 0, 0.5 and 1, to compare them by ear."""
        voice, recording = _checked(t, services, values)
        options = _options(services, form, values)
        work = CompareRequest(voice=voice, options=options, recording=recording, index_rates=COMPARED_RATES)
        title = Message("Compare index rates: {name}", name=recording.name)
        job_id = services.registry.submit(title, work, client_of_request(request))
        return list(_follow(t, services, job_id, request, bar).results)

    button.click(
        with_names(t, compare_index_rates, ["voice", "recording", *form.names], [None] * len(players)),
        [*inputs, *form.components],
        list(players),
        api_name="compare_index_rates",
        concurrency_limit=8,
    )


def _build_batch(t: Translator, services: Services, form: Form[ConvertOptions], inputs: Sequence[Any]) -> None:
    """Batch conversion: a table of the results, and a ZIP of all."""
    gr.Markdown(t("batch.info"))
    with gr.Row():
        files = gr.Files(
            label=t("batch.files"), type="filepath", file_types=UPLOADED, height=190, elem_id="batch-files"
        )
        folder = gr.Textbox(label=t("batch.folder"), info=t("batch.folder_info"), visible=services.local)
    run = gr.Button(t("batch.run"), variant="primary", elem_id="batch-run")
    table = gr.Dataframe(headers=[t("batch.recording"), t("batch.result")], interactive=False, wrap=True, visible=False)
    archive = gr.File(label=t("batch.archive"), interactive=False, visible=False, elem_id="batch-archive")

    def convert_batch(request: gr.Request, bar: gr.Progress, values: Mapping[str, Any]) -> tuple[Any, Any]:
        """Convert many recordings; returns a table with the result of each, and a ZIP of all results."""
        voice = _listed(t, services, values["voice"])
        uploads = [Path(path) for path in values["files"] or []]
        named: list[Path] = []
        if values["folder"] and services.local:
            named = [path.resolve() for path in list_recordings(given_path(values["folder"]))]
        if not uploads and not named:
            raise ConfigError(t("batch.nothing"))
        options = _options(services, form, values)
        work = checked(BatchRequest, {
            "voice": voice, "options": options, "format": values["format"] or "wav", "uploads": uploads,
            "inputs": named, "index": _index(t, services, values["index"]),
        })  # fmt: skip
        title = Message("{count} recordings → {voice}", count=len(uploads) + len(named), voice=voice)
        job_id = services.registry.submit(title, work, client_of_request(request))
        done = _follow(t, services, job_id, request, bar)
        rows = [[name, translated(t, result)] for name, result in done.details["rows"]]
        return gr.update(value=rows, visible=True), gr.update(value=done.results[0], visible=True)

    voice, form_at, index, device = inputs
    names = ["voice", "files", "folder", "format", "index", "device", *form.names]
    run.click(
        with_names(t, convert_batch, names, (gr.skip(), gr.skip())),
        [voice, files, folder, form_at, index, device, *form.components],
        [table, archive],
        api_name="convert_batch",
        show_progress_on=table,
        concurrency_limit=8,
    )


def _index_choices(t: Translator, services: Services) -> list[tuple[str, str]]:
    own = [(t(f"convert.index_{name}"), name) for name in OWN_INDEX]
    return own + [(name, name) for name in services.list_indexes()]


def _index(t: Translator, services: Services, name: str | None) -> str:
    """The name of an index, if there is one of that name; auto and none are names, too."""
    if name and name not in OWN_INDEX and name not in services.list_indexes():
        raise ConfigError(t("convert.unknown_index", name=name))
    return name or "auto"


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
        voices, indexes = services.list_voices(), list(services.list_indexes())
        if [voices, indexes] == shown:
            return gr.skip(), gr.skip(), gr.skip()
        value = chosen if chosen in voices else next(iter(voices), None)
        return (
            [voices, indexes], gr.update(choices=voices, value=value),
            gr.update(choices=_index_choices(t, services)),
        )  # fmt: skip

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on([gr.Timer(REFRESH_SECONDS).tick], refresh, [known, voice], [known, voice, index], **quiet)
