"""A disk that cannot be read is reported as such, never as a damaged file: recordings and training clips."""

import errno
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lib.audio.decode import load_audio, stated_seconds
from lib.audio.encode import save_audio
from lib.audio.tags import read_tags
from lib.errors import AudioError, MachineError
from tests.test_dataset import CONFIG, write_clip
from train.dataset import ClipDataset

TONE = 0.5 * np.sin(np.arange(32_000, dtype=np.float32) / 10)  # two seconds


class FailingContainer:
    """A container whose disk fails after the first packet."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def __enter__(self) -> "FailingContainer":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def demux(self, stream: Any) -> Iterator[Any]:
        """One packet, then the system's error, as FFmpeg reports it."""
        yield next(self._container.demux(stream))
        av.error.err_check(-errno.EIO, self._container.name)


@pytest.mark.parametrize("begins", [False, True])
def test_a_disk_that_cannot_be_read_is_not_taken_for_a_damaged_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins: bool
) -> None:
    """FFmpeg reports both alike, also for the rest of a recording that has begun; so Python reads the file as well."""
    path = tmp_path / "song.flac"
    save_audio(path, TONE, 16000)
    is_readable, usual, open_usually = False, av.open, Path.open

    def opened(name: str, *arguments: Any, **keywords: Any) -> Any:
        if begins:
            return FailingContainer(usual(name, *arguments, **keywords))
        return av.error.err_check(-errno.EIO, name)

    def open_file(self: Path, *arguments: Any, **keywords: Any) -> Any:
        if self == path and not is_readable:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return open_usually(self, *arguments, **keywords)

    monkeypatch.setattr("av.open", opened)
    monkeypatch.setattr(Path, "open", open_file)
    readers: list[Callable[[], object]] = [lambda: load_audio(path, 16000)]
    if not begins:
        readers += [lambda: stated_seconds(path), lambda: read_tags(path)]
    for read in readers:
        with pytest.raises(MachineError, match=r"song\.flac cannot be read: Input/output error\. Check the disk"):
            read()
    is_readable = True
    if begins:
        assert len(load_audio(path, 16000)) < 32000  # as a truncated one
    else:
        with pytest.raises(AudioError, match="not a recording or is damaged"):
            load_audio(path, 16000)


def test_a_disk_that_fails_is_not_taken_for_a_damaged_clip(tmp_path: Path) -> None:
    """Whose files the user would be told to delete; also for a file that vanishes while the training runs."""
    clip = write_clip(tmp_path, "a", 90)
    dataset = ClipDataset([clip], CONFIG, seed=1)
    audio = clip.audio.read_bytes()
    clip.audio.write_bytes(audio[:20])
    with pytest.raises(AudioError, match="are damaged"):
        dataset[0]
    clip.audio.unlink()
    with pytest.raises(MachineError, match="cannot be read: No such file"):
        dataset[0]
    clip.audio.write_bytes(audio)
    np.save(clip.content, np.zeros((2, 12), np.float32))
    with pytest.raises(AudioError, match="are damaged"):
        dataset[0]
    clip.content.unlink()
    with pytest.raises(MachineError, match=r"a\.c\.npy: No such file"):
        dataset[0]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_disk_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    clip = write_clip(tmp_path, "a", 90)
    clip.content.unlink()
    clip.content.symlink_to("/proc/self/mem")  # its first page is nowhere: an input/output error
    with pytest.raises(MachineError, match="Input/output error"):
        ClipDataset([clip], CONFIG, seed=1)
