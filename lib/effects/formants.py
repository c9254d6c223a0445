"""Formant shift: the spectral envelope is stretched along the frequency axis; F0 and harmonics do not change."""

import numpy as np
import numpy.typing as npt

from lib.effects.envelope import HIGH_F0, Envelope
from lib.pitch.scale import F0_MIN, FRAMES_PER_SECOND, fit_length, frame_windows
from lib.progress import Progress, no_progress
from lib.typing import FloatArray

MAX_GAIN = 10 ** (30 / 20)  # of one frequency
CORE_FRAMES, MARGIN_FRAMES = 200, 20  # of 10 ms, computed at a time
HOPS_PER_WINDOW = 4


def shift_formants(
    audio: FloatArray, sample_rate: int, f0: FloatArray, factor: float, progress: Progress = no_progress
) -> FloatArray:
    """Scale the formant frequencies of audio (T,) by `factor`; `f0` is the F0 of the audio: (F,) in Hz at 100 frames/s,
    0 where unvoiced."""
    hop = round(sample_rate / FRAMES_PER_SECOND)
    n_frames = len(audio) // hop + 1
    f0 = fit_length(f0, n_frames)
    shifted = np.zeros(len(audio), np.float32)
    for window in frame_windows(n_frames, CORE_FRAMES, MARGIN_FRAMES):
        progress(window.start, n_frames, "")
        start, stop = window.start * hop, window.stop * hop
        part = _shift_part(audio[start:stop], sample_rate, f0[window.start : window.stop], factor, hop)
        keep = slice(window.keep.start * hop, window.keep.stop * hop)
        kept = part[keep]
        shifted[start + keep.start : start + keep.start + len(kept)] = kept
    return shifted


def _shift_part(audio: FloatArray, sample_rate: int, f0: FloatArray, factor: float, hop: int) -> FloatArray:
    size = HOPS_PER_WINDOW * hop
    window = np.sqrt(np.hanning(size + 1)[:-1])
    padded = np.pad(audio, (size // 2, size // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][: len(f0)]  # [F, size]
    gains = _gains(np.asarray(audio, np.float64), sample_rate, f0, factor, size)[: len(frames)]
    spectra = np.fft.rfft(frames * window, axis=1)
    changed = spectra * gains
    level = np.sqrt(_energy(spectra) / np.maximum(_energy(changed), 1e-20))
    parts = np.fft.irfft(changed * level[:, None], size, axis=1) * window
    out, weight = np.zeros(len(padded)), np.full(len(padded), 1e-9)
    for i, part in enumerate(parts):
        out[i * hop : i * hop + size] += part
        weight[i * hop : i * hop + size] += window**2
    result: FloatArray = (out / weight)[size // 2 :][: len(audio)].astype(np.float32)
    return result


def _energy(spectra: npt.NDArray[np.complexfloating]) -> npt.NDArray[np.float64]:
    energy: npt.NDArray[np.float64] = np.square(np.abs(spectra)).sum(axis=1)
    return energy


def _gains(
    audio: npt.NDArray[np.float64], sample_rate: int, f0: FloatArray, factor: float, size: int
) -> npt.NDArray[np.float64]:
    """The stretched spectral envelope divided by the envelope, for every frame and frequency: (F, size // 2 + 1)."""
    import pyworld

    hertz = f0.astype(np.float64)
    times = np.arange(len(f0)) / FRAMES_PER_SECOND
    levels = np.log(pyworld.cheaptrick(audio, hertz, times, sample_rate) + 1e-16)  # [F, bins], adapted to F0
    last = levels.shape[1] - 1
    places = np.linspace(0, last, size // 2 + 1)
    stretched = np.minimum(places / factor, last)
    change = _at(levels, stretched) - _at(levels, places)
    voiced = np.flatnonzero((hertz >= F0_MIN) & (hertz < HIGH_F0[1]))
    if len(voiced):
        envelope = Envelope(levels[voiced], audio, sample_rate, voiced, hertz[voiced])
        wanted, present = (envelope.log_power(at * sample_rate / 2 / last) for at in (stretched, places))
        change[voiced] = wanted - present
    limit = np.log(MAX_GAIN)
    gains: npt.NDArray[np.float64] = np.exp(np.clip(change / 2, -limit, limit))
    return gains


def _at(rows: npt.NDArray[np.float64], places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Every row (F, bins) interpolated linearly at positions (N,): (F, N)."""
    low = np.minimum(places.astype(int), rows.shape[1] - 2)
    share = places - low
    values: npt.NDArray[np.float64] = rows[:, low] * (1 - share) + rows[:, low + 1] * share
    return values
