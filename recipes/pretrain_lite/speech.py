"""Synthetic speech in ten languages: this program's translated messages, spoken by espeak-ng with many voices.

Recordings of people were available in English and German only; these clips cover the phones of the other languages.
"""

import json
import random
import re
import shutil
import subprocess
from pathlib import Path

from lib.errors import RevoiceError
from lib.paths import ROOT
from lib.progress import Progress, no_progress
from recipes.pretrain_lite.features import FOLDER
from recipes.pretrain_lite.options import SpeechOptions

LANGUAGES = {  # catalogues, and espeak-ng's names of the languages
    "de": "de", "es": "es", "fr": "fr-fr", "it": "it", "ja": "ja", "ko": "ko", "pt_BR": "pt-br", "ru": "ru",
    "tr": "tr", "zh_CN": "cmn",
}  # fmt: skip
VARIANTS = (
    "Alicia", "Andy", "Annie", "Denis", "Gene", "Hugo", "Jacky", "Lee", "Mario", "Michael", "adam", "anika", "antonio",
    "belinda", "david", "f2", "f3", "f4", "grandma", "klatt2", "linda", "m1", "m3", "m6", "pablo", "steph", "travis",
    "victor", "zac", "shelby",
)  # fmt: skip
VOICES, CLIPS = 7, 28  # of each language
MAX_CHARACTERS = 160  # of a sentence
MIN_CHARACTERS, MIN_IDEOGRAPHIC = 50, 20  # and where a character is a syllable or a word
SPEEDS = (130, 150, 165)  # words per minute
PITCHES = (25, 75)  # of espeak-ng's range 0 to 99
_NOT_WORDS = re.compile(r"\{[^}]*\}|`[^`]*`|--\S+|[A-Za-z_]*[._/][A-Za-z_./]*")


def sentences(locale: str) -> list[str]:
    """Return the messages of a translation file that are long enough, without placeholders, options and file names."""
    texts: list[str] = []
    for path in (ROOT / "i18n" / f"{locale}.json", ROOT / "i18n" / "messages" / f"{locale}.json"):
        texts += json.loads(path.read_text(encoding="utf-8")).values()
    shortest = MIN_IDEOGRAPHIC if locale in ("ja", "ko", "zh_CN") else MIN_CHARACTERS
    return [_NOT_WORDS.sub(" ", text)[:MAX_CHARACTERS] for text in texts if len(text) > shortest]


def make_speech(options: SpeechOptions, folder: Path = FOLDER, progress: Progress = no_progress) -> Path:
    """Write folder/speech/LOCALE-VARIANT-NUMBER.wav. Raises RevoiceError if espeak-ng is missing or fails."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise RevoiceError("espeak-ng is not installed. Install it (Debian, Ubuntu: apt install espeak-ng).")
    rng, target = random.Random(options.seed), folder / "speech"
    target.mkdir(parents=True, exist_ok=True)
    for done, (locale, language) in enumerate(LANGUAGES.items()):
        progress(done, len(LANGUAGES), "speech")
        texts = sentences(locale)
        rng.shuffle(texts)
        for number, text in enumerate(texts[:CLIPS]):
            variant = VARIANTS[(VOICES * done + number % VOICES) % len(VARIANTS)]
            speed, pitch = str(rng.choice(SPEEDS)), str(rng.randint(*PITCHES))
            path = target / f"{locale}-{variant}-{number}.wav"
            command = [program, "-v", f"{language}+{variant}", "-s", speed, "-p", pitch, "-w", str(path), text]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                raise RevoiceError("espeak-ng failed: {detail}", detail=result.stderr.strip())
    return target
