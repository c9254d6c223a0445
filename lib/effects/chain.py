"""Applies a chain of effects to audio (C, T); the result has the same shape."""

from collections.abc import Callable

import numpy as np

from lib.effects.dynamics import compress, limit
from lib.effects.equaliser import highpass, lowpass, peak, shelf
from lib.effects.noise import reduce_noise
from lib.effects.space import chorus, delay, reverb
from lib.effects.spec import Chain
from lib.typing import FloatArray

Effect = Callable[..., FloatArray]  # audio (C, T), sample rate in Hz, and the numbers of the effect


def _compressor(
    audio: FloatArray, sample_rate: int, threshold: float, ratio: float, attack: float, release: float, gain: float
) -> FloatArray:
    louder = np.float32(10 ** (gain / 20))
    return compress(audio, sample_rate, threshold, ratio, attack, release) * louder


def _lowshelf(audio: FloatArray, sample_rate: int, frequency: float, gain: float) -> FloatArray:
    return shelf(audio, sample_rate, frequency, gain, high=False)


def _highshelf(audio: FloatArray, sample_rate: int, frequency: float, gain: float) -> FloatArray:
    return shelf(audio, sample_rate, frequency, gain, high=True)


def _denoise(audio: FloatArray, sample_rate: int, strength: float) -> FloatArray:
    return np.stack([reduce_noise(channel, sample_rate, strength) for channel in audio])


APPLY: dict[str, Effect] = {
    "highpass": highpass,
    "lowpass": lowpass,
    "eq": peak,
    "lowshelf": _lowshelf,
    "highshelf": _highshelf,
    "compressor": _compressor,
    "limiter": limit,
    "denoise": _denoise,
    "reverb": reverb,
    "delay": delay,
    "chorus": chorus,
}


def apply_chain(audio: FloatArray, sample_rate: int, chain: Chain) -> FloatArray:
    """Apply effects one after another to (C, T)."""
    for name, numbers in chain:
        audio = APPLY[name](audio, sample_rate, *numbers).astype(np.float32)
    return audio
