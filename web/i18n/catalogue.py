"""Compares the catalogues with the templates in the source code: which are missing, and which are obsolete."""

import ast
import json
import string
from collections.abc import Iterator
from functools import cache

from lib import errors
from lib.errors import RevoiceError
from lib.paths import ROOT
from web.i18n.messages import CATALOGUES
from web.i18n.translator import LANGUAGES, MASTER

PACKAGES = ("lib", "infer", "train", "web")
MISSING_FILE, NOT_FOUND = "MissingFileError", "Not found: {path}. "
FAMILY = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, RevoiceError)}
TRANSLATED = [name for name in LANGUAGES if name != MASTER]


def _nodes() -> Iterator[ast.AST]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


@cache
def templates() -> frozenset[str]:
    """Return the templates of all errors and messages in the source code."""
    return frozenset(found for node in _nodes() if isinstance(node, ast.Call) and (found := _template(node)))


def _template(call: ast.Call) -> str | None:
    kind = getattr(call.func, "id", getattr(call.func, "attr", ""))
    place = 1 if kind == MISSING_FILE else 0
    if (kind not in FAMILY and kind != "Message") or len(call.args) <= place:
        return None
    argument = call.args[place]
    if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
        return None
    return NOT_FOUND + argument.value if kind == MISSING_FILE else argument.value


@cache
def constants() -> frozenset[str]:
    """Return all string constants in the source code; some, such as metadata labels, are themselves catalogue keys."""
    texts = {node.value for node in _nodes() if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    names = {node.arg for node in _nodes() if isinstance(node, ast.keyword) and node.arg}
    return frozenset(texts | {text.replace("_", " ") for text in texts | names})


def read(locale: str) -> dict[str, str]:
    """Read the catalogue of a language; empty if it has none yet."""
    path = CATALOGUES / f"{locale}.json"
    texts: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return texts


def missing(locale: str) -> list[str]:
    """Return the templates that a language does not translate yet, sorted."""
    return sorted(template for template in templates() - read(locale).keys() if _has_words(template))


def obsolete(locale: str) -> list[str]:
    """Return the entries of a language that the source code no longer uses, sorted."""
    return sorted(read(locale).keys() - templates() - constants())


def fields(template: str) -> list[tuple[str, str, str]]:
    """Return the placeholders of a template: name, format and conversion, sorted.

    Raises ValueError if the template is invalid.
    """
    parsed = string.Formatter().parse(template)
    return sorted((name, spec or "", conversion or "") for _, name, spec, conversion in parsed if name is not None)


def _has_words(template: str) -> bool:
    """Whether there is anything to translate besides placeholders and symbols."""
    return any(letter.isalpha() for words, *_ in string.Formatter().parse(template) for letter in words)
