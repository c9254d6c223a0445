"""Checks recordings before training: length, silence, loudness, clipping, duplicates, F0; and gives advice.

The limits are the usual advice for RVC voices: 10 to 50 minutes of clean speech or singing by one person, at an even
level, without other voices.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.audio import ANALYSIS_RATE
from lib.audio.decode import load_audio_native
from lib.audio.filters import resample
from lib.errors import RevoiceError
from lib.messages import Message, without_folder
from lib.pitch import load_pitch_extractor
from lib.pitch.scale import FRAMES_PER_SECOND
from lib.progress import Progress, no_progress
from lib.typing import FloatArray

FRAME = 0.05  # seconds, for loudness and silence
SILENCE_DB = -45.0  # below full scale; quieter frames are pauses
FULL_SCALE = 0.999
DIGITAL_SILENCE_DB = -100.0
SHORT_SECONDS = 1.0
PITCH_SECONDS = 30.0  # of every recording that F0 is estimated on
SHORT_MINUTES, ENOUGH_MINUTES, LONG_MINUTES = 3.0, 10.0, 50.0
MAX_CLIPPED = 1e-4  # share of samples
QUIET_DB, MAX_SPREAD_DB, MAX_SILENCE = -32.0, 9.0, 0.5
NO_PAUSE_DB, MIN_SNR_DB = 6.0, 20.0  # between the loudness of a recording and its quietest frames
QUIETEST = 5.0  # per cent of the frames
LOW_RATE = 24_000  # Hz
ADVICE = {  # by the ids of `DataReport.advice`
    "very_little": "Less than 3 minutes of speech or singing. The result will be rough; aim for at least 10 minutes.",
    "little": "Less than 10 minutes of speech or singing. This works, but more gives better results.",
    "much": "More than 50 minutes. Training takes longer, with little benefit.",
    "duplicates": "Some recordings are duplicates. Remove the copies.",
    "clipped": "Some recordings are clipped. Record them again at a lower gain.",
    "quiet": "The recordings are quiet, so the model will also learn the noise. Record closer to the microphone.",
    "noisy": "The recordings are noisy. Reduce the noise first; for v1 and v2, train for only 20 to 30 epochs; "
    "with longer training, the model starts to learn the noise.",
    "uneven": "Loudness varies widely between recordings. Normalise them to the same level.",
    "silent": "More than half of the audio is silence. Cut long pauses.",
    "low_rate": "Some recordings have a low sample rate. The voice will lack high frequencies.",
    "short": "Some recordings are shorter than one second and may be skipped.",
    "no_pitch": "No pitch was detected. Does the audio contain a voice?",
}


@dataclass(frozen=True)
class RecordingReport:
    """Results of one recording."""

    name: str
    seconds: float
    sample_rate: int  # Hz
    loudness: float  # dB relative to full scale, of the frames that are not silent
    silent: float  # share of the frames
    clipped: float  # share of the samples
    noise: float  # dB relative to full scale, of the quietest twentieth of the frames; -inf for digital silence
    digest: str  # equal for equal samples

    @property
    def is_noisy(self) -> bool:
        """Whether its pauses are noisy; unknown, and so False, for a recording without pauses."""
        return NO_PAUSE_DB < self.loudness - self.noise < MIN_SNR_DB


@dataclass(frozen=True)
class DataReport:
    """Results of all recordings."""

    recordings: tuple[RecordingReport, ...]
    failures: tuple[str, ...] = ()  # messages about recordings that could not be read
    f0: tuple[float, float, float] | None = None  # Hz: 5th, 50th and 95th percentiless
    f0_histogram: tuple[tuple[int, float], ...] = ()  # F0 in Hz of each semitone, and its seconds

    @property
    def minutes(self) -> float:
        """Total length in minutes."""
        return sum(item.seconds for item in self.recordings) / 60

    @property
    def speaking_minutes(self) -> float:
        """Length without silence in minutes."""
        return sum(item.seconds * (1 - item.silent) for item in self.recordings) / 60

    @property
    def duplicates(self) -> list[str]:
        """Names of recordings with exactly the same samples as an earlier one."""
        seen: set[str] = set()
        return [item.name for item in self.recordings if item.digest in seen or seen.add(item.digest)]  # type: ignore[func-returns-value]

    @property
    def is_noisy(self) -> bool:
        """Whether most of the recordings are noisy."""
        return 2 * sum(item.is_noisy for item in self.recordings) > len(self.recordings)

    def advice(self) -> list[str]:
        """Keys of ADVICE that apply, most important first; empty if there is no problem."""
        items = self.recordings
        loudness = [item.loudness for item in items if np.isfinite(item.loudness)]
        minutes = self.speaking_minutes
        checks = {
            "very_little": minutes < SHORT_MINUTES,
            "little": SHORT_MINUTES <= minutes < ENOUGH_MINUTES,
            "much": minutes > LONG_MINUTES,
            "duplicates": bool(self.duplicates),
            "clipped": any(item.clipped > MAX_CLIPPED for item in items),
            "quiet": bool(loudness) and float(np.median(loudness)) < QUIET_DB,
            "noisy": self.is_noisy,
            "uneven": len(loudness) > 1 and float(np.std(loudness)) * 2 > MAX_SPREAD_DB,
            "silent": bool(items) and minutes < (1 - MAX_SILENCE) * self.minutes,
            "low_rate": any(item.sample_rate < LOW_RATE for item in items),
            "short": any(item.seconds < SHORT_SECONDS for item in items),
            "no_pitch": self.f0 is None,
        }
        return [name for name, found in checks.items() if found]


def check_recordings(paths: Sequence[Path], progress: Progress = no_progress) -> DataReport:
    """Check every recording; those that cannot be read are listed in `failures`."""
    import torch

    extractor = load_pitch_extractor("swift", torch.device("cpu"))
    items, failures, voiced = [], [], []
    for number, (path, name) in enumerate(zip(paths, _names(paths), strict=True)):
        progress(number, len(paths), Message("checking {file}", file=name))
        try:
            audio, sample_rate = load_audio_native(path)
        except RevoiceError as error:
            failures.append(without_folder(error.message, path))
            continue
        items.append(_report(name, audio, sample_rate))
        start = resample(audio[: int(PITCH_SECONDS * sample_rate)], sample_rate, ANALYSIS_RATE)
        if len(start) >= ANALYSIS_RATE // 10:
            f0 = extractor(start)
            voiced.append(f0[f0 > 0])
    progress(len(paths), len(paths), Message("checked"))
    return DataReport(tuple(items), tuple(failures), _percentiles(voiced), _f0_histogram(voiced))


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the names of the recordings, or their paths below the common folder if sub-folders contain equal names."""
    names = [path.name for path in paths]
    if len({*names}) == len(names) or len({*paths}) == 1:
        return names
    common = os.path.commonpath([path.absolute() for path in paths])
    return [path.absolute().relative_to(common).as_posix() for path in paths]


