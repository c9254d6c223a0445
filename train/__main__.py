"""Trains a voice from recordings, in one command or stage by stage: python -m train run alice --data recordings/"""

import contextlib
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from pydantic import BaseModel, Field
from tyro.conf import Positional

from lib.errors import ConfigError, MachineError, RevoiceError
from lib.machine import machine_errors
from lib.messages import Message
from lib.option_help import REGISTRY
from lib.paths import GivenPath
from lib.progress import Cancelled, Progress, no_progress
from lib.run_main import run_main
from lib.terminal import (
    FAILED,
    INTERRUPTED,
    parse_arguments,
    report_error,
    report_files,
    reporting,
    terminal,
)
from train.ckpt import cli as ckpt
from train.options import ExtractOptions, FitOptions, IndexOptions, PrepareOptions, RunOptions

if TYPE_CHECKING:
    from train.experiment import Experiment

logger = logging.getLogger("train")  # also when this module is __main__

PROGRAM = "python -m train"
DATA = "folder of training recordings, searched recursively, or a single recording"
FOR_PROGRAMS = "--report-as-json"  # before the command; the web UI passes it


class _Kind(PrepareOptions, frozen=True):
    """Type of the voice; fixed when the training run is created."""

    family: Literal["lite", "v1", "v2"] = Field(
        "lite", description="model family; lite needs no downloads, v1 and v2 are RVC's"
    )
    sample_rate: Literal["24k", "32k", "40k", "48k"] | None = Field(
        None, description="sample rate of the voice (default: 24k for lite, 40k for v1 and v2)"
    )
    pitch: bool = Field(True, description="use F0; required for singing")


class Prepare(_Kind, frozen=True):
    """Cut recordings into training clips."""

    name: Positional[str] = Field(description="name of the training run and of the voice")
    data: GivenPath = Field(description=DATA)


class Extract(ExtractOptions, frozen=True):
    """Extract F0 and content features from the clips."""

    name: Positional[str] = Field(description="name of the training run")


class Fit(FitOptions, frozen=True):
    """Train the voice, resuming from the latest checkpoint, if any."""

    name: Positional[str] = Field(description="name of the training run")


class Index(IndexOptions, frozen=True):
    """Build the retrieval index of the voice."""

    name: Positional[str] = Field(description="name of the training run")


class Run(_Kind, RunOptions, frozen=True):
    """Run all four stages: prepare, extract, index, fit. Stages that are already up to date are skipped."""

    name: Positional[str] = Field(description="name of the training run and of the voice")
    data: GivenPath | None = Field(None, description=f"{DATA} (default: the existing clips)")


class Check(BaseModel, frozen=True):
    """Check recordings before training: length, silence, loudness, clipping, duplicates, F0."""

    data: Positional[GivenPath] = Field(description=DATA)


class Ckpt(BaseModel, frozen=True):
    """Tools for voices and checkpoints: info, extract, merge, edit, convert, export, import, publish, folders."""


Command = Prepare | Extract | Fit | Index | Run
COMMANDS: dict[str, Callable[..., Any]] = {
    "prepare": Prepare, "extract": Extract, "fit": Fit, "index": Index, "run": Run, "check": Check,
    "ckpt": Ckpt,
}  # fmt: skip


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    status = _main(list(sys.argv[1:] if args is None else args))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from train.distributed import disconnect

        disconnect()  # here, where no exception refers to the connection any longer
    return status


def _main(words: list[str]) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name must not end the program
    for_program = words[:1] == [FOR_PROGRAMS]
    try:
        with machine_errors():
            return _use(words[1:]) if words[:1] == ["ckpt"] else _start(words[for_program:], for_program)
    except (Cancelled, KeyboardInterrupt):
        if _is_main_process():
            print("Stopped. Run the same command to resume.", file=sys.stderr)
        return INTERRUPTED
    except RevoiceError as error:
        if for_program and _is_main_process():
            report_error(error)
            return FAILED
        print("" if _is_main_process() else f"process {int(os.environ['RANK']) + 1}: ", error, sep="", file=sys.stderr)
        return FAILED


def _start(words: list[str], for_program: bool) -> int:
    """Run the command in the arguments, in this process or as one of several."""
    command = _parse(words, COMMANDS, PROGRAM)
    if isinstance(command, Check):
        return _check(command.data)
    if "ACCELERATE_USE_CPU" in os.environ:
        from train.distributed import check_launcher

        check_launcher(os.environ)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return _run_together(command, for_program)
    return _run(command, for_program)


def _is_main_process() -> bool:
    """Whether this process prints the results, if a launcher started several."""
    return os.environ.get("RANK", "0") == "0"


