"""Conversions in memory: stereo image, format of the source, loudness, preview; with a tiny voice."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from infer.batch import Job, convert_files
from infer.convert import VoiceConverter, VoiceParts
from infer.options import ConvertOptions
from lib.audio.decode import load_stereo
from lib.audio.encode import array_blocks, save_blocks
from lib.audio.filters import resample
from lib.audio.tags import Tags, read_tags
from lib.effects.loudness import integrated_loudness, true_peak
from lib.pitch.curve_file import read_curve
from tests.helpers import Floats
from tests.tiny_voice import TinyEncoder, tiny_converter, tiny_synthesizer, voice_like

RATE = 44_100


def voice(seconds: float = 1.0, seed: int = 0) -> Floats:
    """The tiny voice's input with syllables, at RATE: (T,)."""
    audio = resample(voice_like(seconds, seed), 16_000, RATE)
    envelope = 0.55 + 0.45 * np.sin(2 * np.pi * 3 * np.arange(len(audio)) / RATE + seed)
    return (0.5 * audio * envelope).astype(np.float32)


def write(path: Path, audio: Floats, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, audio.T, RATE, subtype=subtype)
    return path


def convert(path: Path, **options: object) -> tuple[Floats, int]:
    """Convert a recording to a float WAV, and read that."""
    output = path.with_name("result.wav")
    chosen = ConvertOptions.model_validate({"pitch_method": "pm", "bit_depth": 32} | options)
    (outcome,) = convert_files(tiny_converter(), [Job(path, output)], chosen)
    assert outcome.error is None, outcome.error
    return load_stereo(output)


def lag(left: Floats, right: Floats) -> int:
    """By how many samples `right` is later."""
    size = 2 * len(left)
    product = np.fft.rfft(right, size) * np.conj(np.fft.rfft(left, size))
    best = int(np.fft.irfft(product, size).argmax())
    return best - size if best > size // 2 else best


@pytest.mark.parametrize(("level", "delay"), [(0.5, 0.0), (1.0, 0.0006), (2.0, -0.0004), (0.25, 0.001)])
def test_a_panned_source_keeps_level_and_delay(tmp_path: Path, level: float, delay: float) -> None:
    samples = round(delay * RATE)
    mono = voice()
    left, right = np.pad(mono, (max(-samples, 0), 0)), np.pad(mono, (max(samples, 0), 0))
    stereo = np.stack([left[: len(mono)], level * right[: len(mono)]])
    result, rate = convert(write(tmp_path / "song.wav", stereo), channel="stereo", keep_format=True)
    assert (result.shape, rate) == (stereo.shape, RATE)
    got = np.sqrt((result[1] ** 2).mean() / (result[0] ** 2).mean())
    assert 20 * np.log10(got / level) == pytest.approx(0, abs=0.1)
    assert lag(result[0], result[1]) == samples


@pytest.mark.slow
def test_the_sum_of_a_stereo_result_is_the_mono_result(tmp_path: Path) -> None:
    stereo = np.stack([voice(), 0.5 * voice()])
    options: dict[str, object] = {"keep_format": True}
    result, _ = convert(write(tmp_path / "song.wav", stereo), channel="stereo", **options)
    mono, _ = convert(write(tmp_path / "mono.wav", voice()), **options)
    mixed, alone = result.sum(axis=0), mono[0]
    assert np.corrcoef(mixed, alone)[0, 1] > 0.999
    assert np.std(mixed) / np.std(alone) == pytest.approx(1.5, rel=0.1)


@pytest.mark.slow
def test_two_voices_on_two_channels_are_converted_each(tmp_path: Path) -> None:
    second = 0.1 * np.random.default_rng(0).standard_normal(len(voice()))
    stereo = np.stack([voice(), second]).astype(np.float32)
    result, _ = convert(write(tmp_path / "song.wav", stereo), channel="stereo")
    for channel, converted in zip(stereo, result, strict=True):
        alone, _ = convert(write(tmp_path / "one.wav", channel))
        assert np.abs(converted - alone[0]).max() < 1e-4


@pytest.mark.slow
def test_a_silent_channel_stays_silent_and_a_moving_source_moves(tmp_path: Path) -> None:
    mono = voice(2.0)
    result, _ = convert(write(tmp_path / "song.wav", np.stack([mono, 0 * mono])), channel="stereo")
    assert np.abs(result[1]).max() == 0 and np.abs(result[0]).max() > 0.01
    pan = np.linspace(0, 1, len(mono), dtype=np.float32)
    result, _ = convert(write(tmp_path / "song.wav", np.stack([(1 - pan) * mono, pan * mono])), channel="stereo")
    third = result.shape[1] // 3
    early, late = (np.std(result[:, part], axis=1) for part in (slice(0, third), slice(2 * third, None)))
    assert early[0] > 2 * early[1] and late[1] > 2 * late[0]


