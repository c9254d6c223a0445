"""The stereo image of a recording: whether it contains one source, and the source's level and delay on each channel."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lib.progress import Progress, no_progress, part_of, pieces
from lib.typing import FloatArray

ONE_SOURCE = 0.7  # correlation of the aligned channels from which on they are one source
MAX_DELAY = 0.002  # s between the channels
BLOCK = 1 << 14  # samples that are correlated at a time, and then added up
PAN_SECONDS = 0.1  # for which one gain per channel is measured
QUIET = 1e-4  # of the mean power; quieter parts have the gains of the whole recording


@dataclass(frozen=True)
class StereoImage:
    """One source on two channels. `gains` (2, P) are its levels over time, one column per PAN_SECONDS."""

    gains: npt.NDArray[np.float64]
    delays: tuple[float, float]  # s; one of them is 0

    def apply(self, mono: FloatArray, sample_rate: int, progress: Progress = no_progress) -> FloatArray:
        """Apply the stereo image to mono audio (T,); returns (2, T)."""
        places = np.arange(self.gains.shape[1]) + 0.5
        result = np.stack([_delayed(mono, round(delay * sample_rate)) for delay in self.delays])
        for piece in pieces(len(mono), sample_rate, progress):
            at = (np.arange(piece.start, piece.stop) / (PAN_SECONDS * sample_rate)).astype(np.float32)
            for channel, gain in zip(result, self.gains, strict=True):
                channel[piece] *= np.interp(at, places, gain)
        return result


def _delayed(audio: FloatArray, samples: int) -> FloatArray:
    return np.pad(audio, (samples, 0))[: len(audio)] if samples else audio


def find_image(
    audio: FloatArray, sample_rate: int, progress: Progress = no_progress
) -> tuple[StereoImage, FloatArray] | None:
    """Return the stereo image of (2, T) and its source (T,), if both channels contain one panned source.

    It can be panned by level or delay. It is detected if the cross-correlation, normalised by the levels of each block
    of 16,384 samples, reaches 0.7 within 2 ms: most of the power is then common to both channels. Returns None for
    silence and for channels with different contents, such as two speakers, which have to be converted separately.
    """
    power = np.square(audio, dtype=np.float64).mean(axis=1)
    if not power.any():
        return None
    delay, correlation = _correlate(audio, sample_rate, part_of(progress, 0, 2))
    one_sided = power.min() <= QUIET * power.max()
    if abs(correlation) < ONE_SOURCE and not one_sided:
        return None
    delays = (0, 0) if one_sided else (max(-delay, 0), max(delay, 0))
    length = audio.shape[1]
    aligned = [np.pad(channel[shift:], (0, shift)) for channel, shift in zip(audio, delays, strict=True)]
    weights = np.sqrt(power / power.sum())
    source = (weights[0] * aligned[0] + np.sign(correlation or 1) * weights[1] * aligned[1]).astype(np.float32)
    size = round(PAN_SECONDS * sample_rate)
    report = part_of(progress, 1, 2)
    products = np.stack(
        [_block_products(channel, source, size, part_of(report, i, 3)) for i, channel in enumerate((*aligned, source))]
    )
    whole = products.sum(axis=1)
    audible = products[2] > QUIET * whole[2] * size / length
    gains = np.where(audible, products[:2] / np.where(audible, products[2], 1.0), whole[:2, None] / whole[2])
    return StereoImage(gains, (delays[0] / sample_rate, delays[1] / sample_rate)), source


def _block_products(first: FloatArray, second: FloatArray, size: int, progress: Progress) -> npt.NDArray[np.float64]:
    """The scalar products of blocks of `size` samples."""
    sums = [
        np.add.reduceat((first[piece] * second[piece]).astype(np.float64), np.arange(0, piece.stop - piece.start, size))
        for piece in pieces(len(first), round(size / PAN_SECONDS), progress, size)
    ]
    return np.concatenate(sums)


def _correlate(audio: FloatArray, sample_rate: int, progress: Progress) -> tuple[int, float]:
    """Return by how many samples the right channel lags the left, and the normalised correlation at that lag."""
    most = round(MAX_DELAY * sample_rate)
    lags = np.zeros(2 * most + 1)
    level = 0.0  # what the correlation of equal signals would be
    for start in range(0, audio.shape[1], BLOCK):
        progress(start, audio.shape[1], "")
        left = np.asarray(audio[0, start : start + BLOCK], np.float64)
        right = np.asarray(audio[1, max(start - most, 0) : start + BLOCK + most], np.float64)
        right = np.pad(right, (max(most - start, 0), 0))  # begins `most` samples before the left channel
        size = 1 << int(np.ceil(np.log2(len(left) + 2 * most + 1)))
        product = np.fft.rfft(right, size) * np.conj(np.fft.rfft(left, size))
        lags += np.fft.irfft(product, size)[: 2 * most + 1]
        level += float(np.sqrt(left @ left * np.square(audio[1, start : start + BLOCK], dtype=np.float64).sum()))
    best = int(np.abs(lags).argmax())
    return best - most, float(lags[best] / max(level, 1e-30))
