"""Pitch methods against golden data and tones, exact frame counts, and invariants of F0 curves."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lib import pitch
from lib.audio import ANALYSIS_RATE
from lib.audio.decode import load_audio
from lib.errors import AudioError, ConfigError
from lib.pitch import METHODS, PitchExtractor, load_pitch_extractor, swift
from lib.pitch.scale import (
    HOP_LENGTH,
    fill_unvoiced,
    fit_length,
    hz_to_bins,
    median_filter,
    shift_semitones,
    splice_curve,
)
from tests.helpers import ROOT, Floats, error, read_golden

FAST = ("swift", "pm", "harvest", "dio")  # test_pitch_methods.py holds the others to the same promises
Tone = Callable[..., Floats]
Doubles = npt.NDArray[np.float64]
CURVES = arrays(np.float64, st.integers(0, 60), elements=st.sampled_from([0.0, 60.0, 110.0, 220.5, 880.0]))


@cache
def extractor(method: str) -> PitchExtractor:
    return load_pitch_extractor(method, torch.device("cpu"))


def voice(frequencies: Floats) -> Floats:
    """A buzz with seven harmonics that follows (T,) Hz at 16 kHz: (T,)."""
    phase = 2 * np.pi * np.cumsum(frequencies) / ANALYSIS_RATE
    harmonics = np.stack([np.sin(k * phase) / k for k in range(1, 8)])
    return np.asarray(0.2 * harmonics.sum(axis=0), np.float32)


def cents(got: Floats, want: float | Floats) -> Doubles:
    """Distance of (F,) Hz from what it should be, in hundredths of a semitone."""
    distance: Doubles = 1200 * np.abs(np.log2(np.asarray(got / want, np.float64)))
    return distance


# The golden curves have one frame more than ours where WORLD computed them. The three-point median looks at that
# frame from our last one, which is therefore left out.
GOLDEN_F0 = [
    ("pm", 1, "classic2023.pm", 0),
    ("harvest", 1, "classic2023.harvest_raw", 0),
    ("harvest", 3, "classic2023.harvest_medfilt", 1),
    ("dio", 3, "classic2023.dio", 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "median", "name", "left_out"), GOLDEN_F0)
def test_golden_f0(golden: Path, method: str, median: int, name: str, left_out: int) -> None:
    data = read_golden(golden / "pipeline/f0_methods.safetensors")
    audio = load_audio(golden / "pipeline/speech_16k.wav", ANALYSIS_RATE)
    f0 = median_filter(extractor(method)(audio), median)
    assert f0.shape == (len(audio) // 160,)
    frames = len(f0) - left_out
    assert error(f0[:frames], data[f"out.{name}.f0"].numpy()[:frames]) < 1e-4
    assert np.array_equal(hz_to_bins(f0)[:frames], data[f"out.{name}.coarse"].numpy()[:frames])


def test_golden_pm_with_unvoiced_frames_filled(golden: Path) -> None:
    data = read_golden(golden / "pipeline/f0_methods.safetensors")
    f0 = fill_unvoiced(extractor("pm")(load_audio(golden / "pipeline/speech_16k.wav", ANALYSIS_RATE)))
    assert error(f0, data["out.upstream2026.pm.f0"].numpy()) < 1e-4


def test_swift_gives_the_same_f0_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    times = np.arange(5 * ANALYSIS_RATE) / ANALYSIS_RATE
    glide = np.sin(2 * np.pi * np.cumsum(150 + 60 * np.sin(3 * times)) / ANALYSIS_RATE).astype(np.float32)
    glide[20_000:30_000] = 0
    whole = extractor("swift")(glide)
    monkeypatch.setattr(swift, "CORE_STEPS", 70)
    np.testing.assert_array_equal(extractor("swift")(glide), whole)
    assert (whole > 0).any() and (whole == 0).any()


def test_golden_swift_agrees_with_harvest(golden: Path) -> None:
    """No golden values exist for swift; on the golden speech it must agree with WORLD where both are voiced."""
    got = extractor("swift")(load_audio(golden / "pipeline/speech_16k.wav", ANALYSIS_RATE))
    data = read_golden(golden / "pipeline/f0_methods.safetensors")
    want = data["out.classic2023.harvest_raw.f0"].numpy()[: len(got)]
    both = (got > 0) & (want > 0)
    assert both.sum() > 0.85 * (want > 0).sum()
    assert np.median(cents(got[both], want[both])) < 20


def test_golden_bins(golden: Path) -> None:
    data = json.loads((golden / "functions/01_f0_coarse.json").read_text())
    assert hz_to_bins(np.array(data["f0"])).tolist() == data["coarse"]


def test_golden_quantisation_after_shift(golden: Path) -> None:
    data = {
        name: value.numpy() for name, value in read_golden(golden / "pipeline/pitch_quantisation.safetensors").items()
    }
    for key in data["in.keys"]:
        for variant in ("classic2023", "upstream2026"):
            f0 = data["in.f0_f64"] if variant == "classic2023" else fill_unvoiced(data["in.f0_f64"])
            shifted = shift_semitones(f0, float(key))
            assert error(shifted, data[f"out.{variant}.f0.{key}_f64"]) < 1e-12
            assert np.array_equal(hz_to_bins(shifted), data[f"out.{variant}.coarse.{key}"])


def test_golden_curve_from_a_file(golden: Path) -> None:
    """The song begins at frame 100. Where the file has points, frames agree with the reference.

    The reference writes as many frames as the file lasts, but from 0 on instead of the file's first time: it
    overwrites the frames before the file begins and misses as many at its end. Ours are those the file speaks of.
    """
    data = {
        name: value.numpy() for name, value in read_golden(golden / "pipeline/pitch_quantisation.safetensors").items()
    }
    f0, table = data["in.f0_f64"], data["in.f0_file"]
    song = splice_curve(f0[100:], table[:, 0], table[:, 1])
    want, bins = data["out.classic2023.f0_with_file_f64"][100:], data["out.classic2023.coarse_with_file"][100:]
    begin, end = round(float(table[0, 0]) * 100), round(float(table[-1, 0]) * 100)
    both = slice(begin, end - begin + 1)
    assert len(want[both]) > 20
    assert np.array_equal(song[:begin], f0[100 : 100 + begin])
    assert error(song[both], want[both]) < 1e-12
    assert np.array_equal(hz_to_bins(song)[both], bins[both])


def test_golden_splice(golden: Path) -> None:
    """Table a begins at 0 s, where the reference is right. Table b begins later, and the reference misplaces it."""
    data = np.load(golden / "functions/08_manual_f0.npz")
    start = 100 * int(data["x_pad"])

    def spliced(table: npt.NDArray[np.float32]) -> Doubles:
        return np.concatenate([data["f0_in"][:start], splice_curve(data["f0_in"][start:], table[:, 0], table[:, 1])])

    assert data["table_a"][0, 0] == 0 < data["table_b"][0, 0]
    assert np.array_equal(spliced(data["table_a"]), data["out_a"])
    f0, table = spliced(data["table_b"]), data["table_b"]
    frames = start + np.round(table[:, 0] * 100).astype(int)
    changed = np.flatnonzero(f0 != data["f0_in"])
    assert frames[0] <= changed.min() and changed.max() <= frames[-1]
    assert f0[frames].tolist() == table[:, 1].tolist()
    assert not np.array_equal(f0, data["out_b"])


def test_importing_the_table_imports_no_engine() -> None:
    engines = ("torch", "parselmouth", "pyworld", "onnxruntime")
    code = f"import sys, lib.pitch; print([name for name in {engines} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after installation: rmvpe has not been downloaded."""
    monkeypatch.setattr("lib.pitch.rmvpe.PLACES", ())


