"""Cuts a recording at its pauses: finds the sample ranges that contain sound (pure functions).

A pause is a run of frames whose RMS lies below the threshold. A short pause is cut at its quietest frame and nothing is
lost; of a longer pause, up to `max_silence_ms` are kept on either side and the middle is dropped:

    sound ──────┐                                   ┌────── sound
                │  kept  │     dropped     │  kept  │
                silence_start                       i = first frame of sound again
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FRAMES_AT_ONCE = 4096


@dataclass(frozen=True)
class SliceRule:
    """When to cut. The values are RVC's."""

    threshold_db: float = -42.0  # dB of full scale; a frame below is silent
    min_length_ms: int = 1500  # between two cuts
    min_interval_ms: int = 400  # shortest pause that is cut
    hop_ms: int = 15  # one frame
    max_silence_ms: int = 500  # kept on each side of a cut


@dataclass(frozen=True)
class _Frames:
    """A SliceRule in frames of `hop` samples."""

    hop: int  # samples
    window: int  # samples
    threshold: float  # RMS
    min_length: int
    min_interval: int
    max_silence: int

    @classmethod
    def of(cls, rule: SliceRule, sample_rate: int) -> "_Frames":
        hop = round(sample_rate * rule.hop_ms / 1000)
        interval = sample_rate * rule.min_interval_ms / 1000  # samples
        return cls(
            hop=hop,
            window=min(round(interval), 4 * hop),
            threshold=10.0 ** (rule.threshold_db / 20.0),
            min_length=round(sample_rate * rule.min_length_ms / 1000 / hop),
            min_interval=round(interval / hop),
            max_silence=round(sample_rate * rule.max_silence_ms / 1000 / hop),
        )


Cut = tuple[int, int]  # frames [start, end) to drop; start == end drops nothing


def slice_audio(audio: npt.NDArray[Any], sample_rate: int, rule: SliceRule | None = None) -> list[tuple[int, int]]:
    """Return the sample ranges [start, end) of (T,) mono audio that contain sound, in order and disjoint.

    Audio without pauses gives one range; silence may give none.
    """
    frames = _Frames.of(rule or SliceRule(), sample_rate)
    if len(audio) <= frames.min_length:  # a clip of some milliseconds; RVC compares samples with frames here
        return [(0, len(audio))]
    rms = frame_rms(audio, frames.window, frames.hop)
    cuts = _find_cuts(rms, frames)
    if not cuts:
        return [(0, len(audio))]
    starts = [0, *(end for _, end in cuts)]
    ends = [*(start for start, _ in cuts), len(rms)]
    slices = [(start * frames.hop, min(end * frames.hop, len(audio))) for start, end in zip(starts, ends, strict=True)]
    return [(start, end) for start, end in slices if start < end]


def frame_rms(audio: npt.NDArray[Any], window: int, hop: int) -> npt.NDArray[np.float64]:
    """RMS of (T,) in windows centred on every hop-th sample, zero-padded: (T // hop + 1,) for an even window."""
    padded = np.pad(np.asarray(audio), window // 2)
    count = (len(padded) - window) // hop + 1
    power = np.empty(count)
    for first in range(0, count, FRAMES_AT_ONCE):  # float64 for all of a long recording would be large
        last = min(first + FRAMES_AT_ONCE, count)
        part = padded[first * hop : (last - 1) * hop + window].astype(np.float64)
        windows = np.lib.stride_tricks.sliding_window_view(part, window)[::hop]  # [frames, window], no copy
        power[first:last] = np.einsum("fw,fw->f", windows, windows)
    return np.sqrt(power / window)


def _find_cuts(rms: npt.NDArray[np.float64], frames: _Frames) -> list[Cut]:
    """Decide for every pause whether and where to cut; (F,) RMS -> cuts in order."""
    cuts: list[Cut] = []
    clip_start = 0  # frame at which the current slice begins
    silence_end = len(rms)
    for start, end in _pauses(rms < frames.threshold):
        if end == silence_end:
            if end - start >= frames.min_interval:
                pos = _quietest(rms, start, min(end, start + frames.max_silence))
                cuts.append((pos, end + 1))
            break
        leading = start == 0 and end > frames.max_silence
        middle = end - start >= frames.min_interval and end - clip_start >= frames.min_length
        if leading or middle:
            cut = _cut_pause(rms, start, end, frames.max_silence)
            cuts.append(cut)
            clip_start = cut[1]
    return cuts


def _cut_pause(rms: npt.NDArray[np.float64], start: int, end: int, keep: int) -> Cut:
    """Cut a pause of frames [start, end) before a sound; one at the very beginning is dropped up to the cut."""
    length = end - start
    if length <= keep:
        left = right = _quietest(rms, start, end)
    else:
        left, right = _quietest(rms, start, start + keep), _quietest(rms, end - keep, end)
        if start > 0 and length <= 2 * keep:
            middle = _quietest(rms, end - keep, start + keep)
            left, right = min(left, middle), max(right, middle)
    return (0, right) if start == 0 else (left, right)


def _quietest(rms: npt.NDArray[np.float64], first: int, last: int) -> int:
    """Frame of the first minimum of rms between two frames, both included."""
    return first + int(np.argmin(rms[first : last + 1]))


def _pauses(silent: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Runs of True in (F,) as ranges [start, end)."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], silent, [False])).astype(np.int8)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
