"""Return memory to the operating system: freed memory, and memory-mapped weights that are not in use.

glibc keeps freed memory in the process. Chunks of different lengths fragment it, so that a long recording would need
more and more. Without glibc, `trim_memory` and `release_mapped_weights` do nothing.
"""

import bisect
import contextlib
import ctypes
import mmap
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn  # the entry points import this module before torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them
APART_BYTES = 16 << 20  # larger blocks are mapped separately and returned at once when freed
# oneDNN caches a convolution for each input shape. With its default of 1024, chunks of unequal lengths leave some 20 MB
# each; one chunk needs more than 320 entries. The entry points set this environment variable before torch is imported,
# unless the user has set it.
PRIMITIVE_CACHE = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "384")
SPARE_BYTES = 64 << 20  # free memory at the end of the heap that is kept for the next layer
MAPPINGS = Path("/proc/self/smaps")
MODEL_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
MADV_DONTNEED = 4  # as mman.h numbers it
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S{4} \S+ \S+ \d+ +(/.*)")


@cache
def _allocator() -> Any | None:
    """The C library if it is glibc, configured for large blocks."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        return None
    library.mallopt(M_MMAP_THRESHOLD, APART_BYTES)
    library.mallopt(M_TRIM_THRESHOLD, SPARE_BYTES)
    return library


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of NumPy or torch means that memory ran out, on a GPU or CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in str(error) or "not enough memory" in str(error)
    )


def trim_memory() -> None:
    """Return freed memory to the system.

    This takes a few milliseconds, and allocating the memory again takes about as long.
    """
    library = _allocator()
    if library is not None:
        library.malloc_trim(0)


def release_mapped_weights(network: "nn.Module") -> None:
    """Release the resident pages of weights that are memory-mapped from model files.

    The next use loads them from the system's file cache. Weights that were changed in memory stay.
    """
    library = _allocator()
    if library is None:
        return
    # Held from before the mappings are read, so that no other thread can map something else in their place.
    storages = [value.untyped_storage() for value in (*network.parameters(), *network.buffers()) if value.is_cpu]
    mappings = sorted(_unchanged_mappings())
    starts = [start for start, _ in mappings]
    for storage in storages:
        first, last = -(-storage.data_ptr() // mmap.PAGESIZE), (storage.data_ptr() + storage.nbytes()) // mmap.PAGESIZE
        place = bisect.bisect_right(starts, storage.data_ptr()) - 1
        if first < last and place >= 0 and last * mmap.PAGESIZE <= mappings[place][1]:
            start, size = first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE
            library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), MADV_DONTNEED)


def _unchanged_mappings() -> Iterator[tuple[int, int]]:
    """Start and end addresses of the mapped model files none of whose pages has been written to."""
    mapped: tuple[int, int] | None = None
    with contextlib.suppress(OSError), MAPPINGS.open(errors="replace") as lines:  # not every system lets it be read
        for line in lines:
            if match := _MAPPING.match(line):
                is_model = match[3].removesuffix(" (deleted)").endswith(MODEL_SUFFIXES)
                mapped = (int(match[1], 16), int(match[2], 16)) if is_model else None
            elif line.startswith("Anonymous:") and mapped and line.split()[1] == "0":  # written pages become anonymous
                yield mapped
