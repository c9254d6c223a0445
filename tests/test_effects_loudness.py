"""Loudness by EBU R128: the sine cases of EBU Tech 3341, gating, the limiter's ceiling."""

from pathlib import Path

import numpy as np
import pytest

from lib.audio import AUDIO_FORMATS
from lib.audio.decode import load_stereo
from lib.audio.encode import array_blocks, save_blocks
from lib.effects.dynamics import compress, limit
from lib.effects.loudness import integrated_loudness, to_loudness, true_peak
from lib.errors import AudioError
from tests.helpers import Floats


def sine(level: float, seconds: float, rate: int, frequency: float = 1000.0) -> Floats:
    """A stereo sine of `level` dBFS: (2, T)."""
    time = np.arange(round(seconds * rate)) / rate
    return np.tile(10 ** (level / 20) * np.sin(2 * np.pi * frequency * time), (2, 1)).astype(np.float32)


@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
@pytest.mark.parametrize("level", [-23.0, -33.0])
def test_tech_3341_cases_1_and_2(rate: int, level: float) -> None:
    assert integrated_loudness(sine(level, 5, rate), rate) == pytest.approx(level, abs=0.1)


@pytest.mark.slow
def test_tech_3341_case_3_gates_what_is_quiet() -> None:
    parts = [sine(-36, 10, 48_000), sine(-23, 60, 48_000), sine(-36, 10, 48_000)]
    assert integrated_loudness(np.concatenate(parts, axis=1), 48_000) == pytest.approx(-23, abs=0.1)


@pytest.mark.slow
def test_tech_3341_case_4_gates_what_is_almost_silent() -> None:
    levels = [(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)]
    parts = [sine(level, seconds, 48_000) for level, seconds in levels]
    assert integrated_loudness(np.concatenate(parts, axis=1), 48_000) == pytest.approx(-23, abs=0.1)


def test_low_frequencies_count_less_and_one_channel_3_lu_less() -> None:
    assert integrated_loudness(sine(-23, 5, 48_000, 50), 48_000) < -24
    assert integrated_loudness(sine(-23, 5, 48_000)[:1], 48_000) == pytest.approx(-26, abs=0.1)


def test_the_true_peak_lies_between_the_samples() -> None:
    time = np.arange(4800)
    audio = np.sin(np.pi / 2 * time + np.pi / 4).astype(np.float32)  # every sample is 3 dB below the peak
    assert true_peak(audio, 48_000) == pytest.approx(0, abs=0.3)


@pytest.mark.slow
def test_a_target_is_met_below_the_peak_even_where_it_takes_a_limiter() -> None:
    rng = np.random.default_rng(0)
    audio = (0.01 * rng.standard_normal((2, 48_000 * 4))).astype(np.float32)
    audio[:, ::24_000] = 0.9
    for target in (-30.0, -12.0):
        result = to_loudness(audio, 48_000, target)
        assert integrated_loudness(result, 48_000) == pytest.approx(target, abs=0.3)
        assert true_peak(result, 48_000) <= -0.9
    with pytest.raises(AudioError, match="silent"):
        to_loudness(np.zeros((2, 48_000), np.float32), 48_000, -14)


def test_the_peak_wins_over_a_target_that_only_distortion_would_reach(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    audio = (0.1 * rng.standard_normal(48_000) * (1 + np.sin(np.arange(48_000) / 2000))).astype(np.float32)
    loud = [integrated_loudness(to_loudness(audio, 48_000, target), 48_000) for target in (-12.0, -7.0, -5.0)]
    assert loud[0] == pytest.approx(-12, abs=0.1)
    assert -12 < loud[1] < -7.3 and loud[2] == pytest.approx(loud[1], abs=0.3)
    assert true_peak(to_loudness(audio, 48_000, -5.0), 48_000) <= -0.9
    assert "would exceed a true peak of -1 dBTP" in caplog.text


def test_the_limiter_leaves_what_is_below_and_the_compressor_keeps_the_ratio() -> None:
    quiet, loud = sine(-30, 1, 48_000), sine(-6, 1, 48_000)
    assert np.allclose(limit(quiet, 48_000, -3), quiet)
    assert np.abs(limit(10 * loud, 48_000, -3)).max() <= 10 ** (-3 / 20) + 1e-6
    assert np.allclose(compress(quiet, 48_000, -20, 4, 5, 80), quiet)
    squeezed = compress(loud, 48_000, -20, 4, 5, 80)[:, 24_000:]
    assert 20 * np.log10(np.abs(squeezed).max()) == pytest.approx(-20 + 14 / 4, abs=0.3)


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [16_000, 24_000, 32_000, 44_100])
def test_every_format_keeps_the_loudness(tmp_path: Path, suffix: str, channels: int, rate: int) -> None:
    audio = to_loudness(sine(-30, 0.8, rate)[:channels], rate, -14)
    save_blocks(tmp_path / f"a.{suffix}", array_blocks(audio[0] if channels == 1 else audio), rate)
    written, written_rate = load_stereo(tmp_path / f"a.{suffix}")
    assert len(written) == channels
    assert integrated_loudness(written, written_rate) == pytest.approx(-14, abs=0.1)
