"""A growing float32 audio buffer that spills to a temporary file once it exceeds a few megabytes."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType

import numpy as np
import numpy.typing as npt

from lib.typing import FloatArray, Samples

IN_MEMORY = 4 << 20  # bytes; a minute at 16 kHz
BLOCK = 1 << 18  # samples read at a time, 16 s at 16 kHz
SAMPLE_BYTES = 4


class DiskBuffer:
    """A growing signal (T,) in float32. Close it, or use it in a `with` statement, to free memory and disk space."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (closed by close)
        self._length = 0

    def __enter__(self) -> "DiskBuffer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the memory and delete the temporary file."""
        self._file.close()

    def append(self, block: FloatArray) -> None:
        """Append samples (N,)."""
        self._file.seek(SAMPLE_BYTES * self._length)
        self._file.write(np.ascontiguousarray(block, np.float32).data)
        self._length += len(block)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice, /) -> FloatArray:
        """Return a slice without step, as a new array."""
        start, stop, _ = part.indices(self._length)
        self._file.seek(SAMPLE_BYTES * start)
        return np.frombuffer(bytearray(self._file.read(SAMPLE_BYTES * max(stop - start, 0))), np.float32)


def in_blocks(samples: Samples, size: int = BLOCK) -> Iterator[npt.NDArray[np.floating]]:
    """Yield all samples (T,) in order, `size` at a time."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def collect_blocks(blocks: Iterable[FloatArray]) -> DiskBuffer:
    """Write blocks (N,) one after another into a DiskBuffer, which is closed if this fails."""
    with ExitStack() as on_failure:
        buffer = on_failure.enter_context(DiskBuffer())
        for block in blocks:
            buffer.append(block)
        on_failure.pop_all()
    return buffer
