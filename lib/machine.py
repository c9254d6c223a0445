"""Turns system failures, such as a full disk, exhausted memory or a lost GPU, into one-sentence messages.

Libraries report them in many ways: OSError, MemoryError, a RuntimeError from torch, faiss or libsndfile, an
ImportError. A damaged file is not a system failure: readers call these functions first to distinguish the two.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from lib.errors import MachineError

# What can be a failure of the machine; `machine_error` decides.
FAILURES = (OSError, MemoryError, RuntimeError, ImportError, SafetensorError)

BLOCK_BYTES = 1 << 20  # read at a time

_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|bad_alloc|out of memory|"
    r"can't start new thread|failed to map segment|ENOMEM",
    re.IGNORECASE,
)
_GPU = re.compile(r"\b(CUDA|HIP|MPS|cuDNN|cuBLAS)", re.IGNORECASE)
_DEVICE = re.compile(r"\b(CUDA|HIP|cuDNN|CUBLAS)[_ ](error|status)", re.IGNORECASE)
_IO_ERROR = re.compile(r"I/O error: (.{1,300}?) \(os error")


def machine_error(error: BaseException, path: Path | None = None) -> MachineError | None:
    """Return a MachineError if `error` is a system failure, otherwise None. `path` is the file that was being read."""
    if isinstance(error, MachineError):
        return error
    if not isinstance(error, FAILURES) or isinstance(error, BrokenPipeError):
        return None
    text = str(error)
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        return _no_memory(text, path)
    if isinstance(error, OSError):
        # A damaged file leads its reader to positions that no file has, which the system calls an invalid argument.
        return None if path is not None and error.errno == errno.EINVAL else _refused(error, path)
    if match := _IO_ERROR.search(text):
        return _refused(OSError(match[1]), path)
    if _DEVICE.search(text):
        return MachineError(
            "The GPU has failed: {reason}. Restart the program, or choose another device.",
            reason=text.splitlines()[0],
        )
    return None


def read_failure(error: BaseException, path: Path) -> MachineError | None:
    """Return the system failure behind a library's error while reading `path`; None if the file itself is damaged.

    FFmpeg and libsndfile raise the same errors for a damaged file and for a disk that cannot be read, so the file is
    read once more.
    """
    if isinstance(error, MemoryError) or _MEMORY.search(str(error)):
        return machine_error(error, path)
    try:
        with path.open("rb") as file:
            while file.read(BLOCK_BYTES):
                pass
    except OSError as failure:
        return machine_error(failure, path)
    return None


def _no_memory(text: str, path: Path | None) -> MachineError:
    if _GPU.search(text):
        return MachineError("The memory of the GPU is full. Close other programs, or choose another device.")
    if path is not None:
        return MachineError("{path} does not fit into memory. Close other programs.", path=path)
    return MachineError("There is not enough memory. Close other programs, or use shorter recordings.")


def _refused(error: OSError, path: Path | None) -> MachineError:
    reason = error.strerror or str(error) or type(error).__name__
    if path is not None:
        return MachineError(
            "{path} cannot be read: {reason}. Check the disk and the permissions.", path=path, reason=reason
        )
    if error.filename is not None:
        return MachineError("{path}: {reason}. Check the disk and the permissions.", path=error.filename, reason=reason)
    return MachineError("The system reports: {reason}. Check the disk and the permissions.", reason=reason)


@contextmanager
def machine_errors(reading: Path | None = None) -> Iterator[None]:
    """Turn system failures in the `with` block, which reads the file `reading`, into MachineErrors."""
    try:
        yield
    except FAILURES as error:
        if known := machine_error(error, reading):
            raise known from error
        raise
