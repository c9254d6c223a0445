"""Atomic writing: temporary name, fsync, rename."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib.errors import RevoiceError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with its suffix. On success it replaces `path`, else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The prefix is short and fixed, so that a long file name cannot exceed the limit of the file system.
    handle, name = tempfile.mkstemp(prefix=".part-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn a failure to write `path`, such as a full disk or a read-only folder, into a RevoiceError."""
    try:
        yield
    except OSError as error:
        raise RevoiceError(
            "Cannot write {path}: {reason}. Check the folder and the free space.",
            path=path,
            reason=error.strerror or str(error),
        ) from error
    except RuntimeError as error:
        if not any(name in str(error) for name in ("PytorchStreamWriter", "inline_container")):
            raise
        # torch reports only that its archive could not be written, not why.
        raise RevoiceError(
            "Cannot write {path}: the disk is probably full. Check the folder and the free space.", path=path
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, with the newlines of `text`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, with a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
