"""Progress callbacks: report the progress of a job, and may cancel it."""

from typing import Protocol


class Cancelled(Exception):
    """Raised by a Progress callback to end a job cleanly. It is no error: handlers of errors must let it pass."""


class Progress(Protocol):
    """Reports `done` of `total` units of `what`. Raises Cancelled to end the job cleanly."""

    def __call__(self, done: int, total: int, what: str) -> None: ...


def no_progress(done: int, total: int, what: str) -> None:
    """A Progress that does nothing."""
