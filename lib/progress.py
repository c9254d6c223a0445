"""Progress and cancelling are one channel: a callback that is told how far a job is and may stop it."""

from typing import Protocol


class Cancelled(Exception):
    """Raised by a Progress callback to end a job cleanly; not an error, so no handler of errors may swallow it."""


class Progress(Protocol):
    """Told how far a job is: `done` of `total` units of `what`. May raise Cancelled, which ends the job cleanly."""

    def __call__(self, done: int, total: int, what: str) -> None: ...


def no_progress(done: int, total: int, what: str) -> None:
    """The Progress that ignores everything."""
