"""Resampling and high-pass, of whole signals or block by block.

The high-pass takes out what lies below 48 Hz, where a voice has nothing but rumble and mains hum: a Butterworth filter
of order 5, as the sum of five first-order sections, one per pole, which keeps float64 exact where poles lie close
together. scipy.signal has such filters too, but takes longer to import than half a minute takes to convert.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lib.audio import ANALYSIS_RATE
from lib.typing import FloatArray

Doubles = npt.NDArray[np.float64]
Complexes = npt.NDArray[np.complex128]

HIGHPASS_CUTOFF = 48.0  # Hz
HIGHPASS_ORDER = 5
EXTENSION = 18  # samples that a signal is extended by at both ends, three per coefficient
SETTLING = ANALYSIS_RATE // 2  # samples after which the filter has forgotten everything (to 1e-20)
BLOCK = 1 << 20  # samples filtered at a time
ROW = 256  # samples whose response is one product of matrices


def resampled_length(samples: int, from_rate: int, to_rate: int) -> int:
    """Number of samples after resampling: samples * to_rate / from_rate, rounded up."""
    return -(-samples * to_rate // from_rate)


def resample(audio: npt.NDArray[Any], from_rate: int, to_rate: int) -> FloatArray:
    """Resample (T,) with soxr's HQ filter to float32 of `resampled_length`; a new array even for equal rates."""
    audio = np.asarray(audio, dtype=np.float32)
    return audio.copy() if from_rate == to_rate else np.concatenate([*resample_blocks([audio], from_rate, to_rate)])


def resample_blocks(blocks: Iterable[FloatArray], from_rate: int, to_rate: int) -> Iterator[FloatArray]:
    """The same for a signal that comes in blocks (N,) and leaves in others."""
    if from_rate == to_rate:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")
    came = left = 0
    for block in blocks:
        out: FloatArray = stream.resample_chunk(block)
        came, left = came + len(block), left + len(out)
        yield out
    room = resampled_length(came, from_rate, to_rate) - left
    out = stream.resample_chunk(np.zeros(0, np.float32), last=True)[:room]
    yield np.pad(out, (0, room - len(out)))


def highpass(audio: npt.NDArray[Any]) -> Doubles:
    """Remove what lies below 48 Hz from (T,) at 16 kHz without shifting it in time; returns (T,) float64.

    Zero-phase: the filter runs forwards and backwards over an oddly extended signal. A clip shorter than the usual
    extension of 18 samples is extended by what it has.
    """
    return np.concatenate([np.zeros(0), *highpass_blocks([audio])])


def highpass_blocks(blocks: Iterable[npt.NDArray[Any]]) -> Iterator[Doubles]:
    """The same for a signal that comes in blocks (N,) and leaves in others; together they are as long.

    Backwards the filter begins half a second later than what is given out, where its state no longer matters.
    """
    incoming = (np.asarray(block, np.float64) for block in blocks)
    start: Doubles = np.zeros(0)
    for block in incoming:
        start = np.concatenate([start, block])
        if len(start) > EXTENSION:
            break
    if len(start) == 0:
        return
    padding = min(EXTENSION, len(start) - 1)
    before = 2 * start[0] - start[padding:0:-1]
    forwards = _Highpass(ANALYSIS_RATE)
    forwards.settle(before[0] if padding else start[0])
    pending, skip = forwards(np.concatenate([before, start])), padding
    end = start[-padding - 1 :]
    for block in incoming:
        pending, end = np.concatenate([pending, forwards(block)]), np.concatenate([end, block])[-padding - 1 :]
        if len(pending) > 2 * SETTLING:
            done = _Highpass(ANALYSIS_RATE)(pending[::-1])[: SETTLING - 1 : -1]
            yield done[skip:]
            pending, skip = pending[-SETTLING:], 0
    pending = np.concatenate([pending, forwards(2 * end[-1] - end[-2::-1])])
    backwards = _Highpass(ANALYSIS_RATE)
    backwards.settle(pending[-1])
    yield backwards(pending[::-1])[::-1][skip : len(pending) - padding]


def highpass_causal(audio: npt.NDArray[Any], sample_rate: int) -> FloatArray:
    """Remove what lies below 48 Hz from (T,) in one forward pass, as training data are filtered; (T,) float32."""
    forwards = _Highpass(sample_rate)
    out = np.empty(len(audio), np.float32)
    for start in range(0, len(audio), BLOCK):  # in float64, but an hour of it would take more than a gigabyte
        out[start : start + BLOCK] = forwards(np.asarray(audio[start : start + BLOCK], np.float64))
    return out


class _Highpass:
    """y = direct * x + sum of residues * state, where every pole has a state: state = pole * state + x, a step later.

    ROW samples at a time: what they make of silence is a matrix, what the state before them adds another.
    """

    def __init__(self, sample_rate: int) -> None:
        angles = np.pi * (np.arange(1, HIGHPASS_ORDER + 1) * 2 + HIGHPASS_ORDER - 1) / (2 * HIGHPASS_ORDER)
        warped = np.tan(np.pi * HIGHPASS_CUTOFF / sample_rate)
        analogue = warped / np.exp(1j * angles)
        self._poles: Complexes = (1 + analogue) / (1 - analogue)
        self._direct = float(np.prod((1 + self._poles) / 2).real)  # the gain is 1 at half the sample rate
        between = self._poles[:, None] - self._poles + np.eye(HIGHPASS_ORDER)
        residues: Complexes = self._direct * (self._poles - 1) ** HIGHPASS_ORDER / between.prod(axis=1)
        powers = self._poles ** np.arange(ROW + 1)[:, None]  # [ROW + 1, 5]
        self._heard: Complexes = powers[:ROW] * residues  # [ROW, 5]: what a state adds to each sample of a row
        self._kept: Complexes = powers[ROW - 1 :: -1]  # [ROW, 5]: what each sample adds to the state after the row
        self._faded: Complexes = powers[ROW]
        response = np.concatenate([[self._direct], self._heard.sum(axis=1).real[: ROW - 1]])
        lag = np.arange(ROW)[:, None] - np.arange(ROW)
        self._matrix: Doubles = np.where(lag >= 0, response[lag], 0.0).T.copy()  # [from, to]
        self._state: Complexes = np.zeros(HIGHPASS_ORDER, np.complex128)

    def settle(self, level: float) -> None:
        """Take the state that a constant level leads to."""
        self._state = level / (1 - self._poles)

    def __call__(self, x: Doubles) -> Doubles:
        """Filter the next samples (T,)."""
        x = np.ascontiguousarray(x)  # products of reversed arrays are slow
        whole = len(x) // ROW * ROW
        rows = x[:whole].reshape(-1, ROW)
        added = rows @ self._kept  # [N, 5]
        states = np.empty((len(rows) + 1, HIGHPASS_ORDER), np.complex128)
        states[0] = self._state
        for i in range(len(rows)):
            states[i + 1] = self._faded * states[i] + added[i]
        out = np.empty_like(x)
        out[:whole] = (rows @ self._matrix + (states[:-1] @ self._heard.T).real).reshape(-1)
        rest = x[whole:]
        n = len(rest)
        out[whole:] = rest @ self._matrix[:n, :n] + (self._heard[:n] @ states[-1]).real
        self._state = self._poles**n * states[-1] + rest @ self._kept[ROW - n :]
        return out
