"""A cache bounded in bytes that drops the least recently used values first."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Value = TypeVar("Value")


class LruCache:
    """Values by key. The newest value stays even if it exceeds the bound alone.

    A thread that asks for a value while another one makes it waits for it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()  # least recently used first
        self._lock = threading.RLock()  # making one value may ask for another

    def get(self, key: Hashable, make: Callable[[], Value], size: Callable[[Value], int]) -> Value:
        """The value of `key`; a missing one is made, and the least recently used ones make room for its `size`.

        A key must name everything that the value depends on, so that a cached value is never out of date.
        """
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                found: Value = self._entries[key][0]
                return found
            value = make()
            self._entries[key] = (value, size(value))
            while self.n_bytes > self._max_bytes and len(self._entries) > 1:
                self._entries.popitem(last=False)
            return value

    @property
    def n_bytes(self) -> int:
        """Sum of the sizes."""
        return sum(size for _, size in self._entries.values())
