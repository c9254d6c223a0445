"""Deletes uploads and results in Gradio's cache after a day, measured by a monotonic clock.

Gradio itself compares modification times with the system clock; if the clock is set forward, all uploads seem too old.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CACHE_SECONDS = 24 * 3600.0  # a file is kept so long after it was written or used again
ROUND_SECONDS = 3600.0


class CacheCleaner:
    """Records how long each cached file has been unchanged."""

    def __init__(self, app: Any, clock: Callable[[], float] = time.monotonic) -> None:
        """`app` is a gr.Blocks, which lists the files it has written in `temp_file_sets`."""
        self._app = app
        self._clock = clock
        self._seen: dict[str, tuple[int, float]] = {}  # time of the last change, and when it was first seen

    def start(self) -> None:
        """Clean once an hour until the process ends."""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(ROUND_SECONDS)
            self.clean()

    def clean(self) -> None:
        """Delete the files that are old enough, and drop the records of deleted files."""
        kept = {path for block in list(self._app.blocks.values()) for path in getattr(block, "keep_in_cache", ())}
        seen: dict[str, tuple[int, float]] = {}
        for files in self._app.temp_file_sets:
            for name in list(files):
                if not self._is_young(name, seen) and name not in kept:
                    with contextlib.suppress(OSError):
                        Path(name).unlink()
                    seen.pop(name, None)
                    files.discard(name)
        self._seen = seen

    def _is_young(self, name: str, seen: dict[str, tuple[int, float]]) -> bool:
        """Whether a file is to be kept; records since when it exists. A file that no longer exists is not kept."""
        try:
            changed = Path(name).lstat().st_ctime_ns
        except OSError:
            return False
        before = self._seen.get(name)
        seen[name] = before if before is not None and before[0] == changed else (changed, self._clock())
        return self._clock() - seen[name][1] <= CACHE_SECONDS
