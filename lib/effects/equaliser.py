"""High-pass, low-pass, peaking and shelving filters for (C, T).

The peaking and shelving filters are those of Robert Bristow-Johnson's Audio EQ Cookbook.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from lib.progress import Progress, no_progress, pieces
from lib.typing import FloatArray

ORDER = 2  # of high-pass and low-pass: 12 dB per octave
BELOW_NYQUIST = 0.99


def highpass(audio: FloatArray, sample_rate: int, frequency: float, progress: Progress = no_progress) -> FloatArray:
    """Apply a Butterworth high-pass filter with a slope of 12 dB per octave."""
    return _butterworth(audio, sample_rate, frequency, "highpass", progress)


def lowpass(audio: FloatArray, sample_rate: int, frequency: float, progress: Progress = no_progress) -> FloatArray:
    """Apply a Butterworth low-pass filter with a slope of 12 dB per octave."""
    return _butterworth(audio, sample_rate, frequency, "lowpass", progress)


def _butterworth(audio: FloatArray, sample_rate: int, frequency: float, kind: str, progress: Progress) -> FloatArray:
    from scipy.signal import butter

    frequency = min(frequency, BELOW_NYQUIST * sample_rate / 2)
    return _filtered(audio, sample_rate, butter(ORDER, frequency, kind, fs=sample_rate, output="sos"), progress)


def peak(
    audio: FloatArray, sample_rate: int, frequency: float, gain: float, q: float, progress: Progress = no_progress
) -> FloatArray:
    """Raise or lower a band around `frequency` by `gain` dB."""
    cosine, alpha = _angle(sample_rate, frequency, q)
    a = 10 ** (gain / 40)
    b0, b2, a0, a2 = 1 + alpha * a, 1 - alpha * a, 1 + alpha / a, 1 - alpha / a
    return _filtered(audio, sample_rate, biquad((b0, -2 * cosine, b2), (a0, -2 * cosine, a2)), progress)


def shelf(
    audio: FloatArray, sample_rate: int, frequency: float, gain: float, *, high: bool, progress: Progress = no_progress
) -> FloatArray:
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
    return _filtered(audio, sample_rate, biquad(numerator, denominator), progress)


def _angle(sample_rate: int, frequency: float, q: float) -> tuple[float, float]:
    angle = 2 * np.pi * min(frequency, BELOW_NYQUIST * sample_rate / 2) / sample_rate
    return float(np.cos(angle)), float(np.sin(angle) / (2 * q))


def biquad(b: Sequence[float], a: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return the second-order section (1, 6) of a filter with numerator b and denominator a."""
    section: npt.NDArray[np.float64] = np.array([[*b, *a]]) / a[0]
    return section


def filter_pieces(
    audio: FloatArray, sample_rate: int, sections: npt.NDArray[np.float64], progress: Progress, unit: int = 1
) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Filter (C, T) with second-order sections (S, 6); yields pieces and their samples (C, N), see `pieces`."""
    from scipy.signal import sosfilt

    state = np.zeros((len(sections), len(audio), 2))
    for piece in pieces(audio.shape[1], sample_rate, progress, unit):
        filtered, state = sosfilt(sections, audio[:, piece], axis=-1, zi=state)
        yield piece, filtered


def _filtered(audio: FloatArray, sample_rate: int, sections: npt.NDArray[np.float64], progress: Progress) -> FloatArray:
    result = np.empty_like(audio, np.float32)
    for piece, filtered in filter_pieces(audio, sample_rate, sections, progress):
        result[:, piece] = filtered
    return result
