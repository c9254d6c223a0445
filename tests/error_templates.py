"""Collects the templates of errors and messages from the source code, for the tests and for translators.

    python -m tests.error_templates

prints every template that the page has to translate, one per line, sorted.
"""

import ast
import string
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from lib import errors
from lib.errors import RevoiceError
from lib.paths import ROOT

PACKAGES = ("lib", "infer", "train", "web", "recipes")
MESSAGE = "Message"
MISSING_FILE = "MissingFileError"  # its first argument is the path, its second the template of the remedy
PREFIX = "Not found: {path}. "  # of the template of a MissingFileError
FAMILY = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, RevoiceError)}


class Call(NamedTuple):
    """One call that makes an error or a message."""

    where: str  # "lib/files.py:31"
    kind: str  # name of the class
    template: str | None  # None: the argument is no constant text
    values: frozenset[str]  # names of the keywords
    has_unpacking: bool  # **values, whose names are unknown here


def calls(packages: Iterable[str] = PACKAGES) -> Iterator[Call]:
    """Every call of an error class of lib.errors, of their subclasses, and of Message."""
    for path in sorted(path for package in packages for path in (ROOT / package).rglob("*.py")):
        yield from calls_in(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())


def calls_in(source: str, name: str) -> Iterator[Call]:
    """The calls in one file, without those that pass on a text."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        kind = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if kind not in FAMILY and kind != MESSAGE:
            continue
        place = 1 if kind == MISSING_FILE else 0
        argument = node.args[place] if len(node.args) > place else None
        if _is_passed_on(argument):
            continue
        is_text = isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        yield Call(
            f"{name}:{node.lineno}",
            kind,
            argument.value if is_text else None,  # type: ignore[union-attr]
            frozenset(keyword.arg for keyword in node.keywords if keyword.arg),
            any(keyword.arg is None for keyword in node.keywords),
        )


def _is_passed_on(argument: ast.expr | None) -> bool:
    """Whether a text is that of another error, as `error.template` or `job.error`, or of the page, as `t("key")`."""
    if isinstance(argument, ast.Call):
        return getattr(argument.func, "id", getattr(argument.func, "attr", "")) in {"t", "_t", "replace"}
    return isinstance(argument, ast.Attribute) and argument.attr in {"template", "error"}


def placeholders(template: str) -> frozenset[str]:
    """The names in a template. Raises ValueError if it is no valid template."""
    return frozenset(name for _, name, _, _ in string.Formatter().parse(template) if name is not None)


def templates(packages: Iterable[str] = PACKAGES) -> dict[str, frozenset[str]]:
    """All templates as str(error) and str(message) format them, with the names of their placeholders."""
    found = {}
    for call in calls(packages):
        if call.template is not None:
            names = call.values | ({"path"} if call.kind == MISSING_FILE else set())
            found[(PREFIX if call.kind == MISSING_FILE else "") + call.template] = frozenset(names)
    return found


if __name__ == "__main__":
    sys.stdout.write("\n".join(sorted(templates())) + "\n")
