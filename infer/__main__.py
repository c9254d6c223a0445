"""Converts recordings (files or whole folders) to another voice: python -m infer input.wav --voice alice."""

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field
from tyro.conf import Positional

from infer.cli import PROGRAM, VoiceAndOutput, load_voice, parse_as, report_errors
from infer.options import ConvertOptions
from lib.messages import Message
from lib.models.memory import PRIMITIVE_CACHE
from lib.paths import GivenPath
from lib.run_main import run_main
from lib.terminal import FAILED, terminal

if TYPE_CHECKING:
    from infer.batch import Outcome

CONVERT = "convert"  # may come first, as it does after ./go-web.sh; a recording of that name is one
DOCTOR = "doctor"  # first argument that selects the check of the installation
OTHER_COMMANDS = ("cover", "say")  # first arguments that select the commands in infer/song/__main__.py


class _Files(VoiceAndOutput, frozen=True):
    """Input and output files."""

    inputs: Positional[tuple[GivenPath, ...]] = Field(
        default=(), description="recordings, or folders of recordings, which are searched recursively (at least one)"
    )
    speaker: str | None = Field(
        None, description="speaker name or number, for voices with several speakers (default: --speaker-id)"
    )
    f0_file: GivenPath | None = Field(
        None,
        description="file with an F0 curve to use instead of the input's: one pair of time (s) and F0 (Hz) per line, "
        "as written by --f0-out, or a table whose header gives the units (time_ms, midi)",
    )
    f0_out: GivenPath | None = Field(
        None, description="save the target F0 to this .csv or .txt file, or to this folder for several recordings"
    )
    report: bool = Field(False, description="compare each result with its input: print metrics and save spectrograms")
    target: GivenPath | None = Field(
        None, description="recording of the target voice, or a folder of recordings, for the timbre metric of --report"
    )


class Arguments(ConvertOptions, _Files, frozen=True):
    """Convert recordings (files or whole folders) to another voice.

    Other commands, each with its own --help: `cover` makes a cover of a song, `say` synthesises speech from text,
    `doctor` checks the installation.
    """


class Diagnosis(BaseModel, frozen=True):
    """Check versions, devices, drivers, memory, disk, weights and write access, and run a short test conversion."""

    report: GivenPath | None = Field(None, description="also write a bug report (ZIP) to this folder")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name must not end the program
    os.environ.setdefault(*PRIMITIVE_CACHE)
    words = list(sys.argv[1:] if args is None else args)
    if words and words[0] in OTHER_COMMANDS:
        from infer.song.__main__ import main as other_command

        return other_command(words)
    if words[:1] == [CONVERT] and not Path(CONVERT).exists():
        words = words[1:]
    if words[:1] == [DOCTOR] and "--voice" not in words:
        return report_errors(lambda: diagnose(parse_as(Diagnosis, words[1:], f"{PROGRAM} {DOCTOR}")))
    return report_errors(lambda: run(parse(words)))


def parse(args: Sequence[str]) -> Arguments:
    """Parse and check the arguments of a conversion; report a usage error in one sentence, and exit."""
    return parse_as(Arguments, args, PROGRAM)


def diagnose(diagnosis: Diagnosis) -> int:
    """Print the checks of the installation as a table, with remedies; return 1 if there is a problem, otherwise 0."""
    from infer.doctor import check_installation, write_report

    with terminal(Message("checking the installation"), whole_steps=False) as progress:
        findings = check_installation(progress)
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        print(f"{finding.state:<8}{finding.what:<{width}}  {finding.found}")
        if finding.remedy:
            print(f"{'':<{width + 8}}  → {finding.remedy}")
    if diagnosis.report is not None:
        print(f"wrote {write_report(findings, diagnosis.report)}")
    return FAILED if any(finding.state == "problem" for finding in findings) else 0


def run(arguments: Arguments) -> int:
    """Convert the recordings given in the arguments, and print the results."""
    from lib.voice.library import find_voice

    found = find_voice(arguments.voice)  # before torch is imported, so that an unknown name is reported at once

    from infer.batch import convert_files, plan_jobs, with_f0_files

    jobs, failures = plan_jobs(arguments.inputs, arguments.output, found.name, arguments.format)
    if not jobs:
        return _report(failures, "")
    jobs = with_f0_files(jobs, arguments.f0_file, arguments.f0_out)
    if arguments.speaker is not None:
        from lib.voice.model_file import find_speaker, read_voice_model

        number = find_speaker(read_voice_model(found.path), arguments.speaker)
        arguments = arguments.model_copy(update={"speaker_id": number})
    with terminal(Message("loading the voice"), whole_steps=False) as progress:
        converter = load_voice(arguments, found.path)
        outcomes = failures + convert_files(converter, jobs, arguments, progress)
    device = f"{converter.device.device} ({converter.device.reason})"
    status = _report(outcomes, f"index: {converter.used_index(arguments) or 'none'}, device: {device}")
    if arguments.report:
        _compare([outcome for outcome in outcomes if outcome.error is None], arguments)
    return status


def _compare(outcomes: "Sequence[Outcome]", arguments: Arguments) -> None:
    """Print the metrics of every result and write its plot."""
    from infer.report import compare_files
    from lib.devices import choose_device
    from lib.pitch import load_pitch_extractor

    device = choose_device(arguments.device).device
    pitch = load_pitch_extractor(arguments.pitch_method, device, arguments.crepe_hop_length)
    for outcome in outcomes:
        comparison, picture = compare_files(
            outcome.path,
            outcome.output,
            pitch,
            pitch_shift=arguments.pitch_shift,
            target=arguments.target,
            channel="mix" if arguments.channel == "stereo" else arguments.channel,
        )
        print(f"{outcome.path.name}: {comparison}; {picture}")


def _report(outcomes: "Sequence[Outcome]", summary: str) -> int:
    """Print one line per recording, then pitch method and `summary`; return the exit status."""
    done = [outcome for outcome in outcomes if outcome.error is None]
    for outcome in outcomes:
        if outcome.error is not None:
            print(outcome.error, file=sys.stderr)
            continue
        factor = outcome.elapsed_seconds / outcome.audio_seconds
        print(
            f"{outcome.output}  {outcome.audio_seconds:.2f} s at {outcome.sample_rate} Hz, converted in "
            f"{outcome.elapsed_seconds:.2f} s (real-time factor {factor:.2f})"
        )
    if done:
        print(f"pitch: {done[0].pitch_method or 'not used by this voice'}, {summary}")
    if len(outcomes) > 1:
        print(f"{len(done)} of {len(outcomes)} converted.")
    return 0 if len(done) == len(outcomes) else FAILED


if __name__ == "__main__":
    sys.exit(run_main(main))
