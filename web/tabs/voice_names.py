"""Display names of voices for lists, such as "LJ Speech (English, woman)"."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from lib.voice.facts import VoiceFacts, titles_of
from web.i18n.translator import LANGUAGES, Translator
from web.services import Services

READERS = ("woman", "man", "child")  # translated; other values are shown as they are
_OWN_NAMES = {locale.partition("_")[0]: name.partition(" (")[0] for locale, name in LANGUAGES.items()}


def voice_choices(t: Translator, services: Services, *, open_files: bool = True) -> list[tuple[str, str]]:
    """Return title and name of every voice, for a drop-down list.

    Without `open_files` only bundled voices have titles.
    """
    facts = services.voice_facts(open_files)
    names = services.list_voices()
    titles = titles_of([(name, title_of(t, facts.get(name, VoiceFacts()))) for name in names])
    return list(zip(titles, names, strict=True))


def title_of(t: Translator, facts: VoiceFacts) -> str:
    """Return a title from the display name and other metadata; empty if there is no display name."""
    if not facts.display_name:
        return ""
    known = [describe_language(facts.language), describe_reader(t, facts.reader)]
    more = ", ".join(filter(None, known))
    return f"{facts.display_name} ({more})" if more else facts.display_name


def describe_language(language: str) -> str:
    """Return a language's own name if the web UI supports it; otherwise return it as written."""
    return _OWN_NAMES.get(language.lower().replace("_", "-").partition("-")[0], language)


def describe_reader(t: Translator, reader: str) -> str:
    """Return the description of a speaker in the user's language if it is one of READERS; otherwise as written."""
    return t(f"voices.{reader.lower()}") if reader.lower() in READERS else reader


def updated_list(choices: Sequence[Any], chosen: str | None, value: str | None, *, first: bool = False) -> Any:
    """Return the update of a drop-down with new choices, which selects `value`.

    `chosen` was selected when the browser asked for the update. If it stays selected, the update contains no value, so
    that a late answer does not undo a newer choice; only the `first` one does, because it also changes labels.
    """
    if value == chosen and not first:
        return gr.update(choices=choices)
    return gr.update(choices=choices, value=value)
