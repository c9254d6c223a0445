"""python -m infer: files, output and exit status; bad input is reported in one sentence."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infer import loudness
from infer import model_cache as loaded_module
from infer.__main__ import main
from lib.audio import AUDIO_FORMATS
from lib.audio.decode import load_audio_native
from lib.audio.encode import save_audio
from lib.index import FeatureIndex
from lib.voice.model_file import extract_voice_model, write_voice_model
from tests.helpers import ROOT
from tests.tiny_voice import TinyEncoder, lite_synthesizer, voice_like

Said = pytest.CaptureFixture[str]


@pytest.fixture
def voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a voice model file, of a family whose encoder is tiny."""
    monkeypatch.setattr(loaded_module, "load_content_encoder", lambda *_: TinyEncoder())
    path = tmp_path / "voices/eve.pth"
    write_voice_model(path, extract_voice_model(lite_synthesizer(), "lite", "1epoch"))
    return str(path)


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """A folder of two recordings."""
    for name in ("one.wav", "it's “two” 二 🎵.flac"):
        save_audio(tmp_path / "songs" / name, voice_like(0.4), 16_000)
    return tmp_path / "songs"


def run(*args: object) -> int:
    """The exit status of a command line, with a pitch method that loads at once."""
    return main([*(str(arg) for arg in args), "--pitch-method", "pm", "--device", "cpu"])


def test_a_folder_becomes_a_folder(voice: str, songs: Path, tmp_path: Path, capsys: Said) -> None:
    assert run(songs, "--voice", voice, "-o", tmp_path / "out") == 0
    written = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in written] == ["it's “two” 二 🎵.wav", "one.wav"]
    assert all(load_audio_native(path)[0].shape == (9_600,) for path in written)
    output = capsys.readouterr().out
    assert all(str(path) in output for path in written)
    assert "0.40 s at 24000 Hz" in output
    assert "pitch: pm, index: none, device: cpu" in output
    assert "2 of 2 converted" in output


@pytest.mark.parametrize("audio_format", AUDIO_FORMATS)
def test_every_format_by_option_and_by_name(voice: str, songs: Path, tmp_path: Path, audio_format: str) -> None:
    assert run(songs / "one.wav", "--voice", voice, "-o", tmp_path / f"by name.{audio_format}") == 0
    assert run(songs / "one.wav", "--voice", voice, "--format", audio_format) == 0
    results = [load_audio_native(p) for p in (tmp_path / f"by name.{audio_format}", songs / f"one_eve.{audio_format}")]
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert len(results[0][0]) / results[0][1] == pytest.approx(0.4, abs=1e-4)


def test_one_bad_file_is_named_and_the_rest_is_done(voice: str, songs: Path, tmp_path: Path, capsys: Said) -> None:
    (songs / "broken.wav").write_bytes(b"RIFF____WAVE")
    assert run(songs, "--voice", voice, "-o", tmp_path / "out") == 1
    output = capsys.readouterr()
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert "2 of 3 converted" in output.out
    assert output.err.count("\n") == 1
    assert "broken.wav" in output.err


@pytest.mark.slow
def test_the_index_is_found_used_and_can_be_left_out(voice: str, songs: Path, tmp_path: Path, capsys: Said) -> None:
    index = Path(voice).with_name("added_IVF2_Flat_nprobe_1_eve_lite.index")
    own = np.tile(TinyEncoder()(voice_like(0.4)), (8, 1))
    FeatureIndex.build([own + 0.05 * np.random.default_rng(0).standard_normal(own.shape, np.float32)]).save(index)
    results = []
    choices: list[list[object]] = [
        ["--index-rate", 0.75], ["--index", index, "--index-rate", 0.75], ["--index", "none", "--index-rate", 0.75],
        ["--index-rate", 0], [],
    ]  # fmt: skip
    for i, choice in enumerate(choices):
        assert run(songs / "one.wav", "--voice", voice, "-o", tmp_path / f"{i}.wav", *choice) == 0
        results.append(load_audio_native(tmp_path / f"{i}.wav")[0])
        assert f"index: {index if i < 2 else 'none'}" in capsys.readouterr().out
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[2], results[3])
    np.testing.assert_array_equal(results[2], results[4])  # voices of lite recommend none
    assert not np.array_equal(results[0], results[2])


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--index-rat", "0.3"], "Unrecognized options: --index-rat"),
        (["--index-rate", "3"], "--index-rate cannot be 3.0: it must be less than or equal to 1"),
        (["--resample-rate", "300"], "--resample-rate cannot be 300: it must be 0 or between 16000 and 48000 Hz"),
        (["--pitch-method", "guess"], "'guess'"),
        (["--format", "aiff"], "--format cannot be aiff: choose one of wav, flac"),
        (["--pitch-shift", "high"], "'high'"),
    ],
)
def test_wrong_options_are_one_sentence(voice: str, args: list[str], sentence: str, capsys: Said) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["song.wav", "--voice", voice, *args])
    output = capsys.readouterr()
    assert leaving.value.code == 2
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert sentence in output.err
    assert "│" not in output.err


