"""Extras of the Convert tab: an example, the recording's name, the suggested pitch shift, presets."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from infer.options import ConvertOptions
from lib.audio import ANALYSIS_RATE
from lib.audio.decode import load_audio
from lib.errors import ConfigError
from lib.files import copy_file
from lib.paths import PRETRAINED
from lib.pitch import load_pitch_extractor
from lib.pitch.scale import suggested_shift
from web.i18n.translator import Translator
from web.services import Services
from web.tabs.convert_inputs import listed_voice
from web.tabs.form import Form
from web.tabs.handlers import handle_errors, with_names
from web.tabs.remembered import values_of
from web.validation import checked

EXAMPLE = PRETRAINED / "lite" / "demo" / "source.flac"
MEASURED_SECONDS = 60  # of a recording, for its pitch
OCTAVE = 12  # semitones
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build_example(t: Translator, services: Services, recording: Any) -> None:
    """Lay out the name of the recording, a button for the bundled example, and one that opens the Cover tab."""
    name = gr.Markdown(t("convert.music"), elem_id="recording-name")
    with gr.Row():
        button = gr.Button(t("convert.example"), size="sm", visible=EXAMPLE.is_file(), elem_id="example")
        cover = gr.Button(t("convert.to_cover"), size="sm", elem_id="to-cover")

    def example() -> str:
        """Return a copy of the bundled example recording, in a folder from which Gradio may serve it."""
        with handle_errors(t):
            copy = services.folder / "example.flac"
            if not copy.is_file():
                copy_file(EXAMPLE, copy)
            return str(copy)

    def named(path: str | None) -> str:
        return f"**{html.escape(Path(path).name)}** {t('convert.music')}" if path else t("convert.music")

    cover.click(None, js="() => document.getElementById('tab-cover-button')?.click()", api_visibility="private")
    button.click(example, outputs=recording, **_QUIET)
    recording.change(named, recording, name, queue=False, **_QUIET)


def build_pitch_shift(t: Translator, services: Services, inputs: Sequence[Any], shift: Any) -> None:
    """Lay out the buttons next to the pitch shift: octave up, octave down, and a suggestion with its reason.

    `inputs` are the components of voice and recording.
    """
    with gr.Row():
        for label, semitones in ((t("convert.up"), OCTAVE), (t("convert.down"), -OCTAVE)):
            button = gr.Button(label, size="sm", min_width=120, elem_id=f"shift{semitones}")
            button.click(lambda semitones=semitones: semitones, outputs=shift, **_QUIET)
        suggest = gr.Button(t("convert.suggest"), size="sm", min_width=120, elem_id="suggest")
    with gr.Row(visible=False) as row:
        reason = gr.Markdown(elem_id="suggestion")
        song = gr.Button("", size="sm", scale=0, min_width=160, elem_id="suggest-song")
    octaves = gr.State(0)

    def explain(voice: str | None, recording: str | None) -> tuple[Any, ...]:
        with handle_errors(t):
            source, target = measure_pitch(t, services, voice, recording)
        best = suggested_shift(source, target)
        whole = OCTAVE * round(best / OCTAVE)
        text = t("suggest.why", source=f"{source:.0f}", target=f"{target:.0f}", shift=f"{best:+d}")
        if whole != best:
            text += " " + t("suggest.song", octaves=f"{whole:+d}")
        use = gr.update(value=t("suggest.use_song", octaves=f"{whole:+d}"), visible=whole != best)
        return best, gr.update(visible=True), text, use, whole

    def suggest_pitch_shift(voice: str | None, recording: str | None) -> float:
        """Suggest the pitch shift in semitones that brings a recording to the range in which the voice was trained."""
        with handle_errors(t):
            return suggested_shift(*measure_pitch(t, services, voice, recording))

    suggest.click(explain, list(inputs), [shift, row, reason, song, octaves], concurrency_limit=2, **_QUIET)
    song.click(lambda value: value, octaves, shift, **_QUIET)
    gr.Button(t("convert.suggest"), visible=False).click(
        suggest_pitch_shift, list(inputs), shift, api_name="suggest_pitch_shift", concurrency_limit=2
    )


def measure_pitch(t: Translator, services: Services, voice: str | None, recording: str | None) -> tuple[float, float]:
    """Return the median F0 in Hz of a recording and of a voice's training data.

    Raises ConfigError if one of them is unknown.
    """
    name = listed_voice(t, services, voice)
    if not recording:
        raise ConfigError(t("convert.no_audio"))
    range_hz = services.voice_range(name)
    if range_hz is None:
        raise ConfigError(t("convert.no_range"))
    import torch

    audio = load_audio(Path(recording), ANALYSIS_RATE)[: MEASURED_SECONDS * ANALYSIS_RATE]
    f0 = load_pitch_extractor("swift", torch.device("cpu"))(audio)
    if not (f0 > 0).any():
        raise ConfigError(t("advice.no_pitch"))
    return float(np.median(f0[f0 > 0])), range_hz[1]


def build_presets(t: Translator, services: Services, form: Form[ConvertOptions]) -> None:
    """Lay out the controls that save, load, export and import presets."""
    presets = services.presets
    with gr.Row():
        chosen = gr.Dropdown(
            label=t("presets.choose"), choices=presets.names(), value=None, elem_id="preset", allow_custom_value=True
        )
        name = gr.Textbox(label=t("presets.name"), elem_id="preset-name")
        save = gr.Button(t("presets.save"), elem_id="preset-save")
    with gr.Row():
        exported = gr.File(label=t("presets.export"), interactive=False, visible=False, height=90)
        imported = gr.File(label=t("presets.import"), type="filepath", height=190)

    def save_preset(request: gr.Request, bar: gr.Progress, values: Mapping[str, Any]) -> Any:
        """Save the options as a preset."""
        options = checked(ConvertOptions, {key: values[key] for key in form.names})
        presets.save((values["name"] or "").strip(), options)
        return gr.update(choices=presets.names(), value=values["name"].strip())

    def load_preset(name: str | None) -> list[Any]:
        """Return the options of a preset, and its file."""
        with handle_errors(t):
            if not name:
                return [gr.skip()] * (len(form.names) + 1)
            return [*values_of(presets.load(name), form.names), str(presets.path(name))]

    def import_preset(file: str) -> Any:
        """Import a preset file under its own name."""
        with handle_errors(t):
            name = presets.import_file(Path(file))
            return gr.update(choices=presets.names(), value=name), None

    handler = with_names(t, save_preset, ["name", *form.names], gr.skip(), required=1)
    save.click(handler, [name, *form.components], chosen, api_name="save_preset")
    chosen.change(load_preset, [chosen], [*form.components, exported], api_name="load_preset").then(
        lambda name: gr.update(visible=bool(name)), [chosen], exported, show_progress="hidden", api_visibility="private"
    )
    imported.upload(import_preset, [imported], [chosen, imported], api_name="import_preset")
