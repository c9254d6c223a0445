"""Placeholders for the strings of the web UI; the middleware replaces them with text in the user's language.

Gradio builds the web UI once for all users. Therefore `PageTexts` returns, instead of a string, a placeholder with its
key and values, and `translate` inserts the text in one language. The delimiters of a placeholder contain a random token
of this process, so that external input cannot imitate one. They are ASCII, so JSON and HTML leave them unchanged,
except for the backslash in the first delimiter: each level of JSON doubles it, so the number of backslashes tells
`translate` how many levels of escaping the inserted text needs.
"""

import html
import json
import re
import secrets
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from web.i18n.translator import MASTER, Translator, choose_language, cookie_language, shorten, text_parts, texts_of

_TOKEN = secrets.token_hex(8)
BEGIN, NAME, VALUE, END = f"{_TOKEN}b\\:", f"{_TOKEN}n", f"{_TOKEN}v", f"{_TOKEN}e"
_DELIMITER = re.compile(rf"{_TOKEN}(?:b(\\*):|([nve]))")
MAX_WITH_PLACEHOLDERS = 10_000  # characters of a value
MAX_NESTED = 8  # placeholders within placeholders; deeper ones are dropped


class PageTexts(Translator):
    """A Translator that returns placeholders, so that each user gets the web UI in their own language."""

    def __init__(self, default: str | None = None) -> None:
        super().__init__(default or MASTER)
        self.default = default

    def __call__(self, key: str, **values: object) -> str:
        """Return the placeholder for a string.

        Raises KeyError if the key is unknown or a value is missing, as in any language.
        """
        if missing := {name for _, name in text_parts(self.texts[key]) if name is not None} - values.keys():
            raise KeyError(f"{key}: {', '.join(missing)}")
        return (
            BEGIN
            + key
            + "".join(f"{NAME}{name}{VALUE}{self.bounded(str(value))}" for name, value in values.items())
            + END
        )

    def bounded(self, text: str) -> str:
        """Limit the length of external text.

        Text with placeholders has a higher limit, because the values in them have been limited already.
        """
        return shorten(text, MAX_WITH_PLACEHOLDERS) if _TOKEN in text else shorten(text)

    def message(self, key: str, template: str, words: str, fields: Mapping[str, str]) -> str:
        """Return the placeholder of a Message."""
        return BEGIN + key + "".join(f"{NAME}{name}{VALUE}{value}" for name, value in fields.items()) + END

    def for_request(self, request: Any) -> Translator:
        """Return a translator into the language of a gr.Request, for strings that do not pass through the
        middleware."""
        return Translator(request_language(request.headers, self.default))


def request_language(headers: Mapping[str, str], default: str | None) -> str:
    """Return the language of a request, from its cookie or its Accept-Language header."""
    return choose_language(cookie_language(headers.get("cookie", "")), headers.get("accept-language", ""), default)


def may_contain_placeholders(body: bytes) -> bool:
    """Whether an encoded text contains the token of this process."""
    return _TOKEN.encode() in body


class _Open:
    """A placeholder whose end has not been reached."""

    def __init__(self, depth: int) -> None:
        self.depth = depth  # in JSON
        self.parts: list[str] = []  # of what is being read: the key, a name or a value
        self.key: str | None = None
        self.name: str | None = None
        self.values: dict[str, str] = {}

    def finish_part(self) -> None:
        """Store the text read so far as the key, or as the value of the latest name."""
        text = "".join(self.parts)
        self.parts = []
        if self.key is None:
            self.key = text
        elif self.name is not None:
            self.values[self.name] = text
            self.name = None


def translate(text: str, texts: Mapping[str, str] | None = None, *, in_html: bool = False) -> str:
    """Replace all placeholders in plain text, JSON, or HTML that contains JSON, in one pass.

    `texts` defaults to English. If `in_html` is set, inserted text outside JSON is escaped for HTML.
    """
    texts = texts_of(MASTER) if texts is None else texts
    output: list[str] = []
    stack: list[_Open] = []
    position = skipped = 0
    for match in _DELIMITER.finditer(text):
        current = stack[-1].parts if stack else output
        current.append(text[position : match.start()])
        position = match.end()
        kind = match[2] or "b"
        if kind == "b" and (skipped or len(stack) == MAX_NESTED):
            skipped += 1
        elif kind == "b":
            stack.append(_Open(len(match[1]).bit_length() - 1))
        elif skipped:
            skipped -= kind == "e"
        elif stack:
            _continue(stack, kind, output, texts, in_html)
    output.append(text[position:])
    return "".join(output)


def _continue(stack: list[_Open], kind: str, output: list[str], texts: Mapping[str, str], in_html: bool) -> None:
    """Handle a delimiter within the innermost placeholder."""
    opened = stack[-1]
    if kind == "v":
        opened.name, opened.parts = "".join(opened.parts), []
        return
    opened.finish_part()
    if kind == "e":
        stack.pop()
        (stack[-1].parts if stack else output).append(_words(opened, texts, in_html))


def _words(placeholder: _Open, texts: Mapping[str, str], in_html: bool) -> str:
    """The string for a placeholder, escaped as the text around it is; its values are already."""
    text = texts.get(placeholder.key or "")
    if text is None:
        return placeholder.key or ""
    escaped = [(_escape(words, placeholder.depth, in_html), name) for words, name in text_parts(text)]
    return "".join(words + (placeholder.values.get(name, "") if name else "") for words, name in escaped)


@lru_cache(4096)
def _escape(text: str, depth: int, in_html: bool) -> str:
    """Escape for the inside of a string that lies `depth` levels deep in JSON, which may stand in a page of HTML."""
    if depth <= 0:
        return html.escape(text) if in_html else text
    for _ in range(depth):
        text = json.dumps(text, ensure_ascii=False)[1:-1]
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026") if depth == 1 else text
