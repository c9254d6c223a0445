"""python -m infer cover and say: what they write, print and return."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from infer import model_cache as loaded_module
from infer.__main__ import main
from infer.song import step_cache
from infer.speech import engines
from lib.voice.model_file import extract_voice_model, write_voice_model
from tests.test_say import SRT, Buzz
from tests.tiny_voice import TinyEncoder, lite_synthesizer, voice_like

Said = pytest.CaptureFixture[str]


@pytest.fixture
def voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a voice model file, of a family whose encoder is tiny; results of steps go into the same folder."""
    monkeypatch.setattr(loaded_module, "load_content_encoder", lambda *_: TinyEncoder())
    monkeypatch.setattr(step_cache.StepCache.__init__, "__defaults__", (tmp_path / "cache", 1 << 30))
    path = tmp_path / "voices/eve.pth"
    write_voice_model(path, extract_voice_model(lite_synthesizer(), "lite", "1epoch"))
    return str(path)


def run(*args: object) -> int:
    return main([*(str(arg) for arg in args), "--pitch-method", "pm", "--device", "cpu"])


@pytest.mark.slow
def test_a_cover_is_written_beside_its_song_with_its_stems(voice: str, tmp_path: Path, capsys: Said) -> None:
    vocals = voice_like(0.5)
    instrumental = 0.1 * np.sin(2 * np.pi * 330 * np.arange(len(vocals)) / 16_000)
    soundfile.write(tmp_path / "song.wav", vocals + instrumental, 16_000)
    soundfile.write(tmp_path / "vocals.wav", vocals, 16_000)
    words = ("cover", tmp_path / "song.wav", "--vocals", tmp_path / "vocals.wav", "--voice", voice)
    assert run(*words) == 0
    output = capsys.readouterr().out
    cover, stems = tmp_path / "song_eve_cover.wav", tmp_path / "song_eve_cover_stems"
    assert soundfile.info(cover).frames == 8000
    assert sorted(path.name for path in stems.iterdir()) == ["instrumental.flac", "original_vocals.flac", "vocals.flac"]
    assert all(str(path) in output for path in (cover, *stems.iterdir()))
    assert run(*words, "--vocal-level", -6, "-o", tmp_path / "softer.flac") == 0
    assert "unchanged since an earlier run: conversion" in capsys.readouterr().out
    assert (tmp_path / "softer.flac").is_file()


def test_a_cover_without_stems_and_without_a_model_is_refused(voice: str, tmp_path: Path, capsys: Said) -> None:
    soundfile.write(tmp_path / "song.wav", voice_like(0.5), 16_000)
    assert run("cover", tmp_path / "song.wav", "--voice", voice) == 1
    assert capsys.readouterr().err.startswith("The song has to be separated.")
    assert run("cover", "--voice", voice) == 1
    assert "A cover needs the song" in capsys.readouterr().err


@pytest.mark.slow
def test_a_text_or_subtitles_become_a_recording(
    voice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.setattr(engines, "Hibari", Buzz)
    assert run("say", "Hi there.", "--voice", voice, "-o", tmp_path / "hi.wav") == 0
    assert soundfile.info(tmp_path / "hi.wav").duration == pytest.approx(0.9)
    (tmp_path / "film.srt").write_text(SRT, encoding="utf-8")
    assert run("say", "--file", tmp_path / "film.srt", "--voice", voice, "--format", "flac") == 0
    assert soundfile.info(tmp_path / "film_eve.flac").duration > 5
    capsys.readouterr()
    assert run("say", "--voice", voice) == 1
    assert "Enter text or choose a file" in capsys.readouterr().err
    (tmp_path / "old.txt").write_bytes("Grüße".encode("latin-1"))
    assert run("say", "--file", tmp_path / "old.txt", "--voice", voice) == 1
    assert "UTF-8" in capsys.readouterr().err


@pytest.mark.slow
def test_a_stereo_conversion_can_be_reported(voice: str, tmp_path: Path, capsys: Said) -> None:
    soundfile.write(tmp_path / "song.wav", np.stack([voice_like(0.5), 0.5 * voice_like(0.5)], axis=1), 16_000)
    assert run(tmp_path / "song.wav", "--voice", voice, "--channel", "stereo", "--report") == 0
    assert (tmp_path / "song_eve.png").is_file()
    assert str(tmp_path / "song_eve.wav") in capsys.readouterr().out
    assert soundfile.info(tmp_path / "song_eve.wav").channels == 2
