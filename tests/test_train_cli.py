"""The training command line: its output, above all for bad input."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lib import paths
from tests.helpers import Floats
from train import __main__ as cli
from train import experiment


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Experiments and voices of these tests go into the test's folder."""
    monkeypatch.setattr(experiment.Experiment.__init__, "__defaults__", (tmp_path / "logs", tmp_path / "weights"))


def speech(seconds: float, rate: int = 16000) -> Floats:
    """A buzz with a slowly moving pitch, loud enough to be kept."""
    phase = 2 * np.pi * np.cumsum(150 + 30 * np.sin(np.arange(round(seconds * rate)) / rate * 5)) / rate
    return np.asarray(0.3 * sum(np.sin(h * phase) / h for h in range(1, 9)), np.float32)


def run(*words: str) -> int:
    """The exit status of a command."""
    try:
        return cli.main(list(words))
    except SystemExit as leaving:
        return int(leaving.code or 0)


def one_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The text on stderr, which must be one line and no traceback."""
    output = capsys.readouterr().err.strip()
    assert output and "Traceback" not in output and len(output.splitlines()) == 1, output
    return output


@pytest.mark.slow
def test_prepare_and_extract_and_index_report_what_they_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "a 'b' \"c\" 🎤 声音"
    data.mkdir()
    soundfile.write(data / "one two.flac", speech(3), 16000)
    assert run("prepare", "my voice", "--data", str(data)) == 0
    assert run("extract", "my voice", "--pitch-method", "pm", "--device", "cpu") == 0
    assert run("index", "my voice") == 0
    output = capsys.readouterr().out
    assert "1 clips" in output and "pitch method pm" in output and "vectors" in output
    for name in ("0_gt_wavs", "2b-f0nsf", "3_feature129", "config.json", "added_IVF"):
        assert name in output
    assert run("index", "my voice") == 0
    assert "unchanged" in capsys.readouterr().out


def test_a_folder_with_one_bad_file_is_done_and_the_file_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "good.wav", speech(2), 16000)
    (tmp_path / "bad.wav").write_bytes(b"")
    assert run("prepare", "v", "--data", str(tmp_path)) == 0
    output = capsys.readouterr()
    assert "from 1 recordings" in output.out
    assert "bad.wav" in output.err


@pytest.mark.slow
def test_recordings_of_sub_folders_are_prepared_and_changes_there_are_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.wav", "monday/a.wav", "monday/late/a.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, speech(2), 16000)
    words = ("prepare", "v", "--data", f'"{tmp_path}"')  # the folder holds the experiments, too
    assert run(*words) == 0 and "3 clips, 0.1 min, from 3 recordings" in capsys.readouterr().out
    assert run(*words) == 0 and "unchanged" in capsys.readouterr().out
    (tmp_path / "monday/late/a.wav").unlink()
    assert run(*words) == 0 and "from 2 recordings" in capsys.readouterr().out
    assert run("check", (tmp_path / "monday").as_uri()) == 0 and "1 recordings" in capsys.readouterr().out


def truncated(folder: Path, **_: object) -> None:
    soundfile.write(folder / "a.flac", speech(2), 16000)
    (folder / "a.flac").write_bytes((folder / "a.flac").read_bytes()[:60])


def text_only(folder: Path, **_: object) -> None:
    (folder / "notes.txt").write_text("not a recording")


def zero_length(folder: Path, **_: object) -> None:
    (folder / "a.wav").write_bytes(b"")


def twenty_milliseconds(folder: Path, **_: object) -> None:
    soundfile.write(folder / "a.wav", speech(0.02), 16000)


def silence(folder: Path, **_: object) -> None:
    soundfile.write(folder / "a.wav", np.zeros(32000), 16000)


def nothing(folder: Path, **_: object) -> None:
    return None


@pytest.mark.parametrize("fill", [truncated, text_only, zero_length, twenty_milliseconds, silence, nothing])
def test_useless_folders_are_one_sentence_and_leave_nothing(
    fill: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    fill(data)
    assert run("run", "v", "--data", str(data)) == 1
    output = capsys.readouterr().err.strip().splitlines()
    assert output and "Traceback" not in "".join(output)
    assert str(data) in output[-1]
    assert not list((tmp_path / "logs").rglob("*.wav")) and not list((tmp_path / "logs").rglob("config.json"))


@pytest.mark.parametrize(
    ("words", "status", "part"),
    [
        (("run", "v", "--data", "/does/not/exist"), 1, "/does/not/exist"),
        (("run", "v"), 1, "python -m train run"),
        (("fit", "nobody"), 1, "nobody"),
        (("run", "a/b", "--data", "."), 1, "'a/b'"),
        (("run", "v", "--data", ".", "--epochs", "0"), 2, "--epochs cannot be 0"),
        (("run", "v", "--data", ".", "--pitch-method", "guess"), 2, "guess"),
        (("run", "v", "--data", ".", "--family", "v9"), 2, "v9"),
        (("run", "v", "--data", ".", "--sample-rate", "48k"), 1, "24k"),
        (("trian", "v"), 2, "trian"),
        (("run", "v", "--epoks", "5"), 2, "epoks"),
    ],
)
def test_mistakes_are_one_sentence(
    words: tuple[str, ...], status: int, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    soundfile.write(data / "a.wav", speech(1), 16000)
    assert run(*(str(data) if word == "." else word for word in words)) == status
    assert part in one_sentence(capsys)


def test_a_device_that_does_not_exist_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "a.wav", speech(1), 16000)
    assert run("prepare", "v", "--data", str(tmp_path)) == 0
    capsys.readouterr()
    assert run("extract", "v", "--device", "cuda:7") == 1
    assert "cuda:7" in one_sentence(capsys) and "torch" in sys.modules


def test_interrupting_leaves_with_130_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lib.progress import Cancelled
    from train import preprocess

    soundfile.write(tmp_path / "a.wav", speech(1), 16000)

    def interrupted(*_: object, **__: object) -> None:
        raise Cancelled

    monkeypatch.setattr(preprocess, "prepare", interrupted)
    assert run("prepare", "v", "--data", str(tmp_path)) == 130
    assert "Run the same command" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.undo()
    monkeypatch.setattr(experiment.Experiment.__init__, "__defaults__", (tmp_path / "logs", tmp_path / "weights"))
    assert run("prepare", "v", "--data", str(tmp_path)) == 0
    assert tmp_path / "logs" != paths.LOGS
