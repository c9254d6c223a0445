"""Replaces several folders atomically: if the process is killed, either all of them have been replaced, or none."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lib.files import write_errors

FRESH, READY, OLD = ".new", ".ready", ".old"  # folders that hold the new and the replaced ones


@contextmanager
def replacing_folders(
    parent: Path, names: Sequence[str], before_commit: Callable[[], None] = lambda: None
) -> Iterator[list[Path]]:
    """Yield an empty folder for each of `names`; on success they are moved into `parent`, on failure deleted.

    `before_commit` is called when all are complete, before the first is replaced. Raises WriteError if the folders
    cannot be created or moved.
    """
    fresh = parent / FRESH
    is_new = not parent.exists()
    try:
        with write_errors(fresh):
            shutil.rmtree(fresh, ignore_errors=True)
            for name in names:
                (fresh / name).mkdir(parents=True)
        yield [fresh / name for name in names]
        with write_errors(parent):
            before_commit()
            fresh.replace(parent / READY)  # from here on, `finish_swap` completes it after a kill
            finish_swap(parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if is_new and parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def finish_swap(parent: Path) -> bool:
    """Complete an interrupted `replacing_folders`; returns whether the new folders were complete."""
    ready, old = parent / READY, parent / OLD
    shutil.rmtree(parent / FRESH, ignore_errors=True)
    if not ready.is_dir():
        return False
    for new in sorted(ready.iterdir()):
        target = parent / new.name
        if target.exists():
            shutil.rmtree(old / new.name, ignore_errors=True)
            old.mkdir(exist_ok=True)
            target.replace(old / new.name)
        new.replace(target)
    ready.rmdir()
    shutil.rmtree(old, ignore_errors=True)
    return True
