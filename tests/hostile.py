"""Limits that hostile files must not exceed, and readers of every kind of file, for tests.

Time is that of the processor, so that a busy machine changes nothing, without looking through what earlier tests left
behind; memory is the rise of the process's peak.
"""

import gc
import json
import time
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

MAX_SECONDS = 1.0  # of processor time
MAX_BYTES = 500 << 20
Content = dict[str, Any]
Change = Callable[[Content], None]


def peak_bytes() -> int:
    """The most memory this process has held; 0 on systems that do not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


@contextmanager
def refused(folder: Path, says: str = "") -> Iterator[None]:
    """The block must raise a typed error of one sentence, within the limits, and change nothing in the folder."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # the peak begins anew
    gc.freeze()  # thousands of small tensors set the collector off, which would visit all that the whole suite made
    held, began = peak_bytes(), time.process_time()
    try:
        with pytest.raises(RevoiceError, match=says or None) as caught:
            yield
        seconds, grown = time.process_time() - began, peak_bytes() - held
    finally:
        gc.unfreeze()
    assert seconds < MAX_SECONDS and grown < MAX_BYTES, (seconds, grown)
    told = str(caught.value)
    assert len(told) < 600 and len(told.splitlines()) == 1 and told.endswith("."), told
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
