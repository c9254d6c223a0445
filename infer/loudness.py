"""Loudness after conversion: apply the input's loudness envelope, and keep peaks below full scale."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from infer.disk_buffer import in_blocks
from infer.options import ConvertOptions
from lib.audio import ANALYSIS_RATE
from lib.audio.filters import resample_blocks, resampled_length
from lib.typing import FloatArray, Samples

ENVELOPE_RATE = 2  # values per second; each is the RMS of one second around it
RMS_FLOOR = 1e-6  # below this the output counts as silent and is not raised further
PEAK_CEILING = 0.99  # of full scale


def rms_envelope(audio: Samples, sample_rate: int) -> npt.NDArray[np.float64]:
    """Return the RMS of audio (T,) in windows of one second, every half second: (1 + T // (sample_rate // 2),).

    The audio is zero-padded at both ends.
    """
    hop = sample_rate // ENVELOPE_RATE
    n_values = 1 + len(audio) // hop
    blocks = [audio[i * hop : (i + 1) * hop].astype(np.float64) for i in range(n_values)]
    energy = np.array([0.0, *(float(np.dot(block, block)) for block in blocks)])  # of half a second each
    envelope: npt.NDArray[np.float64] = np.sqrt((energy[:-1] + energy[1:]) / (2 * hop))
    return envelope


def follow_envelope(
    audio: Samples, sample_rate: int, source: Samples, source_rate: int, rms_mix_rate: float
) -> Iterator[FloatArray]:
    """Apply the loudness envelope of the source (S,) to audio (T,): fully if rms_mix_rate is 0, not at all if it is 1.

    Both envelopes are interpolated to T samples, so the two sample rates may differ. Yields blocks of (T,).
    """
    if rms_mix_rate >= 1:
        yield from in_blocks(audio)
        return
    wanted = rms_envelope(source, source_rate)
    present = rms_envelope(audio, sample_rate)
    start = 0
    for block in in_blocks(audio):
        at = (np.arange(start, start + len(block)) + 0.5) / len(audio)  # each sample's centre as a share of the whole
        target, own = (np.interp(at * len(e) - 0.5, np.arange(len(e)), e) for e in (wanted, present))
        gain = (target / np.maximum(own, RMS_FLOOR)) ** (1 - rms_mix_rate)
        yield (block * gain).astype(np.float32)
        start += len(block)


def peak_of(block: FloatArray) -> float:
    """Return the peak magnitude of (N,)."""
    return max(float(block.max()), -float(block.min())) if len(block) else 0.0


def limiting_gain(peak: float) -> np.float32:
    """Return the gain that limits a signal with this peak to 99% of full scale; never above 1."""
    return np.float32(PEAK_CEILING / peak if peak > PEAK_CEILING else 1.0)


class Finished:
    """Post-processed audio: loudness envelope of the source, resampled to the output rate. Iterates over blocks (N,).

    `peak` is the maximum magnitude of the blocks yielded so far. Resampling can yield up to two samples too many; they
    are dropped.
    """

    def __init__(
        self, converted: Samples, sample_rate: int, source: Samples, options: ConvertOptions, rate: int
    ) -> None:
        self.rate = rate
        self.peak = 0.0
        mixed = follow_envelope(converted, sample_rate, source, ANALYSIS_RATE, options.rms_mix_rate)
        self._blocks = resample_blocks(mixed, sample_rate, rate)
        self._room = resampled_length(len(source), ANALYSIS_RATE, rate)

    def __iter__(self) -> Iterator[FloatArray]:
        for block in self._blocks:
            kept = block[: self._room]
            self.peak, self._room = max(self.peak, peak_of(kept)), self._room - len(kept)
            yield kept
