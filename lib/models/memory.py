"""Memory that is free inside the process goes back to the system.

The allocator of most Linux systems keeps what it once had: between pieces of unequal lengths holes stay, and a long
recording would take more and more. Elsewhere nothing happens.
"""

import ctypes
import sys
from functools import cache
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them
APART_BYTES = 16 << 20  # larger blocks get pages of their own, which go back at once
# Convolutions that oneDNN, which computes them on processors, keeps ready: one for each shape of its input. Of 1024,
# as it has by itself, a song's pieces of unequal lengths leave some 20 MB each; one piece needs more than 320. Programs
# set it in their environment before anything is computed, unless their user did.
KEPT_CONVOLUTIONS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "384")
SPARE_BYTES = 64 << 20  # free memory at the end that is kept, for the next layer needs it again


@cache
def _allocator() -> Any | None:
    """The C library if it is glibc, told how to deal with large blocks."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        return None
    library.mallopt(M_MMAP_THRESHOLD, APART_BYTES)
    library.mallopt(M_TRIM_THRESHOLD, SPARE_BYTES)
    return library


def trim_memory() -> None:
    """Return free memory to the system; takes some milliseconds, and touching it again takes as long."""
    library = _allocator()
    if library is not None:
        library.malloc_trim(0)
