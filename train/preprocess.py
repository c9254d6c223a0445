"""Cuts recordings into training clips: decode, high-pass filter, cut at pauses, normalise, write at two sample rates.

One core does this about two hundred times faster than real time, so there are no worker processes.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lib.audio import ANALYSIS_RATE
from lib.audio.decode import list_files, load_audio
from lib.audio.encode import save_audio
from lib.audio.filters import highpass_causal, resample
from lib.config import FamilyConfig
from lib.effects.noise import reduce_noise
from lib.errors import AudioError, MissingFileError
from lib.messages import Message
from lib.progress import Progress, no_progress
from train.experiment import Experiment, check_speaker, list_clips
from train.options import PrepareOptions
from train.pipeline import fingerprint, is_done, record
from train.slicer import SliceRule, slice_audio
from train.speakers import Source, Table, plan_recordings, write_table
from train.swap import replacing_folders

logger = logging.getLogger(__name__)

OVERLAP_SECONDS = 0.3  # s shared by neighbouring clips of one slice
TARGET_PEAK = 0.9 * 0.75  # of the normalised signal, which has a weight of three quarters in a clip ...
ORIGINAL_SHARE = 0.25  # ... and the original one a quarter, so that whispers stay softer than shouts
MAX_PEAK = 2.5  # times full scale; beyond it the recording is broken
MIN_SECONDS = 0.32  # s; a segment has 32 frames of 10 ms
SILENCE_PEAK = 10.0 ** (SliceRule().threshold_db / 20.0)  # a clip that never reaches the slicer's threshold is silent


@dataclass(frozen=True)
class PrepareReport:
    """The result of the prepare stage."""

    recordings: int  # files that gave at least one clip
    clips: int
    seconds: float  # total length of the clips
    skipped_silent: int  # clips
    short: int  # clips among `clips` too short to be trained on
    failures: tuple[tuple[Path, Message], ...]  # files that could not be used, or only in part, and why
    table: Table = field(default_factory=lambda: Table((), {}))  # the recordings and their speakers


@dataclass
class _Tally:
    """Counts for a PrepareReport."""

    recordings: int = 0
    clips: int = 0
    seconds: float = 0.0
    skipped_silent: int = 0
    short: int = 0
    failures: list[tuple[Path, Message]] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)

    def report(self, names: Mapping[int, str]) -> PrepareReport:
        table = Table(tuple(self.sources), names)
        return PrepareReport(
            self.recordings, self.clips, self.seconds, self.skipped_silent, self.short, tuple(self.failures), table
        )


def prepare(
    data: Path,
    gt_folder: Path,
    folder_16k: Path,
    sample_rate: int,
    options: PrepareOptions,
    progress: Progress = no_progress,
    before_commit: Callable[[], None] = lambda: None,
) -> PrepareReport:
    """Cut the recordings of a folder and its sub-folders, or one recording, into clips.

    Clips are float32 WAV files named <recording>_<clip>.wav, counted from 0: in `gt_folder` at `sample_rate`, in
    `folder_16k` under the same name at 16 kHz. Both folders are replaced as a whole at the end, after a call to
    `before_commit`; until then, or if the work is stopped, the existing files are kept. A recording that cannot be used
    is listed in the report and does not stop the others. Raises MissingFileError if the input does not exist, and
    AudioError if there are no recordings or none can be used.
    """
    plan = plan_recordings(data, options.speakers, gt_folder.parent)
    recordings, tally = plan.recordings, _Tally(failures=list(plan.left_out))
    with replacing_folders(gt_folder.parent, (gt_folder.name, folder_16k.name), before_commit) as (gt, small):
        for number, (path, speaker) in enumerate(recordings):
            progress(number, len(recordings), Message("prepare"))
            writer, seconds = _ClipWriter(gt, small, number, sample_rate), tally.seconds
            for _ in _prepare_one(path, writer, options, tally):
                progress(number, len(recordings), Message("prepare"))  # so that a long recording can be cancelled
            file = path.relative_to(data).as_posix() if path != data else path.name
            tally.sources.append(Source(file, speaker, writer.count, round(tally.seconds - seconds, 3)))
        if tally.clips == tally.short:
            raise _nothing_usable(data, tally)
    progress(len(recordings), len(recordings), Message("prepare"))
    return tally.report(plan.names)


def cut_clips(length: int, sample_rate: int, seconds: float) -> list[tuple[int, int]]:
    """Cut a slice of `length` samples into overlapping ranges [start, end) of `seconds`.

    The last range contains the rest, at most `seconds` + 0.3 s.
    """
    clips: list[tuple[int, int]] = []
    start = 0
    while length - start > (seconds + OVERLAP_SECONDS) * sample_rate:
        clips.append((start, start + int(seconds * sample_rate)))
        start = int(sample_rate * (seconds - OVERLAP_SECONDS) * len(clips))
    return [*clips, (start, length)]


def normalise(clip: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return 0.75 times the clip (T,) normalised to a peak of 0.9, plus 0.25 times the clip; its peak must not be 0."""
    wide = clip.astype(np.float64)
    out: npt.NDArray[np.float32] = (wide / np.abs(wide).max() * TARGET_PEAK + ORIGINAL_SHARE * wide).astype(np.float32)
    return out


