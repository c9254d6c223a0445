"""Text to speech: sentences, subtitles and their times; engines that are not installed."""

import importlib.util

import numpy as np
import pytest

from infer.speech.engines import load_engine
from infer.speech.options import SpeechOptions
from infer.speech.say import PAUSE, say, speak
from infer.speech.script import MAX_CHARACTERS, MAX_SENTENCE, Line, read_script
from lib.errors import ConfigError
from tests.helpers import Floats
from tests.tiny_voice import tiny_converter, voice_like

SRT = """\ufeff1
00:00:01,000 --> 00:00:02,500
<i>Hello there.</i>

2
00:00:04,000 --> 00:00:04,500
{\\an8}A second line
of two rows, 1999

3
00:00:04,800 --> 00:00:09,000
The end.
"""


class Buzz:
    """An engine that buzzes a tenth of a second per character."""

    sample_rate = 16_000

    def __call__(self, text: str, speed: float) -> Floats:
        return voice_like(len(text) / 10 / speed)


def test_subtitles_are_read_with_their_times_and_without_markup() -> None:
    assert read_script(SRT) == [
        Line("Hello there.", 1.0, 2.5), Line("A second line of two rows, 1999", 4.0, 4.5), Line("The end.", 4.8, 9.0),
    ]  # fmt: skip


def test_text_is_divided_into_sentences() -> None:
    text = "Hello there. What?  Three words\nhere!\n\nA heading\n\n3.5 miles. これは文です。次の文。 ..."
    assert [line.text for line in read_script(text)] == [
        "Hello there.", "What?", "Three words here!", "A heading", "3.5 miles.", "これは文です。", "次の文。",
    ]  # fmt: skip
    long = read_script("word, " * 500 + "x" * 1000)
    assert max(len(line.text) for line in long) <= MAX_SENTENCE
    assert "".join(line.text for line in long).replace(" ", "") == "word," * 500 + "x" * 1000


@pytest.mark.parametrize(
    "text", ["", " \n ", "...", "1\n00:00:01,000 --> 00:00:02,000\n<b></b>\n", "x" * (MAX_CHARACTERS + 1)]
)
def test_nothing_to_say_and_too_much_are_reported(text: str) -> None:
    with pytest.raises(ConfigError, match="text"):
        read_script(text)


def test_cues_begin_at_their_times_and_are_sped_up_where_time_is_short() -> None:
    lines = [Line("x" * 10, 1.0, 2.0), Line("y" * 10, 3.0, 3.8), Line("z" * 5, 3.8, 5.0)]
    audio = say(lines, Buzz())
    assert len(audio) == round(4.3 * 16_000)
    loud = np.abs(audio.reshape(-1, 160)).max(axis=1) > 0.05  # every 10 ms
    assert not loud[:100].any() and loud[101:199].all() and not loud[201:299].any() and loud[301:429].all()
    assert len(say([Line("x" * 10), Line("x" * 5)], Buzz())) == round((1.5 + PAUSE) * 16_000)
    with pytest.raises(ConfigError, match="longer than"):
        say([Line("x", 1.0), Line("x", 9e5)], Buzz())


def test_speech_is_converted_with_the_options() -> None:
    options = SpeechOptions(pitch_method="pm", speed=2.0, loudness=-20.0, preview=0.4)
    sound = speak(tiny_converter(), Buzz(), [Line("x" * 20)], options)
    assert (sound.audio.shape, sound.sample_rate) == ((1, round(0.4 * 24_000)), 24_000)


@pytest.mark.parametrize(
    ("engine", "module", "package"), [("hibari", "hibari", "hibari-tts"), ("edge", "edge_tts", "edge-tts")]
)
def test_an_engine_that_is_not_installed_says_what_to_install(
    engine: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else real(name))
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        load_engine(SpeechOptions.model_validate({"engine": engine}))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("hibari") is None, reason="hibari-tts is not installed")
def test_hibari_speaks_the_same_each_time() -> None:
    engine = load_engine(SpeechOptions())
    first, second = (engine("Hello there.", 1.0) for _ in range(2))
    assert np.array_equal(first, second) and 0.4 < len(first) / engine.sample_rate < 3
    assert len(engine("Hello there.", 2.0)) < 0.7 * len(first)
