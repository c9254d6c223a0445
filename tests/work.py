"""Measures of work that are equal on every machine, fast or slow, idle or busy: lines run, bytes read, memory.

And limits of the system for this process.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any


def lines_run(module: ModuleType, function: Callable[[], Any]) -> int:
    """How many lines of a module's own code a call runs; a line of a loop counts each time."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != module.__file__:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def bytes_read() -> int:
    """What this process has read from files and pipes so far; 0 on systems that do not report it."""
    counters = Path("/proc/self/io")
    lines = counters.read_text().splitlines() if counters.is_file() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("rchar:"))


def peak_bytes() -> int:
    """The most memory this process has used; 0 on systems that do not report it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def reset_peak() -> None:
    """Let `peak_bytes` start again from the present use."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


@contextmanager
def processor_limit(seconds: int) -> Iterator[None]:
    """The system ends this process if the block uses more processor time. For work that might never end.

    The limit is to be far above the usual: it does not measure speed. Systems without such limits have none.
    """
    if sys.platform == "win32":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(time.process_time()) + 1 + seconds
    if resource.RLIM_INFINITY not in (soft, hard):
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def limit_file_size(limit: int | None) -> None:
    """Let no file of this process become longer than so many bytes ("File too large"); None ends that."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if limit is None else limit, hard))


def limit_memory(more: int | None) -> None:
    """Let this process reserve only so many bytes of address space more than it has; None ends that."""
    import resource

    if more is None:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        return
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.getrlimit(resource.RLIMIT_AS)[1]))


def as_unprivileged() -> None:
    """Give up the rights of the administrator, who can write into read-only folders."""
    if sys.platform != "win32" and os.geteuid() == 0:
        os.setegid(65534)
        os.seteuid(65534)
