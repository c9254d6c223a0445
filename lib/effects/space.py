"""Reverb, delay and chorus for (C, T). The results are as long as the input; the tail is truncated."""

import numpy as np

from lib.progress import Progress, no_progress, pieces
from lib.typing import FloatArray

DECAY_DB = 60.0  # by which a reverb has decayed after its time
BRIGHTNESS = 6000.0  # Hz, above which the reverb is damped
INAUDIBLE = 1e-3  # level at which echoes end
CHORUS_DELAY = 0.015  # s
SEED = 20_230_401


def reverb(
    audio: FloatArray,
    sample_rate: int,
    level: float,
    seconds: float,
    delay_ms: float,
    progress: Progress = no_progress,
) -> FloatArray:
    """Add reverberation with an impulse response of decaying noise, a different one for each channel.

    `level` is the level of the reverberation relative to the input.
    """
    from scipy import fft

    response = level * _response(len(audio), sample_rate, seconds, delay_ms)
    length = response.shape[1]
    size = fft.next_fast_len(length + max(length, sample_rate), real=True)
    step, spectrum, result = size - length, fft.rfft(response, size), audio.astype(np.float32)
    for start in range(0, audio.shape[1], step):
        progress(start, audio.shape[1], "")
        wet = fft.irfft(fft.rfft(audio[:, start : start + step], size) * spectrum, size)
        room = min(size, audio.shape[1] - start)
        result[:, start : start + room] += wet[:, :room]
    return result


def _response(channels: int, sample_rate: int, seconds: float, delay_ms: float) -> FloatArray:
    """The impulse response (C, N), with a power of 1."""
    from scipy.signal import butter, sosfilt

    length, start = round(seconds * sample_rate), round(delay_ms * sample_rate / 1000)
    noise = np.random.default_rng(SEED).standard_normal((channels, length))
    damping = butter(1, min(BRIGHTNESS, 0.45 * sample_rate), fs=sample_rate, output="sos")
    response = sosfilt(damping, noise, axis=-1) * 10 ** (-DECAY_DB / 20 * np.arange(length) / length)
    response /= np.sqrt(np.square(response).sum(axis=1, keepdims=True))
    padded: FloatArray = np.pad(response, ((0, 0), (start, 0))).astype(np.float32)
    return padded


def delay(
    audio: FloatArray,
    sample_rate: int,
    milliseconds: float,
    feedback: float,
    level: float,
    progress: Progress = no_progress,
) -> FloatArray:
    """Add echoes, each `feedback` times as loud as the previous one; the first has `level`."""
    result, step = audio.copy(), max(round(milliseconds * sample_rate / 1000), 1)
    for piece in pieces(audio.shape[1], sample_rate, progress):
        gain, at = level, step
        while gain > INAUDIBLE and at < piece.stop:
            first = max(piece.start, at)
            result[:, first : piece.stop] += np.float32(gain) * audio[:, first - at : piece.stop - at]
            gain, at = gain * feedback, at + step
    return result


def chorus(
    audio: FloatArray,
    sample_rate: int,
    depth_ms: float,
    frequency: float,
    level: float,
    progress: Progress = no_progress,
) -> FloatArray:
    """Add a copy with a modulated delay; the LFO of the second channel leads by 90 degrees."""
    result = audio.copy()
    longest = round((CHORUS_DELAY + depth_ms / 1000) * sample_rate) + 2
    for piece in pieces(audio.shape[1], sample_rate, progress):
        time = np.arange(piece.start, piece.stop)
        near = np.arange(max(piece.start - longest, 0), piece.stop)
        for i, channel in enumerate(audio):
            sway = 0.5 + 0.5 * np.sin(2 * np.pi * frequency * time / sample_rate + i * np.pi / 2)
            place = time - (CHORUS_DELAY + depth_ms / 1000 * sway) * sample_rate
            late = np.interp(place, near, channel[near[0] : piece.stop], left=0.0)
            result[i, piece] += np.float32(level) * late.astype(np.float32)
    return result
