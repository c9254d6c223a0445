"""Progress callbacks, which receive the progress of a job and may cancel it."""

from typing import Protocol

PART_STEPS = 1000  # in which `part_of` counts each part


class Cancelled(Exception):
    """Raised by a Progress callback to end a job cleanly. It is not an error: error handlers must let it pass."""


class Progress(Protocol):
    """Reports `done` of `total` units of `what`. Raises Cancelled to end the job cleanly."""

    def __call__(self, done: int, total: int, what: str) -> None: ...


def no_progress(done: int, total: int, what: str) -> None:
    """Do nothing; the default Progress."""


def part_of(progress: Progress, index: int, count: int) -> Progress:
    """Return the Progress of part `index`, counted from 0, of a job with `count` parts of equal length."""

    def report(done: int, total: int, what: str) -> None:
        progress(index * PART_STEPS + PART_STEPS * done // max(total, 1), count * PART_STEPS, what)

    return report