@pytest.mark.slow
@pytest.mark.parametrize("subtype", ["PCM_24", "FLOAT", "PCM_16"])
def test_rate_resolution_and_tags_of_the_source_are_kept_on_request(tmp_path: Path, subtype: str) -> None:
    path, output = tmp_path / "song.wav", tmp_path / "result.wav"
    save_blocks(path, array_blocks(voice()), RATE, subtype, Tags({"title": "Song"}))  # type: ignore[arg-type]
    options = ConvertOptions(pitch_method="pm", keep_format=True)
    (outcome,) = convert_files(tiny_converter(), [Job(path, output)], options)
    about = soundfile.info(output)
    assert (outcome.error, about.samplerate, about.subtype, about.channels) == (None, RATE, subtype, 1)
    assert about.frames == len(voice())
    assert read_tags(output).values == {"title": "Song"}
    convert_files(tiny_converter(), [Job(path, output)], ConvertOptions(pitch_method="pm", bit_depth=24))
    about = soundfile.info(output)
    assert (about.samplerate, about.subtype) == (24_000, "PCM_24") and not read_tags(output)


@pytest.mark.slow
def test_options_that_change_nothing_give_the_result_of_the_other_path(tmp_path: Path) -> None:
    path, output = write(tmp_path / "song.wav", voice()), tmp_path / "streamed.wav"
    convert_files(tiny_converter(), [Job(path, output)], ConvertOptions(pitch_method="pm"))
    assert np.abs(convert(path)[0] - load_stereo(output)[0]).max() <= 2.0**-15


@pytest.mark.slow
@pytest.mark.parametrize("target", [-14.0, pytest.param(-23.0, marks=pytest.mark.slow)])
def test_the_result_has_the_requested_loudness(tmp_path: Path, target: float) -> None:
    path = write(tmp_path / "song.wav", np.stack([voice(1.5), 0.5 * voice(1.5)]))
    result, rate = convert(path, channel="stereo", loudness=target)
    assert integrated_loudness(result, rate) == pytest.approx(target, abs=0.3)
    assert true_peak(result, rate) <= -0.9


def test_a_preview_is_the_beginning(tmp_path: Path) -> None:
    path = write(tmp_path / "song.wav", voice(1.5))
    result, rate = convert(path, preview=0.5)
    assert result.shape == (1, rate // 2)


def test_too_long_and_silent_recordings_are_reported_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infer.song.convert.MAX_SECONDS", 1.0)
    long, silent = (
        write(tmp_path / "long.wav", voice(2.0)),
        write(tmp_path / "silent.wav", np.zeros((2, RATE // 2), np.float32)),
    )
    jobs = [Job(long, tmp_path / "a.wav"), Job(silent, tmp_path / "b.wav")]
    outcomes = convert_files(tiny_converter(), jobs, ConvertOptions(channel="stereo", pitch_method="pm"))
    assert "longer than" in str(outcomes[0].error) and "digital silence" in str(outcomes[1].error)
    assert not (tmp_path / "a.wav").exists() and not (tmp_path / "b.wav").exists()


@pytest.mark.slow
def test_noise_formants_and_effects_reach_the_result(tmp_path: Path) -> None:
    path = write(tmp_path / "song.wav", voice(1.0))
    plain, _ = convert(path)
    for change in ({"noise_reduction": 1.0}, {"formant_shift": 1.2}, {"effects": "hall"}, {"effects": "eq=1000:6:1"}):
        changed, _ = convert(path, **change)
        assert changed.shape == plain.shape
        assert np.abs(changed - plain).max() > 1e-3 * np.abs(plain).max(), change


@pytest.mark.slow
def test_the_automatic_shift_brings_the_input_to_the_voice(tmp_path: Path) -> None:
    path, curve = write(tmp_path / "song.wav", voice(1.0)), tmp_path / "f0.csv"  # a buzz of 150 Hz
    parts = VoiceParts(tiny_synthesizer(), TinyEncoder(), median_f0=250.0)
    for how, expected in (("semitones", 150 * 2 ** (9 / 12)), ("octaves", 300.0)):
        options = ConvertOptions(pitch_method="pm", auto_pitch=how)
        convert_files(VoiceConverter(parts), [Job(path, tmp_path / "result.wav", f0_out=curve)], options)
        f0 = read_curve(curve).values
        assert np.median(f0[f0 > 0]) == pytest.approx(expected, rel=0.01)
    (outcome,) = convert_files(tiny_converter(), [Job(path, tmp_path / "other.wav")], options)
    assert "pitch of this voice is unknown" in str(outcome.error)
