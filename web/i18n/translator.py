"""Translator, which returns the string for a key in one language; the list of languages; and the choice of a request's
language."""

import json
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from string import Formatter
from typing import Any

from lib.errors import ConfigError
from lib.paths import ROOT

LOCALES = ROOT / "i18n"
MASTER = "en_US"  # the language in which every text exists
COOKIE = "revoice-language"  # the language chosen in the web UI
MAX_VALUE = 2000  # characters of a value in a text
MAX_ACCEPTED = 1000  # characters of the header Accept-Language that are read
LANGUAGES: Mapping[str, str] = {  # by their own names, in the order of the choice on the page
    "en_US": "English",
    "zh_CN": "简体中文",
    "ja": "日本語",
    "ko": "한국어",
    "pt_BR": "Português (Brasil)",
    "es": "Español",
    "fr": "Français",
    "de": "Deutsch",
    "tr": "Türkçe",
    "it": "Italiano",
    "ru": "Русский",
}


class Translator:
    """The strings of one language, by key; placeholders such as {seconds} are filled from keyword arguments."""

    def __init__(self, locale: str = MASTER) -> None:
        self.locale = locale
        self.texts = texts_of(locale)

    def __call__(self, key: str, **values: object) -> str:
        """Return the string for a key. Raises KeyError if it is unknown, which is a bug."""
        return self.texts[key].format(**{name: shorten(str(value)) for name, value in values.items()})

    def fill(self, text: str, fields: Mapping[str, str]) -> str:
        """Fill in the fields of a string; without fields it is returned as it is."""
        return fill_fields(text, fields) if fields else text

    def bounded(self, text: str) -> str:
        """Limit the length of external text."""
        return shorten(text)

    def message(self, key: str, template: str, words: str, fields: Mapping[str, str]) -> str:
        """Return a Message in this language; `words` is the translation of its `template`.

        It is called by `web.i18n.messages`.
        """
        return self.fill(words, fields)

    def for_request(self, request: Any) -> "Translator":
        """Return the translator for strings created while handling a gr.Request: this one, which has one language."""
        return self


def shorten(text: str, limit: int = MAX_VALUE) -> str:
    """Limit text from a request or a file to `limit` characters."""
    return text if len(text) <= limit else f"{text[:limit]}…"


def field_name(name: str, spec: str | None, conversion: str | None) -> str:
    """Return the name of a field with its format: "size" or "size!:.1f"."""
    return f"{name}!{conversion or ''}:{spec}" if spec or conversion else name


@lru_cache(4096)
def text_parts(text: str) -> tuple[tuple[str, str | None], ...]:
    """Split a string into pairs of literal text and the name of the field that follows it, or None."""
    return tuple(
        (words, None if name is None else field_name(name, spec, conversion))
        for words, name, spec, conversion in Formatter().parse(text)
    )


def fill_fields(text: str, fields: Mapping[str, str]) -> str:
    """Fill in the fields of a string with values that have already been formatted."""
    return "".join(words + (fields.get(name, "") if name else "") for words, name in text_parts(text))


@cache
def texts_of(locale: str) -> Mapping[str, str]:
    """Return all strings of a language, with English ones for those that are missing."""
    texts: dict[str, str] = {}
    for name in dict.fromkeys((MASTER, locale)):
        texts |= json.loads((LOCALES / f"{name}.json").read_text(encoding="utf-8"))
    return texts


def check_language(name: str | None) -> str | None:
    """Return the language given by the user ("ja", "pt-br", "zh"), or None if none is given.

    Raises ConfigError, listing all languages, if it is unknown.
    """
    if name is None:
        return None
    if found := _match(name):
        return found
    raise ConfigError(
        "There is no language {name!r}. Available: {languages}.", name=name, languages=", ".join(LANGUAGES)
    )


def cookie_language(header: str) -> str | None:
    """Return the language chosen in the web UI from a Cookie header ("a=1; revoice-language=ja"), if there is one."""
    for pair in header.split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE and value in LANGUAGES:
            return value
    return None


def choose_language(chosen: str | None, accepted: str, default: str | None) -> str:
    """Return the language of a response: `chosen` in the web UI, else the server's default, else the browser's.

    `accepted` is the Accept-Language header ("de-CH,de;q=0.9,en;q=0.8"), of which the first supported language is used.
    """
    if chosen in LANGUAGES:
        return str(chosen)
    if default:
        return default
    for word in sorted(accepted[:MAX_ACCEPTED].split(","), key=_weight, reverse=True):
        if found := _match(word.split(";")[0]):
            return found
    return MASTER


def _match(tag: str) -> str | None:
    """Return the language for a tag, whatever its region ("de-AT" -> "de"); None if there is none."""
    base = re.split(r"[-_]", tag.strip().lower())[0]
    return next((name for name in LANGUAGES if name.lower().split("_")[0] == base), None)


def _weight(word: str) -> float:
    """Return the quality value of a language in Accept-Language (";q=0.8"), by default 1."""
    match = re.search(r";\s*q\s*=\s*([01](?:\.\d+)?)\s*$", word)
    return float(match[1]) if match else 1.0
