"""Long signals out of the way: written block by block, read in parts, on disk from a few megabytes on."""

import tempfile
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

IN_MEMORY = 4 << 20  # bytes; a minute of what the networks hear
BLOCK = 1 << 18  # samples read at a time, 16 s of what the networks hear
WIDTH = 4  # bytes of a sample


class Samples(Protocol):
    """What has a length and parts: an array (T,), or a Spool."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> npt.NDArray[np.floating]: ...


class Spool:
    """A signal (T,) in float32 that grows; close it, or use it in a `with` statement, to free its place."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (closed by close)
        self._length = 0

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free memory and disk."""
        self._file.close()

    def append(self, block: Floats) -> None:
        """Write samples (N,) after the last one."""
        self._file.seek(WIDTH * self._length)
        self._file.write(np.ascontiguousarray(block, np.float32).data)
        self._length += len(block)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice, /) -> Floats:
        """Samples of a part without step, as an array of their own."""
        start, stop, _ = part.indices(self._length)
        self._file.seek(WIDTH * start)
        return np.frombuffer(bytearray(self._file.read(WIDTH * max(stop - start, 0))), np.float32)


def in_blocks(samples: Samples, size: int = BLOCK) -> Iterator[npt.NDArray[np.floating]]:
    """All samples (T,) in order, `size` at a time."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def gather(blocks: Iterable[Floats]) -> Spool:
    """Write blocks (N,) one after the other into a spool; if that fails, nothing of it stays."""
    spool = Spool()
    try:
        for block in blocks:
            spool.append(block)
    except BaseException:
        spool.close()
        raise
    return spool
