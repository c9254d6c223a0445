"""Messages of lib, infer and train are shown in the user's language, from their templates."""

import html
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.assets import how_to_get
from lib.errors import AudioError, ConfigError, MissingFileError, RevoiceError, error_from_json
from lib.messages import Message, from_json, to_json
from lib.paths import check_name, inside
from lib.voice.infer_config import Kind
from lib.voice.weights import check_shapes
from tests.error_templates import templates
from tests.work import lines_run
from web.i18n import catalogue, messages
from web.i18n.messages import key_of, page_texts, translated, with_labels
from web.i18n.placeholders import PageTexts, translate
from web.i18n.translator import LANGUAGES, Translator, texts_of

ENGLISH, GERMAN = Translator(), Translator("de")
FIRST_FAILED = "None of the {count} recordings could be converted. The first: {reason}"
CASES: list[tuple[str, str]] = [
    (Message("loading the voice"), "Stimme wird geladen"),
    ("loading the voice", "Stimme wird geladen"),
    (Message("{file}: {step}", file="b.wav", step=Message("converting")), "b.wav: wird umgewandelt"),
    (
        Message("{name}, {free:.1f} of {total:.1f} GB free", name="H200", free=7.21, total=8),
        "H200, 7.2 von 8.0 GB frei",
    ),
    (Message("Training of {name}", name="{x} <b>"), "Training von {x} <b>"),
    (Message("{count} recordings → {voice}", count=2, voice="a"), "2 Aufnahmen → a"),
    ("something else", "something else"),
]


@pytest.mark.parametrize(("text", "shown"), CASES)
def test_messages_are_shown_in_the_language_of_the_user(text: str, shown: str) -> None:
    assert translated(GERMAN, text) == shown
    assert translated(ENGLISH, text) == text
    placeholders = html.escape(translated(PageTexts(), text))
    assert html.unescape(translate(placeholders, page_texts("de"))) == shown
    sent = json.dumps({"text": translated(PageTexts(), text)})
    assert json.loads(translate(sent, page_texts("de"))) == {"text": shown}


def test_a_message_in_a_message_is_translated() -> None:
    reason = AudioError("A queued or running job cannot be deleted. Cancel it first.").message
    inner = translated(GERMAN, reason)
    assert inner != reason
    assert translated(GERMAN, Message(FIRST_FAILED, count=2, reason=reason)).endswith(inner)
    assert translated(GERMAN, Message("{a} unknown {b}", a=reason, b=1)) == f"{inner} unknown 1"


def _raised(action: Callable[[], object]) -> Message:
    with pytest.raises(RevoiceError) as caught:
        action()
    return caught.value.message


def test_words_among_the_values_of_a_message_are_translated() -> None:
    shapes = {name: torch.Size([2]) for name in ("a", "b")}
    cases = {
        _raised(lambda: check_name("", "voice")): ("(Stimme)", "voice"),
        _raised(lambda: inside(Path("weights"), "../x", "preset")): ("(Voreinstellung)", "preset"),
        _raised(lambda: check_shapes(shapes, {"b": torch.zeros(3), "c": torch.zeros(1)}, "v.pth")): (
            "(fehlende Tensoren: 1, etwa a; unerwartete Tensoren: 1, etwa c; Tensoren mit anderer Form: 1, etwa b).",
            "missing",
        ),
        Kind("v2", 40_000, False).message: ("v2 mit 40k, ohne Tonhöhe", "without"),
        how_to_get("rmvpe", "rmvpe.pt"): ("oder lege rmvpe.pt", "existing"),
    }
    for message, (german, english) in cases.items():
        assert german in translated(GERMAN, message) and english in message
        assert english not in translated(GERMAN, message)


