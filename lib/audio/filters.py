"""Resampling and high-pass filtering, of whole signals or block by block.

The high-pass filter removes rumble and mains hum below 48 Hz: a Butterworth filter of order 5, computed as the sum of
five first-order sections, one per pole, which is accurate in float64 although the poles lie close together.
scipy.signal has such filters, too, but importing it takes longer than converting half a minute of audio.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lib.audio import ANALYSIS_RATE
from lib.progress import Progress, no_progress, pieces
from lib.typing import FloatArray

Doubles = npt.NDArray[np.float64]
Complexes = npt.NDArray[np.complex128]

HIGHPASS_CUTOFF = 48.0  # Hz
HIGHPASS_ORDER = 5
EXTENSION = 18  # samples that a signal is extended by at both ends, three per coefficient
SETTLING = ANALYSIS_RATE // 2  # samples after which the impulse response has decayed (to 1e-20)
BLOCK = 1 << 20  # samples filtered at a time
ROW = 256  # samples that one matrix product filters


def resampled_length(samples: int, from_rate: int, to_rate: int) -> int:
    """Return the number of samples after resampling: samples * to_rate / from_rate, rounded up."""
    return -(-samples * to_rate // from_rate)


def resample(audio: npt.NDArray[Any], from_rate: int, to_rate: int, progress: Progress = no_progress) -> FloatArray:
    """Resample audio (T,) or (C, T) with soxr's HQ filter to float32 of `resampled_length`; always returns a new
    array."""
    audio = np.asarray(audio, dtype=np.float32)
    if from_rate == to_rate or audio.shape[-1] == 0:
        return audio.copy()
    parts = (audio[..., piece] for piece in pieces(audio.shape[-1], from_rate, progress))
    return np.concatenate([*resample_blocks(parts, from_rate, to_rate)], axis=-1)


def resample_blocks(blocks: Iterable[FloatArray], from_rate: int, to_rate: int) -> Iterator[FloatArray]:
    """Resample a signal in blocks (N,), or (C, N) for C channels, as `resample` does.

    The output blocks differ in length from the input blocks.
    """
    if from_rate == to_rate:
        yield from blocks
        return
    import soxr

    stream: Any = None
    end: FloatArray = np.zeros(0, np.float32)
    samples_in = samples_out = 0
    for block in blocks:
        if stream is None:
            channels = 1 if block.ndim == 1 else len(block)
            stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality="HQ")
            end = block.T[:0]
        out: FloatArray = stream.resample_chunk(np.ascontiguousarray(block.T))  # [N] or [N, C]
        samples_in, samples_out = samples_in + block.shape[-1], samples_out + len(out)
        yield out.T
    if stream is None:
        return
    room = resampled_length(samples_in, from_rate, to_rate) - samples_out
    out = stream.resample_chunk(np.ascontiguousarray(end), last=True)[:room]
    yield np.pad(out, [(0, room - len(out))] + [(0, 0)] * (out.ndim - 1)).T


def highpass(audio: npt.NDArray[Any]) -> Doubles:
    """Attenuate frequencies below 48 Hz in 16 kHz audio (T,), without delay; returns (T,) float64.

    Zero-phase: the filter runs forwards and backwards over the signal with an odd extension of 18 samples at both ends.
    A shorter signal is extended by one sample less than its own length.
    """
    return np.concatenate([np.zeros(0), *highpass_blocks([audio])])


def highpass_blocks(blocks: Iterable[npt.NDArray[Any]]) -> Iterator[Doubles]:
    """Filter a signal in blocks (N,) as `highpass` does.

    The output blocks differ in length from the input blocks, but have the same total length. The backward filter starts
    half a second after the output block, so that its initial state has decayed.
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
    """Attenuate frequencies below 48 Hz in audio (T,) in one forward pass, as for training data.

    Returns (T,) float32.
    """
    forwards = _Highpass(sample_rate)
    out = np.empty(len(audio), np.float32)
    for start in range(0, len(audio), BLOCK):  # in float64, but an hour of it would take more than a gigabyte
        out[start : start + BLOCK] = forwards(np.asarray(audio[start : start + BLOCK], np.float64))
    return out


class _Highpass:
    """y = direct * x + sum of residues * state, where every pole has a state: state = pole * state + x, a step later.

    ROW samples at a time: one matrix holds the response to them from rest, another the response to the state before.
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
        self._to_output: Complexes = powers[:ROW] * residues  # [ROW, 5]: from a state to each sample of a row
        self._to_state: Complexes = powers[ROW - 1 :: -1]  # [ROW, 5]: from each sample to the state after the row
        self._decay: Complexes = powers[ROW]
        response = np.concatenate([[self._direct], self._to_output.sum(axis=1).real[: ROW - 1]])
        lag = np.arange(ROW)[:, None] - np.arange(ROW)
        self._matrix: Doubles = np.where(lag >= 0, response[lag], 0.0).T.copy()  # [from, to]
        self._state: Complexes = np.zeros(HIGHPASS_ORDER, np.complex128)

    def settle(self, level: float) -> None:
        """Set the state to the steady state of a constant input."""
        self._state = level / (1 - self._poles)

    def __call__(self, x: Doubles) -> Doubles:
        """Filter the next samples (T,)."""
        x = np.ascontiguousarray(x)  # products of reversed arrays are slow
        whole = len(x) // ROW * ROW
        rows = x[:whole].reshape(-1, ROW)
        added = rows @ self._to_state  # [N, 5]
        states = np.empty((len(rows) + 1, HIGHPASS_ORDER), np.complex128)
        states[0] = self._state
        for i in range(len(rows)):
            states[i + 1] = self._decay * states[i] + added[i]
        out = np.empty_like(x)
        out[:whole] = (rows @ self._matrix + (states[:-1] @ self._to_output.T).real).reshape(-1)
        rest = x[whole:]
        n = len(rest)
        out[whole:] = rest @ self._matrix[:n, :n] + (self._to_output[:n] @ states[-1]).real
        self._state = self._poles**n * states[-1] + rest @ self._to_state[ROW - n :]
        return out
