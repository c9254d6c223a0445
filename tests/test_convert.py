"""VoiceConverter on tiny networks: lengths, seeds, options, refusals; and the golden conversion from end to end."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from infer import model_cache as loaded_module
from infer.chunking import ChunkLimits
from infer.convert import VoiceConverter, VoiceParts
from infer.load import check_encoder, load_converter
from infer.loudness import follow_envelope, limiting_gain, peak_of
from infer.options import ConvertOptions
from lib.audio.decode import load_audio
from lib.audio.filters import highpass, resample
from lib.errors import AudioError, CheckpointError, ConfigError
from lib.index import FeatureIndex
from lib.models.synthesizer import Synthesizer
from lib.pitch import ExactExtractor, load_pitch_extractor
from lib.progress import Cancelled
from lib.voice.model_file import (
    ContentEncoderId,
    VoiceModel,
    extract_voice_model,
    load_synthesizer,
    read_voice_model,
    write_voice_model,
)
from tests.helpers import Floats, closed_form
from tests.tiny_voice import WIDTH, TinyEncoder, lite_synthesizer, tiny_converter, tiny_synthesizer, voice_like

CUTTING = ChunkLimits(pad=0.2, query=0.2, center=0.8, longest=0.9)
PM = ConvertOptions(pitch_method="pm")


@pytest.fixture(scope="module")
def converter() -> VoiceConverter:
    """One for the tests that only look at what comes out."""
    return tiny_converter(limits=CUTTING)


@pytest.mark.slow
@settings(deadline=None, max_examples=12)
@given(n=st.integers(800, 40_000), rate=st.sampled_from([0, 16_000, 44_100, 48_000]))
def test_the_length_is_that_of_the_input_to_the_sample(converter: VoiceConverter, n: int, rate: int) -> None:
    converted = converter.convert(voice_like(n / 16_000), ConvertOptions(pitch_method="pm", resample_rate=rate))
    assert len(converted) == -(-n * (rate or 24_000) // 16_000)
    assert converted.dtype == np.float32
    assert np.isfinite(converted).all()
    assert np.abs(converted).max() <= 0.99 * (1 + 1e-6)


@pytest.mark.slow
def test_no_frame_is_missing_where_chunks_meet(converter: VoiceConverter) -> None:
    options = ConvertOptions(pitch_method="pm", rms_mix_rate=1)
    frames = converter.convert(voice_like(4), options).reshape(-1, 240)
    level = np.sqrt((frames**2).mean(axis=1))
    assert level.min() > 0.3 * np.median(level)


@pytest.mark.slow
def test_cut_audio_sounds_like_uncut_audio_away_from_the_cuts() -> None:
    """Without noise, chunks differ only by the context of the prior's attention."""
    options = ConvertOptions(pitch_method="pm", rms_mix_rate=1)
    audio = voice_like(3)
    cut = tiny_converter(limits=CUTTING, temperature=0.0).convert(audio, options)
    whole = tiny_converter(temperature=0.0).convert(audio, options)
    levels = [np.sqrt((x[: 240 * 300].reshape(-1, 2400) ** 2).mean(axis=1)) for x in (cut, whole)]
    np.testing.assert_allclose(levels[0], levels[1], rtol=0.25)


