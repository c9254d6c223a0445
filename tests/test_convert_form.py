"""The options that the conversion form shows: the remembered ones, or those of the chosen voice."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from infer.options import ConvertOptions
from infer.song.options import CoverOptions
from lib.config import LITE_INDEX_RATE, USUAL_INDEX_RATE
from lib.files import write_json
from lib.json_reader import read_json
from lib.pitch import PITCH_METHODS
from lib.voice.facts import SHIPPED
from lib.voice.library import find_voice
from lib.voice.model_file import read_voice_model, recommended_index_rate, write_voice_model
from tests.tiny_files import small_voice
from train.options import RunOptions
from web.i18n.translator import Translator
from web.presets import LAST, Presets
from web.services import Services, index_rate, make_services
from web.tabs import remembered
from web.tabs.convert import SKIP
from web.tabs.cover import build_cover_tab
from web.tabs.form import Form
from web.tabs.remembered import Remembered, initial_rate, last_options, values_for, values_of

T = Translator()
SHOWN = {"index_rate": USUAL_INDEX_RATE}
NAMES = ["protect", "index_rate"]


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """Voices with and without a recommended index rate, and one whose file is damaged."""
    write_voice_model(tmp_path / "voices" / "old.pth", small_voice("v2", "40k"))
    write_voice_model(tmp_path / "voices" / "anna.pth", replace(small_voice("lite", "24k"), extra={"index_rate": 0.25}))
    write_voice_model(tmp_path / "voices" / "lea.pth", small_voice("lite", "24k"))
    (tmp_path / "voices" / "damaged.pth").write_bytes(b"no voice")
    made = make_services(tmp_path, roots=[tmp_path / "voices"], logs=tmp_path / "logs")
    yield made
    made.registry.close()


def test_a_chosen_voice_brings_its_last_options_or_its_recommended_index_rate(services: Services) -> None:
    assert values_for(services, "old", NAMES, None) == [gr.skip(), 0.75]
    assert values_for(services, "anna", NAMES, None) == [gr.skip(), 0.25]
    assert values_for(services, "lea", NAMES, None) == [gr.skip(), 0.0]
    for nothing in ("damaged", "gone", None):
        assert values_for(services, nothing, NAMES, None) == [gr.skip(), gr.skip()]
    assert values_for(services, "anna", NAMES, ConvertOptions(protect=0.1, index_rate=0.5)) == [0.1, 0.5]
    assert values_for(services, "anna", NAMES, ConvertOptions(protect=0.1)) == [0.1, 0.25]
    assert values_of(ConvertOptions(protect=0.1), NAMES) == [0.1, gr.skip()]


@pytest.mark.parametrize("name", sorted(read_json(SHIPPED)))
def test_the_index_rate_of_an_included_voice_is_known_before_its_file_is_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recommended_index_rate(read_voice_model(find_voice(name).path))
    monkeypatch.setattr("lib.voice.model_file.read_voice_model", None)
    assert index_rate(name) == wanted


def test_the_page_opens_with_the_index_rate_of_an_included_voice(services: Services) -> None:
    assert initial_rate(services) == USUAL_INDEX_RATE, "the files of other voices are not read"
    assert initial_rate(make_services(services.folder, roots=[SHIPPED.parent])) == LITE_INDEX_RATE


def test_a_cover_starts_with_the_index_rate_of_its_voice(services: Services) -> None:
    with gr.Blocks() as page:
        build_cover_tab(T, services)
    slider = next(at for at in page.blocks.values() if getattr(at, "label", "") == T("options.index_rate.label"))
    (shown,) = [each for each in page.fns.values() if each.outputs == [slider]]
    assert {event for _, event in shown.targets} == {"load", "change"}
    assert shown.fn is not None and [shown.fn(name) for name in ("old", "anna", "lea")] == [0.75, 0.25, 0.0]


@pytest.mark.slow
def test_the_browser_remembers_and_the_server_does_not(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gr.Blocks():
        form, memory = Form(ConvertOptions, T, skip=SKIP, shown=SHOWN), Remembered(T, services)
    values = [component.value for component in form.components]
    values[form.names.index("pitch_shift")] = 7
    kept = memory.keep(form, {"lea": {"protect": 0.2}}, "anna", values)
    assert list(kept) == ["lea", "anna"] and "device" not in kept["anna"]
    found = last_options(services, "anna", kept)
    assert found is not None and (found.pitch_shift, found.index_rate) == (7, 0.75)
    assert last_options(services, "lea", kept) == ConvertOptions(protect=0.2)
    assert last_options(services, "anna", {}) is None and not list((tmp_path / "logs").rglob("anna.json"))
    nonsense: Any
    for nonsense in (None, [], {"anna": {"protect": 9}}, {"anna": None}, {"anna": "x"}):
        assert last_options(services, "anna", nonsense) is None
    values[form.names.index("protect")] = 9
    assert memory.keep(form, kept, "anna", values) == gr.skip(), "options that are not valid"
    assert memory.keep(form, kept, "nobody", values) == gr.skip()
    monkeypatch.setattr(remembered, "MAX_VOICES", 2)
    values[form.names.index("protect")] = 0.3
    assert list(memory.keep(form, kept, "old", values)) == ["anna", "old"]


def test_options_kept_on_the_server_by_earlier_versions_count_on_this_machine_only(
    services: Services, tmp_path: Path
) -> None:
    write_json(tmp_path / "presets" / LAST / "anna.json", {"protect": 0.1})
    here = replace(services, presets=Presets(tmp_path / "presets"))
    assert last_options(here, "anna", {}) == ConvertOptions(protect=0.1)
    assert last_options(here, "anna", {"anna": {"protect": 0.4}}) == ConvertOptions(protect=0.4)
    assert last_options(here, "anna", {"anna": None}) is None, "the browser returned to the defaults"
    assert last_options(replace(here, local=False), "anna", {}) is None


@pytest.mark.slow
def test_the_index_rate_is_a_slider_though_its_default_is_the_voices() -> None:
    with gr.Blocks():
        form = Form(ConvertOptions, Translator(), skip=SKIP, shown=SHOWN)
    slider = form.components[form.names.index("index_rate")]
    assert isinstance(slider, gr.Slider) and (slider.value, slider.minimum, slider.maximum) == (0.75, 0, 1)
    values = [component.value for component in form.components]
    assert form.parse(values).index_rate == 0.75
    values[form.names.index("index_rate")] = None
    assert form.parse(values).index_rate is None


def test_each_pitch_method_says_what_it_is_for() -> None:
    with gr.Blocks():
        form = Form(ConvertOptions, T, skip=SKIP)
    choices = form.components[form.names.index("pitch_method")].choices
    assert [value for _, value in choices] == list(PITCH_METHODS)
    assert all(label.startswith(f"{value}: ") for label, value in choices)


def test_an_option_may_have_texts_of_its_own_on_a_tab() -> None:
    with gr.Blocks():
        convert, cover = Form(ConvertOptions, T, SKIP), Form(CoverOptions, T, SKIP, tab="cover")
        train = Form(RunOptions, T, SKIP, tab="train")
    fields = [dict(zip(form.names, form.components, strict=True)) for form in (convert, cover, train)]
    assert [field["keep_format"].label for field in fields[:2]] == [
        "Keep sample rate, bit depth and tags",
        "Keep the bit depth",
    ]
    assert "stereo = " in fields[0]["channel"].info and "stereo = " not in fields[2]["channel"].info
    assert "name" in fields[0]["speaker_id"].info and "speaker embedding" in fields[2]["speaker_id"].info
    assert fields[0]["seed"].info == fields[2]["seed"].info
