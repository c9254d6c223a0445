"""Atomic writing: temporary name, fsync, rename."""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lib.errors import WriteError

PROBE_BYTES = 1 << 20  # written to find out why a library could not write


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with its suffix. On success it replaces `path`, else it is removed.

    Raises WriteError, see `write_errors`.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The prefix is short and fixed, so that a long file name cannot exceed the limit of the file system.
        handle, name = tempfile.mkstemp(prefix=".part-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            with write_errors(path):  # the reason is found while the incomplete file still takes its space
                yield temporary
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn a failure to write `path`, such as a full disk or a read-only folder, into a WriteError with the reason.

    Such failures are OSError, MemoryError, and what torch, NumPy and safetensors raise in their place.
    """
    try:
        yield
    except MemoryError as error:
        raise WriteError("Cannot write {path}: there is not enough memory. Close other programs.", path=path) from error
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and not _TORCH_WRITER.search(str(error)):
            raise
        if reason := _reason(error, path.parent):
            raise WriteError(
                "Cannot write {path}: {reason}. Check the folder and the free space.", path=path, reason=reason
            ) from error
        raise WriteError(
            "Cannot write {path}: the disk is probably full. Check the folder and the free space.", path=path
        ) from error


_TORCH_WRITER = re.compile("PytorchStreamWriter|inline_container")
_IO_ERROR = re.compile(r"I/O error: (.+?) \(os error")


def _reason(error: Exception, folder: Path) -> str | None:
    """Why the system refused to write. Where a library has dropped the reason, a test write finds it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if match := _IO_ERROR.search(str(error)):
        return match[1]
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as refused:
        return refused.strerror
    by_numpy = " requested and " in str(error)  # which reports only numbers of items
    return None if by_numpy or not isinstance(error, OSError) else str(error) or None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, with the newlines of `text`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, with a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
