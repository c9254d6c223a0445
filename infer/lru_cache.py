"""A thread-safe LRU cache with a size limit in bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Value = TypeVar("Value")


class LruCache:
    """Caches values by key. The newest value is kept even if it alone exceeds the limit.

    Values are computed under the lock, so a thread that needs a value being computed waits for it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()  # least recently used first
        self._lock = threading.RLock()  # computing one value may need another

    def get(self, key: Hashable, make: Callable[[], Value], size: Callable[[Value], int]) -> Value:
        """Return the value of `key`.

        If it is missing, `make` computes it and `size` returns its size in bytes; the least recently used values are
        evicted. The key must contain everything that the value depends on, so that a cached value is never out of date.
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
        """Total size of the values in bytes."""
        return sum(size for _, size in self._entries.values())
