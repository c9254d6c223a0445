"""Makes torch's weights-only loader accept NumPy scalars, which some programs store among the entries of a voice.

torch calls the functions below instead of numpy's, so that no numpy code runs on the content of a file. A scalar
becomes a Python number or string.
"""

import functools
import re
import struct
from pickle import UnpicklingError

from torch.serialization import add_safe_globals

FORMATS = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
    "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip


TEXT = re.compile(r"U\d{1,6}")


class _Dtype:
    """A numpy dtype as pickled: a code such as "f8", then its byte order as the state."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in FORMATS and not (isinstance(code, str) and TEXT.fullmatch(code)):
            raise UnpicklingError(f"a numpy scalar of the dtype {code!r:.20}")
        self.code = str(code)
        self.byte_order = "<"

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.byte_order = ">" if state[1] == ">" else "<"


def _scalar(dtype: _Dtype, data: bytes) -> bool | int | float | str:
    """Return the number or string in the bytes of a numpy scalar."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
        raise UnpicklingError("a numpy scalar without bytes")
    if dtype.code not in FORMATS:
        return data.decode("utf-32-be" if dtype.byte_order == ">" else "utf-32-le", errors="replace").rstrip("\0")
    try:
        number: bool | int | float = struct.unpack(dtype.byte_order + FORMATS[dtype.code], data)[0]
    except struct.error as error:
        raise UnpicklingError("a numpy scalar of another length") from error
    return number


@functools.cache
def allow_numpy_scalars() -> None:
    """Register the replacements with torch's weights-only loader, once per process."""
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    add_safe_globals([(_Dtype, "numpy.dtype"), *((_scalar, name) for name in names)])
