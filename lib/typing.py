"""Types of arrays and signals that several packages use. Each use has a comment with the shape."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class Samples(Protocol):
    """A signal (T,) that supports len() and slicing: an array, or a buffer that reads slices from disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> npt.NDArray[np.floating]: ...
