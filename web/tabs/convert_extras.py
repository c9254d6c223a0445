"""Extras of the Convert tab: suggested pitch shift, spectrograms, presets, and the last options of each voice."""

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from infer.options import ConvertOptions
from lib.audio import ANALYSIS_RATE
from lib.audio.decode import load_audio
from lib.errors import ConfigError, RevoiceError
from lib.pitch import load_pitch_extractor
from lib.pitch.scale import suggested_shift
from web.i18n.translator import Translator
from web.services import Services
from web.tabs.form import Form
from web.tabs.handlers import handle_errors, with_names
from web.validation import checked

MEASURED_SECONDS = 60  # of a recording, for its pitch
PICTURED = 30 * ANALYSIS_RATE  # samples of each


def build_suggestion(t: Translator, services: Services, inputs: Sequence[Any], shift: Any) -> None:
    """A button that sets the pitch shift from recording and voice."""
    button = gr.Button(t("convert.suggest"), size="sm", elem_id="suggest")

    def suggest_pitch_shift(voice: str | None, recording: str | None) -> float:
        """The pitch shift in semitones that brings a recording to the range the voice was trained in."""
        with handle_errors(t):
            if not voice or not recording:
                raise ConfigError(t("convert.no_audio" if voice else "convert.no_voice"))
            if voice not in services.list_voices():
                raise ConfigError(t("convert.unknown_voice", name=voice))
            range_hz = services.voice_range(voice)
            if range_hz is None:
                raise ConfigError(t("convert.no_range"))
            import torch

            audio = load_audio(Path(recording), ANALYSIS_RATE)[: MEASURED_SECONDS * ANALYSIS_RATE]
            f0 = load_pitch_extractor("swift", torch.device("cpu"))(audio)
            if not (f0 > 0).any():
                raise ConfigError(t("advice.no_pitch"))
            return suggested_shift(float(np.median(f0[f0 > 0])), range_hz[1])

    button.click(suggest_pitch_shift, list(inputs), shift, api_name="suggest_pitch_shift", concurrency_limit=2)


def build_picture(t: Translator, services: Services, recording: Any, result: Any) -> None:
    """A button that draws the spectrograms of recording and result with their F0 curves."""
    button = gr.Button(t("convert.picture"), size="sm", elem_id="picture")
    image = gr.Image(
        label=t("train.mels"), visible=False, interactive=False, buttons=["fullscreen"], elem_id="spectrograms"
    )

    def draw_spectrograms(recording: str | None, result: str | None) -> Any:
        """A picture of two recordings: spectrograms up to 8 kHz, and F0."""
        with handle_errors(t):
            if not recording or not result:
                raise ConfigError(t("convert.no_picture"))
            import torch

            from infer.report import draw

            source, output = (load_audio(Path(path), ANALYSIS_RATE)[:PICTURED] for path in (recording, result))
            path = Path(tempfile.mkdtemp(dir=services.folder)) / "spectrograms.png"
            draw(
                path, source, output, load_pitch_extractor("swift", torch.device("cpu")), ("", "")
            )  # fonts lack scripts
            return gr.update(value=str(path), visible=True)

    button.click(draw_spectrograms, [recording, result], image, api_name="draw_spectrograms", concurrency_limit=1)


def values_of(options: ConvertOptions, names: Sequence[str]) -> list[Any]:
    """The values of the components of these options; without an index rate its slider stays as it is."""
    values = {name: getattr(options, name) for name in names}
    return [gr.skip() if name == "index_rate" and value is None else value for name, value in values.items()]


def values_for(services: Services, voice: str | None, names: Sequence[str]) -> list[Any]:
    """The values of the components once a voice is chosen: its last options, else its recommended index rate."""
    options = services.presets.remembered(voice) if voice else None
    values = values_of(options, names) if options else [gr.skip()] * len(names)
    if voice in services.list_voices() and (options is None or options.index_rate is None):
        with contextlib.suppress(RevoiceError):  # a damaged voice: reported when it is used
            values[names.index("index_rate")] = services.index_rate(voice)
    return values


def build_presets(t: Translator, services: Services, form: Form[ConvertOptions], voice: Any) -> Any:
    """Save, load, export and import presets; choosing a voice restores its last options. Returns that event."""
    presets = services.presets
    with gr.Row():
        chosen = gr.Dropdown(
            label=t("presets.choose"), choices=presets.names(), value=None, elem_id="preset", allow_custom_value=True
        )
        name = gr.Textbox(label=t("presets.name"), elem_id="preset-name")
        save = gr.Button(t("presets.save"), elem_id="preset-save")
    with gr.Row():
        exported = gr.File(label=t("presets.export"), interactive=False, visible=False, height=90)
        imported = gr.File(label=t("presets.import"), file_types=[".json"], type="filepath", height=190)

    def save_preset(request: gr.Request, bar: gr.Progress, values: Mapping[str, Any]) -> Any:
        """Save the options as a preset."""
        options = checked(ConvertOptions, {key: values[key] for key in form.names})
        presets.save((values["name"] or "").strip(), options)
        return gr.update(choices=presets.names(), value=values["name"].strip())

    def load_preset(name: str | None) -> list[Any]:
        """The options of a preset, and its file."""
        with handle_errors(t):
            if not name:
                return [gr.skip()] * (len(form.names) + 1)
            return [*values_of(presets.load(name), form.names), str(presets.path(name))]

    def import_preset(file: str) -> Any:
        """Add a preset from a file, under the name of the file."""
        with handle_errors(t):
            name = presets.import_file(Path(file))
            return gr.update(choices=presets.names(), value=name), None

    def remembered(voice: str | None) -> list[Any]:
        return values_for(services, voice, form.names)

    handler = with_names(t, save_preset, ["name", *form.names], gr.skip())
    save.click(handler, [name, *form.components], chosen, api_name="save_preset")
    chosen.change(load_preset, [chosen], [*form.components, exported], api_name="load_preset").then(
        lambda name: gr.update(visible=bool(name)), [chosen], exported, show_progress="hidden", api_visibility="private"
    )
    imported.upload(import_preset, [imported], [chosen, imported], api_name="import_preset")
    # when the page opens and when the voice changes
    return gr.on(None, remembered, [voice], form.components, show_progress="hidden", api_visibility="private")
