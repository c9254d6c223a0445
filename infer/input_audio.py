"""Input audio for the networks: checked, limited in level, high-pass filtered, with reflection padding at both ends."""

import numpy as np
import numpy.typing as npt

from infer.disk_buffer import DiskBuffer, collect_blocks, in_blocks
from lib.audio import ANALYSIS_RATE
from lib.audio.filters import highpass_blocks
from lib.errors import AudioError
from lib.pitch import SILENCE_PEAK
from lib.progress import Progress, checked, no_progress
from lib.typing import Samples

MIN_SECONDS = 0.05  # shorter recordings contain no voice
INPUT_PEAK = 0.95  # louder input is scaled down to this


def prepare_input(audio: Samples, progress: Progress = no_progress) -> DiskBuffer:
    """Check, limit and filter audio (T,) at 16 kHz for conversion, and return (T,).

    Raises AudioError if it is too short, silent, or not finite mono audio.
    """
    peak = 0.0
    for block in in_blocks(audio):
        if block.ndim != 1 or not np.isfinite(block).all():
            raise AudioError("Only finite mono audio of shape (T,) can be converted, not {shape}.", shape=block.shape)
        peak = max(peak, float(np.abs(block).max()))
    seconds = len(audio) / ANALYSIS_RATE
    if seconds < MIN_SECONDS:
        raise AudioError(
            "It is {seconds:.3f} s long; use a recording of at least {least} s.", seconds=seconds, least=MIN_SECONDS
        )
    if peak < SILENCE_PEAK:
        raise AudioError("It contains only digital silence; there is no voice to convert. Use another recording.")
    excess = max(peak / INPUT_PEAK, 1.0)
    blocks = checked(in_blocks(audio), lambda: progress(0, 1, ""))
    limited = (block / excess if excess > 1 else block for block in blocks)
    return collect_blocks(block.astype(np.float32) for block in highpass_blocks(limited))


class ReflectionPadding:
    """Audio (T,) with `pad` samples of reflection padding at both ends, read in parts: (T + 2 * pad,)."""

    def __init__(self, audio: Samples, pad: int) -> None:
        self._audio, self._pad = audio, pad

    def __len__(self) -> int:
        return len(self._audio) + 2 * self._pad

    def __getitem__(self, part: slice, /) -> npt.NDArray[np.floating]:
        start, stop, _ = part.indices(len(self))
        last = len(self._audio) - 1
        if start >= self._pad and stop <= self._pad + last + 1:
            return self._audio[start - self._pad : stop - self._pad]
        # Reflected at the first and at the last sample; audio shorter than the padding is reflected repeatedly.
        index = np.arange(start, stop) - self._pad + last
        index = np.abs(index % max(2 * last, 1) - last)
        low = int(index.min(initial=last))
        near = self._audio[low : int(index.max(initial=0)) + 1]
        reflected: npt.NDArray[np.floating] = near[index - low]
        return reflected
