"""Each write of each tool fails once: the true reason is reported, nothing is left behind, the next call succeeds."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from infer.options import ConvertOptions
from infer.speech import engines
from lib.bug_report import write_bundle
from lib.errors import RevoiceError
from lib.files import IMPORT, PART
from lib.index import FeatureIndex
from lib.onnx.export import export_graph, voice_graph
from lib.voice.archive import export_voice, import_voice
from lib.voice.edit_file import edit_voice_file
from lib.voice.intake import inspect_files, install
from lib.voice.model_file import read_voice_model, write_voice_model
from tests.helpers import full_disk
from tests.test_say import Buzz
from tests.test_song_cli import Said, run
from tests.test_song_cli import voice as voice
from tests.tiny_voice import WIDTH, lite_synthesizer, voice_like
from train.ckpt.tools import convert, merge
from web.presets import Presets

pytestmark = pytest.mark.slow
REASONS = {"full disk": "File too large", "failing disk": "Input/output error"}
EVE = Path("voices/eve.pth")


def _merge(folder: Path) -> None:
    eve = read_voice_model(folder / EVE)
    write_voice_model(folder / "merged.pth", merge(eve, eve, 0.5, "both"))


def _export_onnx(folder: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed: pip install -r requirements-onnx.txt")
    export_graph(voice_graph(lite_synthesizer().fold_weight_norm()), folder / "eve.onnx")


def _install(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        found = inspect_files(
            [folder / EVE, folder / "eve.index"], Path(temporary) / "parts", logs=folder / "logs", roots=[]
        )
        assert found.voices[0].index is not None
        install(found, weights=folder / "weights", logs=folder / "logs")


TOOLS: dict[str, Callable[[Path], Any]] = {
    "merge": _merge,
    "edit": lambda folder: edit_voice_file(folder / EVE, folder / "edited.pth", {"info": "new"}),
    "edit in place": lambda folder: edit_voice_file(folder / EVE, folder / EVE, {"info": "new"}),
    "convert a file": lambda folder: convert(folder / EVE, folder / "eve.safetensors"),
    "export": lambda folder: export_voice(folder / EVE, folder / "eve.index", folder / "made.zip"),
    "export to ONNX": _export_onnx,
    "import": lambda folder: import_voice(folder / "eve.zip", weights=folder / "weights", logs=folder / "logs"),
    "import of files": _install,
    "index": lambda folder: FeatureIndex.load(folder / "eve.index").save(folder / "new.index"),
    "preset": lambda folder: Presets(folder / "presets").save("mine", ConvertOptions()),
    "bug report": lambda folder: write_bundle({"log.txt": ["a line"]}, folder),
    "convert": lambda folder: run(folder / "song.wav", "--voice", folder / EVE, "--report"),
    "say": lambda folder: run("say", "Hi there.", "--voice", folder / EVE, "-o", folder / "hi.flac"),
    "cover": lambda folder: run(
        "cover", folder / "song.wav", "--vocals", folder / "vocals.wav", "--voice", folder / EVE, "-o", folder / "c.mp3"
    ),
}


@pytest.fixture
def given(voice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the tools read."""
    monkeypatch.setattr(engines, "Hibari", Buzz)
    soundfile.write(tmp_path / "song.wav", voice_like(0.5), 16_000)
    soundfile.write(tmp_path / "vocals.wav", voice_like(0.5) / 2, 16_000)
    features = np.random.default_rng(0).standard_normal((50, WIDTH)).astype(np.float32)
    FeatureIndex.build([features]).save(tmp_path / "eve.index")
    export_voice(tmp_path / EVE, tmp_path / "eve.index", tmp_path / "eve.zip")
    return tmp_path


@contextmanager
def failing(kind: str, n: int) -> Iterator[list[int]]:
    """The disk is full from the n-th new file on, or the n-th file cannot be flushed to it. Yields the count so far."""
    count = [0]
    with pytest.MonkeyPatch.context() as patch, ExitStack() as limits:
        make, flush = tempfile.mkstemp, os.fsync

        def full(*arguments: Any, **values: Any) -> Any:
            count[0] += 1
            if count[0] == n:
                limits.enter_context(full_disk(0))
            return make(*arguments, **values)

        def fails(handle: int) -> None:
            count[0] += 1
            if count[0] == n:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            flush(handle)

        if kind == "full disk":
            patch.setattr(tempfile, "mkstemp", full)
        else:
            patch.setattr(os, "fsync", fails)
        yield count


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", REASONS)
@pytest.mark.parametrize("tool", TOOLS)
def test_each_write_of_a_tool_fails_once(tool: str, kind: str, given: Path, capsys: Said) -> None:
    before = contents(given)
    for n in range(1, 30):
        message = ""
        with failing(kind, n) as count:
            try:
                status = TOOLS[tool](given)
                printed = capsys.readouterr().err
                if isinstance(status, int) and status:
                    message = printed.strip().splitlines()[-1]
            except RevoiceError as error:
                message = str(error)
        if count[0] < n:
            break
        after = contents(given)
        if tool == "cover" and not message:  # which needs no result of a step for the next cover
            assert "warning" in printed and REASONS[kind] in printed
        else:
            assert message.startswith("Cannot write") and REASONS[kind] in message, (n, message)
        assert {path: after.get(path) for path in before} == before, n
        assert not [path for path in given.rglob("*") if path.name.startswith((PART, IMPORT))], n
    assert n > 1 and not message
    assert contents(given) != before