def _parse(words: list[str], commands: dict[str, Callable[..., Any]], program: str) -> Any:
    """Parse and check the command line; print a usage error as one sentence, and exit."""
    return parse_arguments(
        lambda: tyro.extras.subcommand_cli_from_dict(commands, prog=program, args=words, registry=REGISTRY),
        program,
    )


def _use(words: list[str]) -> int:
    """Run one of the checkpoint tools."""
    tool: ckpt.Tool = _parse(words, ckpt.TOOLS, f"{PROGRAM} ckpt")
    with terminal("loading", logging.WARNING, whole_steps=False):
        for line in ckpt.use(tool):
            print(line)
    return 0


def _run(command: Command, for_program: bool) -> int:
    """Run one command with the experiment locked, and print what it has written."""
    from train.experiment import Experiment

    experiment = Experiment(command.name)
    if isinstance(command, Prepare | Run) and command.data is not None:
        _check_data(
            command.data
        )  # before torch is imported and a folder is created: an invalid path is an error at once
    elif not experiment.folder.is_dir():
        _raise_missing(experiment)
    shown = reporting(logging.INFO) if for_program else terminal("loading", logging.INFO)
    with shown as progress:
        _check_all(command, experiment)
        with experiment.locked():
            _run_stages(command, experiment, progress, for_program)
    return 0


def _check_all(command: Command, experiment: "Experiment") -> None:
    """Check everything that the command needs before it changes anything; all problems are reported as one error."""
    from train.preflight import VoiceKind, preflight

    kind = VoiceKind(command.family, command.sample_rate, command.pitch) if isinstance(command, _Kind) else None
    given = command.model_dump(include=set(RunOptions.model_fields))
    found = preflight(
        experiment, kind, getattr(command, "data", None), RunOptions.model_validate(given), _stages_of(command)
    )
    found.raise_problems()
    for fact in found.facts:
        logger.info("%s", fact)
    for warning in found.warnings:
        logger.warning("%s", warning)


def _run_stages(command: Command, experiment: "Experiment", progress: Progress, for_program: bool) -> None:
    """Run the stages of a command, and print the results of each and which files exist, even after Ctrl-C."""
    began = time.monotonic()
    try:
        for sentence in _stages(command, experiment, progress):
            print(f"{sentence} ({time.monotonic() - began:.1f} s)")
            began = time.monotonic()
    finally:
        _print_files(experiment, for_program)


def _run_together(command: Command, for_program: bool) -> int:
    """Run one command as one of several processes. The main process locks the experiment, prints and writes."""
    from lib.devices import choose_device
    from train.distributed import connect, deferring_signals, describe_process
    from train.experiment import Experiment

    experiment = Experiment(command.name)
    if not isinstance(command, Extract | Fit):
        raise ConfigError("Only extract and fit can run in several processes. Run the other stages without a launcher.")
    if not experiment.folder.is_dir():
        _raise_missing(experiment)
    if ":" in command.device:
        raise ConfigError(
            "--device {device} names one GPU, but each process uses its own. Omit it.", device=command.device
        )
    if os.environ.get("ACCELERATE_USE_CPU") == "True":
        command = command.model_copy(update={"device": "cpu"})
    processes = connect(cpu=choose_device(command.device).device.type == "cpu")
    is_main = processes.is_main_process
    shown = _worker(describe_process(processes))
    if is_main:
        shown = reporting(logging.INFO) if for_program else terminal("loading", logging.INFO)
    lock = experiment.locked() if is_main else contextlib.nullcontext()
    try:
        with shown as plain, deferring_signals(plain) as progress, lock:
            for sentence in _stages(command, experiment, progress):
                if is_main:
                    print(sentence)
            processes.wait_for_everyone()
    finally:
        if is_main:
            _print_files(experiment, for_program)
    return 0


@contextlib.contextmanager
def _worker(name: str) -> Iterator[Progress]:
    """Log only warnings, with the name of the process: for all but the main process."""
    logging.basicConfig(level=logging.WARNING, format=f"{name}: %(levelname)s: %(message)s")
    yield no_progress


def _check(data: Path) -> int:
    """Print a report on recordings and the epochs that suit them."""
    from lib.audio.decode import list_recordings
    from lib.config import FAMILIES, load_family
    from train.data_report import check_recordings, describe
    from train.estimate import suggested_epochs

    with terminal("checking", logging.WARNING, whole_steps=False) as progress:
        paths = list_recordings(data) if data.is_dir() or not data.exists() else [data]
        report = check_recordings(paths, progress)
    print("\n".join(describe(report)))
    seconds = 60 * report.speaking_minutes
    if seconds:
        configs = {family: load_family(family) for family in FAMILIES}
        epochs = [suggested_epochs(it, RunOptions(), seconds, noisy=report.is_noisy) for it in configs.values()]
        print("suggested epochs:", ", ".join(f"{family} {n}" for family, n in zip(configs, epochs, strict=True)))
    for sentence in report.failures:
        print(sentence, file=sys.stderr)
    return 0


