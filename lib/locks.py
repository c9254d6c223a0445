"""A lock on a folder, held for as long as one process works in it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lib.errors import RevoiceError
from lib.files import write_errors

logger = logging.getLogger(__name__)


@contextmanager
def folder_lock(folder: Path, name: str, in_use: Callable[[], RevoiceError]) -> Iterator[None]:
    """Create the file `name` in `folder` and lock it until the end of the `with` block.

    The system releases the lock if this process is killed. Raises the error returned by `in_use` if another process
    holds the lock, and WriteError if the folder cannot be written. If the file system does not support locks, a warning
    is logged.
    """
    lock = FileLock(folder / name, timeout=0)
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise in_use() from error
        except NotImplementedError:  # some network folders
            logger.warning("%s cannot be locked: do not use it from two processes at once", folder)
    try:
        yield
    finally:
        lock.release()
