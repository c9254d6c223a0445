"""Reverb, delay and chorus for (C, T). The results are as long as the input; the tail is truncated."""

import numpy as np

from lib.typing import FloatArray

DECAY_DB = 60.0  # by which a reverb has decayed after its time
BRIGHTNESS = 6000.0  # Hz, above which the reverb is damped
INAUDIBLE = 1e-3  # level at which echoes end
CHORUS_DELAY = 0.015  # s
SEED = 20_230_401


def reverb(audio: FloatArray, sample_rate: int, level: float, seconds: float, delay_ms: float) -> FloatArray:
    """Add reverberation with an impulse response of decaying noise, a different one for each channel.

    `level` is the level of the reverberation relative to the input.
    """
    from scipy.signal import butter, oaconvolve, sosfilt

    length, start = round(seconds * sample_rate), round(delay_ms * sample_rate / 1000)
    noise = np.random.default_rng(SEED).standard_normal((len(audio), length))
    damping = butter(1, min(BRIGHTNESS, 0.45 * sample_rate), fs=sample_rate, output="sos")
    response = sosfilt(damping, noise, axis=-1) * 10 ** (-DECAY_DB / 20 * np.arange(length) / length)
    response /= np.sqrt(np.square(response).sum(axis=1, keepdims=True))
    response = np.pad(response, ((0, 0), (start, 0))).astype(np.float32)
    wet = oaconvolve(audio, response, axes=-1)[:, : audio.shape[1]]
    mixed: FloatArray = (audio + level * wet).astype(np.float32)
    return mixed


def delay(audio: FloatArray, sample_rate: int, milliseconds: float, feedback: float, level: float) -> FloatArray:
    """Add echoes, each `feedback` times as loud as the previous one; the first has `level`."""
    result, step = audio.copy(), max(round(milliseconds * sample_rate / 1000), 1)
    gain, at = level, step
    while gain > INAUDIBLE and at < audio.shape[1]:
        result[:, at:] += np.float32(gain) * audio[:, :-at]
        gain, at = gain * feedback, at + step
    return result


def chorus(audio: FloatArray, sample_rate: int, depth_ms: float, frequency: float, level: float) -> FloatArray:
    """Add a copy with a varying delay; on the second channel the variation is a quarter of a period later."""
    time = np.arange(audio.shape[1])
    result = audio.copy()
    for i, channel in enumerate(audio):
        sway = 0.5 + 0.5 * np.sin(2 * np.pi * frequency * time / sample_rate + i * np.pi / 2)
        place = time - (CHORUS_DELAY + depth_ms / 1000 * sway) * sample_rate
        result[i] += np.float32(level) * np.interp(place, time, channel, left=0.0).astype(np.float32)
    return result
