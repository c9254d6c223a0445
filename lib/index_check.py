"""Checks the structure of an index file before faiss reads it.

Index files come from untrusted sources, and faiss's C++ reader does not validate them. Only a complete and
consistent file is passed on to it:

    "IwFl" | dimension, count, metric | cells, nprobe | centroids "IxF2" | direct map | "ilar" sizes | codes, ids
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from lib.errors import CheckpointError
from lib.messages import Message

MAX_WIDTH = 4096  # features; content encoders have 256 or 768
METRIC_L2 = 1  # faiss's number for it


class FileBytes:
    """The bytes of an open file, of which only the requested slices are read.

    A memory-mapped file would do the same, but an I/O error in a mapped file would kill the process (SIGBUS).
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, 2)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        """Raise ValueError if the file has become shorter, or OSError."""
        start, stop, _ = part.indices(self._size)
        self._file.seek(start)
        data = self._file.read(stop - start)
        if len(data) < stop - start:
            raise ValueError(Message("it is truncated"))
        return data


class _Walk:
    """A cursor that reads values in order and checks the bounds of the data."""

    def __init__(self, data: memoryview | FileBytes) -> None:
        self.data = data
        self.at = 0

    def skip(self, n_bytes: int) -> int:
        """Skip n_bytes and return their offset; raises ValueError if the data is shorter."""
        start, self.at = self.at, self.at + n_bytes
        if n_bytes < 0 or self.at > len(self.data):
            raise ValueError(Message("it is truncated"))
        return start

    def read(self, layout: str) -> tuple[Any, ...]:
        """Read values in struct's notation, little-endian, unaligned."""
        size = struct.calcsize("<" + layout)
        start = self.skip(size)
        return struct.unpack("<" + layout, self.data[start : start + size])

    def array(self, kind: str, count: int) -> npt.NDArray[Any]:
        """Read `count` values of a dtype of NumPy."""
        size = np.dtype(kind).itemsize * count
        start = self.skip(size)
        return np.frombuffer(self.data[start : start + size], kind)

    def count(self, expected: int) -> None:
        """Read the length of a vector, which must be `expected`."""
        (count,) = self.read("Q")
        if count != expected:
            raise ValueError(
                Message("an array has {count} entries instead of {expected}", count=count, expected=expected)
            )

    def expect(self, *names: bytes) -> bytes:
        """Read a four-letter name that must be one of `names`."""
        (found,) = self.read("4s")
        if found not in names:
            raise ValueError(Message("it has {found!r} where {expected!r} should be", found=found, expected=names[0]))
        return bytes(found)


def check_structure(path: Path, data: memoryview | FileBytes) -> None:
    """Raise CheckpointError unless the data is one complete, non-empty IVF,Flat index with the L2 metric.

    Also raises OSError if `data` is a FileBytes that cannot be read.
    """
    try:
        n_vectors = _walk_index(_Walk(data))
    except ValueError as error:
        raise CheckpointError(
            "{path} is not an index of content features (IVF,Flat), or it is damaged: {detail}. Build it again.",
            path=path,
            detail=error.args[0],
        ) from error
    if n_vectors == 0:
        other = path.with_name(path.name.replace("trained_", "added_", 1))
        raise CheckpointError(
            "{path} is an empty index: it was trained, but contains no vectors. Use {other}.",
            path=path,
            other=other.name if other != path and other.is_file() else Message("the file named added_..."),
        )


def _walk_index(walk: _Walk) -> int:
    """Check the whole file and return the number of vectors. Raises ValueError with the reason."""
    walk.expect(b"IwFl")
    width, n_vectors = _walk_header(walk)
    n_cells, nprobe = walk.read("QQ")
    if not (1 <= n_cells <= max(len(walk.data), 1) and 1 <= nprobe <= n_cells):
        raise ValueError(
            Message("its number of cells ({cells}) or nprobe ({nprobe}) is invalid", cells=n_cells, nprobe=nprobe)
        )
    walk.expect(b"IxF2", b"IxFl")
    if _walk_header(walk) != (width, n_cells):
        raise ValueError(Message("its centroids do not match its cells"))
    walk.count(n_cells * width)
    walk.skip(4 * n_cells * width)
    (direct_map,) = walk.read("b")
    if direct_map != 0:
        raise ValueError(Message("it has a direct map"))
    walk.count(0)
    sizes = _walk_cell_sizes(walk, n_cells, 4 * width)
    if sum(sizes) != n_vectors:
        raise ValueError(
            Message("its cells contain {count} vectors instead of {expected}", count=sum(sizes), expected=n_vectors)
        )
    seen = np.zeros(n_vectors, np.bool_)
    for size in sizes:
        walk.skip(size * 4 * width)
        ids = walk.array("<i8", size)
        if size and not (ids.min() >= 0 and ids.max() < n_vectors):
            raise ValueError(Message("it has ids of vectors that it does not contain"))
        seen[ids] = True
    if not seen.all():
        raise ValueError(Message("it has duplicate ids"))
    if walk.at != len(walk.data):
        raise ValueError(Message("it has trailing data"))
    return n_vectors


def _walk_header(walk: _Walk) -> tuple[int, int]:
    """Read the header of an index or of its centroids: (features per vector, vectors)."""
    width, n_vectors, _, _, is_trained, metric = walk.read("iqqqbi")
    if metric != METRIC_L2:
        raise ValueError(Message("its metric type is {metric}, not 1 (L2)", metric=metric))
    if not (1 <= width <= MAX_WIDTH and 0 <= n_vectors <= len(walk.data) and is_trained == 1):
        raise ValueError(
            Message(
                "its header is invalid ({vectors} vectors of dimension {width}, trained: {trained})",
                vectors=n_vectors,
                width=width,
                trained=is_trained,
            )
        )
    return int(width), int(n_vectors)


def _walk_cell_sizes(walk: _Walk, n_cells: int, code_size: int) -> list[int]:
    """Read the number of vectors in each cell, stored for all cells or only for non-empty ones."""
    walk.expect(b"ilar")
    if walk.read("QQ") != (n_cells, code_size):
        raise ValueError(Message("its cells do not match its header"))
    if walk.expect(b"full", b"sprs") == b"full":
        walk.count(n_cells)
        return [int(size) for size in walk.array("<u8", n_cells)]
    (count,) = walk.read("Q")
    if count % 2 or count > 2 * n_cells:
        raise ValueError(Message("its list of cell sizes has an invalid length ({count})", count=count))
    pairs = walk.array("<u8", count).reshape(-1, 2)
    if len(pairs) and not (int(pairs[:, 0].max()) < n_cells and len(np.unique(pairs[:, 0])) == len(pairs)):
        raise ValueError(Message("its list of cell sizes refers to a nonexistent cell, or to one cell twice"))
    return [int(size) for _, size in pairs]
