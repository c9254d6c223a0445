"""Return freed memory to the operating system.

glibc keeps freed memory in the process. Chunks of unequal lengths fragment it, and a long recording would take more and
more. On other systems nothing happens.
"""

import ctypes
import sys
from functools import cache
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them
APART_BYTES = 16 << 20  # larger blocks are mapped separately and returned at once when freed
# oneDNN caches a convolution for each input shape. With its default of 1024, chunks of unequal lengths leave some 20 MB
# each; one chunk needs more than 320 entries. The entry points set this environment variable before torch is imported,
# unless the user has set it.
PRIMITIVE_CACHE = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "384")
SPARE_BYTES = 64 << 20  # free memory at the end of the heap that is kept for the next layer


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
    """Return free memory to the system. This takes some milliseconds, and so does using the memory again."""
    library = _allocator()
    if library is not None:
        library.malloc_trim(0)