def _percentiles(voiced: Sequence[FloatArray]) -> tuple[float, float, float] | None:
    together = np.concatenate(voiced) if voiced else np.zeros(0)
    if len(together) == 0:
        return None
    low, middle, high = (float(value) for value in np.percentile(together, (5, 50, 95)))
    return low, middle, high


def _f0_histogram(voiced: Sequence[FloatArray]) -> tuple[tuple[int, float], ...]:
    """F0 in Hz and seconds of every semitone from the lowest to the highest."""
    together = np.concatenate(voiced) if voiced else np.zeros(0)
    if len(together) == 0:
        return ()
    notes = np.rint(12 * np.log2(together)).astype(int)
    counts = np.bincount(notes - notes.min())
    return tuple(
        (round(2 ** ((notes.min() + step) / 12)), float(count) / FRAMES_PER_SECOND) for step, count in enumerate(counts)
    )


def _report(name: str, audio: FloatArray, sample_rate: int) -> RecordingReport:
    size = max(1, int(FRAME * sample_rate))
    frames = audio[: len(audio) // size * size].reshape(-1, size) if len(audio) >= size else audio[None]
    level = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-12)
    is_sound = level > SILENCE_DB
    power = float(np.mean(frames[is_sound] ** 2)) if is_sound.any() else 0.0
    return RecordingReport(
        name=name,
        seconds=len(audio) / sample_rate,
        sample_rate=sample_rate,
        loudness=10 * float(np.log10(power)) if power else float("-inf"),
        silent=float(1 - is_sound.mean()),
        clipped=float(np.mean(np.abs(audio) >= FULL_SCALE)),
        noise=_noise_level(level),
        digest=hashlib.sha256(np.round(audio * 32767).astype(np.int16).tobytes()).hexdigest(),
    )


def _noise_level(level: FloatArray) -> float:
    """The level of the quietest frames in dB; -inf if they are digital silence."""
    quietest = float(np.percentile(level, QUIETEST))
    return quietest if quietest > DIGITAL_SILENCE_DB else float("-inf")


def describe(report: DataReport) -> list[str]:
    """Format the report as lines: measurements, then advice."""
    lines = [
        f"{len(report.recordings)} recordings, {report.minutes:.1f} min, {report.speaking_minutes:.1f} min not silent",
        f"sample rates: {sample_rates(report)}",
    ]
    loudness = [item.loudness for item in report.recordings if np.isfinite(item.loudness)]
    if loudness:
        lines.append(f"loudness: {min(loudness):.0f} to {max(loudness):.0f} dBFS")
    if report.f0:
        lines.append(f"F0: {report.f0[0]:.0f} to {report.f0[2]:.0f} Hz, median {report.f0[1]:.0f} Hz")
    return lines + [f"- {ADVICE[name]}" for name in report.advice()]


def sample_rates(report: DataReport) -> str:
    """Count the recordings per sample rate, as in "22050 Hz: 32"."""
    counts = Counter(item.sample_rate for item in report.recordings)
    return ", ".join(f"{rate} Hz: {count}" for rate, count in sorted(counts.items()))