@pytest.mark.usefixtures("_no_weights")
def test_auto_takes_the_best_and_says_which(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert load_pitch_extractor("auto", torch.device("cpu"))(np.zeros(1600, np.float32)).shape == (10,)
    assert "auto chose swift" in caplog.text


@pytest.mark.usefixtures("_no_weights")
def test_auto_takes_the_next_when_a_package_is_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "swift_f0", None)  # what Python does for a package that is not there
    with caplog.at_level(logging.INFO):
        load_pitch_extractor("auto", torch.device("cpu"))
    assert "auto chose harvest" in caplog.text


@pytest.mark.parametrize(("method", "package"), [("swift", "swift_f0"), ("pm", "parselmouth"), ("dio", "pyworld")])
def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, method: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match="pip install"):
        load_pitch_extractor(method, torch.device("cpu"))


def test_an_unknown_method_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"'rmpve'.*auto, rmvpe, fcpe, swift, crepe.*, or several as hybrid"):
        load_pitch_extractor("rmpve", torch.device("cpu"))


@pytest.mark.parametrize("method", FAST)
def test_a_voice_of_220_hz_comes_back_within_20_cents(method: str) -> None:
    f0 = extractor(method)(voice(np.full(16000, 220.0, np.float32)))
    assert (f0[5:-5] > 0).all()
    assert cents(f0[5:-5], 220.0).max() < 20


