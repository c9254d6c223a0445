"""crepe, mangio-crepe, fcpe and hybrids: golden data, the contract of every method, and names of methods."""

import sys
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import TypeAdapter, ValidationError

from infer.options import ConvertOptions
from lib.audio import ANALYSIS_RATE
from lib.audio.decode import load_audio
from lib.errors import ConfigError
from lib.pitch import (
    METHODS,
    PITCH_METHODS,
    WITH_HOP_LENGTH,
    ExactExtractor,
    PitchMethod,
    crepe,
    fcpe,
    load_pitch_extractor,
    split_method,
)
from lib.pitch.hybrid import vote
from lib.pitch.scale import frame_windows, hz_to_bins
from tests.helpers import Floats, error, read_golden
from train.options import ExtractOptions

CPU = torch.device("cpu")
GOLDEN_HOP = 160  # samples; with which the golden mangio-crepe was made
QUICK = ("fcpe", "crepe-tiny", "mangio-crepe-tiny", "hybrid[pm+dio+swift]")
CURVES = arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(0, 20)), elements=st.sampled_from([0, 110, 220]))


@cache
def extractor(method: str) -> ExactExtractor:
    return load_pitch_extractor(method, CPU, GOLDEN_HOP)


def voice(frequencies: Floats) -> Floats:
    """A buzz with seven harmonics that follows (T,) Hz at 16 kHz: (T,)."""
    phase = 2 * np.pi * np.cumsum(frequencies) / ANALYSIS_RATE
    return np.asarray(0.2 * np.stack([np.sin(k * phase) / k for k in range(1, 8)]).sum(axis=0), np.float32)


