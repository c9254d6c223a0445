"""The target F0: estimated over the whole input, transposed, and replaced where a user-supplied F0 curve covers it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from infer.options import ConvertOptions
from lib.errors import ConfigError
from lib.messages import Message
from lib.pitch.autotune import autotune, find_key
from lib.pitch.curve_file import PitchCurve
from lib.pitch.scale import (
    HOP_LENGTH,
    fill_unvoiced,
    frame_windows,
    hz_to_bins,
    median_filter,
    shift_semitones,
    splice_curve,
    suggested_shift,
)
from lib.progress import Progress, no_progress
from lib.typing import FloatArray, IntArray, Samples

# F0 of longer audio is estimated in overlapping windows, so that an hour needs no more memory than two minutes.
CORE_FRAMES = 12_288  # of 10 ms; a multiple of the steps that pitch methods take themselves
MARGIN_FRAMES = 512


@dataclass(frozen=True)
class TargetF0:
    """F0 input of the synthesizer for a recording or a part of it, at 100 frames/s."""

    f0: FloatArray  # (F,) Hz, transposed; 0 = unvoiced, unless filled
    voiced_f0: FloatArray  # (F,) the same before unvoiced frames are filled
    bins: IntArray  # (F,) 1..255
    pitch_shift: float = 0.0  # semitones that were added

    def part(self, frames: slice) -> "TargetF0":
        """Return the given range of frames."""
        return TargetF0(self.f0[frames], self.voiced_f0[frames], self.bins[frames], self.pitch_shift)


def estimate_f0(
    audio: Samples, extract: Callable[[FloatArray], FloatArray], progress: Progress = no_progress
) -> FloatArray:
    """Estimate the F0 of audio (T,) at 16 kHz: (T // 160,) Hz, independent of where the conversion cuts the audio."""
    frames = len(audio) // HOP_LENGTH
    parts = []
    for window in frame_windows(frames, CORE_FRAMES, MARGIN_FRAMES):
        progress(window.start, frames, Message("estimating F0"))
        stop = None if window.stop == frames else window.stop * HOP_LENGTH
        context = audio[window.start * HOP_LENGTH : stop].astype(np.float32)
        parts.append(extract(context)[window.keep])
    return np.concatenate(parts)


def make_target_f0(
    f0: FloatArray, options: ConvertOptions, curve: PitchCurve | None, pad_frames: int, *, fill: bool
) -> TargetF0:
    """Turn the F0 (F,) of padded input into the target F0; `fill` interpolates unvoiced gaps.

    `curve` replaces the part of the recording it covers; pitch_shift, filter_radius and autotune do not change it.
    """
    voiced_f0 = shift_semitones(median_filter(f0, options.filter_radius), options.pitch_shift)
    if options.autotune > 0:
        voiced_f0 = _tuned(voiced_f0, options)
    if curve is not None:
        inner = slice(pad_frames, len(voiced_f0) - pad_frames)
        voiced_f0[inner] = splice_curve(voiced_f0[inner], curve.times, curve.values)
    filled = fill_unvoiced(voiced_f0) if fill else voiced_f0
    return TargetF0(filled, voiced_f0, hz_to_bins(filled), options.pitch_shift)


def _tuned(f0: FloatArray, options: ConvertOptions) -> FloatArray:
    """Pull F0 (F,) in Hz, already transposed, towards the notes of the key in the options."""
    tonic = None if options.key == "auto" else options.key
    key = find_key(f0, tonic, None if options.scale == "auto" else options.scale)
    return f0 if key is None else autotune(f0, key, options.autotune)


def automatic_shift(f0: FloatArray, voice_hz: float | None, how: Literal["off", "semitones", "octaves"]) -> float:
    """Return the shift in semitones from the median of the F0 (F,) in Hz to the median F0 of the voice.

    With octave steps, the shift is rounded to whole octaves. Raises ConfigError if the F0 of the voice is unknown
    (None).
    """
    if how == "off" or not (f0 > 0).any():
        return 0.0
    if voice_hz is None:
        raise ConfigError(
            "The pitch of this voice is unknown, so no shift can be computed. Set auto_pitch to off, and choose a "
            "pitch shift."
        )
    semitones = suggested_shift(float(np.median(f0[f0 > 0])), voice_hz)
    return float(12 * round(semitones / 12) if how == "octaves" else semitones)
