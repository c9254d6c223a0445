"""A disk that cannot be read is reported as such, never as a damaged file: recordings and training clips."""

import errno
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from lib.arrays import read_array
from lib.audio.decode import load_audio, stated_seconds
from lib.audio.encode import save_audio
from lib.audio.tags import read_tags
from lib.errors import AudioError, MachineError
from lib.index import FeatureIndex
from lib.voice.safe_load import safe_load
from tests.hostile import build_index
from tests.test_dataset import CONFIG, write_clip
from train.dataset import ClipDataset
from train.index import write_total_features

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
    with pytest.raises(MachineError, match=r"a\.c\.npy cannot be read: No such file"):
        dataset[0]


class FailingDisk(io.RawIOBase):
    """A file of which the first `whole` bytes can be read, then the system reports an error."""

    def __init__(self, path: Path, whole: int) -> None:
        self._data = path.read_bytes()
        self._whole = whole
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, len(self._data))[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        part = self._data[self._at : self._at + len(buffer)]
        if self._at + len(part) > self._whole:
            raise OSError(errno.EIO, "Input/output error")
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def write_legacy_model(path: Path) -> None:
    torch.save({"weight": {"a": torch.zeros(100)}}, path, _use_new_zipfile_serialization=False)


def write_features(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((50, 12), np.float32))


READERS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "array": (write_features, read_array),
    "index": (build_index, FeatureIndex.load),
    "total features": (write_features, lambda path: write_total_features([path], path.parent / "total.npy")),
    "legacy model": (write_legacy_model, safe_load),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("part", [0.0, 0.5, 0.9])
def test_a_disk_that_fails_anywhere_in_a_file_is_reported_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, part: float
) -> None:
    """Such files are not memory-mapped: the system would end the process."""
    write, read = READERS[name]
    path, open_usually = tmp_path / "victim", Path.open
    write(path)
    read(path)
    whole = int(part * path.stat().st_size)

    def open_file(self: Path, *arguments: Any, **keywords: Any) -> Any:
        if self == path:
            return io.BufferedReader(FailingDisk(Path(path.with_name("copy")), whole), 16)
        return open_usually(self, *arguments, **keywords)

    path.with_name("copy").write_bytes(path.read_bytes())
    monkeypatch.setattr(Path, "open", open_file)
    with pytest.raises(MachineError, match=r"victim cannot be read: Input/output error\. Check the disk"):
        read(path)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("name", ["audio", "content", "pitch_bins", "f0", "augmented"])
def test_a_file_of_a_clip_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    """Before the training, and in the middle of it."""
    augmented = tmp_path / "a.augmented.npy"
    np.save(augmented, np.zeros((300, 45, 12), np.float16))  # so many that one of them is drawn
    clip = replace(write_clip(tmp_path, "a", 90), augmented=augmented)
    dataset = ClipDataset([clip], CONFIG, seed=1)
    victim = getattr(clip, name)
    victim.unlink()
    victim.symlink_to("/proc/self/mem")  # its first page is nowhere: an input/output error
    for read in (lambda: dataset[0], lambda: ClipDataset([clip], CONFIG, seed=1)):
        with pytest.raises(MachineError, match=f"{victim.name} cannot be read: Input/output error"):
            read()
