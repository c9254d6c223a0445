"""What the program says in English is shown in other languages: sentences, steps of a job, facts of a voice."""

import ast
import html
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.audio.decode import load_audio
from lib.errors import RevoiceError
from lib.paths import ROOT, check_name
from lib.voice.library import restore_voice
from web.i18n.messages import PREFIX, translated
from web.i18n.placeholders import PageTexts, translate
from web.i18n.translator import Translator, texts_of

ENGLISH, GERMAN = Translator(), Translator("de")
SAID = {key: text for key, text in texts_of("en_US").items() if key.startswith(PREFIX)}
CASES = [
    ("loading the voice", "Stimme wird geladen"),
    ("a: b.wav: converting", "a: b.wav: wird umgewandelt"),
    (
        "training: epoch 3, step 30, mel loss 42.9, 0.60 steps/s",
        "Training: Epoche 3, Schritt 30, Mel-Verlust 42.9, 0.60 Schritte/s",
    ),
    (
        "None of the 2 recordings could be converted. The first: x.wav is empty (0 bytes). Replace or remove it.",
        "Keine der 2 Aufnahmen ließ sich umwandeln. Die erste: "
        "x.wav ist leer (0 Byte). Ersetze oder entferne die Datei.",
    ),
    ("NVIDIA H200, 7.2 of 8.0 GB free", "NVIDIA H200, 7.2 von 8.0 GB frei"),
    ("something else", "something else"),
]


@pytest.fixture(scope="module")
def sources() -> str:
    """Every text in the program that may be shown; a line per constant."""
    found = []
    for package in ("lib", "infer", "train", "web"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
                elif isinstance(node, ast.keyword) and node.arg:
                    found.append(node.arg)
    return "\n".join(found).replace("_", " ")


@pytest.mark.parametrize("key", SAID)
def test_the_program_still_says_it(sources: str, key: str) -> None:
    for words in re.split(r"\{\w+\}", SAID[key]):
        assert words.replace("_", " ").strip(" ,.:'\"") in sources, f"{key}: nothing says {words!r} any more"
    assert len(re.sub(r"\{\w+\}|\W", "", SAID[key])) > 1, "it would fit everything"


@pytest.mark.parametrize(("said", "shown"), CASES)
def test_sentences_are_shown_in_the_language_of_the_user(said: str, shown: str) -> None:
    assert translated(GERMAN, said) == shown
    assert translated(ENGLISH, said) == said
    marks = html.escape(translated(PageTexts(), said))
    assert html.unescape(translate(marks, texts_of("de"))) == shown


def test_errors_that_users_meet_are_known(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no recording\n" * 50, encoding="utf-8")
    (tmp_path / "empty.wav").touch()
    for fails in (
        lambda: load_audio(tmp_path / "text.wav", 16_000),
        lambda: load_audio(tmp_path / "empty.wav", 16_000),
        lambda: restore_voice(tmp_path),
        lambda: check_name("a/b", "voice"),
    ):
        with pytest.raises(RevoiceError) as caught:
            fails()
        sentence = str(caught.value)
        assert translated(GERMAN, sentence) != sentence
        assert translated(ENGLISH, sentence) == sentence


@given(st.text())
def test_any_text_stays_as_it_is_in_english(text: str) -> None:
    assert translated(ENGLISH, text) == text
