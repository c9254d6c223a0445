"""The recordings on which the lite models are trained, split by speaker into train, validation and test."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from lib.errors import MissingFileError
from lib.typing import FloatArray

# Speakers of LibriSpeech dev-clean. Those of validation are for development, those of test for final results only.
VALIDATION = frozenset({"422", "1988"})
TEST = frozenset({"1272", "1462", "2086", "2412"})
EMODB_TEST = frozenset({"emodb03", "emodb08", "emodb10", "emodb13"})
LJ_CLIPS = 28  # LJ001-0001 to LJ001-0028; the four after them are held out
DEV_CLEAN_CYCLE = 4  # of each four utterances of a train speaker, the last is left out
DEV_CLEAN_CUTOFF, SPEECH_CUTOFF, FULL_CUTOFF = 6000, 8000, 12_000  # Hz: the recordings have no content above


@dataclass(frozen=True)
class Recording:
    """One utterance of one speaker."""

    speaker: str
    path: Path
    cutoff: int  # Hz, above which the file has no content
    versions: int = 1  # augmented versions of its features

    @property
    def name(self) -> str:
        """Unique name, also the stem of the feature file."""
        return f"{self.speaker}__{self.path.stem}"


def training_recordings(data: Path, speech: Path | None = None) -> list[Recording]:
    """List all recordings of the train split under `data`, and those that `make_speech` wrote into the folder `speech`.

    Raises MissingFileError if a set of recordings is missing.
    """
    found = [Recording("lj", path, FULL_CUTOFF, 4) for path in _files(data / "voices/ljspeech", "*.flac")[:LJ_CLIPS]]
    dev_clean = data / "speech/librispeech-dev-clean-mp3"
    for folder in sorted(path for path in dev_clean.iterdir() if path.is_dir()) if dev_clean.is_dir() else []:
        if folder.name not in VALIDATION | TEST:
            files = _files(folder, "*.mp3")
            files = [path for i, path in enumerate(files) if i % DEV_CLEAN_CYCLE < DEV_CLEAN_CYCLE - 1]
            found += [Recording(folder.name, path, DEV_CLEAN_CUTOFF) for path in files]
    for path in _files(data / "speech/librispeech-251", "*.opus"):
        found.append(Recording(path.stem.split("-")[0], path, SPEECH_CUTOFF))
    for path in _files(data / "speech/emodb-de", "**/*.opus"):
        found.append(Recording(f"emodb{path.stem[:2]}", path, SPEECH_CUTOFF))
    found = [recording for recording in found if recording.speaker not in VALIDATION | TEST | EMODB_TEST]
    return found + (synthetic_recordings(speech) if speech else [])


def synthetic_recordings(folder: Path) -> list[Recording]:
    """List the recordings that `make_speech` wrote into a folder; each language and voice counts as a speaker."""
    paths = sorted(folder.glob("*.wav"))
    return [Recording(f"synthetic-{path.stem.rpartition('-')[0]}", path, SPEECH_CUTOFF) for path in paths]


def recorded_noises(data: Path) -> list[Path]:
    """List recordings of rain, engines, animals and the like: four of every five in ESC-10, without human voices.

    Raises MissingFileError if there are none.
    """
    paths = [path for i, path in enumerate(_files(data / "speech/esc10-noise", "*/*.opus")) if i % 5]
    return [path for path in paths if "Person" not in path.parent.name]


def _files(folder: Path, pattern: str) -> list[Path]:
    files = sorted(folder.glob(pattern))
    if not files:
        raise MissingFileError(
            folder, "The recipe needs these recordings; pretrained/lite/README.md names their source."
        )
    return files


def read_audio(path: Path, sample_rate: int) -> FloatArray:
    """Read a recording as (T,) float32 at `sample_rate` Hz; channels are averaged."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono: FloatArray = audio.mean(1)
    return mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate).astype(np.float32)
