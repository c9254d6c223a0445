"""The F0 that is sung: estimated over the whole song, transposed, replaced where a hand-made curve says so."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# Longer songs are heard in overlapping windows, so that an hour needs no more memory than two minutes.
CORE_FRAMES = 12_288  # of 10 ms; a multiple of the steps that methods themselves take
MARGIN_FRAMES = 512


@dataclass(frozen=True)
class Melody:
    """F0 of a song or a part of it, at 100 frames/s."""

    f0: Floats  # (F,) Hz, transposed; 0 = unvoiced, unless filled
    voiced_f0: Floats  # (F,) the same before unvoiced frames are filled
    bins: Ints  # (F,) 1..255

    def part(self, frames: slice) -> "Melody":
        """The same for some of the frames."""
        return Melody(self.f0[frames], self.voiced_f0[frames], self.bins[frames])


def estimate(audio: Samples, extract: Callable[[Floats], Floats]) -> Floats:
    """F0 of audio (T,) at 16 kHz: (T // 160,) Hz, independent of where the song is cut for anything else."""
    frames = len(audio) // HOP_LENGTH
    parts = []
    for window in frame_windows(frames, CORE_FRAMES, MARGIN_FRAMES):
        stop = None if window.stop == frames else window.stop * HOP_LENGTH
        heard = audio[window.start * HOP_LENGTH : stop].astype(np.float32)
        parts.append(extract(heard)[window.keep])
    return np.concatenate(parts)


def sing(f0: Floats, options: ConvertOptions, curve: PitchCurve | None, pad_frames: int, *, fill: bool) -> Melody:
    """Make of the F0 (F,) of a padded song what is sung; `fill` bridges unvoiced gaps.

    `curve` replaces the part of the song it covers. Neither pitch_shift nor filter_radius change it.
    """
    voiced_f0 = shift_semitones(median_filter(f0, options.filter_radius), options.pitch_shift)
    if curve is not None:
        song = slice(pad_frames, len(voiced_f0) - pad_frames)
        voiced_f0[song] = splice_curve(voiced_f0[song], curve.times, curve.values)
    sung = fill_unvoiced(voiced_f0) if fill else voiced_f0
    return Melody(sung, voiced_f0, hz_to_bins(sung))
