"""The manual's options page: texts from the catalogues, values and defaults from the options models."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from infer.options import ConvertOptions
from infer.song.options import CoverOptions
from infer.speech.options import SpeechOptions
from lib.pitch import PITCH_METHODS
from train.options import RunOptions
from web.i18n.translator import LANGUAGES, Translator
from web.manual.pages import DOCS, MANUALS, PAGES, page_title
from web.tabs.form import bound, option_text, without_none

BY_HAND = "<!-- by hand -->"  # what follows it in a section is kept
SKIP = frozenset({"device"})  # explained in the training guide and in the questions


@dataclass(frozen=True)
class _Command:
    """A command of the program, its options, and the section of the page that describes them."""

    words: str
    model: type[BaseModel]
    tab: str


COMMANDS = (
    _Command("convert", ConvertOptions, "convert"),
    _Command("cover", CoverOptions, "cover"),
    _Command("say", SpeechOptions, "cover"),
    _Command("train run", RunOptions, "train"),
)


def option_page(language: str, earlier: str = "") -> str:
    """Return the options page in a language, as Markdown; handwritten paragraphs are taken from `earlier`."""
    t, kept, done = Translator(language), by_hand(earlier), set[str]()
    parts = [f"# {page_title(t, 'options')}", navigation(language, "options")]
    for command in COMMANDS:
        title = t("say.title") if command.model is SpeechOptions else t(f"tab.{command.tab}")
        parts.append(f"## {title}")
        for name in command.model.model_fields:
            if name not in done | SKIP:
                done.add(name)
                parts += _section(t, name, kept.get(name, ""))
    return "\n\n".join(parts) + "\n"


def by_hand(page: str) -> Mapping[str, str]:
    """Return the handwritten paragraphs of a page, keyed by the option they explain."""
    sections = re.split(r'^### <a id="(\w+)"></a>.*$|^## .*$', page, flags=re.MULTILINE)[1:]
    pairs = zip(sections[::2], sections[1::2], strict=True)
    return {name: text.partition(BY_HAND)[2].strip() for name, text in pairs if name and BY_HAND in text}


def navigation(language: str, page: str) -> str:
    """Return the two lines of links with which every page of a manual begins: other languages, other pages."""
    others = [f"[{LANGUAGES[name]}](../{name}/{page}.md)" for name in MANUALS if name != language]
    t = Translator(language)
    pages = [f"[{page_title(t, name)}]({name}.md)" for name in PAGES if name != page]
    return " · ".join(others) + "\n\n" + " · ".join(pages)


def _section(t: Translator, name: str, written: str) -> Iterator[str]:
    yield f'### <a id="{name}"></a>{t(f"options.{name}.label")}'
    yield t(f"options.{name}.info")
    for tab in dict.fromkeys(command.tab for command in COMMANDS):
        if (text := option_text(t, name, "info", tab)) != t(f"options.{name}.info"):
            yield f"{t(f'tab.{tab}')}: {text}"
    if name == "pitch_method":
        hints = {method: t(f"pitch.{method.replace('-', '_')}") for method in PITCH_METHODS}
        yield "\n".join(f"- `{method}`: {hint}" for method, hint in hints.items())
    head = [t(f"manual.{column}") for column in ("command", "values", "default")]
    rows = [head, ["---"] * len(head), *_rows(name)]
    yield "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    if written:
        yield f"{BY_HAND}\n{written}"


def _rows(name: str) -> Iterator[Sequence[str]]:
    """One row for each command that has the option; `cover` and `say` have those of `convert`, too."""
    for command in COMMANDS:
        inherited = command.model is not ConvertOptions and name in ConvertOptions.model_fields
        if name in command.model.model_fields and not (inherited and issubclass(command.model, ConvertOptions)):
            yield _row(command.words, name, command.model.model_fields[name])


def _row(command: str, name: str, field: FieldInfo) -> Sequence[str]:
    """Command, allowed values and default of an option; a default that depends on other things is left empty."""
    flag, default = name.replace("_", "-"), field.get_default()
    kind: Any = without_none(field.annotation)
    if kind is bool:
        flags = [f"--{flag}", f"--no-{flag}"]
        return [f"`{command} … {flags[0]}`", " ".join(f"`{flag}`" for flag in flags), f"`{flags[not default]}`"]
    values = get_args(kind) if get_origin(kind) is Literal else ()
    low, high = bound(field, "ge"), bound(field, "le")
    low = bound(field, "gt") if low is None else low
    if values:
        text = ", ".join(f"`{value}`" for value in values)
    else:
        text = (
            f"{_number(low)} … {_number(high)}" if high is not None else f"≥ {_number(low)}" if low is not None else ""
        )
    shown = "" if default in (None, "") else f"`{_number(default)}`"
    return [f"`{command} … --{flag}`", text, shown]


def _number(value: object) -> str:
    """A value as text, whole numbers without decimals."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def write_option_pages() -> None:
    """Regenerate the options page of every manual."""
    from lib.files import write_text

    for language in MANUALS:
        path = DOCS / language / "options.md"
        earlier = path.read_text(encoding="utf-8") if path.is_file() else ""
        path.parent.mkdir(exist_ok=True)
        write_text(path, option_page(language, earlier))