slow = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["crepe-tiny", pytest.param("crepe", marks=slow), pytest.param("mangio-crepe", marks=slow)]
)
def test_golden_crepe(golden: Path, method: str) -> None:
    data = read_golden(golden / "pipeline/f0_methods.safetensors")
    audio = load_audio(golden / "pipeline/speech_16k.wav", ANALYSIS_RATE)
    f0 = extractor(method)(audio)
    assert f0.shape == (len(audio) // 160,)
    want = data[f"out.classic2023.{method}.f0"].numpy()[: len(f0)]
    assert np.array_equal(f0 > 0, want > 0)
    assert error(f0, want) < 1e-3
    assert (hz_to_bins(f0) == data[f"out.classic2023.{method}.coarse"].numpy()[: len(f0)]).mean() > 0.99


@pytest.mark.slow
def test_golden_fcpe_agrees_with_harvest(golden: Path) -> None:
    """No golden values exist for fcpe; on the golden speech it must agree with WORLD where both are voiced."""
    got = extractor("fcpe")(load_audio(golden / "pipeline/speech_16k.wav", ANALYSIS_RATE))
    data = read_golden(golden / "pipeline/f0_methods.safetensors")
    want = data["out.classic2023.harvest_raw.f0"].numpy()[: len(got)]
    both = (got > 0) & (want > 0)
    assert both.sum() > 0.85 * (want > 0).sum()
    assert np.median(1200 * np.abs(np.log2(got[both] / want[both]))) < 20


@pytest.mark.slow
@pytest.mark.parametrize("method", QUICK)
def test_a_voice_of_220_hz_comes_back(method: str) -> None:
    f0 = extractor(method)(voice(np.full(16000, 220.0, np.float32)))
    assert (f0[5:-5] > 0).all()
    assert (1200 * np.abs(np.log2(f0[5:-5] / 220))).max() < 30  # crepe's pitches are 20 cents apart


@pytest.mark.slow
@pytest.mark.parametrize("method", QUICK)
def test_a_glide_comes_back_in_time(method: str) -> None:
    """An octave in two seconds is 6 cents per frame: a frame of delay would show in the median."""
    seconds = np.arange(2 * ANALYSIS_RATE) / ANALYSIS_RATE
    f0 = extractor(method)(voice((200 * 2 ** (seconds / 2)).astype(np.float32)))[20:180]
    want = 200 * 2 ** (np.arange(20, 180) / 200)
    assert (f0 > 0).mean() > 0.95
    assert abs(np.median(1200 * np.log2(f0[f0 > 0] / want[f0 > 0]))) < 6


@pytest.mark.parametrize("method", QUICK)
@pytest.mark.parametrize("samples", [0, 100, 161, 4095, 5003])
def test_every_length_gives_its_exact_frames(method: str, samples: int) -> None:
    f0 = extractor(method)(np.random.default_rng(samples).standard_normal(samples).astype(np.float32))
    assert f0.shape == (samples // 160,)
    assert f0.dtype == np.float32
    assert np.isfinite(f0).all()
    assert ((f0 == 0) | (f0 > 30)).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", QUICK)
def test_silence_and_pauses_have_no_voice(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not extractor(method)(np.zeros(8000, np.float32)).any()
    sound = voice(np.full(6400, 200.0, np.float32))
    loud = np.concatenate([sound, np.zeros(9600, np.float32), sound]) * 3  # beyond full scale
    before = loud.copy()
    f0 = extractor(method)(loud)
    assert not f0[50:90].any()
    assert (f0[10:30] > 0).all()
    assert (f0[110:130] > 0).all()
    assert np.array_equal(loud, before)
    assert capsys.readouterr().out == ""  # the packages do not print


@pytest.mark.slow
def test_a_click_in_silence_is_no_division_by_zero() -> None:
    click = np.zeros(16000, np.float32)
    click[8000] = 0.5
    with np.errstate(all="raise"):
        f0 = extractor("mangio-crepe-tiny")(click)
    assert np.isfinite(f0).all()
    assert not f0[:40].any()


@pytest.mark.slow
def test_results_do_not_change_from_run_to_run() -> None:
    sound = voice(np.linspace(150, 300, 8000, dtype=np.float32))
    for method in ("crepe-tiny", "mangio-crepe-tiny"):
        assert np.array_equal(extractor(method)(sound), extractor(method)(sound))


@pytest.mark.slow
def test_mangio_crepe_uses_its_hop_length() -> None:
    sound = voice(np.linspace(150, 300, 4800, dtype=np.float32))
    coarse, fine = (load_pitch_extractor("mangio-crepe-tiny", CPU, hop) for hop in (512, 64))
    assert coarse(sound).shape == fine(sound).shape == (30,)
    assert not np.array_equal(coarse(sound), fine(sound))
    assert (coarse.method, coarse.cache_key) == ("mangio-crepe-tiny", "mangio-crepe-tiny every 512 samples")


@pytest.mark.slow
@given(frames=st.integers(1, 60), n=st.integers(2, 40), seed=st.integers(0, 99))
def test_the_best_path_is_the_best(frames: int, n: int, seed: int) -> None:
    """No change of a single frame that keeps the steps short makes the path likelier."""
    probabilities = np.random.default_rng(seed).dirichlet(np.full(n, 0.3), frames).T.astype(np.float32)
    path = crepe._best_path(probabilities)
    steps = np.maximum(crepe.MAX_STEP - np.abs(np.subtract.outer(np.arange(n), np.arange(n))), 0)
    with np.errstate(divide="ignore"):
        move = np.log(steps / steps.sum(axis=1, keepdims=True))
    emit = np.log(probabilities + np.finfo(np.float32).tiny)

    def score(p: npt.NDArray[np.int64]) -> float:
        return float(emit[p, np.arange(frames)].sum() + move[p[:-1], p[1:]].sum())

    best = score(path)
    assert np.isfinite(best)
    for frame in range(frames):
        for other in range(n):
            changed = path.copy()
            changed[frame] = other
            assert score(changed) <= best + 1e-3


@pytest.mark.slow
def test_long_audio_is_analysed_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = voice(np.linspace(120, 400, 8 * ANALYSIS_RATE, dtype=np.float32))
    whole = extractor("fcpe")(sound)
    monkeypatch.setattr(fcpe, "CORE_FRAMES", 200)
    monkeypatch.setattr(fcpe, "MARGIN_FRAMES", 100)
    parts = extractor("fcpe")(sound)
    assert np.array_equal(parts > 0, whole > 0)
    voiced = whole > 0
    assert (1200 * np.abs(np.log2(parts[voiced] / whole[voiced]))).max() < 10


@pytest.mark.slow
@given(frames=st.integers(0, 300), core=st.integers(1, 50), margin=st.integers(0, 20))
def test_windows_keep_every_frame_once(frames: int, core: int, margin: int) -> None:
    kept = []
    for window in frame_windows(frames, core, margin):
        assert 0 <= window.start <= window.stop <= frames
        assert window.stop - window.start <= core + 2 * margin
        kept += list(range(window.start, window.stop))[window.keep]
    assert kept == list(range(frames))


@pytest.mark.slow
@given(curves=CURVES)
def test_a_vote_needs_more_than_half(curves: Floats) -> None:
    out = vote(curves)
    assert out.shape == (curves.shape[1],)
    assert np.array_equal(out > 0, (curves > 0).sum(axis=0) > len(curves) / 2)
    for frame in np.flatnonzero(out):
        assert out[frame] == np.median(curves[:, frame][curves[:, frame] > 0])


@pytest.mark.slow
def test_one_octave_error_is_outvoted_and_curves_are_aligned() -> None:
    curves = np.array([[100, 100, 0, 0], [100, 200, 0, 0], [100, 100, 100, 0]], np.float32)
    assert vote(curves).tolist() == [100, 100, 0, 0]
    onset = np.concatenate([np.zeros(8000, np.float32), voice(np.full(8000, 200.0, np.float32))])
    firsts = [np.flatnonzero(extractor(m)(onset))[0] for m in ("pm", "dio", "swift", "hybrid[pm+dio+swift]")]
    assert firsts[3] == sorted(firsts[:3])[1]


def test_names_of_hybrids() -> None:
    assert split_method("hybrid[pm+crepe-tiny]") == ("pm", "crepe-tiny")
    assert load_pitch_extractor("hybrid[ pm + dio ]", CPU).method == "hybrid[pm+dio]"
    assert load_pitch_extractor("hybrid[dio]", CPU).method == "dio"
    recipe = load_pitch_extractor("hybrid[pm+mangio-crepe-tiny]", CPU, 200).cache_key
    assert recipe == "hybrid[pm+mangio-crepe-tiny every 200 samples]"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("hybrid[]", "no pitch method ''"),
        ("hybrid[pm,dio]", "no pitch method 'pm,dio'"),
        ("hybrid[pm+auto]", "no pitch method 'auto'"),
        ("hybrid[pm+hybrid[dio]]", "no pitch method"),
        ("hybrid[pm+pm]", "twice"),
        ("hybrid", "no pitch method 'hybrid'"),
        ("PM", "no pitch method 'PM'"),
    ],
)
def test_names_that_are_no_method(name: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence.replace("[", r"\[")):
        load_pitch_extractor(name, CPU)
    for options in (ConvertOptions, ExtractOptions):
        with pytest.raises(ValidationError, match="pitch_method"):
            options(pitch_method=name)


def test_conversion_and_training_offer_every_method() -> None:
    assert ("auto", *METHODS) == PITCH_METHODS
    assert set(WITH_HOP_LENGTH) <= set(METHODS)
    for method in (*PITCH_METHODS, "hybrid[rmvpe+crepe]"):
        assert ConvertOptions(pitch_method=method).pitch_method == method
        assert ExtractOptions(pitch_method=method).pitch_method == method
    schema = TypeAdapter(PitchMethod).json_schema()
    assert schema["examples"] == list(PITCH_METHODS)


@pytest.mark.parametrize(("method", "package"), [("fcpe", "torchfcpe"), ("crepe", "torchcrepe")])
def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, method: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match="pip install"):
        load_pitch_extractor(method, CPU)
