"""The loudness envelope against golden results, and the limit of peaks."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infer import loudness
from infer.disk_buffer import in_blocks
from infer.loudness import limiting_gain, peak_of, rms_envelope
from tests.helpers import Floats, error, golden_metadata, read_golden


def test_golden_envelope_of_the_pipeline(golden: Path) -> None:
    path = golden / "pipeline/change_rms.safetensors"
    data, facts = {k: v.numpy() for k, v in read_golden(path).items()}, golden_metadata(path)
    results = [key for key in data if key.startswith("out.rate")]
    assert results
    for key in results:
        rate = float(key.removeprefix("out.rate"))
        got = follow_envelope(data["in.data2"], int(facts["sr2"]), data["in.data1"], int(facts["sr1"]), rate)
        assert error(got, data[key]) < 1e-5, key


@pytest.mark.parametrize(("name", "rate"), [("rate_025", 0.25), ("rate_0", 0.0)])
def test_golden_envelope_of_the_function_vectors(golden: Path, name: str, rate: float) -> None:
    data = np.load(golden / "functions/06_change_rms.npz")
    got = follow_envelope(data["out_40k"], 40_000, data["src_16k"], 16_000, rate)
    assert error(got, data[name]) < 1e-5


def follow_envelope(audio: Floats, sample_rate: int, source: Floats, source_rate: int, rms_mix_rate: float) -> Floats:
    """The whole of what comes in blocks."""
    return np.concatenate([*loudness.follow_envelope(audio, sample_rate, source, source_rate, rms_mix_rate)])


def noise(n: int, seed: int = 0) -> Floats:
    """(n,) normal noise of RMS 0.1."""
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def test_a_constant_level_has_that_level_as_envelope_away_from_the_ends() -> None:
    envelope = rms_envelope(np.full(16_000 * 5, 0.25, np.float32), 16_000)
    assert len(envelope) == 11
    np.testing.assert_allclose(envelope[1:-1], 0.25, rtol=1e-6)


def test_rate_0_imposes_the_level_of_the_source_and_rate_1_nothing() -> None:
    audio, source = noise(24_000 * 6), 0.2 * noise(16_000 * 6, 1)
    followed = follow_envelope(audio, 24_000, source, 16_000, 0.0)
    assert np.sqrt(np.mean(followed**2)) == pytest.approx(0.02, rel=0.02)
    np.testing.assert_array_equal(follow_envelope(audio, 24_000, source, 16_000, 1.0), audio)


def test_silence_in_source_or_result_stays_finite() -> None:
    silent = np.zeros(30_000, np.float32)
    assert not follow_envelope(noise(30_000), 16_000, silent, 16_000, 0.5).any()
    assert not follow_envelope(silent, 16_000, noise(30_000), 16_000, 0.5).any()


def test_block_by_block_is_the_same_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    audio, source = noise(50_001), noise(40_000, 3)
    at_once = follow_envelope(audio, 20_000, source, 16_000, 0.3)
    monkeypatch.setattr(loudness, "in_blocks", partial(in_blocks, size=777))
    np.testing.assert_array_equal(follow_envelope(audio, 20_000, source, 16_000, 0.3), at_once)


@pytest.mark.slow
@given(st.lists(st.floats(-4, 4, width=32), max_size=20))
def test_peaks_are_limited_and_quiet_audio_is_untouched(samples: list[float]) -> None:
    audio = np.array(samples, np.float32)
    limited = audio * limiting_gain(peak_of(audio))
    assert np.abs(limited).max(initial=0) <= 0.99 * (1 + 1e-6)
    if np.abs(audio).max(initial=0) <= 0.99:
        np.testing.assert_array_equal(limited, audio)
    else:
        assert np.abs(limited).max() == pytest.approx(0.99)
        np.testing.assert_allclose(limited / np.abs(limited).max(), audio / np.abs(audio).max(), rtol=1e-5, atol=1e-6)
