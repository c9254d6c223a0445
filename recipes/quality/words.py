"""Splits transcripts into words, and counts the errors between two transcripts."""

import re
from collections.abc import Sequence

# Characters of Chinese and Japanese, which are written without spaces: each counts as a word.
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff])")


def split_words(text: str, language: str = "en") -> list[str]:
    """Return the words of a transcript in lower case without punctuation.

    `language` is a Whisper language code such as en or pt. In English, only the letters a to z and apostrophes are
    kept, so digits are dropped.
    """
    text = text.lower().replace("-", " ")
    if language == "en":
        text = text.replace("mr.", "mister").replace("mrs.", "missus")
        return re.sub(r"[^a-z' ]", " ", text).split()
    return re.sub(r"[^\w' ]|_", " ", _UNSPACED.sub(r" \1 ", text)).split()


def count_errors(reference: Sequence[str], transcript: Sequence[str]) -> int:
    """Return the smallest number of substitutions, insertions and deletions between two lists of words."""
    row = list(range(len(transcript) + 1))
    for i, wanted in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, got in enumerate(transcript, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != got))
    return row[-1]
