"""One server per folder, and the cache that is cleaned by a monotonic clock."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib.errors import ConfigError
from tests.helpers import ROOT
from web.cache_cleaner import CACHE_SECONDS, CacheCleaner
from web.server_lock import ServerLock

HOLD = """
import sys; from pathlib import Path; from web.server_lock import ServerLock
lock = ServerLock(Path(sys.argv[1]))
with lock.held():
    lock.announce(["http://127.0.0.1:7865/"])
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_server_reports_the_address_of_the_first_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    command = [sys.executable, "-c", HOLD, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=r"at http://127.0.0.1:7865/, is already using"):
            ServerLock(folder).held().__enter__()
        first.kill()
    with ServerLock(folder).held():
        with pytest.raises(ConfigError, match="is starting and is already using"):  # its own address is not known yet
            ServerLock(folder).held().__enter__()
        (folder / ".server.json").write_text('{"addresses": []}')
        with pytest.raises(ConfigError, match="is starting and is already using"):
            ServerLock(folder).held().__enter__()
    assert [path.name for path in folder.iterdir()] in ([".server.lock"], [])
    with ServerLock(folder).held():
        pass


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match="Cannot write") as caught:
        ServerLock(tmp_path / "file" / "jobs").held().__enter__()
    assert "\n" not in str(caught.value)


def test_the_cache_is_cleaned_by_a_monotonic_clock(tmp_path: Path) -> None:
    """The dates of files do not count: neither files from the past nor files from the future are deleted early."""
    now = 0.0
    old, new, used, kept = files = [tmp_path / name for name in ("old", "new", "used", "kept")]
    for path in files:
        path.write_text("x")
    os.utime(old, (1, 1))
    os.utime(new, (4e9, 4e9))
    made = {str(path) for path in files} | {str(tmp_path / "gone")}
    page = SimpleNamespace(
        temp_file_sets=[made], blocks={1: SimpleNamespace(keep_in_cache={str(kept)}), 2: SimpleNamespace()}
    )
    cleaner = CacheCleaner(page, lambda: now)
    cleaner.clean()
    assert all(path.exists() for path in files) and str(tmp_path / "gone") not in made
    now = CACHE_SECONDS
    cleaner.clean()
    assert all(path.exists() for path in files)
    used.chmod(0o600)  # as Gradio does with what is used again: its time of change is new
    now = CACHE_SECONDS + 1
    cleaner.clean()
    assert [path.name for path in files if path.exists()] == ["used", "kept"]
    assert made == {str(used), str(kept)}
    now = 2 * CACHE_SECONDS + 2
    cleaner.clean()
    assert [path.name for path in files if path.exists()] == ["kept"]
