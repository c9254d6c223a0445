"""Sentences to be spoken: public-domain English and random words of other languages, all from system packages."""

import random
import re
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lib.errors import MissingFileError, RevoiceError


@dataclass(frozen=True)
class WordList:
    """Where the words of one language come from. `alphabet` holds the letters a word may consist of."""

    path: Path
    encoding: str
    alphabet: str
    package: str


_LATIN = "abcdefghijklmnopqrstuvwxyz"
_DICT = Path("/usr/share/dict")
_HUNSPELL = Path("/usr/share/hunspell")
_DEVANAGARI = "".join(map(chr, range(0x901, 0x970)))
_CYRILLIC = "абвгдежзийклмнопрстуфхцчшщъыьэюя"

WORD_LISTS: dict[str, WordList] = {
    "ca": WordList(_DICT / "catalan", "utf-8", _LATIN + "àçèéíïòóúü", "wcatalan"),
    "cs": WordList(_HUNSPELL / "cs_CZ.dic", "utf-8", _LATIN + "áčďéěíňóřšťúůýž", "hunspell-cs"),
    "de": WordList(_DICT / "ngerman", "utf-8", _LATIN + "äöüß", "wngerman"),
    "en": WordList(_DICT / "american-english", "utf-8", _LATIN, "wamerican"),
    "es": WordList(_DICT / "spanish", "utf-8", _LATIN + "áéíñóúü", "wspanish"),
    # Estonian words for the Finnish voices: no Finnish list is packaged, and the spelling is read the same way.
    "fi": WordList(_HUNSPELL / "et_EE.dic", "iso-8859-15", "aeiouäöüdghjklmnprstv", "myspell-et"),
    "fr": WordList(_DICT / "french", "utf-8", _LATIN + "àâçèéêëîïôùûü", "wfrench"),
    "hi": WordList(_HUNSPELL / "hi_IN.dic", "utf-8", _DEVANAGARI, "hunspell-hi"),
    "it": WordList(_DICT / "italian", "utf-8", _LATIN + "àèéìòù", "witalian"),
    "nl": WordList(_DICT / "dutch", "utf-8", _LATIN, "wdutch"),
    "pl": WordList(_DICT / "polish", "utf-8", _LATIN + "ąćęłńóśźż", "wpolish"),
    "pt": WordList(_DICT / "brazilian", "utf-8", _LATIN + "áâãàçéêíóôõú", "wbrazilian"),
    "ru": WordList(_HUNSPELL / "ru_RU.dic", "utf-8", _CYRILLIC, "hunspell-ru"),
    "sv": WordList(_DICT / "swedish", "iso-8859-1", _LATIN + "åäö", "wswedish"),
}

_SUBJECTS = (
    "the old teacher", "my younger sister", "a tall engineer", "nobody", "the whole crew", "one of the children",
    "our neighbour", "the girl with the violin", "every student", "the mayor", "an angry customer", "this machine",
    "the night train", "your dog", "the first chapter", "a thousand voices", "the committee", "her grandfather",
    "the weather", "some people",
)  # fmt: skip
_VERBS = (
    "has found", "could not see", "will change", "used to enjoy", "quickly measured", "should have bought",
    "refuses to discuss", "was looking for", "had already finished", "is thinking about", "carefully described",
    "never mentioned", "gave away", "pushed", "wants to join", "always chooses", "may destroy", "heard",
    "left behind", "began to question",
)  # fmt: skip
_OBJECTS = (
    "the yellow house near the beach", "a cheap cup of coffee", "those boxes", "a usual measure of pleasure",
    "the large garage", "both of the judges", "his third book", "the choice of music", "a strange noise",
    "the joy of being young", "five hundred pounds of sugar", "the evening news", "a bridge over the river",
    "their own future", "the shape of the earth", "thick smoke", "the wrong key", "a piece of paper",
    "the south wind", "good advice",
)  # fmt: skip
_ENDINGS = (
    "before lunch", "without asking why", "on the other side of town", "although it was raining",
    "in nineteen sixty four", "as soon as possible", "because of the noise", "again and again", "for about an hour",
    "with both hands", "when the bell rang", "just in time", "under the kitchen table", "however hard it seemed",
    "the day after tomorrow",
)  # fmt: skip


@lru_cache(maxsize=4)
def words_of(language: str) -> tuple[str, ...]:
    """The words of 3 to 10 letters in the list of `language`, in lower case and in the order of the file."""
    source = WORD_LISTS[language]
    if not source.path.is_file():
        raise MissingFileError(
            source.path, "Install the system package {package} (apt-get install).", package=source.package
        )
    text = source.path.read_text(encoding=source.encoding, errors="replace")
    letters = set(source.alphabet)
    stems = (line.split("/")[0].split("\t")[0].strip() for line in text.splitlines())
    return tuple(word for word in stems if 3 <= len(word) <= 10 and letters.issuperset(word))


@lru_cache(maxsize=1)
def bible_clauses() -> tuple[str, ...]:
    """Clauses of 4 to 16 words of the King James Bible (1611, public domain), lower and upper case as printed."""
    try:
        run = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise MissingFileError(Path("bible"), "Install the system package bible-kjv (apt-get install).") from error
    except subprocess.CalledProcessError as error:
        raise RevoiceError(
            "The program bible failed: {output}. Reinstall bible-kjv.", output=error.stderr.strip()
        ) from error
    verses = (line.partition(" ")[2] for line in run.stdout.splitlines())
    clauses = (part.strip() for verse in verses for part in re.split(r"[.;:?!]", verse))
    clean = (re.sub(r"[^A-Za-z,' ]+", " ", clause) for clause in clauses)
    return tuple(clause for clause in clean if 4 <= len(clause.split()) <= 16)


def english_sentence(rng: random.Random) -> str:
    """A clause of the Bible, a made-up modern sentence, or a row of random words."""
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(bible_clauses()) + "."
    if kind < 0.75:
        words = [rng.choice(_SUBJECTS), rng.choice(_VERBS), rng.choice(_OBJECTS), rng.choice(_ENDINGS)]
        return " ".join(words).capitalize() + rng.choice(".....?!")
    small = ("the", "of", "and", "with", "a", "to", "in", "for", "his", "that", "they", "was")
    words = [word for _ in range(rng.randint(3, 5)) for word in (rng.choice(small), rng.choice(words_of("en")))]
    return " ".join(words).capitalize() + "."


def sentence(language: str, rng: random.Random) -> str:
    """One sentence of `language` (a key of WORD_LISTS), 4 to 16 words, drawn with `rng`."""
    if language == "en":
        return english_sentence(rng)
    words = words_of(language)
    count = rng.randint(4, 9)
    comma = rng.randint(2, count - 1)
    chosen = [rng.choice(words) + ("," if place == comma else "") for place in range(1, count + 1)]
    return " ".join(chosen).capitalize() + "."
