"""The recordings on which a voice is evaluated: readers of LibriSpeech, folders of recordings, and both with added
noise."""

import csv
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lib.audio import ANALYSIS_RATE
from lib.audio.decode import list_recordings, load_audio
from lib.errors import ConfigError, MissingFileError
from lib.typing import FloatArray
from recipes.pretrain_lite.recordings import TEST, VALIDATION

SPLITS = {"validation": VALIDATION, "test": TEST}
CLIPS_PER_READER, CLIPS_PER_SET = 6, 24
MIN_WORDS, MAX_WORDS = 7, 25  # of a reader's clip
SNR_DB = 10.0  # of noisy clips
_SET = re.compile(r"(?P<name>[^=/\\]+)=(?P<folder>.+?)(?::(?P<language>[a-z]{2,3}))?")


@dataclass(frozen=True)
class Clip:
    """One recording of one speaker."""

    name: str
    path: Path
    text: str | None = None  # None: Whisper's transcript of the source is the reference
    reader: str = ""
    language: str = "en"
    is_own: bool = False  # a recording of the voice itself, which is not transposed
    snr_db: float | None = None  # of white noise that is added

    def clean(self, sample_rate: int = ANALYSIS_RATE) -> FloatArray:
        """Return the recording, (T,) at `sample_rate` Hz.

        Raises MissingFileError if the file does not exist, and AudioError if it cannot be decoded.
        """
        return load_audio(self.path, sample_rate)

    def audio(self) -> FloatArray:
        """Return the input of the conversion: the recording with its noise, (T,) at 16 kHz."""
        clean = self.clean()
        return clean if self.snr_db is None else add_noise(clean, self.snr_db, zlib.crc32(self.name.encode()))


def add_noise(audio: FloatArray, snr_db: float, seed: int) -> FloatArray:
    """Add white noise to audio (T,), with a mean power `snr_db` below that of the audio."""
    noise = np.random.default_rng(seed).standard_normal(len(audio))
    scale = np.sqrt(np.mean(np.square(audio, dtype=np.float64)) / 10 ** (snr_db / 10))
    noisy: FloatArray = (audio + scale * noise).astype(np.float32)
    return noisy


def noisy(clips: Iterable[Clip], snr_db: float = SNR_DB) -> list[Clip]:
    """Return the same clips with white noise."""
    return [replace(clip, snr_db=snr_db) for clip in clips]


def draw(clips: Sequence[Clip], count: int, key: str, seed: int = 0) -> list[Clip]:
    """Draw up to `count` of the clips, keeping their order; the choice depends only on `key` and `seed`."""
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    chosen = rng.choice(len(clips), min(count, len(clips)), replace=False)
    return [clips[i] for i in sorted(chosen)]


def read_readers(folder: Path, split: str, language: str = "en", seed: int = 0) -> list[Clip]:
    """Return up to six clips of 7 to 25 words from each speaker in a split, "validation" or "test".

    The folder is laid out as READER/UTTERANCE.mp3, with transcripts.tsv: utterance, reader, sex, text. Raises
    MissingFileError if that table is missing, and ConfigError if it has no utterances of a reader.
    """
    table = folder / "transcripts.tsv"
    if not table.is_file():
        raise MissingFileError(table, "Give a folder of LibriSpeech dev-clean with this list of its utterances.")
    by_reader: dict[str, list[Clip]] = {reader: [] for reader in sorted(SPLITS[split], key=int)}
    with table.open(encoding="utf-8", newline="") as file:
        for utterance, reader, _, text in list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]:
            if reader in by_reader and MIN_WORDS <= len(text.split()) <= MAX_WORDS:
                path = folder / reader / f"{utterance}.mp3"
                by_reader[reader].append(Clip(utterance, path, text, reader, language))
    if missing := [reader for reader, clips in by_reader.items() if not clips]:
        raise ConfigError(
            "{table} has no utterances of the reader(s) {readers}.", table=table, readers=", ".join(missing)
        )
    drawn = (draw(clips, CLIPS_PER_READER, reader, seed) for reader, clips in by_reader.items())
    return [clip for clips in drawn for clip in clips]


def read_files(paths: Iterable[Path], language: str = "en", *, is_own: bool = False) -> list[Clip]:
    """Return recordings with their transcripts, from the transcripts.txt in the folder of each.

    Its lines are NAME|text or NAME.suffix|text.
    """
    clips, texts = [], dict[Path, dict[str, str]]()
    for path in paths:
        if path.parent not in texts:
            texts[path.parent] = _transcripts(path.parent)
        text = texts[path.parent].get(path.stem, texts[path.parent].get(path.name))
        clips.append(Clip(path.stem, path, text, path.parent.name, language, is_own))
    return clips


def _transcripts(folder: Path) -> dict[str, str]:
    path = folder / "transcripts.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = (line.partition("|") for line in lines if "|" in line)
    return {name.strip(): text.strip() for name, _, text in pairs}


def read_folder(folder: Path, language: str = "en", seed: int = 0) -> list[Clip]:
    """Return up to 24 recordings of a plain folder, with their transcripts if it contains a transcripts.txt."""
    return draw(read_files(list_recordings(folder), language), CLIPS_PER_SET, folder.name, seed)


def read_sets(given: Iterable[str], language: str = "en", seed: int = 0) -> dict[str, list[Clip]]:
    """Read the sets given as NAME=FOLDER or NAME=FOLDER:pt; sets with the same name are merged.

    Raises ConfigError if an argument is malformed.
    """
    sets: dict[str, list[Clip]] = {}
    for text in given:
        match = _SET.fullmatch(text)
        if match is None:
            raise ConfigError(
                "{text!r} names no set; write NAME=FOLDER or, with a language, NAME=FOLDER:pt.", text=text
            )
        clips = read_folder(Path(match["folder"]), match["language"] or language, seed)
        sets.setdefault(match["name"], []).extend(clips)
    return sets
