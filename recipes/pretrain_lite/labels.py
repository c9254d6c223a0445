# ruff: noqa: RUF001 - the letters of the phonetic alphabet are meant
"""Frame labels at 50 frames/s from phone times, with one common phone set for all English voices."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from recipes.pretrain_lite.utterance import SILENCE

FRAME_HOP = 0.02  # seconds
FRAME_CENTRE = 0.0125  # seconds; a frame covers 25 ms
UNKNOWN = ""  # a phone without a place in the set; its frames are not trained on

ENGLISH_PHONES = (
    "aa", "ae", "ah", "ao", "aw", "ay", "b", "ch", "d", "dh", "eh", "er", "ey", "f", "g", "hh", "ih", "iy", "jh",
    "k", "l", "m", "n", "ng", "ow", "oy", "p", "r", "s", "sh", "t", "th", "uh", "uw", "v", "w", "y", "z", "zh",
    "pau",
)  # fmt: skip
_SAME = {"ax": "ah", "axr": "er", "dx": "t", "em": "m", "en": "n", "el": "l", "nx": "n", "ssil": "pau", "sil": "pau"}
_SILENT_NAMES = {"", "#", "##", "_", "pau", "sil", "ssil", "brth", "h#"}

# IPA of espeak-ng's English accents; what is not a key is read longest piece first.
_IPA = {
    "ɑː": "aa", "ɑ": "aa", "ɒ": "aa", "a:": "aa", "aː": "aa", "a": "ae", "æ": "ae", "ʌ": "ah", "ə": "ah", "ɐ": "ah",
    "ɔː": "ao", "ɔ": "ao", "oː": "ao", "o": "ow", "aʊ": "aw", "ʌʉ": "aw", "aʉ": "aw", "æʊ": "aw", "aɪ": "ay",
    "ɑɪ": "ay", "ʌɪ": "ay", "ɛ": "eh", "e": "eh", "ɛː": "eh", "ɜː": "er", "ɜ": "er", "ɚ": "er", "əɹ": "er", "ɝ": "er",
    "eɪ": "ey", "eː": "ey", "ɛɪ": "ey", "ɪ": "ih", "ɪː": "ih", "ᵻ": "ih", "i": "iy", "iː": "iy", "əʊ": "ow", "oʊ": "ow",
    "ɔʊ": "ow", "ɔɪ": "oy", "oɪ": "oy", "ʊ": "uh", "ʉ": "uw", "ʉː": "uw", "u": "uw", "uː": "uw", "b": "b", "tʃ": "ch",
    "d": "d", "ð": "dh", "f": "f", "ɡ": "g", "g": "g", "h": "hh", "ɦ": "hh", "dʒ": "jh", "k": "k", "x": "k", "l": "l",
    "ɫ": "l", "m": "m", "n": "n", "n̩": "n", "ŋ": "ng", "p": "p", "ɹ": "r", "r": "r", "ɾ": "t", "s": "s", "ʃ": "sh",
    "t": "t", "ʔ": "t", "θ": "th", "v": "v", "w": "w", "ʍ": "w", "j": "y", "z": "z", "ʒ": "zh",
}  # fmt: skip
_IGNORED_MARKS = "ˈˌʲ‿̩̃ʰ"


@lru_cache(maxsize=1024)
def split_ipa(symbol: str) -> tuple[str, ...]:
    """English phones of an IPA symbol of espeak-ng, such as "əl" -> (ah, l); UNKNOWN where a piece has no place."""
    if symbol in _IPA:
        return (_IPA[symbol],)
    rest, phones = "".join(c for c in symbol if c not in _IGNORED_MARKS), []
    while rest:
        size = next((n for n in (3, 2, 1) if rest[:n] in _IPA), 0)
        phones.append(_IPA.get(rest[:size], UNKNOWN))
        rest = rest[max(size, 1) :]
    return tuple(phone for phone in phones if phone) or (UNKNOWN,)


def english_phones(name: str) -> tuple[str, ...]:
    """The common English phones of one phone name of flite, festival or espeak-ng."""
    if name in _SILENT_NAMES:
        return (SILENCE,)
    name = _SAME.get(name, name)
    return (name,) if name in ENGLISH_PHONES else split_ipa(name)


def common_phones(phones: Sequence[tuple[str, float]], phone_set: str) -> list[tuple[str, float]]:
    """Phones renamed to the common set of English, or kept under their own names in every other `phone_set`.

    A symbol that stands for several phones is divided into equal parts. Ends are in seconds.
    """
    renamed: list[tuple[str, float]] = []
    start = 0.0
    for name, end in phones:
        if phone_set != "en":
            parts: tuple[str, ...] = (SILENCE,) if name in _SILENT_NAMES else (name,)
        else:
            parts = english_phones(name)
        length = max(end - start, 0.0) / len(parts)
        renamed += [(part, start + length * (place + 1)) for place, part in enumerate(parts)]
        start = max(end, start)
    return renamed


def frame_count(samples: int) -> int:
    """Content frames of `samples` samples at 16 kHz: (T - 80) // 320, never negative."""
    return max((samples - 80) // 320, 0)


def frame_phones(phones: Sequence[tuple[str, float]], frames: int) -> list[str]:
    """The phone at the centre of each of `frames` frames, 50 per second; silence after the last phone."""
    centres = FRAME_HOP * np.arange(frames) + FRAME_CENTRE
    ends = np.maximum.accumulate(np.array([end for _, end in phones], dtype=np.float64)) if phones else np.zeros(0)
    names = [name for name, _ in phones] + [SILENCE]
    return [names[place] for place in np.searchsorted(ends, centres, side="right")]
