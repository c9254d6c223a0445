"""Reads `.npy` files, and reports the file and the reason if reading fails because of a system error."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lib.machine import machine_errors, read_failure


def read_array(path: Path) -> npt.NDArray[Any]:
    """Read a `.npy` file, without memory mapping, because an I/O error in a mapped file would kill the process
    (SIGBUS).

    Raises MachineError if it cannot be read because of a system error, ValueError or EOFError if the file is damaged.
    """
    with _reading_array(path), path.open("rb") as file:
        array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)  # type: ignore[no-untyped-call]
        return array


def array_shape(path: Path) -> tuple[int, ...]:
    """The shape of the array in a `.npy` file, of which only the header is read. Raises as `read_array` does."""
    with _reading_array(path):
        shape: tuple[int, ...] = np.lib.format.open_memmap(path, "r").shape  # type: ignore[no-untyped-call]
        return shape


@contextmanager
def _reading_array(path: Path) -> Iterator[None]:
    """NumPy reports a file that is too short and a disk that cannot be read alike."""
    try:
        with machine_errors(reading=path):
            yield
    except (OSError, ValueError, EOFError) as error:
        if failure := read_failure(error, path):
            raise failure from error
        raise
