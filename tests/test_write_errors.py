"""Write errors are reported in one sentence with the reason, and existing files stay."""

import gc
import os
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch

from lib.audio.encode import save_audio
from lib.content import load_content_encoder
from lib.errors import MachineError, RevoiceError, WriteError
from lib.files import remove_leftovers, replacing, temporary_folder, write_errors, write_json
from lib.machine import machine_error
from lib.messages import Message
from lib.progress import Cancelled
from lib.terminal import terminal
from lib.voice.archive import export_voice, import_voice
from lib.voice.model_file import extract_voice_model, read_voice_model, write_voice_model
from tests.helpers import full_disk
from tests.tiny_voice import tiny_synthesizer
from train import __main__ as cli
from train import experiment

LARGE = np.zeros(100_000)
CPU = torch.device("cpu")


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", bytes(400_000))


def _numpy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, LARGE)


def _torch(path: Path) -> None:
    with path.open("wb") as file:
        torch.save({"a": torch.zeros(100_000)}, file)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "NumPy": _numpy,
    "array": lambda path: faiss.serialize_index(faiss.IndexFlatL2(1)).repeat(5000).tofile(path),
    "torch": lambda path: torch.save({"a": torch.zeros(100_000)}, path),
    "torch to a file": _torch,
    "safetensors": lambda path: safetensors.torch.save_file({"a": torch.zeros(100_000)}, path),
    "zip": _zip,
    "text": lambda path: path.write_text("a" * 400_000),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.filterwarnings("ignore")  # of files that a library leaves open
def test_the_reason_is_the_systems_whatever_wrote(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"good")
    with full_disk(50_000), pytest.raises(WriteError) as caught, replacing(path) as temporary:
        WRITERS[name](temporary)
    assert str(caught.value) == f"Cannot write {path}: File too large. Check the folder and the free space."
    assert path.read_bytes() == b"good" and list(tmp_path.iterdir()) == [path]
    del caught
    gc.collect()  # here, where warnings of files that cannot be flushed are ignored


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "m4a"])
def test_audio_that_does_not_fit_is_reported(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, 480_000).astype(np.float32)
    with full_disk(20_000), pytest.raises(WriteError, match=r"Cannot write .*: File too large\. Check"):
        save_audio(tmp_path / f"a.{suffix}", noise, 48_000)
    assert not list(tmp_path.iterdir())


def test_other_errors_are_not_taken_for_errors_of_writing(tmp_path: Path) -> None:
    for error in (RuntimeError("shapes differ"), ValueError("x"), Cancelled(), RevoiceError("y")):
        with pytest.raises(type(error)) as caught, write_errors(tmp_path / "a"):
            raise error
        assert caught.value is error
    with pytest.raises(WriteError, match="not enough memory"), write_errors(tmp_path / "a"):
        raise MemoryError


def test_errors_of_the_system_become_clear_messages(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        (tmp_path / "none").read_bytes()
    reported = [
        (caught.value, f"{tmp_path}/none: No such file or directory. Check"),
        (OSError(5, "Input/output error"), "The system reports: Input/output error."),
        (MemoryError(), "There is not enough memory."),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "There is not enough memory."),
        (RuntimeError("std::bad_alloc"), "There is not enough memory."),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "The memory of the GPU is full."),
        (RuntimeError("CUDA error: unspecified launch failure\nmore"), "The GPU has failed: CUDA error: unspec"),
    ]
    for error, sentence in reported:
        assert str(machine_error(error)).startswith(sentence)
    for error in (RuntimeError("shapes differ"), RecursionError("too deep"), ImportError("no module x"), KeyError("x")):
        assert machine_error(error) is None


def test_a_machine_without_memory_is_not_taken_for_a_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_voice_model(tmp_path / "eve.pth", extract_voice_model(tiny_synthesizer(), "lite", "1epoch"))

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("lib.voice.safe_load.torch.load", fail)
    monkeypatch.setattr("lib.content.lite.safetensors.torch.load_file", fail)
    for read in (lambda: read_voice_model(tmp_path / "eve.pth"), lambda: load_content_encoder("lite", CPU)):
        with pytest.raises(MachineError, match=r"does not fit into memory\. Close"):
            read()


