"""Runs each kind of job: conversions in this process, where voices stay loaded, and training in subprocesses."""

import contextlib
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infer.options import ConvertOptions
from lib.devices import gpu_numbers, list_devices
from lib.errors import AudioError, RevoiceError, error_from_json
from lib.files import replacing
from lib.json_reader import parse_json
from lib.messages import Message, without_folder
from lib.paths import ROOT
from lib.progress import Cancelled, part_of
from lib.terminal import INTERRUPTED
from train.options import RunOptions
from train.pipeline import SHARED_STAGES, STAGES
from web.jobs.registry import JobContext, Runner
from web.jobs.reports import handle_report, read_report
from web.jobs.requests import (
    VOICE_SETTINGS,
    BatchRequest,
    CompareRequest,
    ConversionRequest,
    ConvertRequest,
    CoverRequest,
    Kind,
    SayRequest,
    Stage,
    TrainRequest,
)
from web.jobs.songs import make_cover, say_text

if TYPE_CHECKING:
    from infer.batch import Job, Outcome
    from infer.convert import VoiceConverter

KILL_SECONDS = 60.0  # after which a training process that was asked to stop is killed
POLL_SECONDS = 0.2
NAME_BYTES = 100  # of recording and of voice in a result's name, which with its settings stays below 255 bytes
ALL_GPUS = "all"  # a choice of device
FROM_RECORDINGS: tuple[Stage, ...] = ("run", "prepare")  # stages that read recordings and set the kind of voice


# (name of a listed voice, name of an index or auto or none, device) -> the loaded voice
Load = Callable[[str, str, str], "VoiceConverter"]


def make_runners(load: Load) -> dict[Kind, Runner]:
    """Return the runners of all job kinds; `load` loads voices."""

    def convert(request: ConvertRequest, context: JobContext) -> Sequence[Path]:
        from infer.batch import Job

        context.progress(0, 1, Message("loading the voice"))
        voice, stem = _load(load, request), request.recording.stem
        output, curve = context.folder / f"result.{request.format}", context.folder / "result_f0.csv"
        job = Job(request.recording, output, request.f0_file, curve if request.f0_curve else None)
        outcome = _convert(voice, job, request.options, context)
        name = result_name(request, _used_rate(voice, request.options), stem, outcome.audio_seconds)
        result = output.rename(output.with_name(f"{name}.{request.format}"))
        context.publish(report=_report(replace(outcome, output=result), voice, request.options))
        return [result, *([curve.rename(curve.with_name(f"{name}_f0.csv"))] if curve.is_file() else [])]

    def compare(request: CompareRequest, context: JobContext) -> Sequence[Path]:
        return compare_rates(_load(load, request), request, context)

    def batch(request: BatchRequest, context: JobContext) -> Sequence[Path]:
        return convert_batch(_load(load, request), request, context)

    def cover(request: CoverRequest, context: JobContext) -> Sequence[Path]:
        context.progress(0, 1, Message("loading the voice"))
        voice, main = _load(load, request), request.song or request.instrumental
        name = result_name(request, _used_rate(voice, request.options), main.stem if main else "")
        return make_cover(voice, request, name, context)

    def say(request: SayRequest, context: JobContext) -> Sequence[Path]:
        context.progress(0, 1, Message("loading the voice"))
        voice = _load(load, request)
        return say_text(voice, request, result_name(request, _used_rate(voice, request.options)), context)

    return {"convert": convert, "compare": compare, "batch": batch, "cover": cover, "say": say, "train": train}


def _load(load: Load, request: ConversionRequest) -> "VoiceConverter":
    return load(request.voice, request.index, request.options.device)


def _convert(voice: "VoiceConverter", job: "Job", options: ConvertOptions, context: JobContext) -> "Outcome":
    from infer.batch import convert_files

    (outcome,) = convert_files(voice, [job], options, context.progress)
    if outcome.error:
        message = without_folder(outcome.error, job.path)
        raise AudioError(message.template, **message.values)
    return outcome


