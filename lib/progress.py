"""Progress callbacks, which receive the progress of a job and may cancel it."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

PART_STEPS = 1000  # in which `part_of` counts each part
PIECE_SECONDS = 1.0  # of audio that is computed between two reports
CHECK_SECONDS = 0.2  # after which a report is repeated, so that the job can be cancelled

Item = TypeVar("Item")


class Cancelled(Exception):
    """Raised by a Progress callback to end a job cleanly. It is not an error: error handlers must let it pass."""


class Progress(Protocol):
    """Reports that `done` of `total` steps are finished; `what` describes the current one. Raises Cancelled to end the
    job cleanly."""

    def __call__(self, done: int, total: int, what: str) -> None: ...


def no_progress(done: int, total: int, what: str) -> None:
    """Do nothing; the default Progress."""


def part_of(progress: Progress, index: int, count: int, size: int = 1) -> Progress:
    """Return the Progress of part `index`, counted from 0, of a job with `count` parts of equal length.

    With `size`, it covers that many parts.
    """

    def report(done: int, total: int, what: str) -> None:
        progress(index * PART_STEPS + size * PART_STEPS * done // max(total, 1), count * PART_STEPS, what)

    return report


def named(progress: Progress, step: str) -> Progress:
    """Return a Progress that reports `step` where `what` is empty."""

    def report(done: int, total: int, what: str) -> None:
        progress(done, total, what or step)

    return report


def pieces(n_samples: int, sample_rate: int, progress: Progress, unit: int = 1) -> Iterator[slice]:
    """Yield slices of about a second that cover `n_samples`, and report before each one and at the end.

    All but the last are multiples of `unit` samples long. The `what` of the reports is empty; see `named`.
    """
    size = max(round(PIECE_SECONDS * sample_rate) // unit, 1) * unit
    for start in range(0, n_samples, size):
        progress(start, n_samples, "")
        yield slice(start, min(start + size, n_samples))
    progress(n_samples, n_samples, "")


def checked(items: Iterable[Item], check: Callable[[], object]) -> Iterator[Item]:
    """Yield the items, and call `check` before each one."""
    for item in items:
        check()
        yield item


class Repeated:
    """A Progress whose last report can be repeated during a long step."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._last: tuple[int, int, str] | None = None
        self._reported = 0.0

    def __call__(self, done: int, total: int, what: str) -> None:
        """Report."""
        self._last, self._reported = (done, total, what), time.monotonic()
        self._progress(done, total, what)

    def check(self) -> None:
        """Repeat the last report if it is old."""
        if self._last is not None and time.monotonic() - self._reported >= CHECK_SECONDS:
            self(*self._last)
