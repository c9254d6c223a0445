"""Copies the uploads of a job into its folder, within the limits of the disk and the client."""

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

from lib.errors import ConfigError, MissingFileError, RevoiceError
from lib.files import write_errors
from web.jobs.requests import Request
from web.limits import MIN_FREE, check_disk

MAX_CLIENT_BYTES = 20 << 30  # that the jobs of a client on another machine may take up on the disk


def size_of(folders: Sequence[Path]) -> int:
    """Return the total size in bytes of all files in some folders."""
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


def with_copies(request: Request, folder: Path, allowed: int | None) -> Request:
    """Return the request with its uploads copied into the job's folder, at most `allowed` bytes in total.

    Raises MissingFileError if an upload does not exist, ConfigError if the uploads exceed `allowed` or would nearly
    fill the disk, and WriteError if they cannot be written; the folder is then removed.
    """
    numbers = itertools.count()
    left = allowed

    def copied(path: Path) -> Path:
        nonlocal left
        if not path.is_file():
            raise MissingFileError(path, "Check the name and the folder.")
        size = path.stat().st_size
        if check_disk(folder, size):
            raise ConfigError(
                "The disk has less than {gigabytes} GB of free space. Delete jobs that have ended, then try again.",
                gigabytes=MIN_FREE >> 30,
            )
        left = None if left is None else left - size
        if left is not None and left < 0:
            raise ConfigError(
                "Your jobs take up more than {gigabytes} GB. Delete jobs that have ended, then try again.",
                gigabytes=MAX_CLIENT_BYTES >> 30,
            )
        copy = folder / "inputs" / str(next(numbers)) / path.name
        with write_errors(copy):
            copy.parent.mkdir(parents=True)
            shutil.copyfile(path, copy)
        return copy

    try:
        return request.with_uploads(copied)
    except RevoiceError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
