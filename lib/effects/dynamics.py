"""Compressor and limiter, for (T,) or (C, T); all channels get the same gain."""

import numpy as np
import numpy.typing as npt

from lib.typing import FloatArray

LOOKAHEAD = 0.005  # s, of the limiter
FRAME = 0.001  # s, for which the compressor computes one gain
FLOOR = 1e-6


def _loudest(audio: FloatArray) -> FloatArray:
    """The larger magnitude of all channels: (T,)."""
    magnitude: FloatArray = np.abs(np.atleast_2d(audio)).max(axis=0)
    return magnitude


def limit(audio: FloatArray, sample_rate: int, ceiling: float, peaks: FloatArray | None = None) -> FloatArray:
    """Keep every sample below `ceiling` dBFS. The gain begins to change 5 ms before a peak.

    `peaks` (T,) are additional magnitudes to keep below it, such as inter-sample peaks.
    """
    from scipy.ndimage import minimum_filter1d, uniform_filter1d

    peak = np.float32(10 ** (ceiling / 20))
    loudest = _loudest(audio) if peaks is None else np.maximum(_loudest(audio), peaks)
    needed = peak / np.maximum(loudest, peak)
    size = 2 * round(LOOKAHEAD * sample_rate) + 1
    # The mean over a window of minima over the same window is never above the gain that its centre needs.
    gain = uniform_filter1d(minimum_filter1d(needed, size, mode="nearest"), size, mode="nearest", output=np.float64)
    limited: FloatArray = np.clip(audio * gain, -peak, peak).astype(np.float32)  # clip: rounding errors
    return limited


def compress(
    audio: FloatArray, sample_rate: int, threshold: float, ratio: float, attack: float, release: float
) -> FloatArray:
    """Compress levels above `threshold` dB by `ratio`; lower levels are unchanged. Attack and release are in ms."""
    frame = max(round(FRAME * sample_rate), 1)
    loudest = _loudest(audio)
    n_frames = -(-len(loudest) // frame)
    peaks = np.pad(loudest, (0, n_frames * frame - len(loudest))).reshape(n_frames, frame).max(axis=1)
    excess = np.maximum(20 * np.log10(np.maximum(peaks, FLOOR)) - threshold, 0.0)
    reduction = _smoothed(excess * (1 - 1 / ratio), attack, release)
    at = (np.arange(len(loudest)) / frame).astype(np.float32)
    gain = 10 ** (-np.interp(at, np.arange(n_frames) + 0.5, reduction) / 20)
    compressed: FloatArray = (audio * gain).astype(np.float32)
    return compressed


def _smoothed(reduction: npt.NDArray[np.floating], attack: float, release: float) -> npt.NDArray[np.float64]:
    """One-pole smoothing of a gain reduction in dB per ms, with different times for its rise and fall (in ms)."""
    rise, fall = np.exp(-1 / max(attack, 1e-3)), np.exp(-1 / max(release, 1e-3))
    level, out = 0.0, np.empty(len(reduction))
    for i, wanted in enumerate(reduction.tolist()):
        pole = rise if wanted > level else fall
        level = pole * level + (1 - pole) * wanted
        out[i] = level
    return out