def result_name(request: ConversionRequest, index_rate: float, stem: str = "", seconds: float | None = None) -> str:
    """Return a name that distinguishes conversions of one recording: song_alice_+12_i0.75_3m05s_20261231-235959.

    `seconds` is the length of the recording, if known.
    """
    settings = [f"{request.options.pitch_shift:+.4g}", f"i{index_rate:.2g}"]
    if seconds is not None:
        settings.append("{}m{:02d}s".format(*divmod(round(seconds), 60)))
    settings.append(time.strftime("%Y%m%d-%H%M%S"))
    return "_".join(filter(None, [shorten(stem), shorten(request.voice), *settings]))


def shorten(text: str) -> str:
    """Shorten a string to at most NAME_BYTES bytes of UTF-8."""
    return text.encode(errors="ignore")[:NAME_BYTES].decode(errors="ignore")


def _used_rate(voice: "VoiceConverter", options: ConvertOptions) -> float:
    """The index rate of a conversion; 0 without an index."""
    return voice.index_rate(options) if voice.used_index(options) else 0.0


def _report(outcome: "Outcome", voice: "VoiceConverter", options: ConvertOptions) -> dict[str, Any]:
    """Return the report on a conversion that the web UI shows, as JSON values."""
    device = voice.device
    return asdict(outcome) | {
        "path": outcome.path.name,
        "output": outcome.output.name,
        "index": voice.used_index(options),
        "index_rate": _used_rate(voice, options),
        "device": str(device.device),
        "reason": device.reason,
    }


def compare_rates(voice: "VoiceConverter", request: CompareRequest, context: JobContext) -> Sequence[Path]:
    """Convert a recording with several index rates."""
    from infer.batch import Job

    path, results = request.recording, []
    for rate in request.index_rates:
        options = request.options.model_copy(update={"index_rate": rate})
        job = Job(path, context.folder / f"{shorten(path.stem)}_index_{rate:.2f}.wav")
        results.append(_convert(voice, job, options, context).output)
    return results


