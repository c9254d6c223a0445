"""Cut long audio at quiet points into chunks, and join the converted chunks without losing a frame (pure functions).

Each chunk is converted with `pad` seconds of context on both sides, and only the chunk's own part of the result is
used:

    padded audio  |--pad--|......... audio ..........|--pad--|
    chunk 1       [--pad--|=========|--pad--]
    chunk 2                 [--pad--|================|--pad--]
    joined                |=========X================|          X: cross-fade of two frames

Content encoders drop up to two frames at the end of their input; these frames lie in the padding, so no frame of the
audio is lost.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from lib.audio import ANALYSIS_RATE
from lib.pitch.scale import FRAMES_PER_SECOND, HOP_LENGTH
from lib.typing import FloatArray, Samples

EnergyRule = Literal["magnitude", "signed"]

MIN_CHUNK = 2.0  # s; shorter ones would consist mostly of padding
FADE_FRAMES = 1  # frames on either side of a join


@dataclass(frozen=True)
class ChunkLimits:
    """Where long audio is cut, in seconds; the defaults are RVC's for float32.

    `pad` is the context of a chunk and affects the result; the other fields only determine where chunks end.
    """

    pad: float = 1.0
    query: float = 6.0  # a cut is searched for this far to either side of ...
    center: float = 38.0  # ... every multiple of this
    longest: float = 41.0  # audio up to this length is not cut

    def __post_init__(self) -> None:
        assert self.pad * FRAMES_PER_SECOND >= 4, "the padding must cover frames that encoders drop, and a cross-fade"
        assert self.center - 2 * self.query >= 4 / FRAMES_PER_SECOND, "neighbouring cuts must keep their distance"

    def halved(self) -> "ChunkLimits | None":
        """Return limits for chunks of half the length, with the same padding; None if the chunks would be too short."""
        if self.longest / 2 < MIN_CHUNK:
            return None
        return ChunkLimits(self.pad, self.query / 2, self.center / 2, self.longest / 2)

    @property
    def pad_frames(self) -> int:
        """The padding in frames of 10 ms."""
        return round(self.pad * FRAMES_PER_SECOND)


@dataclass(frozen=True)
class Chunk:
    """A chunk of the audio: its frames [start, stop) of 10 ms."""

    start: int
    stop: int
    is_last: bool

    def padded_audio(self, padded: Samples, pad_frames: int) -> npt.NDArray[np.floating]:
        """Return the chunk's samples with context on both sides: a slice of `padded`, the padded audio.

        `pad_frames` is the length of the padding at either end of the audio. The slice is one frame longer than needed,
        because content encoders produce no frame at the very end of their input.
        """
        if self.is_last:
            return padded[self.start * HOP_LENGTH :]
        return padded[self.start * HOP_LENGTH : (self.stop + 2 * pad_frames + 1) * HOP_LENGTH]

    def padded_frames(self, pad_frames: int) -> slice:
        """Return the slice of the frames of `padded_audio` in a curve, such as F0, over the padded audio."""
        return slice(self.start, None if self.is_last else self.stop + 2 * pad_frames)

    def with_fade(self) -> tuple[int, int]:
        """Return the half-open range (start, stop) of frames that the chunk contributes, with the cross-fades to its
        neighbours."""
        return (self.start - (FADE_FRAMES if self.start else 0), self.stop + (0 if self.is_last else FADE_FRAMES))

    def own_frames(self, pad_frames: int) -> tuple[int, int]:
        """Return `with_fade()` counted from the start of `padded_audio`, which begins with `pad_frames` of context."""
        first, last = self.with_fade()
        return first - self.start + pad_frames, last - self.start + pad_frames


def quiet_points(audio: Samples, limits: ChunkLimits, rule: EnergyRule = "magnitude") -> list[int]:
    """Return the sample positions at which audio (T,) at 16 kHz should be cut; an empty list if it is short enough.

    In a window around each multiple of `limits.center`, the first minimum of a running sum over 10 ms is used: the sum
    of magnitudes, or with "signed" (as in RVC releases of 2023) the magnitude of the sum.
    """
    half = HOP_LENGTH // 2
    if len(audio) + 2 * half <= limits.longest * ANALYSIS_RATE:
        return []
    center, query = round(limits.center * ANALYSIS_RATE), round(limits.query * ANALYSIS_RATE)
    cuts = []
    for middle in range(center, len(audio), center):
        first, last = middle - query, min(middle + query, len(audio))
        near = audio[first - half : last + half].astype(np.float64)  # so that the running sum is centred
        near = np.pad(near, (0, last - first + HOP_LENGTH - len(near)), mode="reflect")
        if rule == "magnitude":
            near = np.abs(near)
        energy = np.zeros(last - first)
        for i in range(HOP_LENGTH):
            energy += near[i : i + last - first]
        cuts.append(first + int(np.argmin(np.abs(energy))))
    return cuts


def plan_chunks(audio: Samples, limits: ChunkLimits, rule: EnergyRule = "magnitude") -> list[Chunk]:
    """Divide audio (T,) at 16 kHz into chunks that cover all ceil(T / 160) frames in order, without gap or overlap."""
    n_frames = math.ceil(len(audio) / HOP_LENGTH)
    bounds = [0, *(cut // HOP_LENGTH for cut in quiet_points(audio, limits, rule)), n_frames]
    return [Chunk(a, b, b == n_frames) for a, b in pairwise(bounds)]


def join(parts: Iterable[tuple[Chunk, FloatArray]], n_samples: int, hop_length: int) -> Iterator[FloatArray]:
    """Join the parts (the samples of `with_fade()`, in order) with cross-fades, and yield blocks of n_samples in total.

    Only one part is in memory at a time. Samples beyond `n_samples` are dropped; if there are
    too few, silence is appended.
    """
    fade = 2 * FADE_FRAMES * hop_length
    rising = (np.sin(np.pi / 2 * (np.arange(fade) + 0.5) / fade) ** 2).astype(np.float32)
    room = n_samples
    before: FloatArray = np.zeros(0, np.float32)  # the end of the previous part, which the next one fades into
    for chunk, part in parts:
        if chunk.start:
            # before + w * (part - before): where both agree the result is exactly their value
            part = np.concatenate([before + rising * (part[:fade] - before), part[fade:]])
        keep = len(part) if chunk.is_last else len(part) - fade
        yield part[:keep][:room]
        room, before = max(room - keep, 0), part[keep:]
    if room:
        yield np.zeros(room, np.float32)
