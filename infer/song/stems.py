"""Vocals and instrumental of a song, from both stems, or from one stem and the song."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.audio.decode import load_stereo
from lib.audio.filters import resample
from lib.errors import AudioError, ConfigError
from lib.progress import Progress, no_progress, part_of, pieces
from lib.typing import FloatArray

MAX_OFFSET = 1.0  # s by which a stem may be early or late
MATCHED_SECONDS = 60.0  # of the song, which are searched for the stem
GAIN_SECONDS, GAIN_ROUNDS = 0.05, 30  # of the blocks in which the level of a stem is measured; iterations
MIN_CORRELATION = 0.2  # of a stem with its song, where it fits best


@dataclass(frozen=True)
class Stems:
    """Vocals and instrumental (C, T) of equal length, C = 1 or 2 each."""

    vocals: FloatArray
    instrumental: FloatArray
    backing: FloatArray | None = None  # vocals that are mixed as they are


def join_stems(vocals: FloatArray, instrumental: FloatArray) -> Stems:
    """Combine two stems that start at the same time; the shorter one is extended with silence."""
    length = max(vocals.shape[1], instrumental.shape[1])
    return Stems(_extended(vocals, length), _extended(instrumental, length))


def split_song(
    song: FloatArray, stem: FloatArray, sample_rate: int, path: Path, progress: Progress = no_progress
) -> tuple[FloatArray, FloatArray]:
    """Return the stem as it occurs in the song, and the rest of the song, (C, T) each.

    Delay and level of the stem, which was read from `path`, are found by correlation. Raises AudioError if it does not
    match the song.
    """
    channels = max(len(song), len(stem))
    song, stem = (np.broadcast_to(audio, (channels, audio.shape[1])) for audio in (song, stem))
    offset = _offset(song.mean(axis=0), stem.mean(axis=0), sample_rate, part_of(progress, 0, 2))
    placed = _extended(np.pad(stem, ((0, 0), (max(offset, 0), 0)))[:, max(-offset, 0) :], song.shape[1])
    energy, common = float(np.vdot(placed, placed)), float(np.vdot(song, placed))
    if common <= MIN_CORRELATION * np.sqrt(energy * float(np.vdot(song, song))):
        raise AudioError(
            "{path} is not part of the song: no match was found within one second. Use a stem of exactly "
            "this recording, or both vocals and instrumental.",
            path=path,
        )
    inside = placed * np.float32(_gain(song, placed, sample_rate, part_of(progress, 1, 2)))
    return inside, (song - inside).astype(np.float32)


def read_stem(path: Path, sample_rate: int, progress: Progress = no_progress) -> FloatArray:
    """Read a stem (C, T) at the song's rate. Raises the same errors as `Recording`."""
    audio, rate = load_stereo(path, part_of(progress, 0, 2))
    return audio if rate == sample_rate else resample(audio, rate, sample_rate, part_of(progress, 1, 2))


def _extended(audio: FloatArray, length: int) -> FloatArray:
    return np.pad(audio[:, :length], ((0, 0), (0, max(length - audio.shape[1], 0))))


def _gain(song: FloatArray, stem: FloatArray, sample_rate: int, progress: Progress) -> float:
    """Return the level of the stem in the song (C, T), which leaves silence where the song contains only the stem.

    Weighted least squares over short blocks: blocks with a small residual get a large weight, until the gain converges.
    """
    size = round(GAIN_SECONDS * sample_rate)
    sums = []
    for piece in pieces(song.shape[1], sample_rate, progress, size):
        starts = np.arange(0, piece.stop - piece.start, size)
        a, b = stem[:, piece].astype(np.float64), song[:, piece].astype(np.float64)
        sums.append([np.add.reduceat((x * y).sum(axis=0), starts) for x, y in ((a, a), (a, b), (b, b))])
    own, both, all_ = np.concatenate(sums, axis=1)
    gain = float(both.sum() / own.sum())
    for _ in range(GAIN_ROUNDS):
        remains = np.maximum(all_ - 2 * gain * both + gain * gain * own, 0.0)
        weight = 1 / (remains + 1e-9 * all_.mean())
        gain = float((weight * both).sum() / (weight * own).sum())
    return gain


def _offset(song: FloatArray, stem: FloatArray, sample_rate: int, progress: Progress) -> int:
    """Return by how many samples the stem (S,) is earlier than in the song (T,), at their maximum correlation."""
    most = round(MAX_OFFSET * sample_rate)
    loudest = int(np.argmax(np.abs(stem)))
    start = max(loudest - round(MATCHED_SECONDS / 2 * sample_rate), 0)
    part = stem[start : start + round(MATCHED_SECONDS * sample_rate)]
    low = start - most
    region = song[max(low, 0) : start + len(part) + most]
    region = np.pad(region, (max(-low, 0), 0))
    if not part.any() or len(region) == 0:
        raise ConfigError("The stem is silent. Use the vocals or the instrumental of the song.")
    size = 1 << int(np.ceil(np.log2(3 * sample_rate + 2 * most)))
    product = np.zeros(size // 2 + 1, np.complex128)
    for piece in pieces(len(part), sample_rate, progress):
        near = region[piece.start : piece.stop + 2 * most]
        product += np.fft.rfft(near, size) * np.conj(np.fft.rfft(part[piece], size))
    return int(np.fft.irfft(product, size)[: 2 * most + 1].argmax()) - most