@pytest.mark.parametrize("unit", ["a: ", "{", "loading the voice", "\ue7b0a"])
def test_the_work_for_an_unknown_text_does_not_grow(unit: str) -> None:
    for t in (GERMAN, PageTexts()):
        half, whole = (unit * (size // len(unit)) for size in (500_000, 1_000_000))
        translated(t, "x")  # reads the catalogues
        assert lines_run(messages, partial(translated, t, whole)) == lines_run(messages, partial(translated, t, half))
        assert len(translated(t, whole)) < 3000
        assert len(translated(t, Message(FIRST_FAILED, count=1, reason=whole))) < 3000


@pytest.mark.slow
@given(st.text())
def test_any_text_stays_as_it_is_in_english(text: str) -> None:
    assert translated(ENGLISH, text) == text
    message = Message("{a!r} and {b:>3}", a=text, b=1)
    assert translated(ENGLISH, message) == message


@pytest.mark.slow
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_messages_cross_processes_as_json(value: object) -> None:
    message = Message("{a}: {b}", a=value, b=Message("converting"))
    again = from_json(json.loads(json.dumps(to_json({"rows": [message, value]}))))
    assert again == {"rows": [message, value]}
    assert isinstance(again, dict) and isinstance(again["rows"][0], Message)
    assert again["rows"][0].template == "{a}: {b}" and isinstance(again["rows"][0].values["b"], Message)


@pytest.mark.parametrize(
    "error",
    [
        AudioError("{path} is empty (0 bytes). Replace or remove it.", path=Path("a.wav")),
        ConfigError("plain {text}"),
        MissingFileError(Path("x"), "Get {name}.", name="y"),
        RevoiceError("{reason}", reason=Message("converting")),
    ],
    ids=str,
)
def test_errors_cross_processes_as_json(error: RevoiceError) -> None:
    again = error_from_json(json.loads(json.dumps(error.to_json())))
    assert str(again) == str(error) and again.template == error.template
    assert isinstance(error, type(again))


@pytest.mark.parametrize("value", [{"template": "{a", "values": {"b": 1}}, {"template": "{a}", "values": {}}, {"x": 1}])
def test_json_that_is_no_message_does_no_harm(value: dict[str, object]) -> None:
    assert from_json(value) is not None


@pytest.mark.parametrize("locale", catalogue.TRANSLATED)
def test_translations_have_the_fields_of_their_templates(locale: str) -> None:
    texts = catalogue.read(locale)
    assert list(texts) == sorted(texts)
    for template, translation in texts.items():
        assert catalogue.fields(translation) == catalogue.fields(template), template
        assert translation.strip() == translation and translation, template


def test_every_language_has_the_same_templates() -> None:
    first = catalogue.read(catalogue.TRANSLATED[0]).keys()
    assert all(catalogue.read(locale).keys() == first for locale in catalogue.TRANSLATED)


@pytest.mark.slow
def test_both_searches_find_the_same_templates() -> None:
    found = {template for template in templates(catalogue.PACKAGES) if template not in catalogue.templates()}
    assert not found


@pytest.mark.slow
@pytest.mark.parametrize("locale", catalogue.TRANSLATED)
def test_every_template_is_translated_and_none_is_obsolete(locale: str) -> None:
    assert (catalogue.missing(locale), catalogue.obsolete(locale)) == ([], [])


def test_the_page_names_options_as_its_fields_do_and_the_command_line_by_flags() -> None:
    template = (
        "The loss became non-finite (NaN or infinity) at step {step}. The last good checkpoint is {path}. Continue "
        "with a lower --learning-rate or in fp32."
    )
    for locale in LANGUAGES:
        label = texts_of(locale)["options.learning_rate.label"]
        shown = page_texts(locale)[key_of(template)]
        assert label in shown and "--" not in shown
        assert "--learning-rate" in translated(Translator(locale), Message(template, step=1, path="G_1.pth"))
    assert with_labels("Leave out --key of `python -m train fit x`.", "ja").endswith(
        "--key of `python -m train fit x`."
    )
    assert with_labels("Choose another --port.", "en_US") == "Choose another --port."
