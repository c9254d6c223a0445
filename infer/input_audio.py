"""A recording as the networks hear it: checked, not too loud, filtered, with its own reflection at both ends."""

import numpy as np
import numpy.typing as npt

from infer.disk_buffer import Samples, Spool, gather, in_blocks
from lib.audio.filters import ANALYSIS_RATE, highpass_blocks
from lib.errors import AudioError
from lib.pitch import SILENCE_PEAK

Floats = npt.NDArray[np.float32]

SHORTEST_SECONDS = 0.05  # shorter recordings hold nothing that could be called a voice
INPUT_PEAK = 0.95  # louder input is brought down to this


def listen(audio: Samples) -> Spool:
    """Prepare (T,) at 16 kHz for conversion: (T,). AudioError if it holds nothing that could be converted."""
    peak = 0.0
    for block in in_blocks(audio):
        if block.ndim != 1 or not np.isfinite(block).all():
            raise AudioError(f"Only finite mono audio of shape (T,) can be converted, not {block.shape}.")
        peak = max(peak, float(np.abs(block).max()))
    seconds = len(audio) / ANALYSIS_RATE
    if seconds < SHORTEST_SECONDS:
        raise AudioError(f"It is {seconds:.3f} s long; give a recording of at least {SHORTEST_SECONDS} s.")
    if peak < SILENCE_PEAK:
        raise AudioError("It holds only digital silence; there is no voice to convert. Give another recording.")
    loud = max(peak / INPUT_PEAK, 1.0)
    level = (block / loud if loud > 1 else block for block in in_blocks(audio))
    return gather(block.astype(np.float32) for block in highpass_blocks(level))


class Reflected:
    """A song (T,) with `pad` samples of its reflection at both ends, read in parts: (T + 2 * pad,)."""

    def __init__(self, song: Samples, pad: int) -> None:
        self._song, self._pad = song, pad

    def __len__(self) -> int:
        return len(self._song) + 2 * self._pad

    def __getitem__(self, part: slice, /) -> npt.NDArray[np.floating]:
        start, stop, _ = part.indices(len(self))
        last = len(self._song) - 1
        if start >= self._pad and stop <= self._pad + last + 1:
            return self._song[start - self._pad : stop - self._pad]
        # A mirror at the first and one at the last sample: a song shorter than the padding is reflected repeatedly.
        index = np.arange(start, stop) - self._pad + last
        index = np.abs(index % max(2 * last, 1) - last)
        low = int(index.min(initial=last))
        near = self._song[low : int(index.max(initial=0)) + 1]
        mirrored: npt.NDArray[np.floating] = near[index - low]
        return mirrored
