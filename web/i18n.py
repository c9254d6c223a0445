"""Translator: the id of a text -> the text in the user's language."""

import json

from lib.paths import ROOT

LOCALES = ROOT / "i18n"
MASTER = "en_US"  # the language in which every text exists


class Translator:
    """The texts of one language, by id; placeholders such as {seconds} are filled from keyword arguments."""

    def __init__(self, locale: str = MASTER) -> None:
        self.texts: dict[str, str] = json.loads((LOCALES / f"{locale}.json").read_text(encoding="utf-8"))

    def __call__(self, key: str, **values: object) -> str:
        """Return the text; KeyError for an unknown id, which is a mistake in the program."""
        return self.texts[key].format(**values)
