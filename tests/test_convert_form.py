"""The options that the conversion form shows: those of the chosen voice."""

from dataclasses import replace
from pathlib import Path

import gradio as gr

from infer.options import ConvertOptions
from lib.voice.model_file import write_voice_model
from tests.tiny_files import small_voice
from web.i18n.translator import Translator
from web.services import make_services
from web.tabs.convert import SHOWN, SKIP
from web.tabs.convert_extras import values_for, values_of
from web.tabs.form import Form


def test_a_chosen_voice_brings_its_last_options_or_its_recommended_index_rate(tmp_path: Path) -> None:
    services = make_services(tmp_path, roots=[tmp_path / "voices"], logs=tmp_path / "logs")
    write_voice_model(tmp_path / "voices" / "old.pth", small_voice("v2", "40k"))
    write_voice_model(tmp_path / "voices" / "anna.pth", replace(small_voice("lite", "24k"), extra={"index_rate": 0.25}))
    write_voice_model(tmp_path / "voices" / "lea.pth", small_voice("lite", "24k"))
    (tmp_path / "voices" / "damaged.pth").write_bytes(b"no voice")
    names = ["protect", "index_rate"]
    assert values_for(services, "old", names) == [gr.skip(), 0.75]
    assert values_for(services, "anna", names) == [gr.skip(), 0.25]
    assert values_for(services, "lea", names) == [gr.skip(), 0.0]
    for nothing in ("damaged", "gone", None):
        assert values_for(services, nothing, names) == [gr.skip(), gr.skip()]
    services.presets.remember("anna", ConvertOptions(protect=0.1, index_rate=0.5))
    assert values_for(services, "anna", names) == [0.1, 0.5]
    services.presets.remember("anna", ConvertOptions(protect=0.1))
    assert values_for(services, "anna", names) == [0.1, 0.25]
    assert values_of(ConvertOptions(protect=0.1), names) == [0.1, gr.skip()]
    services.registry.close()


def test_the_index_rate_is_a_slider_though_its_default_is_the_voices() -> None:
    with gr.Blocks():
        form = Form(ConvertOptions, Translator(), skip=SKIP, shown=SHOWN)
    slider = form.components[form.names.index("index_rate")]
    assert isinstance(slider, gr.Slider) and (slider.value, slider.minimum, slider.maximum) == (0.75, 0, 1)
    values = [component.value for component in form.components]
    assert form.parse(values).index_rate == 0.75
    values[form.names.index("index_rate")] = None
    assert form.parse(values).index_rate is None