def test_temporary_files_of_ended_processes_are_removed_and_those_in_use_stay(tmp_path: Path) -> None:
    names = (".part-abcdefgh.wav", ".import-abcd_123", ".part-x", ".part-abcdefgh", "part-abcdefgh.wav")
    for name in names:
        (tmp_path / name).write_text("left behind")
    with replacing(tmp_path / "a.txt") as own:  # the first write into the folder
        assert {path.name for path in tmp_path.iterdir()} == {own.name, ".part-x", "part-abcdefgh.wav"}
        remove_leftovers(tmp_path)
        own.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    with temporary_folder(tmp_path) as folder:
        remove_leftovers(tmp_path)
        assert folder.is_dir()
    with temporary_folder(tmp_path) as folder:
        remove_leftovers(tmp_path, all_unused=True)
        assert not folder.exists()
        folder.mkdir()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the experiments and voices of the command line."""
    monkeypatch.setattr(experiment.Experiment.__init__, "__defaults__", (tmp_path / "logs", tmp_path / "weights"))
    return tmp_path


def one_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    message = capsys.readouterr().err.strip().splitlines()
    assert message and "Traceback" not in "".join(message)
    return message[-1]


@pytest.mark.slow
def test_stages_say_what_they_have_saved(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    time = np.arange(3 * 16_000) / 16_000
    voice = 0.1 * sum(np.sin(2 * np.pi * 150 * harmonic * time) for harmonic in range(1, 6))
    soundfile.write(program / "a.wav", voice, 16_000)
    prepare = ["prepare", "v", "--data", str(program / "a.wav")]
    (program / "logs").write_text("no folder can be made here")
    assert cli.main(prepare) == 1
    assert "Cannot write" in (message := one_sentence(capsys)) and "logs" in message
    (program / "logs").unlink()
    with full_disk(50_000):
        assert cli.main(prepare) == 1
    assert "File too large" in (message := one_sentence(capsys)) and message.endswith("v are unchanged.")
    assert cli.main(prepare) == 0
    extract = ["extract", "v", "--pitch-method", "pm", "--device", "cpu"]
    with full_disk(50_000):
        assert cli.main(extract) == 1
    assert "File too large" in (message := one_sentence(capsys)) and message.endswith("run the same command to resume.")
    assert cli.main(extract) == 0


@pytest.mark.slow
def test_tools_for_voices_say_why_nothing_was_written(program: Path) -> None:
    voice = extract_voice_model(tiny_synthesizer(), "lite", "1epoch")
    write_voice_model(program / "eve.pth", voice)
    archive = export_voice(program / "eve.pth", None, program / "eve.zip")
    (program / "file").write_text("no folder")
    for write in (
        lambda: write_voice_model(program / "file" / "eve.pth", voice),
        lambda: export_voice(program / "eve.pth", None, program / "file" / "eve.zip"),
        lambda: import_voice(archive, weights=program / "file" / "weights", logs=program / "logs"),
        lambda: write_json(program / "file" / "a.json", {}),
    ):
        with pytest.raises(WriteError, match=r"Cannot write .*file.*: (Not a directory|File exists)"):
            write()
    with full_disk(10_000):
        for write in (
            lambda: write_voice_model(program / "eve.pth", voice),
            lambda: write_voice_model(program / "eve.safetensors", voice),
            lambda: export_voice(program / "eve.pth", None, program / "eve.zip"),
            lambda: import_voice(archive, weights=program / "weights", logs=program / "logs"),
        ):
            with pytest.raises(WriteError, match="File too large"):
                write()
    assert not list((program / "weights").glob("*")) and not (program / "eve.safetensors").exists()


def test_the_signal_to_end_stops_after_the_current_step_like_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with terminal(Message("loading")) as progress:
        progress(0, 2, "a")
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Cancelled):
            progress(1, 2, "b")
    assert signal.getsignal(signal.SIGTERM) == before
