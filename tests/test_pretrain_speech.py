"""Synthetic speech for the base of the lite family."""

import shutil
from pathlib import Path

import pytest

from lib.errors import RevoiceError
from recipes.pretrain_lite.options import SpeechOptions
from recipes.pretrain_lite.recordings import read_audio, synthetic_recordings
from recipes.pretrain_lite.speech import LANGUAGES, make_speech, sentences


@pytest.mark.parametrize("locale", LANGUAGES)
def test_sentences_to_speak_are_words_only(locale: str) -> None:
    found = sentences(locale)
    assert len(found) > 50
    assert not any("{" in text or "`" in text or "--" in text for text in found)


def test_without_espeak_speech_is_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RevoiceError, match="apt install espeak-ng"):
        make_speech(SpeechOptions(), tmp_path)
    assert not (tmp_path / "speech").exists()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_synthetic_speech_has_seven_voices_for_each_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.pretrain_lite.speech.LANGUAGES", {"de": "de"})
    monkeypatch.setattr("recipes.pretrain_lite.speech.CLIPS", 9)
    folder = make_speech(SpeechOptions(), tmp_path)
    found = synthetic_recordings(folder)
    assert len(found) == 9 and len({item.speaker for item in found}) == 7
    assert all(len(read_audio(item.path, 16_000)) > 16_000 for item in found)
