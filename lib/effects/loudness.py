"""Integrated loudness and true peak according to EBU R128 (ITU-R BS.1770-4), and the gain required to reach a target
loudness."""

import logging

import numpy as np
import numpy.typing as npt

from lib.audio.filters import resample_blocks
from lib.effects.dynamics import limit
from lib.effects.equaliser import biquad, filter_pieces
from lib.errors import AudioError
from lib.progress import Progress, no_progress, part_of, pieces
from lib.typing import FloatArray

logger = logging.getLogger(__name__)

BLOCK_SECONDS, STEP_SECONDS = 0.4, 0.1
ABSOLUTE_GATE, RELATIVE_GATE = -70.0, -10.0  # LUFS; LU below the mean of what passes the first
MAX_TRUE_PEAK = -1.0  # dBTP, for results with a target loudness
OVERSAMPLING = 4
TOLERANCE, PRECISION, WARNED = 0.05, 0.2, 0.3  # LU; dB of gain; LU
MAX_ROUNDS = 12  # of gain and limiter
MIN_SHARE = 0.5  # of the gain beyond the headroom; with less than this left by the limiter, more gain only distorts


def integrated_loudness(audio: FloatArray, sample_rate: int, progress: Progress = no_progress) -> float:
    """Measure the integrated loudness of audio (T,) or (C, T) in LUFS; -inf for silence.

    A mono signal counts as one channel.
    """
    audio = np.atleast_2d(audio)
    step = round(STEP_SECONDS * sample_rate)
    n_steps = max(-(-audio.shape[-1] // step), 1)
    energy = np.zeros(n_steps)
    for piece, weighted in filter_pieces(audio, sample_rate, _k_weighting(sample_rate), progress, step):
        sums = np.add.reduceat(np.square(weighted).sum(axis=0), np.arange(0, weighted.shape[1], step))
        energy[piece.start // step :][: len(sums)] = sums
    per_block = round(BLOCK_SECONDS / STEP_SECONDS)
    if n_steps < per_block:  # shorter than one block: all of it is one
        power = np.array([energy.sum() / max(audio.shape[-1], 1)])
    else:
        power = np.convolve(energy, np.ones(per_block), "valid") / (per_block * step)
    loud = power[_lufs(power) > ABSOLUTE_GATE]
    if len(loud) == 0:
        return -np.inf
    gated = loud[_lufs(loud) > _lufs(loud.mean()) + RELATIVE_GATE]
    return float(_lufs(gated.mean()))


def _lufs(power: npt.ArrayLike) -> npt.NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.asarray(-0.691 + 10 * np.log10(power))


def _k_weighting(sample_rate: int) -> npt.NDArray[np.float64]:
    """The second-order sections (2, 6) of BS.1770: a high shelf of 4 dB and a high-pass, for any sample rate."""
    k, q = np.tan(np.pi * 1681.974450955533 / sample_rate), 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    middle = high**0.4996667741545416
    a0 = 1 + k / q + k * k
    shelf = [(high + middle * k / q + k * k) / a0, 2 * (k * k - high) / a0, (high - middle * k / q + k * k) / a0]
    poles = [1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]
    k, q = np.tan(np.pi * 38.13547087602444 / sample_rate), 0.5003270373238773
    a0 = 1 + k / q + k * k
    highpass = biquad([1.0, -2.0, 1.0], [1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0])
    return np.concatenate([biquad(shelf, poles), highpass])


def true_peak(audio: FloatArray, sample_rate: int) -> float:
    """Measure the true (inter-sample) peak of audio (T,) or (C, T) in dBTP."""
    return _decibels(float(_true_peaks(audio, sample_rate).max(initial=0.0)))


def _decibels(peak: float) -> float:
    return float(20 * np.log10(max(peak, 1e-10)))


def _true_peaks(audio: FloatArray, sample_rate: int, progress: Progress = no_progress) -> FloatArray:
    """Measure the largest magnitude of audio (T,) or (C, T) between each sample and the next: (T,)."""
    audio = np.atleast_2d(audio)
    peaks, position = np.zeros(audio.shape[1], np.float32), 0
    parts = (audio[:, piece] for piece in pieces(audio.shape[1], sample_rate, progress))
    rest: FloatArray = np.zeros(0, np.float32)
    for block in resample_blocks(parts, sample_rate, OVERSAMPLING * sample_rate):
        rest = np.concatenate([rest, np.abs(block).max(axis=0)])
        whole = len(rest) // OVERSAMPLING
        peaks[position : position + whole] = rest[: whole * OVERSAMPLING].reshape(whole, OVERSAMPLING).max(axis=1)
        position, rest = position + whole, rest[whole * OVERSAMPLING :]
    return peaks


def to_loudness(audio: FloatArray, sample_rate: int, target: float, progress: Progress = no_progress) -> FloatArray:
    """Bring audio (T,) or (C, T) to `target` LUFS, with a true peak of at most -1 dBTP.

    If gain alone would exceed the peak limit, a limiter is applied. If the limiter would remove more than half of the
    additional gain, the peak limit takes precedence: the result is quieter than the target, and a warning is logged.
    Raises AudioError if the audio is silent.
    """
    measured = integrated_loudness(audio, sample_rate, part_of(progress, 0, MAX_ROUNDS + 2))
    if not np.isfinite(measured):
        raise AudioError("The result is silent, so its loudness cannot be set. Leave the loudness empty.")
    peaks = _true_peaks(audio, sample_rate, part_of(progress, 1, MAX_ROUNDS + 2))
    headroom = MAX_TRUE_PEAK - _decibels(float(peaks.max()))  # dB; up to this gain, loudness rises by the gain
    gain = target - measured
    if gain <= headroom:
        return _amplified(audio, gain)
    low, loudest, best = headroom, measured + headroom, _amplified(audio, headroom)
    high = headroom + (target - loudest) / MIN_SHARE
    unlimited = last = loudest
    last_gain = headroom
    for i in range(MAX_ROUNDS):
        report = part_of(progress, i + 2, MAX_ROUNDS + 2)
        result = _limited(_amplified(audio, gain), sample_rate, _amplified(peaks, gain), part_of(report, 0, 2))
        reached = integrated_loudness(result, sample_rate, part_of(report, 1, 2))
        if reached <= target + TOLERANCE and reached - unlimited >= MIN_SHARE * (gain - headroom):
            low, loudest, best = gain, reached, result
        else:
            high = gain
        if abs(target - loudest) <= TOLERANCE or high - low <= PRECISION:
            break
        expected = gain + (target - reached) * (gain - last_gain) / max(reached - last, 1e-6)
        last_gain, last = gain, reached
        gain = expected if low < expected < high else (low + high) / 2
    if target - loudest > WARNED:
        logger.warning(
            "The loudness is %.1f LUFS instead of %.1f: more would exceed a true peak of %.0f dBTP", loudest, target,
            MAX_TRUE_PEAK,
        )  # fmt: skip
    return best


def _amplified(audio: FloatArray, gain: float) -> FloatArray:
    return (audio * np.float32(10 ** (gain / 20))).astype(np.float32)


def _limited(audio: FloatArray, sample_rate: int, peaks: FloatArray, progress: Progress) -> FloatArray:
    """Limit audio (T,) or (C, T), whose true peaks are `peaks` (T,), to a true peak of at most MAX_TRUE_PEAK."""
    result = limit(audio, sample_rate, MAX_TRUE_PEAK, peaks, part_of(progress, 0, 2))
    peak = float(_true_peaks(result, sample_rate, part_of(progress, 1, 2)).max(initial=0.0))
    excess = _decibels(peak) - MAX_TRUE_PEAK
    return _amplified(result, -excess) if excess > 0 else result