@pytest.mark.parametrize("method", [method for method in FAST if method != "harvest"])
def test_a_tone_of_220_hz_comes_back_within_20_cents(method: str, tone: Tone) -> None:
    """Harvest scores a candidate by its harmonics, and finds no voice in a tone that has none."""
    f0 = extractor(method)(tone(220, 1))
    assert (f0[10:-10] > 0).mean() > 0.95
    assert cents(f0[f0 > 0], 220.0).max() < 20


@pytest.mark.slow
@pytest.mark.parametrize("method", FAST)
@pytest.mark.parametrize(("start", "octaves"), [(80.0, 1.0), (300.0, -1.0), (400.0, 1.0)])
def test_a_glide_comes_back_in_time(method: str, start: float, octaves: float) -> None:
    """An octave in two seconds is 6 cents per frame, so half a frame of delay would show in the median."""
    seconds = np.arange(2 * ANALYSIS_RATE) / ANALYSIS_RATE
    f0 = extractor(method)(voice((start * 2 ** (octaves * seconds / 2)).astype(np.float32)))
    frames = np.arange(20, 180)
    want = start * 2 ** (octaves * frames / 200)
    assert (f0[frames] > 0).mean() > 0.95
    voiced = f0[frames] > 0
    signed = 1200 * np.log2(f0[frames][voiced] / want[voiced])
    assert abs(np.median(signed)) < 3
    assert np.percentile(np.abs(signed), 95) < 15


