"""The structure check of an index file, made before faiss reads it.

An index file comes from anywhere, and faiss reads it in C++ that trusts what it reads. So the structure of a file is
walked first, and only what is complete and consistent reaches faiss:

    "IwFl" | header: width, count, metric | cells, nprobe | centroids "IxF2" | direct map | "ilar" sizes | codes, ids
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from lib.errors import CheckpointError

MAX_WIDTH = 4096  # features; content encoders have 256 or 768
METRIC_L2 = 1  # faiss's number for it


class _Walk:
    """Reads one value after the other, each within the bounds of the data."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def skip(self, n_bytes: int) -> int:
        """Step over n_bytes and return where they began; ValueError if the data end before."""
        start, self.at = self.at, self.at + n_bytes
        if n_bytes < 0 or self.at > len(self.data):
            raise ValueError("it ends too early")
        return start

    def read(self, layout: str) -> tuple[Any, ...]:
        """Values in struct's notation, little-endian, unaligned."""
        return struct.unpack_from("<" + layout, self.data, self.skip(struct.calcsize("<" + layout)))

    def vector(self, size: int, expected: int) -> int:
        """Step over a counted vector of `size` bytes each and return where its values begin."""
        (count,) = self.read("Q")
        if count != expected:
            raise ValueError(f"a table has {count} entries instead of {expected}")
        return self.skip(count * size)

    def expect(self, *names: bytes) -> bytes:
        """Read a four-letter name that must be one of `names`."""
        (found,) = self.read("4s")
        if found not in names:
            raise ValueError(f"it has {found!r} where {names[0]!r} should be")
        return bytes(found)


def check_structure(path: Path, data: memoryview) -> None:
    """CheckpointError unless the data are one complete IVF,Flat index with L2 metric and vectors in it."""
    try:
        n_vectors = _walk_index(_Walk(data))
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not an index of content features (IVF,Flat), or it is damaged: {error}. Build it again."
        ) from error
    if n_vectors == 0:
        other = path.with_name(path.name.replace("trained_", "added_", 1))
        remedy = f"Use {other.name}" if other != path and other.is_file() else "Use the file named added_..."
        raise CheckpointError(f"{path} is an empty index: it was trained, but holds no vectors. {remedy}.")


def _walk_index(walk: _Walk) -> int:
    """Walk the whole file and return the number of vectors; ValueError says what is wrong."""
    walk.expect(b"IwFl")
    width, n_vectors = _walk_header(walk)
    n_cells, nprobe = walk.read("QQ")
    if not (1 <= n_cells <= max(len(walk.data), 1) and 1 <= nprobe <= n_cells):
        raise ValueError(f"it has {n_cells} cells of which {nprobe} are searched")
    walk.expect(b"IxF2", b"IxFl")
    if _walk_header(walk) != (width, n_cells):
        raise ValueError("its centroids do not fit its cells")
    walk.vector(4, n_cells * width)
    (direct_map,) = walk.read("b")
    if direct_map != 0:
        raise ValueError("it has a direct map")
    walk.vector(8, 0)
    sizes = _walk_cell_sizes(walk, n_cells, 4 * width)
    if sum(sizes) != n_vectors:
        raise ValueError(f"its cells hold {sum(sizes)} vectors instead of {n_vectors}")
    seen = np.zeros(n_vectors, np.bool_)
    for size in sizes:
        walk.skip(size * 4 * width)
        ids = np.frombuffer(walk.data, "<i8", size, walk.skip(size * 8))
        if size and not (ids.min() >= 0 and ids.max() < n_vectors):
            raise ValueError("it numbers vectors that it does not hold")
        seen[ids] = True
    if not seen.all():
        raise ValueError("it numbers vectors twice")
    if walk.at != len(walk.data):
        raise ValueError("something follows after its end")
    return n_vectors


def _walk_header(walk: _Walk) -> tuple[int, int]:
    """Read the header every index begins with: (features per vector, vectors)."""
    width, n_vectors, _, _, is_trained, metric = walk.read("iqqqbi")
    if metric != METRIC_L2:
        raise ValueError(f"its metric is number {metric}, not squared distance")
    if not (1 <= width <= MAX_WIDTH and 0 <= n_vectors <= len(walk.data) and is_trained == 1):
        raise ValueError(f"its header says {n_vectors} vectors of {width} features, trained: {is_trained}")
    return int(width), int(n_vectors)


def _walk_cell_sizes(walk: _Walk, n_cells: int, code_size: int) -> list[int]:
    """Read how many vectors are in each cell, stored for all cells or only for those not empty."""
    walk.expect(b"ilar")
    if walk.read("QQ") != (n_cells, code_size):
        raise ValueError("its cells do not fit its header")
    if walk.expect(b"full", b"sprs") == b"full":
        start = walk.vector(8, n_cells)
        return [int(size) for size in np.frombuffer(walk.data, "<u8", n_cells, start)]
    (count,) = walk.read("Q")
    if count % 2 or count > 2 * n_cells:
        raise ValueError(f"its table of cells has {count} entries")
    pairs = np.frombuffer(walk.data, "<u8", count, walk.skip(8 * count)).reshape(-1, 2)
    if len(pairs) and not (int(pairs[:, 0].max()) < n_cells and len(np.unique(pairs[:, 0])) == len(pairs)):
        raise ValueError("its table of cells names a cell that does not exist, or one twice")
    return [int(size) for _, size in pairs]
