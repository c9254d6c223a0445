"""The remix: converted vocals over the instrumental, with level, pan and reverb."""

import importlib.util

import numpy as np

from infer.loudness import limiting_gain
from lib.effects.loudness import to_loudness
from lib.effects.space import reverb
from lib.errors import ConfigError
from lib.typing import FloatArray

REVERB_SECONDS, REVERB_DELAY = 1.4, 20.0  # s, ms
HALF_POWER = np.sqrt(0.5)
SILENT = 10 ** (-70 / 20)  # of the peak of the vocals
HOLD, FADE = 0.1, 0.02  # s kept around sound, and length of the fades


def mix(
    vocals: FloatArray,
    instrumental: FloatArray,
    sample_rate: int,
    *,
    vocal_level: float = 0.0,
    instrumental_level: float = 0.0,
    pan: float = 0.0,
    reverb_level: float = 0.0,
    loudness: float | None = None,
) -> FloatArray:
    """Add vocals and instrumental (C, T) of equal length: (2, T). Levels in dB, pan from -1 to 1, loudness in LUFS.

    Without a target loudness, the sum is scaled down only if it would exceed full scale.
    """
    voice = _panned(_two(vocals) * np.float32(_gain(vocal_level)), pan)
    if reverb_level > 0:
        voice = reverb(voice, sample_rate, reverb_level, REVERB_SECONDS, REVERB_DELAY)
    total = voice + _two(instrumental) * np.float32(_gain(instrumental_level))
    if loudness is not None:
        return to_loudness(total, sample_rate, loudness)
    limited: FloatArray = total * limiting_gain(float(np.abs(total).max()))
    return limited


def _two(audio: FloatArray) -> FloatArray:
    return np.repeat(audio, 2, axis=0) if len(audio) == 1 else audio


def _gain(level: float) -> float:
    return float(10 ** (level / 20))


def _panned(audio: FloatArray, pan: float) -> FloatArray:
    """Pan (2, T) with constant power; 0 changes nothing, -1 and 1 use only one channel."""
    if pan == 0:
        return audio
    angle = (pan + 1) * np.pi / 4
    towards = np.array([np.cos(angle), np.sin(angle)], np.float32) / np.float32(HALF_POWER)
    centre = audio.mean(axis=0)
    share = np.float32(abs(pan))
    panned: FloatArray = (1 - share) * audio * towards[:, None] + share * towards[:, None] * centre
    return panned


def change_key(audio: FloatArray, sample_rate: int, semitones: int) -> FloatArray:
    """Transpose (C, T) without changing its length.

    Raises ConfigError if the python-stretch package is not installed.
    """
    if semitones == 0:
        return audio
    if importlib.util.find_spec("python_stretch") is None:
        raise ConfigError(
            "Changing the key of the instrumental by {semitones} semitones needs the package python-stretch. Install "
            "it (pip install python-stretch), or choose a pitch shift of whole octaves.",
            semitones=semitones,
        )
    import python_stretch

    stretch = python_stretch.Signalsmith.Stretch(1)  # a seed
    stretch.preset(len(audio), sample_rate)
    stretch.setTransposeSemitones(semitones)
    changed = np.asarray(stretch.process(np.ascontiguousarray(audio, np.float32)), np.float32)[:, : audio.shape[1]]
    return np.pad(changed, ((0, 0), (0, audio.shape[1] - changed.shape[1])))


def silence_where_silent(converted: FloatArray, vocals: FloatArray, sample_rate: int) -> FloatArray:
    """Mute converted vocals (C, T) in the pauses of the original vocals (C, T), where a voice model adds sound."""
    from scipy.ndimage import maximum_filter1d, uniform_filter1d

    loudest = np.abs(vocals).max(axis=0)
    audible = maximum_filter1d(loudest, round(HOLD * sample_rate)) > SILENT * loudest.max(initial=0.0)
    gain = uniform_filter1d(audible.astype(np.float32), round(FADE * sample_rate))
    gated: FloatArray = converted * np.maximum(gain, 0).astype(np.float32)
    return gated
