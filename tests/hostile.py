"""Limits that hostile files must not exceed, and readers of every kind of file, for tests.

Bytes read and memory (the rise of the process's peak) are counted. Processor time is not: the system ends a reader that
takes a hundred times the usual.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lib.content.fairseq_reader import read_fairseq
from lib.errors import CheckpointError, RevoiceError
from lib.index import FeatureIndex
from lib.voice.archive import export_voice, import_voice
from lib.voice.model_file import METADATA, load_synthesizer, read_voice_model
from lib.voice.training_state import read_training_state
from tests.tiny_files import save_voice, small_voice
from tests.work import bytes_read, peak_bytes, processor_limit, reset_peak

HARD_LIMIT = 60  # seconds of processor time
MAX_READ = 40 << 20  # bytes
MAX_BYTES = 90 << 20  # of memory, less than the bombs of these tests hold
Content = dict[str, Any]
Change = Callable[[Content], None]


@contextmanager
def refused(folder: Path, pattern: str = "") -> Iterator[None]:
    """The block must raise a typed error of one sentence, within the limits, and change nothing in the folder."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    reset_peak()
    held, read = peak_bytes(), bytes_read()
    with processor_limit(HARD_LIMIT), pytest.raises(RevoiceError, match=pattern or None) as caught:
        yield
    read, grown = bytes_read() - read, peak_bytes() - held
    assert read < MAX_READ and grown < MAX_BYTES, (read, grown)
    message = str(caught.value)
    assert len(message) < 600 and len(message.splitlines()) == 1 and message.endswith("."), message
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def import_everything(folder: Path) -> None:
    """Read a file of each kind; the first of each also pays for imports."""
    save_voice(folder / "a.pth", small_voice())
    load_synthesizer(read_voice_model(folder / "a.pth"))
    build_index(folder / "a.index")
    FeatureIndex.load(folder / "a.index")
    with pytest.raises(CheckpointError):
        read_fairseq(folder / "a.pth")


def build_index(path: Path) -> None:
    FeatureIndex.build([np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)]).save(path)


def open_voice(path: Path) -> None:
    load_synthesizer(read_voice_model(path))


def open_archive(path: Path) -> None:
    import_voice(path, "x", weights=path.parent / "weights", logs=path.parent / "logs")


READERS: dict[str, Callable[[Path], Any]] = {
    "voice": open_voice, "state": read_training_state, "fairseq": read_fairseq, "index": FeatureIndex.load,
    "archive": open_archive,
}  # fmt: skip


def damaged_source(folder: Path, kind: str) -> Path:
    """A good file of a kind."""
    content = save_voice(folder / "a.pth", small_voice())
    path = folder / {"pth": "a.pth", "legacy": "b.pth", "safetensors": "a.safetensors"}.get(kind, f"a.{kind}")
    if kind == "legacy":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    elif kind == "safetensors":
        facts = {key: value for key, value in content.items() if key != "weight"}
        save_file(content["weight"], path, {METADATA: json.dumps(facts | {"tensors": list(content["weight"])})})
    elif kind == "index":
        build_index(path)
    elif kind == "zip":
        export_voice(folder / "a.pth", None, path)
    return path


def reader_of(path: Path) -> Callable[[Path], Any]:
    return READERS[{".index": "index", ".zip": "archive"}.get(path.suffix, "voice")]
