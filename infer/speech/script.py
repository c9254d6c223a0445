"""Lines to speak and their times: the sentences of a text, or the cues of SRT subtitles."""

import re
from dataclasses import dataclass
from pathlib import Path

from lib.errors import ConfigError

MAX_CHARACTERS = 200_000  # of a text; about three hours of speech
MAX_SENTENCE = 400  # characters; longer ones are divided at commas or spaces

_SENTENCE_END = re.compile(r"(?<=[.!?\u2026])[\"'\u201d\u2019)\]]*\s+|(?<=[\u3002\uff01\uff1f])|\n\s*\n")
_CUE_TIME = re.compile(
    r"^\s*(\d{1,3}):(\d{1,2}):(\d{1,2})[,.](\d{1,3})\s*-->\s*(\d{1,3}):(\d{1,2}):(\d{1,2})[,.](\d{1,3})"
)
_MARKUP = re.compile(r"<[^<>]{0,100}>|\{\\[^{}]{0,100}\}")


@dataclass(frozen=True)
class Line:
    """Text to speak. Without a start time, it follows the previous line."""

    text: str
    start: float | None = None  # s
    end: float | None = None


def read_script(text: str) -> list[Line]:
    """Split a text, or SRT subtitles, into lines; subtitles are recognised by their timestamps.

    Raises ConfigError if there are no words.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(
            "The text has {count} characters; at most {limit} can be synthesised at once. Split it.",
            count=len(text),
            limit=MAX_CHARACTERS,
        )
    lines = _cues(text) if any(_CUE_TIME.match(line) for line in text.splitlines()) else _sentences(text)
    if not lines:
        raise ConfigError("There is no text to speak. Enter some text.")
    return lines


def read_text_file(path: Path) -> str:
    """Return the text of a UTF-8 file.

    Only slightly more than the size limit is read, so that `read_script` can reject a longer file. Raises ConfigError
    if it is not UTF-8.
    """
    with path.open("rb") as file:
        start = file.read(4 * MAX_CHARACTERS + 4)
    try:
        return start.decode("utf-8-sig", errors="strict" if len(start) <= 4 * MAX_CHARACTERS else "ignore")
    except UnicodeDecodeError as error:
        raise ConfigError("{path} is not a UTF-8 text file. Save it in that encoding.", path=path.name) from error


def _sentences(text: str) -> list[Line]:
    found = []
    for part in _SENTENCE_END.split(text):
        sentence = " ".join(part.split())
        while len(sentence) > MAX_SENTENCE:
            cut = max(sentence.rfind(", ", 0, MAX_SENTENCE) + 1, sentence.rfind(" ", 0, MAX_SENTENCE), 1)
            cut = cut if cut > 1 else MAX_SENTENCE
            found.append(Line(sentence[:cut].strip()))
            sentence = sentence[cut:].strip()
        if any(letter.isalnum() for letter in sentence):
            found.append(Line(sentence))
    return found


def _cues(text: str) -> list[Line]:
    """Return the cues of SRT subtitles, sorted by start time, without numbers and markup."""
    cues: list[tuple[float, float, list[str]]] = []
    for line in text.lstrip("\ufeff").splitlines():
        if match := _CUE_TIME.match(line):
            if cues and cues[-1][2] and cues[-1][2][-1].strip().isdecimal():
                cues[-1][2].pop()  # the number of this cue
            start, end = (_seconds(match.groups()[i : i + 4]) for i in (0, 4))
            cues.append((start, max(end, start), []))
        elif cues:
            cues[-1][2].append(line)
    texts = [(start, end, " ".join(_MARKUP.sub("", " ".join(words)).split())) for start, end, words in cues]
    return [Line(words, start, end) for start, end, words in sorted(texts) if any(map(str.isalnum, words))]


def _seconds(parts: tuple[str, ...]) -> float:
    hours, minutes, seconds = (int(part) for part in parts[:3])
    return hours * 3600 + minutes * 60 + seconds + int(parts[3].ljust(3, "0")) / 1000
