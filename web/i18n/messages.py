"""Translates the errors, progress messages and metadata reported by lib, infer and train.

A catalogue per language, i18n/messages/LANGUAGE.json, maps each English template to its translation, as gettext does.
Untranslated messages stay in English.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from string import Formatter

from lib.messages import Message
from web.i18n.translator import LANGUAGES, LOCALES, MASTER, Translator, field_name, texts_of

CATALOGUES = LOCALES / "messages"
PREFIX = "message:"  # of the keys of templates among the strings of a language
FLAG = re.compile(r"(?<![\w-])--([a-z][a-z-]+)")
COMMAND = "python -m"  # in messages that quote a whole command
QUOTES = {"de": "„{}“", "es": "«{}»", "fr": "« {} »", "it": "«{}»", "ja": "「{}」", "ko": "'{}'", "ru": "«{}»"}


@cache
def catalogue(locale: str) -> Mapping[str, str]:
    """Return the translations of a language, keyed by English template; empty for English and for a new language."""
    path = CATALOGUES / f"{locale}.json"
    texts: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if locale != MASTER and path.is_file() else {}
    return texts


@cache
def known_templates() -> frozenset[str]:
    """Return the templates that at least one language translates."""
    return frozenset(template for locale in LANGUAGES for template in catalogue(locale))


@cache
def key_of(template: str) -> str:
    """Return the key of a template among the strings of a language."""
    return PREFIX + hashlib.sha256(template.encode()).hexdigest()[:16]


@cache
def page_texts(locale: str) -> Mapping[str, str]:
    """Return all strings of a language, keyed as placeholders are: those of the web UI and those of the catalogue."""
    translations = catalogue(locale)
    messages = {
        key_of(template): with_labels(translations.get(template, template), locale) for template in known_templates()
    }
    return {**texts_of(locale), **messages}


def with_labels(message: str, locale: str) -> str:
    """Adapt a message to the web UI: command-line options are replaced by their labels in the UI, except in complete
    commands."""

    def label(flag: re.Match[str]) -> str:
        text = texts_of(locale).get(f"options.{flag[1].replace('-', '_')}.label")
        return QUOTES.get(locale, "“{}”").format(text) if text else flag[0]

    return message if COMMAND in message else FLAG.sub(label, message)


def translated(t: Translator, text: str) -> str:
    """Translate a message with `t`.

    A plain string is looked up as it is, and returned unchanged if it is unknown.
    """
    template = text.template if isinstance(text, Message) else text
    if template not in known_templates():
        if isinstance(text, Message) and any(isinstance(value, Message) for value in text.values.values()):
            return t.fill(template, _fields(t, text))  # the values may be known
        return t.bounded(str(text))
    return t.message(key_of(template), template, catalogue(t.locale).get(template, template), _fields(t, text))


def _fields(t: Translator, text: str) -> dict[str, str]:
    """Return the values of a message as strings, formatted as in the template; messages among them are translated."""
    if not isinstance(text, Message):
        return {}
    fields = {}
    for _, name, spec, conversion in Formatter().parse(text.template) if text.values else ():
        if name is not None:
            value = text.values[name]
            if isinstance(value, Message):
                fields[field_name(name, spec, conversion)] = translated(t, value)
            else:
                value = repr(value) if conversion == "r" else value
                fields[field_name(name, spec, conversion)] = t.bounded(format(value, spec or ""))
    return fields
