"""Languages: the choice for a request, and placeholders that are translated on their way out of the server."""

import html
import json
import string
from functools import partial
from pathlib import Path
from typing import Any

import gradio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib.errors import ConfigError
from tests.work import lines_run
from web.i18n import placeholders
from web.i18n.gradio_texts import gradio_texts
from web.i18n.middleware import TranslateMiddleware
from web.i18n.placeholders import BEGIN, END, MAX_NESTED, NAME, VALUE, PageTexts, translate
from web.i18n.translator import (
    COOKIE,
    LANGUAGES,
    LOCALES,
    MASTER,
    Translator,
    check_language,
    choose_language,
    cookie_language,
    texts_of,
)

ENGLISH, GERMAN = texts_of("en_US"), texts_of("de")
MARKS = PageTexts()
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("locale", LANGUAGES)
def test_every_language_is_complete_and_translated(locale: str) -> None:
    texts = json.loads((LOCALES / f"{locale}.json").read_text(encoding="utf-8"))
    assert set(texts) == set(ENGLISH)
    for key, text in texts.items():
        fields = [(name, spec) for _, name, spec, _ in string.Formatter().parse(text) if name is not None]
        wanted = [(name, spec) for _, name, spec, _ in string.Formatter().parse(ENGLISH[key]) if name is not None]
        assert sorted(fields) == sorted(wanted), key
        assert not any(spec for _, spec in fields), f"{key}: values are formatted before they are given to t()"
        assert text.strip() == text and text, key
    if locale != MASTER:
        same = [key for key, text in texts.items() if text == ENGLISH[key] and len(text.split()) > 3]
        assert not same, f"still English: {same}"
        assert sum(text == ENGLISH[key] for key, text in texts.items()) < len(texts) / 8


def test_only_the_languages_that_are_offered_have_files() -> None:
    assert {path.stem for path in LOCALES.glob("*.json")} == set(LANGUAGES)


@pytest.mark.parametrize(
    ("cookies", "accepted", "default", "expected"),
    [
        ({}, "", None, "en_US"),
        ({}, "ja-JP,ja;q=0.9,en;q=0.8", None, "ja"),
        ({}, "xx,de-AT;q=0.5,fr;q=0.7", None, "fr"),
        ({}, "zh-Hant-TW", None, "zh_CN"),
        ({}, "pt", None, "pt_BR"),
        ({}, "ja", "tr", "tr"),
        ({COOKIE: "ko"}, "ja", "tr", "ko"),
        ({COOKIE: "../secret"}, "ja", None, "ja"),
        ({}, "klingon;q=nonsense, ,;;q=2", None, "en_US"),
    ],
)
def test_the_choice_goes_before_the_default_and_the_default_before_the_browser(
    cookies: dict[str, str], accepted: str, default: str | None, expected: str
) -> None:
    header = "; ".join(f"{name}={value}" for name, value in {"a": "b", **cookies}.items())
    assert choose_language(cookie_language(header), accepted, default) == expected


def test_a_language_may_be_named_loosely_but_must_exist() -> None:
    assert [check_language(name) for name in ("pt-br", "ZH", "de_CH", None)] == ["pt_BR", "zh_CN", "de", None]
    with pytest.raises(ConfigError, match=r"no language 'klingon'.*pt_BR"):
        check_language("klingon")


def test_a_placeholder_needs_a_key_and_the_values_of_its_text() -> None:
    with pytest.raises(KeyError):
        MARKS("no.such_text")
    with pytest.raises(KeyError):
        MARKS("convert.imported")


@pytest.mark.slow
@given(ANY_TEXT)
def test_placeholders_in_json_are_translated_in_json(name: str) -> None:
    for ascii_only in (False, True):
        sent = json.dumps({"said": MARKS("convert.imported", name=name)}, ensure_ascii=ascii_only)
        assert json.loads(translate(sent, GERMAN)) == {"said": Translator("de")("convert.imported", name=name)}


