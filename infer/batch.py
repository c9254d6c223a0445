"""Convert many files: name the results, continue after a failure, report."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

from infer.convert import Conversion, VoiceConverter
from infer.disk_buffer import DiskBuffer, collect_blocks
from infer.input_audio import prepare_input
from infer.options import ConvertOptions
from infer.song.convert import convert_sound, read_sound
from lib.audio import ANALYSIS_RATE, AUDIO_FORMATS
from lib.audio.decode import MEDIA_SUFFIXES, Recording, list_recordings
from lib.audio.encode import save_blocks
from lib.audio.filters import resample_blocks, resampled_length
from lib.errors import AudioError, ConfigError, RevoiceError
from lib.machine import FAILURES, machine_error
from lib.messages import Message
from lib.pitch.curve_file import CURVE_SUFFIXES, PitchCurve, read_curve, write_curve
from lib.progress import Progress, no_progress, part_of
from lib.typing import FloatArray

DEFAULT_FORMAT = "wav"


@dataclass(frozen=True)
class Job:
    """One recording to convert, and the file to write."""

    path: Path
    output: Path
    f0_file: Path | None = None  # F0 to use instead of the recording's
    f0_out: Path | None = None  # where to write the target F0


@dataclass(frozen=True)
class Outcome:
    """The result of one job; `error` is the message to show, or None if it succeeded."""

    path: Path
    output: Path
    audio_seconds: float = 0.0  # length of the recording
    elapsed_seconds: float = 0.0  # time it took, decoding and writing included
    sample_rate: int = 0  # Hz, of the result
    pitch_method: str | None = None
    error: str | None = None


def plan_jobs(
    inputs: Sequence[Path], output: Path | None, voice: str, audio_format: str | None = None
) -> tuple[list[Job], list[Outcome]]:
    """Name a result for each recording; a folder among the inputs stands for the recordings in it.

    `output` is a file (for one recording, if it has the suffix of an audio format) or a folder. If it is None,
    `take.wav` becomes `take_<voice>.wav` in the same folder, and a folder `takes` becomes a folder `takes_<voice>` with
    the same sub-folders. All names differ, even on case-insensitive file systems, and none is that of an input. The
    second list contains the folders without recordings. Raises ConfigError if `output` is a file name in a format that
    cannot be written.
    """
    if not inputs:
        raise ConfigError("There is nothing to convert: specify at least one recording or folder.")
    if output is not None and not output.is_dir() and output.suffix.lower().removeprefix(".") in AUDIO_FORMATS:
        return [_single(inputs, output, audio_format)], []
    if output is not None and not output.is_dir() and output.suffix.lower() in MEDIA_SUFFIXES:
        raise ConfigError(
            "{path} cannot be written: results are .{suffixes} files. Choose one of these, or specify a folder.",
            path=output,
            suffixes=", .".join(AUDIO_FORMATS),
        )
    wanted: list[tuple[Path, Path]] = []  # recording; result without suffix
    failures = []
    for path in inputs:
        if not path.is_dir():
            wanted.append((path, output / path.stem if output else path.with_name(f"{path.stem}_{voice}")))
            continue
        folder = output or path.resolve().with_name(f"{path.resolve().name}_{voice}")
        try:
            wanted += [
                (recording, folder / recording.relative_to(path).with_name(recording.stem))
                for recording in list_recordings(path, output)
            ]
        except RevoiceError as error:
            failures.append(Outcome(path, folder, error=error.message))
    return _unique_names(wanted, voice, f".{audio_format or DEFAULT_FORMAT}"), failures


def _single(inputs: Sequence[Path], output: Path, audio_format: str | None) -> Job:
    if len(inputs) > 1 or inputs[0].is_dir():
        raise ConfigError(
            "{path} is the name of a single file, but there may be several results. Specify a folder.", path=output
        )
    if audio_format and output.suffix.lower() != f".{audio_format}":
        raise ConfigError(
            "{path} does not end in .{format}. Omit the format, or change the name.",
            path=output,
            format=audio_format,
        )
    if output.resolve() == inputs[0].resolve():
        raise ConfigError(
            "{path} is the recording itself, which is never overwritten. Choose another name.", path=output
        )
    return Job(inputs[0], output)


def _unique_names(wanted: list[tuple[Path, Path]], voice: str, suffix: str) -> list[Job]:
    """Append the suffix to every result, and make names that collide distinct."""
    taken = {_key(path) for path, _ in wanted}  # a result must not replace a recording that is still to be read
    stems = Counter(_key(stem) for _, stem in wanted)
    jobs = []
    for path, stem in wanted:
        # a.wav and a.mp3 become a_wav.* and a_mp3.*, whatever their order; a number is added only if these exist too.
        kind = path.suffix.lower().replace(".", "_") if stems[_key(stem)] > 1 else ""
        endings = chain((kind, f"{kind}_{voice}"), (f"{kind}_{voice}_{number}" for number in count(2)))
        results = (stem.with_name(f"{stem.name}{ending}{suffix}") for ending in endings)
        output = next(result for result in results if _key(result) not in taken)
        taken.add(_key(output))
        jobs.append(Job(path, output))
    return jobs


def _key(path: Path) -> str:
    return str(path.resolve()).casefold()


def with_f0_files(jobs: Sequence[Job], f0_file: Path | None, f0_out: Path | None) -> list[Job]:
    """Add to each job the F0 curve file to use and the file to which the F0 is written.

    `f0_file` applies to a single recording. `f0_out` is a file (for one recording, ending in .csv or .txt) or a folder
    in which each result has a `.csv` of the same name.
    """
    if f0_file and len(jobs) > 1:
        raise ConfigError(
            "{path} is the F0 of one recording, but there are {count}. Convert them one by one.",
            path=f0_file,
            count=len(jobs),
        )
    is_file = f0_out is not None and not f0_out.is_dir() and f0_out.suffix.lower() in CURVE_SUFFIXES
    if is_file and len(jobs) > 1:
        raise ConfigError(
            "{path} is the name of a single file, but there are {count} recordings. Specify a folder.",
            path=f0_out,
            count=len(jobs),
        )
    if is_file and f0_out in {path for job in jobs for path in (job.path, job.output)}:
        raise ConfigError(
            "{path} is already the name of the recording or of the result. Choose another name.", path=f0_out
        )
    seen: Counter[str] = Counter()
    planned = []
    for job in jobs:
        written = f0_out
        if f0_out is not None and not is_file:
            seen[job.output.stem.casefold()] += 1
            count_so_far = seen[job.output.stem.casefold()]
            written = f0_out / f"{job.output.stem}{f'_{count_so_far}' if count_so_far > 1 else ''}.csv"
        planned.append(replace(job, f0_file=f0_file, f0_out=written))
    return planned


@dataclass
class _Input:
    """A recording, prepared for conversion."""

    audio: DiskBuffer  # (T,) at 16 kHz
    audio_seconds: float  # its length
    elapsed_seconds: float  # time it took to read
    output_length: Callable[[int], int]  # output rate in Hz -> samples of the result


def convert_file(
    converter: VoiceConverter, job: Job, options: ConvertOptions, progress: Progress = no_progress
) -> Outcome:
    """Convert one recording and write the result, exactly as long as the recording.

    If the conversion fails with a RevoiceError, its message includes the name of the file.
    """
    if options.uses_memory:
        return _convert_in_memory(converter, job, options, progress)
    source = _read(job, options)
    conversion, seconds = _convert(converter, job, source, options, progress)
    return _write(job, source, conversion, seconds, converter.pitch_method(options))


def _read(job: Job, options: ConvertOptions) -> _Input:
    start = time.perf_counter()
    recording = Recording(job.path, options.channel)
    rate = recording.sample_rate
    with collect_blocks(resample_blocks(recording.blocks, rate, ANALYSIS_RATE)) as audio:
        try:
            prepared = prepare_input(audio)
        except AudioError as error:
            raise AudioError("{path} cannot be converted. {reason}", path=job.path, reason=error.message) from error
    samples = recording.samples
    return _Input(
        prepared, samples / rate, time.perf_counter() - start, lambda to_rate: resampled_length(samples, rate, to_rate)
    )


def _convert(
    converter: VoiceConverter, job: Job, source: _Input, options: ConvertOptions, progress: Progress
) -> tuple[Conversion, float]:
    """Convert and return the result with the seconds it took. Closes the input audio."""
    start = time.perf_counter()
    with source.audio as audio:
        conversion = converter.convert_prepared(audio, options, progress, _curve_of(converter, job, options))
    return conversion, time.perf_counter() - start


def _write(job: Job, source: _Input, conversion: Conversion, seconds: float, pitch_method: str | None) -> Outcome:
    start, rate = time.perf_counter(), conversion.sample_rate
    with conversion:
        # Rounding up twice, to 16 kHz and to the result's rate, can yield up to two samples too many.
        save_blocks(job.output, _first(conversion.blocks(), source.output_length(rate)), rate)
        if job.f0_out and conversion.f0 is not None:
            write_curve(job.f0_out, conversion.f0)
    seconds += source.elapsed_seconds + time.perf_counter() - start
    return Outcome(job.path, job.output, source.audio_seconds, seconds, rate, pitch_method)


def _first(blocks: Iterable[FloatArray], samples: int) -> Iterator[FloatArray]:
    for block in blocks:
        yield block[:samples]
        samples = max(samples - len(block), 0)


def convert_files(
    converter: VoiceConverter, jobs: Sequence[Job], options: ConvertOptions, progress: Progress = no_progress
) -> list[Outcome]:
    """Convert one file after another. A failure is reported in its Outcome and does not stop the rest.

    While one file is converted, the next one is read and the previous one is written, unless an option requires the
    whole recording in memory.
    """
    if options.uses_memory:
        return _convert_one_by_one(converter, jobs, options, progress)
    outcomes: list[Outcome | Future[Outcome]] = []
    with (
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(1) as writer,
        contextlib.closing(_read_ahead(reader, jobs, options)) as recordings,
    ):
        for i, (job, reading) in enumerate(zip(jobs, recordings, strict=True)):
            try:
                source = reading.result()
                report = _within(progress, i, len(jobs), job.path.name)
                conversion, seconds = _convert(converter, job, source, options, report)
                method = converter.pitch_method(options)
                outcomes.append(writer.submit(_write, job, source, conversion, seconds, method))
            except (RevoiceError, *FAILURES) as error:
                outcomes.append(_failed(job, error))
    return [_outcome(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True)]


def _convert_one_by_one(
    converter: VoiceConverter, jobs: Sequence[Job], options: ConvertOptions, progress: Progress
) -> list[Outcome]:
    outcomes = []
    for i, job in enumerate(jobs):
        try:
            report = _within(progress, i, len(jobs), job.path.name)
            outcomes.append(_convert_in_memory(converter, job, options, report))
        except (RevoiceError, OSError) as error:
            outcomes.append(_failed(job, error))
    return outcomes


def _convert_in_memory(converter: VoiceConverter, job: Job, options: ConvertOptions, progress: Progress) -> Outcome:
    """Convert with options that need the whole recording in memory."""
    start, curve = time.perf_counter(), _curve_of(converter, job, options)
    source = read_sound(job.path, options, part_of(progress, 0, 10))
    try:
        sound, f0, _ = convert_sound(converter, source, options, part_of(progress, 1, 10, 8), curve)
    except AudioError as error:
        raise AudioError("{path} cannot be converted. {reason}", path=job.path, reason=error.message) from error
    sound.save(job.output, part_of(progress, 9, 10))
    if job.f0_out and f0 is not None:
        write_curve(job.f0_out, f0)
    seconds = time.perf_counter() - start
    return Outcome(job.path, job.output, source.seconds, seconds, sound.sample_rate, converter.pitch_method(options))


def _curve_of(converter: VoiceConverter, job: Job, options: ConvertOptions) -> PitchCurve | None:
    if job.f0_out and converter.pitch_method(options) is None:
        raise ConfigError("The voice uses no F0, so there is none to write. Omit the name of the F0 file.")
    return read_curve(job.f0_file) if job.f0_file else None


def _read_ahead(
    reader: ThreadPoolExecutor, jobs: Sequence[Job], options: ConvertOptions
) -> Generator[Future[_Input], None, None]:
    """Read the recordings in order, always one ahead."""
    following: Future[_Input] | None = None
    try:
        for i, job in enumerate(jobs):
            reading = following or reader.submit(_read, job, options)
            following = reader.submit(_read, jobs[i + 1], options) if i + 1 < len(jobs) else None
            yield reading
    finally:  # a recording read ahead is left over when the user cancels
        if following is not None and not following.cancel() and following.exception() is None:
            following.result().audio.close()


def _outcome(job: Job, outcome: Outcome | Future[Outcome]) -> Outcome:
    if isinstance(outcome, Outcome):
        return outcome
    try:
        return outcome.result()
    except (RevoiceError, *FAILURES) as error:
        return _failed(job, error)


def _failed(job: Job, error: Exception) -> Outcome:
    """Return the outcome of a job that failed with a RevoiceError or a system failure; raise any other error again."""
    known = error if isinstance(error, RevoiceError) else machine_error(error)
    if known is None:
        raise error
    return Outcome(job.path, job.output, error=known.message)


def _within(progress: Progress, index: int, n_files: int, name: str) -> Progress:
    """The Progress of one file among several; its messages begin with the name of the file."""
    part = part_of(progress, index, n_files)
    return lambda done, total, what: part(done, total, Message("{file}: {step}", file=name, step=what))