def _print_files(experiment: "Experiment", for_program: bool) -> None:
    if not experiment.config_file.is_file():
        return
    if for_program:
        report_files(experiment.products())
    else:
        print("Files:")
        for path in experiment.products():
            print(f"  {path}")


def _stages(command: Command, experiment: "Experiment", progress: Progress) -> Iterator[str]:
    """Run the stages of a command in order; yield one sentence after each."""
    stages: dict[str, Callable[[Any, Experiment, Progress], str]] = {
        "prepare": _prepare, "extract": _extract, "index": _index, "fit": _fit,
    }  # fmt: skip
    for stage in _stages_of(command):
        try:
            with machine_errors():
                sentence = stages[stage](command, experiment, progress)
        except MachineError as error:
            raise type(error)("{reason} {saved}", reason=error.message, saved=_saved(stage, experiment)) from error
        yield sentence


def _stages_of(command: Command) -> list[str]:
    """The stages of a command in order; without recordings nothing is prepared."""
    from train.pipeline import STAGES

    wanted = STAGES if isinstance(command, Run) else (type(command).__name__.lower(),)
    return [stage for stage in wanted if stage != "prepare" or getattr(command, "data", None) is not None]


def _saved(stage: str, experiment: "Experiment") -> Message:
    """Return what a stage had saved when it failed to write a file."""
    if stage == "prepare":
        return Message("The clips of {name} are unchanged.", name=experiment.name)
    if stage == "extract":
        return Message("The features computed so far are kept; run the same command to resume.")
    if stage == "index":
        return Message("The features are kept; run the same command to build the index.")
    with contextlib.suppress(RevoiceError):  # the system failure is what matters to the user
        if newest := experiment.newest_pair():
            return Message("The last checkpoint is {path}; run the same command to resume from it.", path=newest[0])
    return Message("No checkpoint was saved.")


def _check_data(data: Path) -> None:
    from lib.audio.decode import list_recordings

    if data.is_dir() or not data.exists():
        list_recordings(data)


def _raise_missing(experiment: "Experiment") -> None:
    from lib.errors import MissingFileError

    raise MissingFileError(
        experiment.folder,
        "Start the training run first: python -m train run {name!r} --data FOLDER",
        name=experiment.name,
    )


def _prepare(command: Prepare | Run, experiment: "Experiment", progress: Progress) -> str:
    from lib.config import load_family
    from train.preprocess import prepare_stage

    assert command.data is not None
    config = load_family(command.family, command.sample_rate, has_f0=command.pitch)
    report = prepare_stage(experiment, command.data, config, command, progress)
    if report is None:
        return "prepare: unchanged, skipped"
    for _, reason in report.failures:
        print(reason, file=sys.stderr)
    sentence = f"prepare: {report.clips} clips, {report.seconds / 60:.1f} min, from {report.recordings} recordings, "
    lines = [f"{sentence}{report.skipped_silent} silent clips skipped", *map(str, report.table.speakers())]
    return "\n  ".join(lines)


def _extract(command: Extract | Run, experiment: "Experiment", progress: Progress) -> str:
    from train.extract import extract

    report = extract(experiment, command, progress)
    if report.skipped:
        return "extract: unchanged, skipped"
    sentence = f"extract: {report.clips} clips, pitch method {report.pitch_method or 'none'}"
    if report.f0_range is None:
        return sentence
    low, middle, high = report.f0_range
    return f"{sentence}, F0 {low:.0f} to {high:.0f} Hz, median {middle:.0f} Hz"


def _index(command: Index | Run, experiment: "Experiment", progress: Progress) -> str:
    from train.index import index_stage

    report = index_stage(experiment, command, progress)
    return "index: unchanged, skipped" if report.skipped else f"index: {report.vectors} vectors"


def _fit(command: Fit | Run, experiment: "Experiment", progress: Progress) -> str:
    from train.loop import fit

    report = fit(experiment, command, progress)
    if report.skipped:
        return f"fit: all {report.epochs} epochs are done, skipped (increase --epochs to continue)"
    mel = "" if report.mel_loss is None else f", mel loss {report.mel_loss:.2f}"
    more = "" if report.finished else "; run the same command to resume"
    speed = f"{report.steps_per_second:.2f} steps/s"
    verdict = "" if report.verdict is None else f"\n  {report.verdict}"
    return f"fit: {report.epochs} epochs, {report.steps} steps in total{mel}, {speed}{more}{verdict}"


if __name__ == "__main__":
    sys.exit(run_main(main))
