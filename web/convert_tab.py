"""Convert one recording: voice, audio and options in; a player and a short report out."""

import html
from pathlib import Path
from typing import Any

import gradio as gr

from infer.options import ConvertOptions
from lib.errors import ConfigError
from lib.progress import Cancelled
from web.forms import Form
from web.guard import CancelButton, guarded
from web.i18n import Translator
from web.services import Conversion, Services

REFRESH_SECONDS = 5
GPU_QUEUE = {"concurrency_id": "gpu", "concurrency_limit": 1}  # everything that computes takes turns


def convert_tab(t: Translator, services: Services) -> None:
    """Lay out the tab and wire it, inside the Blocks that is being built."""
    with gr.Row():
        with gr.Column():
            voice = gr.Dropdown(label=t("convert.voice"), info=t("convert.voice_info"), choices=services.list_voices())
            with gr.Accordion(t("convert.import"), open=False):
                archive = gr.File(label=t("convert.import_file"), file_types=[".zip"], type="filepath", height=120)
            audio = gr.Audio(label=t("convert.audio"), sources=["upload", "microphone"], type="filepath", buttons=[])
            with gr.Row():
                run = gr.Button(t("convert.run"), variant="primary", scale=2)
                cancel = gr.Button(t("convert.cancel"), variant="secondary", scale=1)
        with gr.Column():
            result = gr.Audio(label=t("convert.result"), type="filepath", interactive=False, buttons=["download"])
            report = gr.Textbox(label=t("convert.report"), lines=5, interactive=False)
    with gr.Accordion(t("convert.options"), open=False), gr.Row():
        form = Form(ConvertOptions, t, skip=frozenset({"device"}))  # the device is chosen when the page is started

    button = CancelButton()
    inputs = [voice, audio, *form.components]
    handler = _convert_handler(t, services, form, button)
    outputs = [result, report]
    run.click(_begin_handler(button), outputs=outputs, queue=False, api_visibility="private").then(
        handler, inputs, outputs, api_name="convert", show_progress_on=result, **GPU_QUEUE
    )
    cancel.click(button.press, queue=False, api_visibility="private")
    archive.upload(
        _import_handler(t, services), [archive], [voice, archive], api_name="import_voice", concurrency_limit=1
    )
    _keep_fresh(voice, services)


def _import_handler(t: Translator, services: Services) -> Any:
    """Make the function that takes a dropped archive in and chooses the voice that was in it."""

    def take(archive: str) -> tuple[Any, None]:
        with guarded(t):
            name = services.import_voice(Path(archive))
        gr.Info(html.escape(t("convert.imported", name=name)))
        return gr.update(choices=services.list_voices(), value=name), None

    return take


def _begin_handler(button: CancelButton) -> Any:
    """Make the function that runs before a conversion is queued: forgets a cancel and what was shown."""

    def begin(request: gr.Request) -> tuple[None, str]:
        button.reset(request)
        return None, ""

    return begin


def _convert_handler(t: Translator, services: Services, form: Form[ConvertOptions], button: CancelButton) -> Any:
    """Make the function behind the convert button: parse, convert, show."""

    def convert(
        request: gr.Request,
        bar: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio is asked for a progress bar
        *values: Any,
    ) -> tuple[str | None, str]:
        with guarded(t):
            try:
                voice, audio, *rest = values
                if not voice or not audio:
                    raise ConfigError(t("convert.no_audio" if voice else "convert.no_voice"))
                options = form.parse(rest, device=services.device)
                done = services.convert(Path(audio), voice, options, button.progress(request, bar))
            except Cancelled:
                return None, t("convert.cancelled")
            return str(done.path), _report(t, done)

    return convert


def _report(t: Translator, done: Conversion) -> str:
    """Describe a conversion in a few lines."""
    return t(
        "convert.report_text",
        seconds=f"{done.audio_seconds:.1f}",
        elapsed=f"{done.elapsed_seconds:.1f}",
        factor=f"{done.elapsed_seconds / max(done.audio_seconds, 1e-3):.2f}",
        rate=done.sample_rate,
        pitch=done.pitch_method,
        index=done.index or t("convert.no_index"),
        device=done.device,
    )


def _keep_fresh(voice: Any, services: Services) -> None:
    """Let the list of voices follow the disk every few seconds, keeping the user's choice while it exists."""
    known = gr.State(None)

    def refresh(shown: list[str] | None, chosen: str | None) -> tuple[Any, Any]:
        voices = services.list_voices()
        if voices == shown:
            return gr.skip(), gr.skip()
        value = chosen if chosen in voices else next(iter(voices), None)
        return voices, gr.update(choices=voices, value=value)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on([gr.Timer(REFRESH_SECONDS).tick], refresh, [known, voice], [known, voice], **quiet)
