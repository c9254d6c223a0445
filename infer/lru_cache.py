"""What took time to make, kept as long as it fits into so many bytes; what was used longest ago goes first."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Value = TypeVar("Value")


class Kept:
    """Values by key. The newest stays even if it is too large alone; while one thread makes a value the others wait."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()  # oldest use first
        self._lock = threading.RLock()  # making one value may ask for another

    def get(self, key: Hashable, make: Callable[[], Value], size: Callable[[Value], int]) -> Value:
        """The value of `key`; if there is none it is made, and others give way to its `size` in bytes.

        A key says everything that the value depends on, so what is kept is never out of date.
        """
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                found: Value = self._entries[key][0]
                return found
            value = make()
            self._entries[key] = (value, size(value))
            while self.bytes_kept > self._most_bytes and len(self._entries) > 1:
                self._entries.popitem(last=False)
            return value

    @property
    def bytes_kept(self) -> int:
        """Sum of the sizes."""
        return sum(size for _, size in self._entries.values())
