"""Pure functions on F0 curves: frames, bins, shifting, filling, smoothing, splicing.

An F0 curve is (F,) Hz at 100 frames/s, 0.0 where unvoiced; frame j is at j * 10 ms. No function changes its input.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from lib.audio import ANALYSIS_RATE
from lib.errors import ConfigError

Float = TypeVar("Float", np.float32, np.float64)

HOP_LENGTH = 160  # samples at ANALYSIS_RATE, 10 ms
FRAMES_PER_SECOND = ANALYSIS_RATE // HOP_LENGTH
F0_MIN = 50.0  # Hz
F0_MAX = 1100.0  # Hz
LOWEST_CENTS, CENTS_PER_PITCH = 1997.3794084376191, 20.0  # of the 360 pitches of CREPE and RMVPE, above 10 Hz
N_BINS = 256  # bins 1..255 are used; 0 is the padding of training batches
UNVOICED_BIN = 1
MAX_SHIFT = 24  # semitones, up or down

_MEL_MIN = 1127.0 * float(np.log1p(F0_MIN / 700.0))
_MEL_MAX = 1127.0 * float(np.log1p(F0_MAX / 700.0))


def hz_to_bins(f0: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """Quantise F0 on the mel scale between 50 and 1100 Hz: (F,) Hz -> (F,) int64 in 1..255, 1 where unvoiced."""
    mel = 1127.0 * np.log1p(np.asarray(f0, dtype=np.float64) / 700.0)
    bins = (mel - _MEL_MIN) * (N_BINS - 2) / (_MEL_MAX - _MEL_MIN) + 1.0
    # Rounding is half to even, as in the files that published voices were trained on.
    return np.rint(np.clip(bins, UNVOICED_BIN, N_BINS - 1)).astype(np.int64)


def suggested_shift(source_hz: float, voice_hz: float) -> int:
    """Return the shift, in whole semitones, from the median F0 of a recording to that of a voice.

    It is clamped to the range that a conversion accepts.
    """
    return int(np.clip(round(12 * np.log2(voice_hz / source_hz)), -MAX_SHIFT, MAX_SHIFT))


def shift_semitones(f0: npt.NDArray[Float], semitones: float) -> npt.NDArray[Float]:
    """Transpose (F,) Hz; unvoiced frames stay 0."""
    return f0 * f0.dtype.type(2.0 ** (semitones / 12.0))


def fill_unvoiced(f0: npt.NDArray[Float]) -> npt.NDArray[Float]:
    """Replace unvoiced frames of an F0 curve (F,) in Hz with linear interpolation between voiced ones; the ends are
    held constant.

    A curve without voiced frames stays all zeros.
    """
    voiced = np.flatnonzero(f0 > 0)
    if len(voiced) == 0:
        return f0.copy()
    out = np.empty_like(f0)
    out[:] = np.interp(np.arange(len(f0)), voiced, f0[voiced])
    return out


def fit_length(f0: npt.NDArray[Float], frames: int) -> npt.NDArray[Float]:
    """Trim (F,) at the end, or extend it with unvoiced frames, to (frames,)."""
    return np.pad(f0[:frames], (0, max(0, frames - len(f0))))


def median_filter(f0: npt.NDArray[Float], size: int) -> npt.NDArray[Float]:
    """Apply a median filter over `size` neighbouring frames to an F0 curve (F,) in Hz; frames outside the curve count
    as unvoiced.

    This is RVC's `filter_radius`: values up to 2 have no effect, and 3 is the three-point median of RVC as released in
    2023. An even size counts as the next smaller odd one.
    """
    half = (size - 1) // 2
    if half < 1 or len(f0) == 0:
        return f0.copy()
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(f0, half), 2 * half + 1)  # [F, size]
    out = np.empty_like(f0)
    out[:] = np.median(windows, axis=1)
    return out


def splice_curve(
    f0: npt.NDArray[Float], times: npt.NDArray[np.floating[Any]], values: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[Float]:
    """Replace part of an F0 curve (F,) in Hz with a given curve: points (N,) in seconds from the start, and (N,) Hz.

    Frames from the first to the last point are interpolated linearly between the points; all others are unchanged. A
    frame between a voiced point and one of 0 Hz takes the value of the nearer point, instead of gliding to 0. Raises
    ConfigError if the points are invalid.
    """
    # Multiplied in the precision of the table: 0.1 s in single precision is exactly 10 frames only before the cast.
    positions = (np.asarray(times) * FRAMES_PER_SECOND).astype(np.float64)
    points: npt.NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    if positions.ndim != 1 or positions.shape != points.shape or len(positions) == 0:
        raise ConfigError("The F0 curve has no points; use lines of two numbers, seconds and Hz.")
    if not (np.isfinite(positions).all() and np.isfinite(points).all()) or positions.min() < 0 or points.min() < 0:
        raise ConfigError("The F0 curve contains a negative or missing number; use seconds and Hz, 0 Hz for unvoiced.")
    order = np.argsort(positions, kind="stable")
    positions, points = positions[order], points[order]
    rounding = 1e-4  # frames; 1.1 s may come out as 110.00001 frames
    whole = np.rint(positions)
    positions = np.where(np.abs(positions - whole) < 1e-6, whole, positions)  # 0.29 s is frame 29, not 28.9999999
    first = int(np.ceil(positions[0] - rounding))
    last = min(int(np.floor(positions[-1] + rounding)), len(f0) - 1)
    out = f0.copy()
    if first <= last:
        out[first : last + 1] = _between(np.arange(first, last + 1), positions, points)
    return out


def _between(
    frames: npt.NDArray[np.int64], positions: npt.NDArray[np.float64], values: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Interpolate points (N,) linearly at (F,) frames; between a voiced and an unvoiced one, use the nearer point."""
    before = np.clip(np.searchsorted(positions, frames, side="right") - 1, 0, len(positions) - 1)
    after = np.minimum(before + 1, len(positions) - 1)
    nearer = np.where(frames - positions[before] <= positions[after] - frames, before, after)
    edge = (values[before] > 0) != (values[after] > 0)
    return np.where(edge, values[nearer], np.interp(frames, positions, values))


class FrameWindow(NamedTuple):
    """Frames [start, stop) of a long signal, of which the slice `keep`, counted from start, is used."""

    start: int
    stop: int
    keep: slice


def frame_windows(frames: int, core: int, margin: int) -> Iterator[FrameWindow]:
    """Divide `frames` frames into windows of `core` frames, each with `margin` frames of context on both sides.

    The parts to keep cover all frames in order, each exactly once. A signal that fits into one window is not divided.
    """
    if frames <= core + 2 * margin:
        yield FrameWindow(0, frames, slice(0, frames))
        return
    for first in range(0, frames, core):
        start, stop = max(0, first - margin), min(frames, first + core + margin)
        yield FrameWindow(start, stop, slice(first - start, min(first + core, frames) - start))