def convert_batch(voice: "VoiceConverter", request: BatchRequest, context: JobContext) -> list[Path]:
    """Convert all recordings of a request into the job's folder and write a ZIP file of all results.

    A resumed job skips recordings whose results exist, because results are written atomically.
    """
    from infer.batch import Job, convert_files

    paths = [*request.uploads, *request.inputs]
    voice_name = shorten(request.voice)
    rows: list[tuple[str, str]] = []
    results: dict[str, Path] = {}  # by the name in the ZIP
    for number, (path, name) in enumerate(zip(paths, names_in_archive(paths, request.format), strict=True)):
        output = context.folder / f"{number + 1:03d}_{shorten(path.stem)}_{voice_name}.{request.format}"
        error = None
        if not output.is_file():
            report = part_of(context.progress, number, len(paths))
            error = convert_files(voice, [Job(path, output)], request.options, report)[0].error
            error = error and without_folder(error, path)
        if error is None:
            results[name] = output
        rows.append((path.name, error or name))
        context.publish(rows=rows)
    if not results:
        raise AudioError(
            "None of the {count} recordings could be converted. The first: {reason}",
            count=len(paths), reason=rows[0][1],
        )  # fmt: skip
    archive = context.folder / f"{result_name(request, _used_rate(voice, request.options))}.zip"
    with replacing(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as file:
        for name, path in results.items():
            file.write(path, name)
    return [archive, *results.values()]


def names_in_archive(paths: Sequence[Path], suffix: str) -> list[str]:
    """Return the recordings' own names with another suffix; equal names are numbered: a.wav, a_2.wav."""
    names: list[str] = []
    taken: set[str] = set()  # without case, which some systems ignore
    numbers: Counter[str] = Counter()
    for path in paths:
        stem = path.stem.encode(errors="ignore").decode() or "recording"
        name = f"{stem}.{suffix}"
        while name.casefold() in taken:
            numbers[stem.casefold()] += 1
            name = f"{stem}_{numbers[stem.casefold()] + 1}.{suffix}"
        taken.add(name.casefold())
        names.append(name)
    return names


# --- training ---------------------------------------------------------------------------------------------------------


def train_command(request: TrainRequest) -> list[str]:
    """Return the arguments of `python` that run a training job in one process."""
    begins = request.stage in FROM_RECORDINGS
    words = ["-m", "train", request.stage, request.name]
    if begins and request.data:
        words += _option("data", str(request.data))
    if begins:
        for name in VOICE_SETTINGS:
            words += _option(name, getattr(request, name))
    fields = (RunOptions if request.stage == "run" else STAGES[request.stage]).model_fields
    for name, value in request.options.model_dump(mode="json").items():
        if name in fields and fields[name].get_default() != value:
            words += _option(name, value)
    return words


def _option(name: str, value: object) -> list[str]:
    """Return an option of the command line; nothing if it is None."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, str) and value.startswith("-"):  # in two words it would be another option
        return [f"--{flag}={value}"]
    return [] if value is None else [f"--{flag}", str(value)]


def chosen_gpus(device: str | None) -> list[int]:
    """Return the numbers of the GPUs if `device` stands for several ("0-1-2", or ALL_GPUS); otherwise an empty list."""
    if device == ALL_GPUS:
        return [int(name.removeprefix("cuda:")) for name, _ in list_devices() if name.startswith("cuda:")]
    numbers = gpu_numbers(device or "")
    return numbers if len(numbers) > 1 else []


def train_commands(request: TrainRequest, gpus: Sequence[int]) -> list[list[str]]:
    """Return the arguments of `python` for each command of a training job; on several GPUs each stage is one command.

    Stages that can share their work are then started once per GPU.
    """
    if request.options.device != ALL_GPUS and not gpus:
        return [train_command(request)]
    first = 0 if request.data else 1  # without recordings the existing clips are used
    stages = [request.stage] if request.stage != "run" else list(STAGES)[first:]
    options = request.options.model_copy(update={"device": "auto"})
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(len(gpus))]
    if request.options.device != ALL_GPUS:
        launcher += ["--gpu_ids", ",".join(map(str, gpus))]
    commands = [
        (stage, train_command(request.model_copy(update={"options": options, "stage": stage}))) for stage in stages
    ]
    return [launcher + words if stage in SHARED_STAGES and len(gpus) > 1 else words for stage, words in commands]


def train(request: TrainRequest, context: JobContext) -> Sequence[Path]:
    """Run a training job in subprocesses, so that a crash makes only the job fail. Cancelling saves a checkpoint."""
    made: list[Path] = []
    for command in train_commands(request, chosen_gpus(request.options.device)):
        made = _train(command, request.name, context) or made
    return made


def _train(command: Sequence[str], name: str, context: JobContext) -> list[Path]:
    """Run one command of a training job; it stops when its standard input is closed or this server has exited."""
    place = command.index("train") + 1  # after the module's name
    with subprocess.Popen(
        [sys.executable, *command[:place], "--report-as-json", *command[place:]], cwd=ROOT, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        reported = _Reported()
        reader = threading.Thread(target=_follow, args=(process.stdout, context, reported), daemon=True)
        reader.start()
        while process.poll() is None:
            if context.cancelled.wait(POLL_SECONDS):
                with contextlib.suppress(OSError):
                    process.stdin.close()
                try:
                    process.wait(KILL_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
        reader.join(KILL_SECONDS)
    if context.cancelled.is_set() or process.returncode == INTERRUPTED:
        raise Cancelled
    if process.returncode:
        raise reported.error or _ended_early(reported.lines, process.returncode)
    return [path for path in reported.files if path.name == f"{name}.pth" or path.name.startswith("added_")]


def _ended_early(lines: Sequence[str], status: int) -> RevoiceError:
    """Return the error for a training process that ended without reporting one, for example after a crash."""
    last = next((line for line in reversed(lines) if line.strip()), "")
    if last:
        return RevoiceError("Training ended early: {reason}", reason=last)
    return RevoiceError("Training ended early, with status {status}.", status=status)


@dataclass
class _Reported:
    """The reports of a training process so far."""

    lines: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    error: RevoiceError | None = None


def _follow(output: Any, context: JobContext, reported: _Reported) -> None:
    """Read the reports of the process until it ends; other lines of its output go to the log."""
    for line in output:
        text = line.rstrip("\n")
        try:
            report = read_report(parse_json(text) if text.startswith("{") else text)
        except ValueError:
            report = {"log": text}
        if "log" in report:
            reported.lines.append(str(report["log"]))
        elif "error" in report:
            reported.error = error_from_json(report["error"])
        elif "files" in report:
            reported.files = [Path(path) for path in report["files"]]
        handle_report(report, context)