@pytest.mark.slow
@pytest.mark.parametrize("method", FAST)
@settings(deadline=None, max_examples=15)
@given(samples=st.one_of(st.integers(0, 700), st.integers(4000, 4400), st.integers(5000, 9000)), loud=st.booleans())
def test_every_length_gives_its_exact_frames(method: str, samples: int, loud: bool) -> None:
    noise = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    f0 = extractor(method)(noise * np.float32(0.5 if loud else 1e-4))
    assert f0.shape == (samples // HOP_LENGTH,)
    assert f0.dtype == np.float32
    assert np.isfinite(f0).all()
    assert ((f0 == 0) | (f0 > 30)).all()


@pytest.mark.parametrize("method", FAST)
@pytest.mark.parametrize("seconds", [0.02, 1.0])
def test_silence_has_no_voice(method: str, seconds: float) -> None:
    assert not extractor(method)(np.zeros(round(16000 * seconds), np.float32)).any()


@pytest.mark.slow
@pytest.mark.parametrize("method", FAST)
def test_a_pause_has_no_voice(method: str) -> None:
    sound = voice(np.full(8000, 200.0, np.float32))
    f0 = extractor(method)(np.concatenate([sound, np.zeros(16000, np.float32), sound]))
    assert not f0[55:145].any()
    assert (f0[10:40] > 0).all()
    assert (f0[160:190] > 0).all()


@pytest.mark.parametrize("bad", [np.zeros((2, 1600), np.float32), np.full(1600, np.nan, np.float32)])
def test_audio_that_is_not_mono_is_refused(bad: Floats) -> None:
    with pytest.raises(AudioError, match="finite mono"):
        extractor("dio")(bad)


def test_the_extractor_leaves_the_audio_as_it_was() -> None:
    sound = voice(np.full(8000, 200.0, np.float32))
    before = sound.copy()
    for method in FAST:
        extractor(method)(sound)
    assert np.array_equal(sound, before)


@pytest.mark.slow
@given(f0=CURVES)
def test_bins_are_in_range_and_rise_with_hz(f0: Doubles) -> None:
    bins = hz_to_bins(f0)
    assert bins.dtype == np.int64
    assert ((bins >= 1) & (bins <= 255)).all()
    assert (bins[f0 == 0] == 1).all()
    assert (np.diff(hz_to_bins(np.sort(f0))) >= 0).all()


@pytest.mark.slow
@given(f0=CURVES, semitones=st.floats(-24, 24))
def test_shifting_there_and_back_is_the_identity(f0: Doubles, semitones: float) -> None:
    there = shift_semitones(f0, semitones)
    assert np.array_equal(there == 0, f0 == 0)
    assert np.allclose(shift_semitones(there, -semitones), f0, rtol=1e-12)


def test_twelve_semitones_are_an_octave_in_either_precision() -> None:
    single = shift_semitones(np.array([220.0, 0.0], np.float32), 12)
    double = shift_semitones(np.array([220.0, 0.0], np.float64), 12)
    assert single.tolist() == double.tolist() == [440, 0]
    assert [single.dtype.name, double.dtype.name] == ["float32", "float64"]


@given(f0=CURVES)
def test_filling_leaves_voiced_frames_and_no_gap(f0: Doubles) -> None:
    filled = fill_unvoiced(f0)
    assert np.array_equal(filled[f0 > 0], f0[f0 > 0])
    assert (filled > 0).all() == (f0 > 0).any() or len(f0) == 0
    if (f0 > 0).any():
        assert filled.min() >= f0[f0 > 0].min()
        assert filled.max() <= f0.max()


@pytest.mark.slow
@given(f0=CURVES, frames=st.integers(0, 80))
def test_fitting_cuts_or_adds_unvoiced_frames_at_the_end(f0: Doubles, frames: int) -> None:
    fitted = fit_length(f0, frames)
    assert fitted.shape == (frames,)
    kept = min(frames, len(f0))
    assert np.array_equal(fitted[:kept], f0[:kept])
    assert not fitted[kept:].any()


@pytest.mark.slow
@given(f0=CURVES, size=st.integers(0, 9))
def test_the_median_keeps_the_length_and_invents_nothing(f0: Doubles, size: int) -> None:
    out = median_filter(f0, size)
    assert out.shape == f0.shape
    assert np.isin(out, [*f0, 0.0]).all()
    if size <= 2:
        assert np.array_equal(out, f0)


def test_a_single_octave_error_is_gone_after_three_points() -> None:
    assert median_filter(np.array([100.0, 100.0, 200.0, 100.0, 100.0]), 3).tolist() == [100] * 5


@given(first=st.integers(0, 80), count=st.integers(1, 40))
def test_a_spliced_curve_touches_only_its_own_frames(first: int, count: int) -> None:
    f0 = np.full(60, 200.0)
    times = np.arange(first, first + count) / 100
    out = splice_curve(f0, times, np.full(count, 333.0))
    assert np.flatnonzero(out == 333).tolist() == list(range(min(first, 60), min(first + count, 60)))
    assert (f0 == 200).all()


def test_a_spliced_curve_may_be_unsorted() -> None:
    out = splice_curve(np.zeros(30), np.array([0.2, 0.1]), np.array([300.0, 100.0]))
    assert out[[9, 10, 15, 20, 21]].tolist() == [0, 100, 200, 300, 0]


@pytest.mark.parametrize(
    ("times", "values"),
    [([], []), ([0.0, 1.0], [100.0]), ([-1.0, 1.0], [100.0, 100.0]), ([0.0, np.nan], [1.0, 1.0]), ([0.0], [-5.0])],
)
def test_a_useless_table_is_refused(times: list[float], values: list[float]) -> None:
    with pytest.raises(ConfigError, match="F0 curve"):
        splice_curve(np.zeros(30), np.array(times), np.array(values))


def test_the_table_names_modules_that_exist() -> None:
    for method, module in METHODS.items():
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), method
    assert set(pitch.AUTO_ORDER) <= set(METHODS)