@dataclass
class _ClipWriter:
    """Writes the clips of one recording at both rates, numbered without gaps."""

    gt: Path
    small: Path
    recording: int
    sample_rate: int  # Hz
    count: int = 0

    def write(self, clip: npt.NDArray[np.float32]) -> None:
        name = f"{self.recording}_{self.count}.wav"
        save_audio(self.gt / name, clip, self.sample_rate, subtype="FLOAT")
        save_audio(self.small / name, resample(clip, self.sample_rate, ANALYSIS_RATE), ANALYSIS_RATE, subtype="FLOAT")
        self.count += 1


def _prepare_one(path: Path, writer: _ClipWriter, options: PrepareOptions, tally: _Tally) -> Iterator[None]:
    """Prepare one recording; yields after every clip. Its failure is recorded, not raised."""
    too_loud = 0
    try:
        recording = load_audio(path, writer.sample_rate, options.channel)
        clean = reduce_noise(recording, writer.sample_rate, options.noise_reduction)
        audio = highpass_causal(clean, writer.sample_rate)
    except (AudioError, MissingFileError) as error:
        logger.warning("recording skipped: %s", error)
        tally.failures.append((path, Message(error.template, **error.values)))
        return
    for clip in _clips(audio, writer.sample_rate, options.slice_seconds):
        peak = np.abs(clip).max()
        if peak < SILENCE_PEAK:
            tally.skipped_silent += 1
        elif peak > MAX_PEAK:
            too_loud += 1
        else:
            writer.write(normalise(clip))
            tally.seconds += len(clip) / writer.sample_rate
            tally.short += len(clip) < MIN_SECONDS * writer.sample_rate
        yield
    tally.clips += writer.count
    tally.recordings += writer.count > 0
    if too_loud:
        reason = Message(
            "{path}: {count} clips have a peak above {limit} times full scale. Lower the volume of the recording.",
            path=path, count=too_loud, limit=MAX_PEAK,
        )  # fmt: skip
        tally.failures.append((path, reason))
    elif writer.count == 0:
        tally.failures.append(
            (path, Message("{path} contains only silence. Remove it, or record it louder.", path=path))
        )


def _clips(audio: npt.NDArray[np.float32], sample_rate: int, seconds: float) -> Iterator[npt.NDArray[np.float32]]:
    for slice_start, slice_end in slice_audio(audio, sample_rate):
        for start, end in cut_clips(slice_end - slice_start, sample_rate, seconds):
            yield audio[slice_start + start : slice_start + end]


def _nothing_usable(data: Path, tally: _Tally) -> AudioError:
    """The error for a set of recordings without a usable clip."""
    if tally.clips:
        return AudioError(
            "All {count} clips from {folder} are shorter than {least} s. Use longer recordings.",
            count=tally.clips, folder=data, least=MIN_SECONDS,
        )  # fmt: skip
    if not tally.failures:
        return AudioError("{folder} contains only silence. Use recordings of a voice.", folder=data)
    first = tally.failures[0][1]
    if len(tally.failures) == 1:
        return AudioError(first.template, **first.values)
    return AudioError(
        "None of the {count} recordings in {folder} can be used. The first: {reason}",
        count=len(tally.failures), folder=data, reason=first,
    )  # fmt: skip


def prepare_stage(
    experiment: Experiment,
    data: Path,
    config: FamilyConfig,
    options: PrepareOptions,
    progress: Progress = no_progress,
) -> PrepareReport | None:
    """Cut the recordings in `data` into clips.

    Returns None if this has already been done with the same recordings and options.
    """
    if experiment.config_file.is_file():
        experiment.create(config)  # compares, so that another family or rate is an error before anything is written
    chosen = [value for value in (options.channel, options.speakers) if value not in ("mix", "one")]
    other: list[object] = [*chosen]  # not in older fingerprints
    if options.noise_reduction > 0:
        other.append(f"noise reduction {options.noise_reduction}")
    made_from = fingerprint(_listing(data, experiment.folder), config.audio.sample_rate, options.slice_seconds, *other)
    if is_done(experiment, "prepare", made_from) and list_clips(experiment.wavs_16k):
        logger.info("prepare: recordings and options are unchanged, the clips in %s are kept", experiment.gt_wavs)
        return None
    if options.speakers != "one":
        check_speaker(config, max(plan_recordings(data, options.speakers, experiment.folder).names))
    experiment.mark_owned([experiment.gt_wavs, experiment.wavs_16k])
    folders = experiment.gt_wavs, experiment.wavs_16k
    report = prepare(
        data, *folders, config.audio.sample_rate, options, progress,
        lambda: experiment.update_record({}, discard=("prepare", "extract", "index")),
    )  # fmt: skip
    experiment.create(config)
    write_table(experiment, report.table)
    record(experiment, "prepare", made_from=made_from, clips=report.clips, seconds=round(report.seconds, 3))
    return report


def _listing(data: Path, results: Path) -> list[tuple[str, int, int]]:
    """Path below `data`, size and modification time of every file that `prepare` may read."""
    files = list_files(data, results) if data.is_dir() else [data]
    stats = [
        (path.relative_to(data).as_posix() if path != data else path.name, path.stat())
        for path in files
        if path.exists()
    ]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
