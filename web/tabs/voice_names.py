"""Voices in lists, by friendly names: LJ Speech (English, woman)."""

from lib.voice.facts import VoiceFacts, titles_of
from web.i18n.translator import LANGUAGES, Translator
from web.services import Services

READERS = ("woman", "man", "child")  # translated; other texts are shown as they are
_OWN_NAMES = {locale.partition("_")[0]: name.partition(" (")[0] for locale, name in LANGUAGES.items()}


def voice_choices(t: Translator, services: Services, *, open_files: bool = True) -> list[tuple[str, str]]:
    """Title and name of every voice, for a drop-down. Without `open_files` only shipped voices have titles."""
    facts = services.voice_facts(open_files)
    names = services.list_voices()
    titles = titles_of([(name, title_of(t, facts.get(name, VoiceFacts()))) for name in names])
    return list(zip(titles, names, strict=True))


def title_of(t: Translator, facts: VoiceFacts) -> str:
    """A title from a display name and what else is known; empty without a display name."""
    if not facts.display_name:
        return ""
    known = [describe_language(facts.language), describe_reader(t, facts.reader)]
    more = ", ".join(filter(None, known))
    return f"{facts.display_name} ({more})" if more else facts.display_name


def describe_language(language: str) -> str:
    """A language by its own name, if it is one of the page's; otherwise as it is written."""
    return _OWN_NAMES.get(language.lower().replace("_", "-").partition("-")[0], language)


def describe_reader(t: Translator, reader: str) -> str:
    """A reader in the user's language, if it is one of READERS; otherwise as it is written."""
    return t(f"voices.{reader.lower()}") if reader.lower() in READERS else reader
