"""Applies a chain of effects to audio (C, T); the result has the same shape."""

from collections.abc import Callable
from functools import partial

import numpy as np

from lib.effects.dynamics import compress, limit
from lib.effects.equaliser import highpass, lowpass, peak, shelf
from lib.effects.noise import reduce_noise
from lib.effects.space import chorus, delay, reverb
from lib.effects.spec import Chain
from lib.progress import Progress, no_progress, part_of
from lib.typing import FloatArray

Effect = Callable[..., FloatArray]  # audio (C, T), sample rate in Hz, the numbers of the effect, and a Progress


def _compressor(audio: FloatArray, sample_rate: int, *numbers: float, progress: Progress) -> FloatArray:
    threshold, ratio, attack, release, gain = numbers
    louder = np.float32(10 ** (gain / 20))
    return compress(audio, sample_rate, threshold, ratio, attack, release, progress) * louder


def _denoise(audio: FloatArray, sample_rate: int, strength: float, progress: Progress) -> FloatArray:
    return np.stack(
        [
            reduce_noise(channel, sample_rate, strength, part_of(progress, i, len(audio)))
            for i, channel in enumerate(audio)
        ]
    )


APPLY: dict[str, Effect] = {
    "highpass": highpass,
    "lowpass": lowpass,
    "eq": peak,
    "lowshelf": partial(shelf, high=False),
    "highshelf": partial(shelf, high=True),
    "compressor": _compressor,
    "limiter": limit,
    "denoise": _denoise,
    "reverb": reverb,
    "delay": delay,
    "chorus": chorus,
}


def apply_chain(audio: FloatArray, sample_rate: int, chain: Chain, progress: Progress = no_progress) -> FloatArray:
    """Apply effects one after another to audio (C, T)."""
    for i, (name, numbers) in enumerate(chain):
        report = part_of(progress, i, len(chain))
        audio = APPLY[name](audio, sample_rate, *numbers, progress=report).astype(np.float32)
    return audio