@pytest.mark.slow
@example("\\")
@given(ANY_TEXT)
def test_placeholders_in_json_within_json_are_translated(value: str) -> None:
    values = dict.fromkeys(fields("convert.report_text"), value)
    inner = json.dumps({"said": value + MARKS("convert.report_text", **values) + value})
    words = json.loads(json.loads(translate(json.dumps([inner]), ENGLISH))[0])["said"]
    assert words == value + Translator()("convert.report_text", **values) + value


def fields(key: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(ENGLISH[key]) if name]


@pytest.mark.slow
@example("\\")
@given(ANY_TEXT)
def test_escaped_text_stays_escaped(name: str) -> None:
    """A handler escapes the finished text for HTML; so the values inside a mark must be escaped with it."""
    sent = json.dumps(html.escape(MARKS("convert.imported", name=name)))
    assert json.loads(translate(sent, ENGLISH)) == ENGLISH["convert.imported"].format(name=html.escape(name))


@pytest.mark.slow
@given(ANY_TEXT)
def test_a_value_may_be_a_placeholder_itself(name: str) -> None:
    sent = json.dumps(MARKS("train.all_done", name=MARKS("convert.unknown_voice", name=name), epochs="x"))
    inner = GERMAN["convert.unknown_voice"].format(name=name)
    assert json.loads(translate(sent, GERMAN)) == GERMAN["train.all_done"].format(name=inner, epochs="x")
    assert translate(MARKS("convert.imported", name=name)) == ENGLISH["convert.imported"].format(name=name)


FOREIGN = MARKS("convert.run").replace(placeholders._TOKEN, "0123456789abcdef")


@example(FOREIGN)
@example("\ue7b0convert.run\ue7b3")
@given(ANY_TEXT)
def test_text_from_outside_stays_as_it_is(text: str) -> None:
    assert translate(text, GERMAN) == text
    for ascii_only in (False, True):
        sent = json.dumps({"said": text, "label": MARKS("convert.run")}, ensure_ascii=ascii_only)
        assert json.loads(translate(sent, GERMAN)) == {"said": text, "label": GERMAN["convert.run"]}


WORST = {  # texts of a number of placeholders that are as bad as they can be; even our own are translated in one pass
    "nested": lambda count: f"{BEGIN}convert.imported{NAME}name{VALUE}" * count + END * count,
    "side by side": lambda count: f"{BEGIN}convert.run{END}" * count,
    "open": lambda count: BEGIN * count,
    "closed": lambda count: END * count,
    "values without a placeholder": lambda count: f"{NAME}a{VALUE}" * count,
    "values of one placeholder": lambda count: BEGIN + f"{NAME}a{VALUE}" * count + END,
    "backslashes": lambda count: BEGIN + "\\" * 40 * count + END,
    "foreign": lambda count: FOREIGN * count,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORST)
def test_the_work_of_translating_grows_with_the_text(kind: str) -> None:
    """In one megabyte, as in half of one: lines of our code, the rest is one pass of a regular expression."""
    count = 500_000 // len(WORST[kind](1))
    texts = [WORST[kind](number) for number in (count, 2 * count)]
    half, whole = (lines_run(placeholders, partial(translate, text, GERMAN)) for text in texts)
    assert whole <= 2.1 * half + 100
    assert len(translate(texts[1], GERMAN)) < 1_100_000


def test_placeholders_nest_to_a_limit() -> None:
    text = "x"
    for _ in range(MAX_NESTED):
        text = MARKS("convert.imported", name=text)
    assert translate(text, ENGLISH).count("imported") == MAX_NESTED
    assert translate(MARKS("convert.imported", name=text) + "after", ENGLISH).endswith("after")


def test_words_are_escaped_where_they_stand_in_html() -> None:
    texts = {**ENGLISH, "convert.run": 'a <b> & "c"'}
    mark = MARKS("convert.run")
    assert translate(f"<p>{mark}</p>", texts, in_html=True) == "<p>a &lt;b&gt; &amp; &quot;c&quot;</p>"
    assert json.loads(translate(json.dumps(mark), texts, in_html=True)) == texts["convert.run"]
    assert "<b>" not in translate(json.dumps(mark), texts, in_html=True)


