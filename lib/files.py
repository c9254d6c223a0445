"""Atomic writing: temporary name, fsync, rename. Files left by a killed process are removed at the next write."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lib.errors import WriteError
from lib.machine import machine_error

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BLOCK_BYTES = 1 << 20  # read at a time
PROBE_BYTES = 1 << 20  # written to find out why a library could not write
PART, IMPORT = ".part-", ".import-"  # prefixes of temporary files and folders
_LEFTOVER = re.compile(rf"({re.escape(PART)}|{re.escape(IMPORT)})[a-z0-9_]{{8}}(\..*)?$")
_cleaned: set[Path] = set()  # folders whose leftovers this process has removed


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder as `path`, with its suffix; on success, it replaces `path`.

    On failure the temporary file is removed. Raises WriteError; see `write_errors`. The first write into a folder
    removes the temporary files that killed processes left there.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clean_once(path.parent)
        handle, temporary = _temporary_file(path)
        try:
            with write_errors(path):  # the reason is found while the incomplete file still takes its space
                yield temporary
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            if handle is not None:
                os.close(handle)
            temporary.unlink(missing_ok=True)


def _temporary_file(path: Path) -> tuple[int | None, Path]:
    """Create a file in the same folder as `path`, open and locked, so that no other process removes it as a leftover.

    On Windows, where a file that is open cannot be replaced, it is closed, and the handle is None.
    """
    while True:
        # The prefix is short and fixed, so that a long file name cannot exceed the limit of the file system.
        handle, name = tempfile.mkstemp(prefix=PART, suffix=path.suffix, dir=path.parent)
        if fcntl is None:
            os.close(handle)
            return None, Path(name)
        if _lock(handle) is not False and Path(name).exists():
            return handle, Path(name)
        os.close(handle)  # another process was just removing leftovers


def _lock(handle: int) -> bool | None:
    """Lock an open file. False if another process holds it, None where files cannot be locked."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems
        return None
    return True


def sync_folder(folder: Path) -> None:
    """Fsync the directory `folder`, so that files created in it survive a power failure.

    Call it before writing anything that refers to these files.
    """
    with suppress(OSError):  # Windows cannot open a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _clean_once(folder: Path) -> None:
    if folder not in _cleaned:
        _cleaned.add(folder)
        remove_leftovers(folder)


def remove_leftovers(folder: Path, *, all_unused: bool = False) -> None:
    """Remove temporary files and folders in `folder` that were left by processes that are no longer running.

    A running process holds a lock on each of its own. If files cannot be locked (Windows, some network drives), nothing
    is removed, unless `all_unused` states that no process is writing there.
    """
    with suppress(OSError):
        for path in [path for path in folder.iterdir() if _LEFTOVER.match(path.name)]:
            with suppress(OSError), _unused(path) as is_unused:
                if is_unused or all_unused:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def _unused(path: Path) -> Iterator[bool]:
    """Whether no process has `path` locked; no other process can lock it during the `with` block."""
    if fcntl is None:
        yield False
        return
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        yield bool(_lock(handle))
    finally:
        os.close(handle)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield an empty folder below `parent`; it is removed at the end, or by a later process if this one is killed."""
    with tempfile.TemporaryDirectory(prefix=IMPORT, dir=parent) as name:
        handle = -1 if fcntl is None else os.open(name, os.O_RDONLY)
        try:
            if handle >= 0:
                _lock(handle)
            yield Path(name)
        finally:
            if handle >= 0:
                os.close(handle)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn a failure to write `path`, such as a full disk or a read-only folder, into a WriteError with the reason.

    Such failures are OSError, MemoryError, and the errors that torch, NumPy and safetensors raise in their place. A
    failure to read another file in the `with` block becomes a MachineError that names that file.
    """
    try:
        yield
    except MemoryError as error:
        raise WriteError("Cannot write {path}: there is not enough memory. Close other programs.", path=path) from error
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and not _TORCH_WRITER.search(str(error)):
            raise
        if isinstance(error, OSError) and _is_of_another_file(error, path) and (known := machine_error(error)):
            raise known from error
        if reason := _reason(error, path.parent):
            raise WriteError(
                "Cannot write {path}: {reason}. Check the folder and the free space.", path=path, reason=reason
            ) from error
        raise WriteError(
            "Cannot write {path}: the disk is probably full. Check the folder and the free space.", path=path
        ) from error


_TORCH_WRITER = re.compile("PytorchStreamWriter|inline_container")
_IO_ERROR = re.compile(r"I/O error: (.+?) \(os error")


def _is_of_another_file(error: OSError, path: Path) -> bool:
    """Whether the error is about a file unrelated to `path`: not in its folder, and not a folder above it."""
    if not isinstance(error.filename, str | os.PathLike) or error.filename2 is not None:
        return False
    named = Path(error.filename)
    return named.is_absolute() and path.parent not in (named, *named.parents) and named not in path.parents


def _reason(error: Exception, folder: Path) -> str | None:
    """Return why the system refused to write. If a library has dropped the reason, a test write finds it."""
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


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def copy_file(source: Path, target: Path) -> None:
    """Copy a file atomically; the target may be on another disk."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, keeping the newlines in `text`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, with a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
