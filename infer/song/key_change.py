"""Transposes the instrumental of a cover with python-stretch, an optional package, in a process of its own.

python-stretch computes a whole song in one call, which can take a minute and cannot be interrupted; a process can be
ended. Songs cannot be transposed in parts: the phases of two parts differ where they meet.
"""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lib.errors import ConfigError, RevoiceError
from lib.paths import ROOT
from lib.progress import CHECK_SECONDS, Progress, no_progress
from lib.typing import FloatArray

BEFORE, AFTER = "before.npy", "after.npy"  # the audio (C, T) in the folder of the process
PROGRAM = "import sys; from infer.song.key_change import main; main(sys.argv[1:])"


def check_package(semitones: int) -> None:
    """Raise ConfigError if a key change by `semitones` requires the python-stretch package and it is missing."""
    if semitones != 0 and importlib.util.find_spec("python_stretch") is None:
        raise ConfigError(
            "Changing the key of the instrumental by {semitones} semitones requires the python-stretch package. "
            "Install it (pip install python-stretch), or choose a pitch shift of whole octaves.",
            semitones=semitones,
        )


def change_key(audio: FloatArray, sample_rate: int, semitones: int, progress: Progress = no_progress) -> FloatArray:
    """Transpose (C, T) without changing its length.

    Raises ConfigError if the python-stretch package is not installed, and RevoiceError if it fails.
    """
    if semitones == 0:
        return audio
    check_package(semitones)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, BEFORE), np.asarray(audio, np.float32))
        _run([folder, str(sample_rate), str(semitones)], progress)
        changed: FloatArray = np.load(Path(folder, AFTER))[:, : audio.shape[1]]
    return np.pad(changed, ((0, 0), (0, audio.shape[1] - changed.shape[1])))


def _run(arguments: Sequence[str], progress: Progress) -> None:
    """Run `main` in a process, which is ended if `progress` raises Cancelled."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8", errors="replace", start_new_session=True,
    ) as process:  # fmt: skip
        try:
            while True:
                progress(0, 1, "")
                try:
                    _, output = process.communicate(timeout=CHECK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    continue
        finally:
            process.kill()
    if process.returncode:
        raise RevoiceError(
            "Changing the key of the instrumental failed ({reason}). Close other programs, or choose a pitch shift of "
            "whole octaves.",
            reason=next(reversed(output.split("\n")[:-1]), f"status {process.returncode}")[:200],
        )


def main(arguments: Sequence[str]) -> None:
    """Transpose the audio in a folder: arguments are the folder, the sample rate in Hz and the semitones."""
    import python_stretch

    folder, sample_rate, semitones = arguments
    audio = np.load(Path(folder, BEFORE))
    stretch = python_stretch.Signalsmith.Stretch(1)  # a seed
    stretch.preset(len(audio), int(sample_rate))
    stretch.setTransposeSemitones(int(semitones))
    np.save(Path(folder, AFTER), np.asarray(stretch.process(audio), np.float32))