def test_the_seed_decides_every_sample(converter: VoiceConverter) -> None:
    audio = voice_like(1.5)
    first, again, other = (converter.convert(audio, ConvertOptions(pitch_method="pm", seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_the_input_is_left_as_it_is(converter: VoiceConverter) -> None:
    audio = 2 * voice_like(0.5)
    before = audio.copy()
    converter.convert(audio, PM)
    np.testing.assert_array_equal(audio, before)


@pytest.mark.slow
def test_f0_is_estimated_once_over_the_whole_file(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def spy(method: str, device: torch.device, crepe_hop_length: int, dtype: torch.dtype) -> Any:
        extractor = load_pitch_extractor(method, device, crepe_hop_length, dtype)

        def listen(audio: Floats) -> Floats:
            lengths.append(len(audio))
            return extractor(audio)

        return ExactExtractor(method, listen)

    monkeypatch.setattr(loaded_module, "load_pitch_extractor", spy)
    tiny_converter(limits=CUTTING).convert(voice_like(4), PM)
    assert lengths == [4 * 16_000 + 2 * 3_200]


def f0_given_to_the_synthesizer(monkeypatch: pytest.MonkeyPatch, options: ConvertOptions, audio: Floats) -> Floats:
    """What `infer` receives as F0 for one uncut recording."""
    synthesizer = tiny_synthesizer()
    seen: list[Floats] = []
    infer = synthesizer.infer

    def spy(*args: Any) -> torch.Tensor:
        assert args[4].shape == args[3].shape == args[0].shape[:2]
        seen.append(args[4][0].numpy())
        return infer(*args)

    monkeypatch.setattr(synthesizer, "infer", spy)
    tiny_converter(synthesizer=synthesizer).convert(audio, options)
    return seen[0]


@pytest.mark.slow
def test_an_octave_up_doubles_f0(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = f0_given_to_the_synthesizer(monkeypatch, PM, voice_like(1))
    up = f0_given_to_the_synthesizer(monkeypatch, ConvertOptions(pitch_method="pm", pitch_shift=12), voice_like(1))
    np.testing.assert_allclose(up, 2 * plain, rtol=1e-6)
    assert np.median(plain[plain > 0]) == pytest.approx(150, rel=0.01)


@pytest.mark.slow
def test_unvoiced_gaps_stay_zero_unless_interpolation_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    audio = voice_like(1)
    audio[6_000:10_000] = 0.01 * np.random.default_rng(1).standard_normal(4_000)
    filling = ConvertOptions(pitch_method="pm", interpolate_unvoiced=True)
    assert (f0_given_to_the_synthesizer(monkeypatch, PM, audio) == 0).any()
    assert (f0_given_to_the_synthesizer(monkeypatch, filling, audio) > 0).all()


@pytest.mark.slow
def test_the_index_acts_by_its_rate_and_protect_undoes_it_on_unvoiced_frames() -> None:
    stored = np.random.default_rng(3).standard_normal((200, WIDTH)).astype(np.float32)
    converter = tiny_converter(index=FeatureIndex.build([stored]), temperature=0.0)
    hiss = (0.1 * np.random.default_rng(1).standard_normal(16_000)).astype(np.float32)  # nothing voiced

    def converted(**options: float) -> Floats:
        return converter.convert(hiss, ConvertOptions(pitch_method="pm", rms_mix_rate=1, **options))

    without = tiny_converter(temperature=0.0).convert(hiss, ConvertOptions(pitch_method="pm", rms_mix_rate=1))
    np.testing.assert_array_equal(converted(index_rate=0), without)
    np.testing.assert_allclose(converted(index_rate=1, protect=0), without, atol=1e-5)
    assert np.abs(converted(index_rate=1, protect=0.5) - without).max() > 1e-4


@pytest.mark.slow
def test_without_an_index_rate_the_voices_own_is_used() -> None:
    stored = np.random.default_rng(3).standard_normal((200, WIDTH)).astype(np.float32)
    index, audio = FeatureIndex.build([stored]), voice_like(0.5)
    for rate in (0.0, 0.4):
        parts = VoiceParts(tiny_synthesizer(), TinyEncoder(), index, index_rate=rate)
        converter = VoiceConverter(parts, temperature=0.0)
        assert converter.index_rate(PM) == rate
        assert converter.index_rate(PM.model_copy(update={"index_rate": 0.9})) == 0.9
        assert converter.used_index(PM) == (index.name if rate else None)
        given = converter.convert(audio, PM.model_copy(update={"index_rate": rate}))
        np.testing.assert_array_equal(converter.convert(audio, PM), given)


def test_the_output_rate_is_not_remembered(converter: VoiceConverter) -> None:
    audio = voice_like(0.5)
    before = converter.convert(audio, PM)
    resampling = ConvertOptions(pitch_method="pm", resample_rate=48_000)
    assert len(converter.convert(audio, resampling)) == 24_000
    assert (converter.output_rate(resampling), converter.output_rate(PM)) == (48_000, 24_000)
    np.testing.assert_array_equal(converter.convert(audio, PM), before)


def test_a_voice_without_f0_needs_no_pitch_method() -> None:
    converter = tiny_converter(synthesizer=tiny_synthesizer(has_f0=False))
    assert converter.pitch_method(PM) is None
    assert len(converter.convert(voice_like(1), PM)) == 24_000


def test_auto_reports_the_chosen_pitch_method(converter: VoiceConverter) -> None:
    assert converter.pitch_method(ConvertOptions()) not in ("auto", None)
    assert converter.pitch_method(PM) == "pm"


@pytest.mark.parametrize(
    ("audio", "sentence"),
    [
        (np.zeros(16_000, np.float32), "digital silence"),
        (np.zeros(0, np.float32), r"0\.000 s long"),
        (voice_like(0.02), r"0\.020 s long; use a recording of at least 0\.05 s"),
        (np.full(16_000, np.nan, np.float32), "finite mono"),
        (np.ones((2, 16_000), np.float32), "finite mono"),
    ],
)
def test_audio_that_cannot_be_converted(converter: VoiceConverter, audio: Floats, sentence: str) -> None:
    with pytest.raises(AudioError, match=sentence):
        converter.convert(audio, PM)


def test_a_speaker_that_does_not_exist(converter: VoiceConverter) -> None:
    with pytest.raises(ConfigError, match="no speaker 3; choose a speaker_id from 0 to 2"):
        converter.convert(voice_like(0.2), ConvertOptions(speaker_id=3))


@pytest.mark.slow
def test_progress_counts_chunks_and_may_cancel(converter: VoiceConverter) -> None:
    seen: list[tuple[int, int]] = []
    converter.convert(voice_like(2), PM, lambda done, total, what: seen.append((done, total)))
    assert sorted(set(seen)) == [(i, seen[0][1]) for i in range(seen[0][1] + 1)] and seen == sorted(seen)
    assert len(seen) > 2

    def cancel(done: int, total: int, what: str) -> None:
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        converter.convert(voice_like(2), PM, cancel)


def test_parts_that_do_not_fit() -> None:
    with pytest.raises(CheckpointError, match="uses 12-dimensional content features, but the index stores 7-"):
        tiny_converter(index=FeatureIndex.build([np.ones((50, 7), np.float32)]))
    with pytest.raises(CheckpointError, match="13-dimensional content features, but the content encoder computes 12-"):
        tiny_converter(synthesizer=tiny_synthesizer(content_width=13))
    with pytest.raises(CheckpointError, match="240 samples per frame"):
        tiny_converter(synthesizer=tiny_synthesizer(sample_rate=32_000))


def test_a_damaged_network_is_named_as_the_cause() -> None:
    synthesizer = tiny_synthesizer()
    with torch.no_grad():
        synthesizer.emb_g.weight.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="not finite"):
        tiny_converter(synthesizer=synthesizer).convert(voice_like(0.3), PM)


def lite_voice(encoder: ContentEncoderId | None) -> VoiceModel:
    """A voice model of the tiny network."""
    return extract_voice_model(lite_synthesizer(), "lite", "3epoch", encoder)


def test_loading_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded_module, "load_content_encoder", lambda *_: TinyEncoder())
    write_voice_model(tmp_path / "v.pth", lite_voice(ContentEncoderId("tiny", "ab" * 32)))
    FeatureIndex.build([np.ones((50, WIDTH), np.float32)]).save(tmp_path / "added.index")
    converter = load_converter(tmp_path / "v.pth", tmp_path / "added.index")
    assert converter.index is not None
    assert len(converter.convert(voice_like(0.5), PM)) == 12_000


def test_a_voice_of_the_earlier_lite_must_be_trained_again(tmp_path: Path) -> None:
    voice = extract_voice_model(tiny_synthesizer(), "lite", "3epoch", ContentEncoderId("lite", "ab" * 32))
    write_voice_model(tmp_path / "old.pth", voice)
    with pytest.raises(CheckpointError, match=r"^Anna was trained with an earlier version of .*lite.* Train the voice"):
        load_converter(tmp_path / "old.pth", label="Anna")


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (ContentEncoderId("lite", ""), "trained with the content encoder 'lite'.* is 'tiny'"),
        (ContentEncoderId("tiny", "cd" * 32), "a different version of the content encoder 'tiny'.*cdcdcdcdcdcd"),
    ],
)
def test_a_voice_of_another_encoder_is_refused(wanted: ContentEncoderId, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        check_encoder(lite_voice(wanted), TinyEncoder(), "x.pth")


@pytest.mark.parametrize("known", [None, ContentEncoderId("tiny", ""), ContentEncoderId("tiny", "ab" * 32)])
def test_a_voice_of_this_encoder_or_an_unknown_one_is_accepted(known: ContentEncoderId | None) -> None:
    check_encoder(lite_voice(known), TinyEncoder(), "x.pth")


class HubertEncoder:
    """HuBERT base, last layer (v2), from transformers with the golden data's closed-form weights."""

    width = 768
    name = "hubert"
    sha256 = ""

    def __init__(self, fill: Path) -> None:
        from transformers import HubertConfig, HubertModel

        table = json.loads(fill.read_text())
        state = {
            table["hf_names"][name]: closed_form(name, shape, offset, scale, table["salt"])
            for name, shape, offset, scale, _ in table["tensors"]
            if not name.startswith("final_proj")
        }
        self.network = HubertModel(HubertConfig()).eval()
        self.network.load_state_dict(state)

    def __call__(self, audio: Floats) -> Floats:
        output: Floats = self.network(torch.from_numpy(audio)[None]).last_hidden_state[0].numpy()
        return output


@pytest.fixture(scope="module")
def hubert(golden: Path) -> HubertEncoder:
    return HubertEncoder(golden / "hubert/hubert_base.fill.json")


def assert_close_as_int16(got: Floats, want: Any) -> None:
    """The golden data's tolerance: 90 % of samples within 40 steps, none more than 400 off."""
    steps = np.abs(np.trunc(got * 32768.0) - want.astype(np.float64))
    assert np.quantile(steps, 0.9) <= 40
    assert steps.max() <= 400


def golden_recipe(golden: Path, result: str) -> dict[str, str]:
    """How a result of end_to_end.safetensors was made, out of the sentence in the README of the golden data."""
    text = (golden / "README.md").read_text(encoding="utf-8")
    match = re.search(rf"[ .]{result}: (.*?)(?=\. [\w]+: |\. Result|\n)", text)
    assert match, f"the README of the golden data does not say how {result} was made"
    forms = {
        "model": r"model (\S+\.pth)", "index": r"index (\S+\.index)", "index_rate": r"with rate ([\d.]+)",
        "speaker": r"speaker (\d+)", "shift": r"([+-]\d+) semitones", "rms": r"rms_mix_rate ([\d.]+)",
        "rate": r"resampled to (\d+) Hz",
    }  # fmt: skip
    return {key: found[1] for key, form in forms.items() if (found := re.search(form, match[1]))}


def golden_voice(golden: Path, recipe: dict[str, str]) -> Synthesizer:
    synthesizer = load_synthesizer(read_voice_model(golden / recipe["model"]))
    assert isinstance(synthesizer, Synthesizer)
    return synthesizer


def golden_input(golden: Path) -> Floats:
    return load_audio(golden / "pipeline/speech_short_16k.wav", 16_000)


@pytest.mark.slow
def test_golden_conversion_with_index(golden: Path, hubert: HubertEncoder) -> None:
    """The reference loses the last 2 frames; up to there the synthesis is compared, then the loudness on that length.

    It fills unvoiced frames before protecting them, which makes protect idle: 0.5 says so openly.
    """
    want = load_file(golden / "pipeline/end_to_end.safetensors")["out.f0_index"]
    recipe = golden_recipe(golden, "f0_index")
    index = FeatureIndex.load(golden / recipe["index"])
    synthesizer = golden_voice(golden, recipe)
    sample_rate, hop = synthesizer.config.sample_rate, synthesizer.config.hop_length
    converter = VoiceConverter(VoiceParts(synthesizer, hubert, index), temperature=0.0)
    options = ConvertOptions(
        precision="fp32", pitch_shift=int(recipe["shift"]), pitch_method="pm",
        index_rate=float(recipe["index_rate"]), rms_mix_rate=1,
        protect=0.5, speaker_id=int(recipe["speaker"]), interpolate_unvoiced=True,
    )  # fmt: skip
    audio = golden_input(golden)
    converted = converter.convert(audio, options)
    assert len(converted) == -(-len(audio) * sample_rate // 16_000)
    assert 0 <= len(converted) - len(want) < 3 * hop
    mix = float(recipe["rms"])
    blocks = follow_envelope(converted[: len(want)], sample_rate, highpass(audio), 16_000, mix)
    common = np.concatenate([*blocks])
    assert_close_as_int16(common * limiting_gain(peak_of(common)), want)
    # With its own loudness step the result is stretched by those frames: close, but not to the last steps.
    whole = converter.convert(audio, options.model_copy(update={"rms_mix_rate": mix}))[: len(want)]
    assert np.corrcoef(whole, want)[0, 1] > 0.99


@pytest.mark.slow
def test_golden_conversion_without_f0_resampled(golden: Path, hubert: HubertEncoder) -> None:
    """Compared away from the end, where the reference's shorter output was resampled."""
    want = load_file(golden / "pipeline/end_to_end.safetensors")["out.nof0_resampled"]
    recipe = golden_recipe(golden, "nof0_resampled")
    synthesizer, rate = golden_voice(golden, recipe), int(recipe["rate"])
    own_rate = synthesizer.config.sample_rate
    converter = VoiceConverter(VoiceParts(synthesizer, hubert), temperature=0.0)
    assert recipe["rms"] == "1" and "index" not in recipe
    options = ConvertOptions(
        precision="fp32", rms_mix_rate=1, protect=0.5, speaker_id=int(recipe["speaker"]), resample_rate=rate
    )
    audio = golden_input(golden)
    converted = converter.convert(audio, options)
    assert len(converted) == -(-len(audio) * rate // 16_000)
    assert 0 <= len(converted) - len(want) < 3 * rate // 100
    assert_close_as_int16(converted[: len(want) - 200], want[:-200])
    native = converter.convert(audio, options.model_copy(update={"resample_rate": 0}))
    assert_close_as_int16(resample(native[: len(want) * own_rate // rate], own_rate, rate), want)
