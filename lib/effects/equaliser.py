"""High-pass, low-pass, peaking and shelving filters for (C, T).

The peaking and shelving filters are those of Robert Bristow-Johnson's Audio EQ Cookbook.
"""

from collections.abc import Sequence

import numpy as np

from lib.typing import FloatArray

ORDER = 2  # of high-pass and low-pass: 12 dB per octave
BELOW_NYQUIST = 0.99


def highpass(audio: FloatArray, sample_rate: int, frequency: float) -> FloatArray:
    """Apply a Butterworth high-pass filter with a slope of 12 dB per octave."""
    return _butterworth(audio, sample_rate, frequency, "highpass")


def lowpass(audio: FloatArray, sample_rate: int, frequency: float) -> FloatArray:
    """Apply a Butterworth low-pass filter with a slope of 12 dB per octave."""
    return _butterworth(audio, sample_rate, frequency, "lowpass")


def _butterworth(audio: FloatArray, sample_rate: int, frequency: float, kind: str) -> FloatArray:
    from scipy.signal import butter, sosfilt

    frequency = min(frequency, BELOW_NYQUIST * sample_rate / 2)
    sections = butter(ORDER, frequency, kind, fs=sample_rate, output="sos")
    filtered: FloatArray = sosfilt(sections, audio, axis=-1).astype(np.float32)
    return filtered


def peak(audio: FloatArray, sample_rate: int, frequency: float, gain: float, q: float) -> FloatArray:
    """Raise or lower a band around `frequency` by `gain` dB."""
    cosine, alpha = _angle(sample_rate, frequency, q)
    a = 10 ** (gain / 40)
    b0, b2, a0, a2 = 1 + alpha * a, 1 - alpha * a, 1 + alpha / a, 1 - alpha / a
    return _biquad(audio, (b0, -2 * cosine, b2), (a0, -2 * cosine, a2))


def shelf(audio: FloatArray, sample_rate: int, frequency: float, gain: float, *, high: bool) -> FloatArray:
    """Raise or lower the frequencies above (`high`) or below `frequency` by `gain` dB."""
    cosine, alpha = _angle(sample_rate, frequency, np.sqrt(0.5))
    a = 10 ** (gain / 40)
    sign = -1 if high else 1  # the two shelves mirror each other
    c, root = sign * cosine, 2 * np.sqrt(a) * alpha
    numerator = (
        a * (a + 1 - (a - 1) * c + root),
        sign * 2 * a * (a - 1 - (a + 1) * c),
        a * (a + 1 - (a - 1) * c - root),
    )
    denominator = (a + 1 + (a - 1) * c + root, sign * -2 * (a - 1 + (a + 1) * c), a + 1 + (a - 1) * c - root)
    return _biquad(audio, numerator, denominator)


def _angle(sample_rate: int, frequency: float, q: float) -> tuple[float, float]:
    angle = 2 * np.pi * min(frequency, BELOW_NYQUIST * sample_rate / 2) / sample_rate
    return float(np.cos(angle)), float(np.sin(angle) / (2 * q))


def _biquad(audio: FloatArray, b: Sequence[float], a: Sequence[float]) -> FloatArray:
    from scipy.signal import lfilter

    filtered: FloatArray = lfilter(b, a, audio.astype(np.float64), axis=-1).astype(np.float32)
    return filtered