def test_the_word_convert_may_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr("infer.__main__.parse", lambda words: given.append(list(words)))
    monkeypatch.setattr("infer.__main__.run", lambda arguments: 0)
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "a.wav"]) == 0
    (tmp_path / "convert").mkdir()
    assert main(["convert", "a.wav"]) == 0
    assert given == [["a.wav"], ["convert", "a.wav"]]


def fails(capsys: Said, *args: object) -> str:
    """Run, expect status 1, and return the single sentence on stderr."""
    assert run(*args) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert "Traceback" not in output.err
    return output.err


@pytest.mark.slow
def test_bad_input_is_one_sentence(voice: str, songs: Path, tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("la la la")
    (tmp_path / "zero.wav").touch()
    save_audio(tmp_path / "click.wav", voice_like(0.02), 16_000)
    save_audio(tmp_path / "still.wav", np.zeros(8_000, np.float32), 16_000)
    one = songs / "one.wav"
    assert "Not found" in fails(capsys, tmp_path / "missing", "--voice", voice)
    assert "is empty" in fails(capsys, tmp_path / "empty", "--voice", voice)
    assert "contains no recordings" in fails(capsys, tmp_path / "texts", "--voice", voice)
    assert "0 bytes" in fails(capsys, tmp_path / "zero.wav", "--voice", voice)
    assert "0.020 s long" in fails(capsys, tmp_path / "click.wav", "--voice", voice)
    assert "digital silence" in fails(capsys, tmp_path / "still.wav", "--voice", voice)
    assert "no voice 'nobody'" in fails(capsys, one, "--voice", "nobody")
    assert "no speaker 7" in fails(capsys, one, "--voice", voice, "--speaker-id", 7)
    assert "Not found" in fails(capsys, one, "--voice", voice, "--index", tmp_path / "no.index")
    assert "nothing to convert" in fails(capsys, "--voice", voice)
    assert not list(tmp_path.glob("*_eve*"))


def test_a_recording_that_breaks_off_is_used_as_far_as_it_goes(voice: str, tmp_path: Path, capsys: Said) -> None:
    whole = tmp_path / "whole.wav"
    save_audio(whole, voice_like(2), 16_000)
    (tmp_path / "cut.wav").write_bytes(whole.read_bytes()[:40_000])
    assert run(tmp_path / "cut.wav", "--voice", voice) == 0
    assert "warning" in capsys.readouterr().err
    assert 1.1 < len(load_audio_native(tmp_path / "cut_eve.wav")[0]) / 24_000 < 1.3


class Touch:
    """Pickles to a call that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_voice_with_code_in_it_is_refused_and_not_run(songs: Path, tmp_path: Path, capsys: Said) -> None:
    torch.save({"weight": Touch(tmp_path / "ran"), "config": []}, tmp_path / "evil.pth")
    assert "could run code" in fails(capsys, songs / "one.wav", "--voice", tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_an_interrupt_ends_cleanly(voice: str, songs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loudness, "follow_envelope", interrupted)
    before = sorted(songs.iterdir())
    assert run(songs / "one.wav", "--voice", voice) == 130
    assert "Stopped" in capsys.readouterr().err
    assert sorted(songs.iterdir()) == before


@pytest.mark.slow
def test_help_needs_no_torch() -> None:
    code = (
        "import sys\nfrom infer.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'faiss', 'av'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--index-rate" in done.stdout
