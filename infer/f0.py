"""The target F0: estimated over the whole input, transposed, replaced where an F0 curve covers it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from infer.disk_buffer import Samples
from infer.options import ConvertOptions
from lib.pitch.curve_file import PitchCurve
from lib.pitch.scale import (
    HOP_LENGTH,
    fill_unvoiced,
    frame_windows,
    hz_to_bins,
    median_filter,
    shift_semitones,
    splice_curve,
)
from lib.typing import FloatArray, IntArray

# F0 of longer audio is estimated in overlapping windows, so that an hour needs no more memory than two minutes.
CORE_FRAMES = 12_288  # of 10 ms; a multiple of the steps that pitch methods take themselves
MARGIN_FRAMES = 512


@dataclass(frozen=True)
class TargetF0:
    """F0 for the synthesizer, of a recording or a part of it, at 100 frames/s."""

    f0: FloatArray  # (F,) Hz, transposed; 0 = unvoiced, unless filled
    voiced_f0: FloatArray  # (F,) the same before unvoiced frames are filled
    bins: IntArray  # (F,) 1..255

    def part(self, frames: slice) -> "TargetF0":
        """The same for some of the frames."""
        return TargetF0(self.f0[frames], self.voiced_f0[frames], self.bins[frames])


def estimate_f0(audio: Samples, extract: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """F0 of audio (T,) at 16 kHz: (T // 160,) Hz, independent of where the conversion cuts the audio."""
    frames = len(audio) // HOP_LENGTH
    parts = []
    for window in frame_windows(frames, CORE_FRAMES, MARGIN_FRAMES):
        stop = None if window.stop == frames else window.stop * HOP_LENGTH
        context = audio[window.start * HOP_LENGTH : stop].astype(np.float32)
        parts.append(extract(context)[window.keep])
    return np.concatenate(parts)


def make_target_f0(
    f0: FloatArray, options: ConvertOptions, curve: PitchCurve | None, pad_frames: int, *, fill: bool
) -> TargetF0:
    """Turn the F0 (F,) of padded input into the target F0; `fill` interpolates unvoiced gaps.

    `curve` replaces the part of the recording it covers; pitch_shift and filter_radius do not change it.
    """
    voiced_f0 = shift_semitones(median_filter(f0, options.filter_radius), options.pitch_shift)
    if curve is not None:
        inner = slice(pad_frames, len(voiced_f0) - pad_frames)
        voiced_f0[inner] = splice_curve(voiced_f0[inner], curve.times, curve.values)
    filled = fill_unvoiced(voiced_f0) if fill else voiced_f0
    return TargetF0(filled, voiced_f0, hz_to_bins(filled))