def test_a_long_value_is_cut() -> None:
    for t in (Translator(), MARKS):
        assert len(translate(t("convert.imported", name="x" * 1_000_000))) < 3000


class Request:
    """What `speaking` needs of a gr.Request."""

    def __init__(self, **headers: str) -> None:
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def test_texts_in_pictures_are_in_the_language_of_the_request() -> None:
    assert MARKS.for_request(Request(accept_language="it"))("convert.run") == texts_of("it")["convert.run"]
    assert MARKS.for_request(Request(cookie=f"a=b; {COOKIE}=ru"))("convert.run") == texts_of("ru")["convert.run"]
    assert PageTexts("ko").for_request(Request())("convert.run") == texts_of("ko")["convert.run"]


def answer(kind: str, parts: list[bytes], path: str = "/", **headers: str) -> tuple[dict[str, str], list[bytes]]:
    """What the middleware makes of an answer: its headers and the parts of its body."""
    import asyncio

    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        length = str(sum(map(len, parts))).encode()
        start = [(b"content-type", kind.encode()), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": start})
        for number, part in enumerate(parts, 1):
            await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": path, "headers": raw}
    asyncio.run(TranslateMiddleware(app)(scope, receive, send))
    return {name.decode(): value.decode() for name, value in sent[0]["headers"]}, [m["body"] for m in sent[1:]]


def test_a_whole_answer_is_translated_with_its_length() -> None:
    body = json.dumps({"label": MARKS("convert.run")}, ensure_ascii=False).encode()
    headers, parts = answer("application/json", [body[:9], body[9:]], accept_language="ja")
    assert json.loads(b"".join(parts)) == {"label": texts_of("ja")["convert.run"]}
    assert int(headers["content-length"]) == sum(map(len, parts))


def test_a_stream_is_translated_message_by_message() -> None:
    event = b"data: " + json.dumps({"log": MARKS("jobs.done")}).encode() + b"\n\n"
    _, parts = answer("text/event-stream; charset=utf-8", [event, b": heartbeat\n\n"], accept_language="de")
    assert parts[0] == b"data: " + json.dumps({"log": GERMAN["jobs.done"]}, ensure_ascii=False).encode() + b"\n\n"
    assert parts[1] == b": heartbeat\n\n"


def test_files_and_other_kinds_pass_as_they_are() -> None:
    body = MARKS("convert.run").encode()
    for kind, path in (("audio/x-wav", "/"), ("application/json", "/gradio_api/file=/a/presets.json")):
        assert answer(kind, [body], path)[1] == [body]


def test_a_page_sets_the_language_of_gradio() -> None:
    headers, parts = answer("text/html; charset=utf-8", [b"<html><head></head></html>"], accept_language="zh-CN")
    assert b"'zh-CN'" in parts[0] and int(headers["content-length"]) == len(parts[0])


def test_gradio_has_the_texts_that_are_translated_in_the_browser() -> None:
    """They are found by their English words, so a text that an update of Gradio changes would stay English."""
    scripts = Path(gradio.__file__).parent.glob("templates/frontend/assets/*.js")
    source = "".join(path.read_text(encoding="utf-8", errors="replace") for path in scripts)
    assert not [text for text, _ in gradio_texts("de") if text.split("{value}")[0].strip("- ") not in source]


@pytest.mark.parametrize("locale", LANGUAGES)
def test_a_translated_text_of_gradio_is_not_translated_again(locale: str) -> None:
    words = {english: text for english, text in gradio_texts(locale) if english != text}
    assert not words.keys() & set(words.values())
    assert all(("{value}" in english) == ("{value}" in text) for english, text in words.items())
    assert len(words) > 20 or locale == MASTER


def test_no_other_file_of_the_page_reads_the_locale_files() -> None:
    for path in (LOCALES.parent / "web").rglob("*.py"):
        if path.name not in ("translator.py", "messages.py"):
            assert "LOCALES " not in path.read_text(encoding="utf-8"), path.name
