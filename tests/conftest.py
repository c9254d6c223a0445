"""Shared fixtures: where golden and real data lie, and tones."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from tests.helpers import GOLDEN, SHARED_DATA, SMALL_SET, SPECIFICATION, Floats, SmallSet

# The files that take longest, longest first: no process is left with one of them when the others have finished.
LONGEST = (
    "test_faults.py", "test_page.py", "test_kill.py", "test_accessibility.py", "test_distributed.py", "test_models.py",
    "test_loop.py", "test_manuals.py", "test_gpu_check.py", "test_setup.py", "test_impossible_models.py",
    "test_pitch_methods.py", "test_step.py", "test_model_file.py", "test_onnx.py", "test_held_out.py",
)  # fmt: skip

# The first example of a law may import a library, and a busy machine may pause: neither is a failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the order within a file stays."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Every test, with its fixtures, draws the same random numbers in every run."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for libraries that use it
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny networks run faster on one thread, and results do not depend on the number of cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden data (environment variable GOLDEN_DIR, else ../shared/golden, else tests/data/golden).

    In the last, which is small, tests of files that it does not hold skip.
    """
    if not (GOLDEN / "README.md").is_file():
        pytest.fail(f"{GOLDEN} is no folder of golden data: it has no README.md; set GOLDEN_DIR to one that has")
    return SmallSet(GOLDEN) if GOLDEN == SMALL_SET else GOLDEN


@pytest.fixture(scope="session")
def specification() -> Path:
    """The folder of the specification (`spec` beside the golden data, else ../shared/spec)."""
    if not SPECIFICATION.is_dir():
        pytest.skip(f"no specification at {SPECIFICATION}")
    return SPECIFICATION


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings (environment variable REVOICE_DATA_DIR, else ../shared/data)."""
    if not (SHARED_DATA / "README.md").is_file():
        pytest.skip(f"no real recordings at {SHARED_DATA}; set REVOICE_DATA_DIR")
    return SHARED_DATA


@pytest.fixture
def tone() -> Callable[..., Floats]:
    """A function (frequency in Hz, seconds, sample_rate=16000, amplitude=0.5) -> sine of shape (T,) float32."""

    def make(frequency: float, seconds: float, sample_rate: int = 16000, amplitude: float = 0.5) -> Floats:
        time = np.arange(round(seconds * sample_rate)) / sample_rate
        return (amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32)

    return make
