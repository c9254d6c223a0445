"""What the program says in English, in the user's language: sentences of errors, steps of a job, facts of a voice.

lib, infer and train speak English and know no page. The texts of i18n whose keys begin with "said." are sentences of
theirs, with placeholders; a sentence that fits one is shown as the same text of another language. Nothing is decided
by them, and a sentence that fits none stays as it is (a test looks whether the program still says each of them).
"""

import re
from functools import cache

from web.i18n.translator import MASTER, Translator, texts_of

PREFIX = "said."
INNER = frozenset({"reason", "what"})  # placeholders that stand for sentences themselves
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def translated(t: Translator, text: str) -> str:
    """The text as a sentence of `t`; what stands before it and a colon, such as the name of a file, stays."""
    if known := _known(t, text):
        return known
    for colon in re.finditer(": ", text):
        if known := _known(t, text[colon.end() :]):
            return text[: colon.end()] + known
    return text


def _known(t: Translator, text: str) -> str | None:
    for name, pattern in _patterns():
        if match := pattern.fullmatch(text):
            values = {key: translated(t, said) if key in INNER else said for key, said in match.groupdict().items()}
            return t(f"said.{name}", **values)
    return None


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """Every sentence as a pattern: first those that hold others, then those with the most words of their own."""
    texts = {key: text for key, text in texts_of(MASTER).items() if key.startswith(PREFIX)}

    def rank(key: str) -> tuple[bool, int]:
        return INNER.isdisjoint(_PLACEHOLDER.findall(texts[key])), -len(_PLACEHOLDER.sub("", texts[key]))

    ordered = sorted(texts, key=rank)
    return [(key.removeprefix(PREFIX), _pattern(texts[key])) for key in ordered]


def _pattern(text: str) -> re.Pattern[str]:
    parts = _PLACEHOLDER.split(text)  # words, name, words, name, ..., words
    parts[::2] = map(re.escape, parts[::2])
    parts[1::2] = [f"(?P<{name}>.+?)" for name in parts[1::2]]
    return re.compile("".join(parts), re.DOTALL)
