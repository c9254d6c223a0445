"""Autotune: find the key of a melody, and pull its F0 towards the notes of a scale."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from lib.typing import FloatArray

Note = Literal["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"]
Scale = Literal["chromatic", "major", "minor", "harmonic minor", "major pentatonic", "minor pentatonic", "blues"]
NOTES: tuple[Note, ...] = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
SCALES: dict[Scale, tuple[int, ...]] = {  # semitones above the tonic
    "chromatic": tuple(range(12)),
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
    "major pentatonic": (0, 2, 4, 7, 9),
    "minor pentatonic": (0, 3, 5, 7, 10),
    "blues": (0, 3, 5, 6, 7, 10),
}
# Krumhansl and Kessler, Psychological Review 89 (1982): how well each semitone above the tonic fits a key.
MAJOR_PROFILE = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR_PROFILE = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)

A4_HZ, A4_MIDI = 440.0, 69
CENTRE_FRAMES = 21  # the median that finds the note below a vibrato (5 to 7 Hz)
SMOOTH_FRAMES = 19  # of the mean after it: a period of a slow vibrato
HYSTERESIS = 0.15  # semitones by which another note must be nearer before it is taken
GLIDE_FRAMES = 4  # over which F0 moves from one note to the next
FULL_KEEPS_VIBRATO = 0.5  # strength up to which vibrato is kept wholly; it vanishes towards 1
MIN_FRAMES = 3  # shorter voiced parts are shifted as a whole


class Key(NamedTuple):
    """A tonic and its scale."""

    tonic: Note
    scale: Scale

    @property
    def classes(self) -> tuple[int, ...]:
        """The pitch classes of the scale, 0 = C."""
        return tuple(sorted((NOTES.index(self.tonic) + step) % 12 for step in SCALES[self.scale]))


def find_key(f0: FloatArray, tonic: Note | None = None, scale: Scale | None = None) -> Key | None:
    """Return the key that best fits a melody (F,) in Hz; None if nothing is voiced.

    If the tonic or the scale is given, only keys with it are compared. Without a scale, major and minor
    keys are compared.
    """
    voiced = f0[f0 > 0]
    if len(voiced) == 0:
        return None
    durations = np.bincount(np.rint(_to_midi(voiced)).astype(int) % 12, minlength=12)
    modes: list[tuple[Scale, tuple[float, ...]]] = [("major", MAJOR_PROFILE), ("minor", MINOR_PROFILE)]
    if scale is not None:
        modes = [(scale, MINOR_PROFILE if 4 not in SCALES[scale] else MAJOR_PROFILE)]
    fits = {
        Key(note, mode): _correlation(np.roll(profile, NOTES.index(note)), durations)
        for mode, profile in modes
        for note in ([tonic] if tonic else NOTES)
    }
    return max(fits, key=lambda key: fits[key])


def _correlation(first: npt.NDArray[np.floating], second: npt.NDArray[np.integer]) -> float:
    """Pearson's correlation; 0 where the second is constant."""
    return float(np.corrcoef(first, second)[0, 1]) if np.ptp(second) else 0.0


def autotune(f0: FloatArray, key: Key, strength: float) -> FloatArray:
    """Pull F0 (F,) in Hz at 100 frames/s towards the notes of a key; unvoiced frames stay 0.

    The centre of each note moves towards the nearest note of the key by the fraction `strength` of the distance; at 1
    every frame lies on a note. Vibrato is unchanged up to a strength of 0.5, and decreases to none at 1.
    """
    result = f0.copy()
    vibrato = 1.0 - max(strength - FULL_KEEPS_VIBRATO, 0.0) / (1 - FULL_KEEPS_VIBRATO)
    voiced = np.flatnonzero(f0 > 0)
    for part in np.split(voiced, np.flatnonzero(np.diff(voiced) > 1) + 1) if len(voiced) else []:
        pitch = _to_midi(f0[part])
        centre = _centre(pitch)
        notes = _glide(_nearest_notes(centre, key.classes)) if strength < 1 else _nearest_notes(centre, key.classes)
        drawn = centre + strength * (notes - centre) + vibrato * (pitch - centre)
        result[part] = A4_HZ * 2 ** ((drawn - A4_MIDI) / 12)
    return result


def _to_midi(f0: FloatArray) -> npt.NDArray[np.float64]:
    midi: npt.NDArray[np.float64] = A4_MIDI + 12 * np.log2(np.asarray(f0, np.float64) / A4_HZ)
    return midi


def _centre(pitch: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The pitch without its vibrato: a median, which keeps steps between notes, then a mean within each note."""
    if len(pitch) < MIN_FRAMES:
        return np.full(len(pitch), np.median(pitch))
    half = CENTRE_FRAMES // 2
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(pitch, half, mode="edge"), CENTRE_FRAMES)
    median = np.median(windows, axis=1)
    out = np.empty(len(pitch))
    steps = np.flatnonzero(np.abs(np.diff(median)) > 0.5) + 1  # where another note begins
    for note in np.split(np.arange(len(pitch)), steps):
        size = min(SMOOTH_FRAMES, len(note))
        padded = np.pad(pitch[note], (size // 2, size - 1 - size // 2), mode="reflect" if len(note) > 1 else "edge")
        out[note] = np.convolve(padded, np.ones(size) / size, "valid")
    return out


def _nearest_notes(centre: npt.NDArray[np.float64], classes: Sequence[int]) -> npt.NDArray[np.float64]:
    """For every frame the nearest note of the scale; the previous one is kept unless another is clearly nearer."""
    lowest, highest = int(centre.min()) - 12, int(centre.max()) + 13
    scale = np.array([midi for midi in range(lowest, highest) if midi % 12 in classes], np.float64)
    nearest: npt.NDArray[np.float64] = scale[np.abs(centre[:, None] - scale).argmin(axis=1)]
    current = nearest[0]
    for i, note in enumerate(nearest):
        if note != current and abs(centre[i] - note) + HYSTERESIS < abs(centre[i] - current):
            current = note
        nearest[i] = current
    return nearest


def _glide(notes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The notes with short glides in place of steps."""
    padded = np.pad(notes, (GLIDE_FRAMES // 2, GLIDE_FRAMES - 1 - GLIDE_FRAMES // 2), mode="edge")
    return np.asarray(np.convolve(padded, np.ones(GLIDE_FRAMES) / GLIDE_FRAMES, "valid"), np.float64)
