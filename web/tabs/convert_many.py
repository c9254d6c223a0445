"""Several conversions at once: many recordings, or one recording with several index rates."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from infer.options import ConvertOptions
from lib.audio.decode import list_recordings
from lib.errors import ConfigError
from lib.messages import Message
from lib.paths import given_path
from web.i18n.messages import translated
from web.i18n.translator import Translator
from web.jobs.requests import BatchRequest, CompareRequest
from web.limits import client_of_request
from web.services import Services
from web.tabs.convert_inputs import chosen_options, listed_index, listed_voice, voice_and_recording, wait_for
from web.tabs.form import Form
from web.tabs.handlers import CancelButton, with_names
from web.tabs.results import ResultPanel
from web.validation import checked

COMPARED_RATES = (0.0, 0.5, 1.0)  # index rates
WIDTHS = ["30%", "70%"]  # of the table of results


def build_compare(
    t: Translator, services: Services, form: Form[ConvertOptions], inputs: Sequence[Any], results: ResultPanel
) -> None:
    """Lay out the conversion of one recording with three index rates; `inputs` are voice and recording.

    The results are selected in `results`.
    """
    pressed = CancelButton(t)
    with gr.Column(min_width=160):
        run = gr.Button(t("convert.compare_run"), elem_id="compare")
        cancel = pressed.lay_out("compare-cancel")
    players = [
        gr.Audio(label=t("convert.compare_rate", rate=rate), type="filepath", interactive=False, buttons=["download"])
        for rate in COMPARED_RATES
    ]

    def compare_index_rates(request: gr.Request, bar: gr.Progress, values: Mapping[str, Any]) -> list[str]:
        """Convert one recording with index rates 0, 0.5 and 1, to compare them by ear."""
        voice, recording = voice_and_recording(t, services, values)
        options = chosen_options(services, form, values)
        work = CompareRequest(voice=voice, options=options, recording=recording, index_rates=COMPARED_RATES)
        title = Message("Compare index rates: {name}", name=recording.name)
        job_id = services.registry.submit(title, work, client_of_request(request))
        return list(wait_for(t, services, job_id, request, bar, pressed).results)

    started = pressed.wire(cancel, run, lambda: [None] * len(players), (), players)
    done = started.then(
        with_names(t, compare_index_rates, ["voice", "recording", *form.names], [None] * len(players), required=2),
        [*inputs, *form.components],
        list(players),
        api_name="compare_index_rates",
        concurrency_limit=8,
    )
    pressed.end(done, cancel)
    results.follow(done, players[0])


def build_batch(
    t: Translator, services: Services, form: Form[ConvertOptions], inputs: Sequence[Any], results: ResultPanel
) -> None:
    """Lay out the batch conversion: a table of the results, and a ZIP file with all of them.

    `inputs` are the components of voice, format, index and device; a batch that has ended is selected in `results`.
    """
    pressed = CancelButton(t)
    gr.Markdown(t("batch.info"))
    with gr.Row():
        files = gr.Files(label=t("batch.files"), type="filepath", height=190, elem_id="batch-files")
        folder = gr.Textbox(label=t("batch.folder"), info=t("batch.folder_info"), visible=services.local)
    with gr.Row():
        run = gr.Button(t("batch.run"), variant="primary", scale=2, elem_id="batch-run")
        cancel = pressed.lay_out("batch-cancel")
    table = gr.Dataframe(
        headers=[t("batch.recording"), t("batch.result")], interactive=False, wrap=True, visible=False,
        column_widths=WIDTHS,
    )  # fmt: skip
    archive = gr.File(label=t("batch.archive"), interactive=False, visible=False, elem_id="batch-archive")

    def convert_batch(request: gr.Request, bar: gr.Progress, values: Mapping[str, Any]) -> tuple[Any, Any]:
        """Convert many recordings; returns a table with the result of each, and a ZIP file of all results."""
        work = _batch_request(t, services, form, values)
        count = len(work.uploads) + len(work.inputs)
        title = Message("{count} recordings → {voice}", count=count, voice=work.voice)
        job_id = services.registry.submit(title, work, client_of_request(request))
        done = wait_for(t, services, job_id, request, bar, pressed)
        rows = [[name, translated(t, result)] for name, result in done.details["rows"]]
        return gr.update(value=rows, visible=True), gr.update(value=done.results[0], visible=True)

    voice, form_at, index, device = inputs
    names = ["voice", "files", "folder", "format", "index", "device", *form.names]
    cleared = [gr.update(value=None, visible=False)] * 2  # an earlier batch is in the list of results
    done = pressed.wire(cancel, run, lambda: cleared, (), (table, archive)).then(
        with_names(t, convert_batch, names, (gr.skip(), gr.skip()), required=1),
        [voice, files, folder, form_at, index, device, *form.components],
        [table, archive],
        api_name="convert_batch",
        show_progress_on=files,
        concurrency_limit=8,
    )
    pressed.end(done, cancel)
    results.follow(done, archive)


def _batch_request(
    t: Translator, services: Services, form: Form[ConvertOptions], values: Mapping[str, Any]
) -> BatchRequest:
    """Return the request of a batch. Raises ConfigError if there are no recordings or a value is not allowed."""
    uploads = [Path(path) for path in values["files"] or []]
    named: list[Path] = []
    voice = listed_voice(t, services, values["voice"])
    if values["folder"] and services.local:
        named = [path.resolve() for path in list_recordings(given_path(values["folder"]))]
    if not uploads and not named:
        raise ConfigError(t("batch.nothing"))
    return checked(BatchRequest, {
        "voice": voice, "options": chosen_options(services, form, values), "format": values["format"] or "wav",
        "uploads": uploads, "inputs": named, "index": listed_index(t, services, values["index"]),
    })  # fmt: skip
