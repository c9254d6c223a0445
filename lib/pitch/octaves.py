"""Corrects high notes whose F0 was estimated an octave too low.

RMVPE and other methods were trained on voices up to about 1 kHz and estimate higher notes one octave too low. If the
true note is an octave higher, the odd harmonics of the estimate are missing from the spectrum. They are compared with
the even ones.
"""

import numpy as np
import numpy.typing as npt

from lib.audio import ANALYSIS_RATE
from lib.pitch.scale import HOP_LENGTH
from lib.typing import FloatArray, Samples

N_FFT = 1024
LOWEST, HIGHEST = 400.0, 1100.0  # Hz: estimates that are examined; their octave is a note of 800 to 2200 Hz
PAIRS = 3  # odd harmonics 1, 3, 5 and even ones 2, 4, 6
MISSING_DB = 18.0  # by which the odd harmonics must be weaker than the even ones
SPREAD = 1.5  # bins around a harmonic
RUN = 5  # frames of a median, so that single frames do not change octave
BLOCK = 4096  # frames computed at a time


def correct_octaves(audio: Samples, f0: FloatArray) -> FloatArray:
    """Double F0 (F,) in Hz of 16 kHz audio (T,) where the spectrum contains only its even harmonics; F = T // 160."""
    doubled = np.zeros(len(f0), bool)
    examined = np.flatnonzero((f0 >= LOWEST) & (f0 <= HIGHEST))
    half = N_FFT // 2
    for part in np.split(examined, range(BLOCK, len(examined), BLOCK)):
        if len(part) == 0:
            continue
        centre = part * HOP_LENGTH
        low, high = int(centre.min()) - half, int(centre.max()) + half
        near = np.pad(audio[max(low, 0) : high], (max(-low, 0), max(high - len(audio), 0)))
        frames = near[(centre - half - low)[:, None] + np.arange(N_FFT)]
        power = np.abs(np.fft.rfft(frames * np.hanning(N_FFT), axis=1)) ** 2
        doubled[part] = _only_even(power, f0[part])
    votes = np.convolve(doubled, np.ones(RUN), "same") - doubled
    consistent = np.where(doubled, votes >= 2, votes >= RUN - 2) & (f0 > 0) & (f0 <= HIGHEST)
    result: FloatArray = np.where(consistent, 2 * f0, f0).astype(np.float32)
    return result


def _only_even(power: npt.NDArray[np.floating], f0: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether the odd harmonics of F0 (F,) are missing from power spectra (F, N_FFT // 2 + 1)."""
    odd, even = np.zeros(len(f0)), np.zeros(len(f0))
    offsets = np.arange(-2, 3)
    for number in range(1, 2 * PAIRS + 1):
        place = f0 * number * N_FFT / ANALYSIS_RATE  # [F], in bins
        bins = np.rint(place).astype(int)[:, None] + offsets
        inside = (bins < power.shape[1]) & (np.abs(bins - place[:, None]) <= SPREAD)
        values = np.take_along_axis(power, np.minimum(bins, power.shape[1] - 1), axis=1) * inside
        (odd if number % 2 else even)[:] += values.sum(axis=1)
    return (even > 0) & (odd < even * 10 ** (-MISSING_DB / 10))
