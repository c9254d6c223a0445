"""The mixdown: converted vocals over the instrumental, with level, pan and reverb."""

import numpy as np

from infer.loudness import limiting_gain
from infer.song.options import CoverOptions
from lib.effects.loudness import to_loudness
from lib.effects.space import reverb
from lib.progress import Progress, no_progress, part_of, pieces
from lib.typing import FloatArray

REVERB_SECONDS, REVERB_DELAY = 1.4, 20.0  # s, ms
HALF_POWER = np.sqrt(0.5)
SILENT = 10 ** (-70 / 20)  # of the peak of the vocals
HOLD, FADE = 0.1, 0.02  # s kept around sound, and length of the fades


def mix(
    vocals: FloatArray,
    instrumental: FloatArray,
    sample_rate: int,
    options: CoverOptions,
    progress: Progress = no_progress,
) -> FloatArray:
    """Add vocals and instrumental (C, T) of equal length: (2, T).

    Without a target loudness, the sum is scaled down only if it would exceed full scale.
    """
    length = vocals.shape[1]
    total: FloatArray = np.empty((2, length), np.float32)
    for piece in pieces(length, sample_rate, part_of(progress, 0, 8)):
        total[:, piece] = _panned(_two(vocals[:, piece]) * np.float32(_gain(options.vocal_level)), options.vocal_pan)
    if options.vocal_reverb > 0:
        total = reverb(total, sample_rate, options.vocal_reverb, REVERB_SECONDS, REVERB_DELAY, part_of(progress, 1, 8))
    gain, peak = np.float32(_gain(options.instrumental_level)), 0.0
    for piece in pieces(length, sample_rate, part_of(progress, 2, 8)):
        total[:, piece] += _two(instrumental[:, piece]) * gain
        peak = max(peak, float(np.abs(total[:, piece]).max()))
    if options.loudness is not None:
        return to_loudness(total, sample_rate, options.loudness, part_of(progress, 3, 8, 5))
    total *= limiting_gain(peak)
    return total


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


def silence_where_silent(
    converted: FloatArray, vocals: FloatArray, sample_rate: int, progress: Progress = no_progress
) -> FloatArray:
    """Mute converted vocals (C, T) in the pauses of the original vocals (C, T), where a voice model adds sound."""
    from scipy.ndimage import maximum_filter1d, uniform_filter1d

    gated = np.empty_like(converted, np.float32)
    hold, fade = round(HOLD * sample_rate), round(FADE * sample_rate)
    silent = SILENT * max(float(vocals.max(initial=0.0)), -float(vocals.min(initial=0.0)))
    for piece in pieces(converted.shape[1], sample_rate, progress):
        start = max(piece.start - hold - fade, 0)
        loudest = np.abs(vocals[:, start : piece.stop + hold + fade]).max(axis=0)
        gain = uniform_filter1d((maximum_filter1d(loudest, hold) > silent).astype(np.float32), fade)
        gated[:, piece] = converted[:, piece] * np.maximum(gain[piece.start - start :][: piece.stop - piece.start], 0)
    return gated
