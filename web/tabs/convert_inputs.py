"""Functions shared by all conversions of the web UI: checks of form values, waiting for a job, the report as text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from lib.errors import ConfigError
from lib.messages import Message
from lib.progress import Cancelled
from web.i18n.messages import translated
from web.i18n.translator import Translator
from web.jobs.registry import JobView
from web.services import OWN_INDEX, Services
from web.tabs.form import Form
from web.tabs.handlers import CancelButton
from web.validation import Options, checked

POLL_SECONDS = 0.2


def chosen_options(services: Services, form: Form[Options], values: Mapping[str, Any]) -> Options:
    """Return the options of a request; the default device is that of the server.

    Raises ConfigError if a value is not allowed.
    """
    device = values.get("device") or services.device
    chosen = {name: values[name] for name in form.names} | {"device": device}
    if isinstance(chosen["speaker_id"], str) and not chosen["speaker_id"].isdecimal():
        numbers = {name: number for number, name in services.speaker_names(values["voice"]).items()}
        chosen["speaker_id"] = numbers.get(chosen["speaker_id"], chosen["speaker_id"])
    return checked(form.model, chosen)


def listed_voice(t: Translator, services: Services, voice: str | None) -> str:
    """Return `voice` if there is a voice of that name. Raises ConfigError if there is not."""
    if not voice:
        raise ConfigError(t("convert.no_voice"))
    if voice not in services.list_voices():
        raise ConfigError(t("convert.unknown_voice", name=voice))
    return voice


def voice_and_recording(t: Translator, services: Services, values: Mapping[str, Any]) -> tuple[str, Path]:
    """Return the voice and the recording of a request. Raises ConfigError if one of them is missing."""
    voice = listed_voice(t, services, values["voice"])
    if not values["recording"]:
        raise ConfigError(t("convert.no_audio"))
    return voice, Path(values["recording"])


def listed_index(t: Translator, services: Services, name: str | None) -> str:
    """Return `name` if there is an index of that name, or if it is auto or none.

    Raises ConfigError if it is anything else.
    """
    if name and name not in OWN_INDEX and name not in services.list_indexes():
        raise ConfigError(t("convert.unknown_index", name=name))
    return name or "auto"


def wait_for(
    t: Translator, services: Services, job_id: str, request: gr.Request, bar: gr.Progress, pressed: CancelButton
) -> JobView:
    """Wait for a job and update the progress bar; the cancel button cancels the job.

    Raises the error of the job if it fails.
    """
    report = pressed.progress(request, bar)
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


def report_text(t: Translator, report: Mapping[str, Any]) -> str:
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
