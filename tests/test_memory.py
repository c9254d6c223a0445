"""Freed memory of the process is returned to the system."""

import sys
from pathlib import Path

import numpy as np
import pytest

from lib.models.memory import trim_memory


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps holes")
def test_holes_between_what_is_held_go_back() -> None:
    trim_memory()
    parts = [np.ones(100_000, np.uint8) for _ in range(1000)]  # small enough for the heap
    held = parts[::10]
    before = resident_bytes()
    del parts
    trim_memory()
    assert before - resident_bytes() > 70e6
    assert all(part.all() for part in held)
