"""Writes the demo recordings: a minute of speech to train a voice on, and a clip of another reader to convert."""

from pathlib import Path

import soundfile

from lib.audio import ANALYSIS_RATE
from lib.files import replacing
from lib.paths import PRETRAINED
from lib.typing import FloatArray
from recipes.pretrain_lite.options import DemoOptions
from recipes.pretrain_lite.recordings import read_audio

FOLDER = PRETRAINED / "lite" / "demo"
RATE = 22_050  # Hz
CLIPS = 12
SOURCE = "sources/librivox_0930.flac"


def make_demo(options: DemoOptions, folder: Path = FOLDER) -> Path:
    """Copy public-domain clips: voice/01.flac … of LJ Speech, source.flac of a LibriVox reader."""
    for number, path in enumerate(sorted((options.data / "voices/ljspeech").glob("*.flac"))[:CLIPS], 1):
        _write(folder / "voice" / f"{number:02d}.flac", read_audio(path, RATE), RATE)
    source = read_audio(options.data / SOURCE, ANALYSIS_RATE)
    _write(folder / "source.flac", source, ANALYSIS_RATE)
    return folder


def _write(path: Path, audio: FloatArray, sample_rate: int) -> None:
    with replacing(path) as temporary:
        soundfile.write(temporary, audio, sample_rate, subtype="PCM_16", format="FLAC")
