"""Compressor and limiter, for (T,) or (C, T); all channels get the same gain."""

import numpy as np
import numpy.typing as npt

from lib.progress import Progress, no_progress, part_of, pieces
from lib.typing import FloatArray

LOOKAHEAD = 0.005  # s, of the limiter
FRAME = 0.001  # s, for which the compressor computes one gain
FLOOR = 1e-6


def _loudest(audio: FloatArray) -> FloatArray:
    """The largest magnitude of all channels: (T,)."""
    magnitude: FloatArray = np.abs(np.atleast_2d(audio)).max(axis=0)
    return magnitude


def limit(
    audio: FloatArray,
    sample_rate: int,
    ceiling: float,
    peaks: FloatArray | None = None,
    progress: Progress = no_progress,
) -> FloatArray:
    """Keep every sample below `ceiling` dBFS. Look-ahead is 5 ms.

    `peaks` (T,) are additional magnitudes to keep below it, such as inter-sample peaks.
    """
    from scipy.ndimage import minimum_filter1d, uniform_filter1d

    peak = np.float32(10 ** (ceiling / 20))
    size = 2 * round(LOOKAHEAD * sample_rate) + 1
    limited = np.empty_like(audio, np.float32)
    for piece in pieces(audio.shape[-1], sample_rate, progress):
        start = max(piece.start - size, 0)  # both filters together reach that far
        near, own = slice(start, piece.stop + size), slice(piece.start - start, piece.stop - start)
        loudest = _loudest(audio[..., near]) if peaks is None else np.maximum(_loudest(audio[..., near]), peaks[near])
        needed = peak / np.maximum(loudest, peak)
        # The mean over a window of minima over the same window is never above the gain that its centre needs.
        gain = uniform_filter1d(minimum_filter1d(needed, size, mode="nearest"), size, mode="nearest", output=np.float64)
        limited[..., piece] = np.clip(audio[..., piece] * gain[own], -peak, peak)  # clip: rounding errors
    return limited


def compress(
    audio: FloatArray,
    sample_rate: int,
    threshold: float,
    ratio: float,
    attack: float,
    release: float,
    progress: Progress = no_progress,
) -> FloatArray:
    """Compress levels above `threshold` dB by `ratio`; lower levels are unchanged. Attack and release are in ms."""
    frame = max(round(FRAME * sample_rate), 1)
    samples, reductions, level = audio.shape[-1], [], 0.0
    for piece in pieces(samples, sample_rate, part_of(progress, 0, 2), frame):
        peaks = np.maximum.reduceat(_loudest(audio[..., piece]), np.arange(0, piece.stop - piece.start, frame))
        excess = np.maximum(20 * np.log10(np.maximum(peaks, FLOOR)) - threshold, 0.0)
        reductions.append(_smoothed(excess * (1 - 1 / ratio), attack, release, level))
        level = float(reductions[-1][-1])
    reduction = np.concatenate(reductions)
    compressed = np.empty_like(audio, np.float32)
    for piece in pieces(samples, sample_rate, part_of(progress, 1, 2)):
        at = (np.arange(piece.start, piece.stop) / frame).astype(np.float32)
        gain = 10 ** (-np.interp(at, np.arange(len(reduction)) + 0.5, reduction) / 20)
        compressed[..., piece] = audio[..., piece] * gain
    return compressed


def _smoothed(
    reduction: npt.NDArray[np.floating], attack: float, release: float, level: float
) -> npt.NDArray[np.float64]:
    """One-pole smoothing of a gain reduction in dB per ms, with different times for its rise and fall (in ms).

    `level` is the value before the first one.
    """
    rise, fall = np.exp(-1 / max(attack, 1e-3)), np.exp(-1 / max(release, 1e-3))
    out = np.empty(len(reduction))
    for i, wanted in enumerate(reduction.tolist()):
        pole = rise if wanted > level else fall
        level = pole * level + (1 - pole) * wanted
        out[i] = level
    return out
