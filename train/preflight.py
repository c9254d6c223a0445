"""Checks before training: device, precision, encoder, base models, disk, memory and data; reports all problems at once.

`preflight` takes about a second, reads only the headers of recordings and changes nothing. The stages repeat the checks
they need.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from lib.audio.decode import stated_seconds
from lib.config import Family, FamilyConfig, load_family
from lib.devices import choose_device, choose_precision
from lib.errors import ConfigError, RevoiceError
from lib.files import write_errors
from lib.messages import Message
from lib.pitch import check_pitch_method
from train.estimate import clips_of, count_parameters, default_batch_size, estimate_training
from train.experiment import Experiment, check_speaker
from train.options import RunOptions
from train.pipeline import STAGES
from train.speakers import plan_recordings

if TYPE_CHECKING:
    import torch

TRAINING_BYTES = 16  # per parameter: weight, gradient and two moments, in float32
PROGRAM_BYTES = 5e8  # of Python and its libraries, on a CPU
MAX_PROBED = 300  # recordings whose headers are read; the length of more is extrapolated


class VoiceKind(NamedTuple):
    """The properties fixed when an experiment is created; `sample_rate` None means the family's default."""

    family: Family = "lite"
    sample_rate: str | None = None
    pitch: bool = True


@dataclass(frozen=True)
class Preflight:
    """The settings that training will run with, and all problems that prevent it."""

    facts: tuple[Message, ...]  # what was found, one line each
    warnings: tuple[Message, ...]  # training can run in spite of them
    problems: tuple[RevoiceError, ...]

    def raise_problems(self) -> None:
        """Raise the only problem, or one ConfigError that lists all of them; do nothing if there are none."""
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            listed = Message("- {problem}", problem=self.problems[0].message)
            for problem in self.problems[1:]:
                listed = Message("{before}\n- {problem}", before=listed, problem=problem.message)
            raise ConfigError(
                "Nothing was started because of {count} problems:\n{problems}",
                count=len(self.problems), problems=listed,
            )  # fmt: skip


def preflight(
    experiment: Experiment,
    kind: VoiceKind | None,
    data: Path | None,
    options: RunOptions,
    stages: Sequence[str] = tuple(STAGES),
) -> Preflight:
    """Check everything that the given stages of training need.

    If `data` is None, the existing clips are used; `kind` defaults to that of the experiment. Problems are collected,
    not raised.
    """
    checks = _Checks(experiment, kind, data, options, stages)
    for check in (
        checks.config, checks.folders, checks.device, checks.data, checks.encoder, checks.pitch, checks.earlier,
        checks.base, checks.memory, checks.disk,
    ):  # fmt: skip
        checks.run(check)
    return Preflight(tuple(checks.facts), tuple(checks.warnings), tuple(checks.problems))


@dataclass
class _Checks:
    """The checks in order; each uses what the earlier ones have found, and is skipped without it."""

    experiment: Experiment
    kind: VoiceKind | None
    recordings: Path | None
    options: RunOptions
    stages: Sequence[str]
    facts: list[Message] = field(default_factory=list)
    warnings: list[Message] = field(default_factory=list)
    problems: list[RevoiceError] = field(default_factory=list)
    family: FamilyConfig | None = None
    target: "torch.device | None" = None
    seconds: float = 0.0  # of recordings or clips
    resumes: bool = False

    def run(self, check: Callable[[], None]) -> None:
        """Run a check and collect its problem."""
        try:
            check()
        except RevoiceError as error:
            self.problems.append(error)

    @property
    def fits(self) -> bool:
        """Whether the voice is to be trained, not only prepared."""
        return "fit" in self.stages

    def config(self) -> None:
        """Read the family's configuration, and check that the experiment has the same one."""
        prepares = self.recordings is not None and "prepare" in self.stages
        if prepares:
            kind = self.kind or VoiceKind()
            self.family = load_family(kind.family, kind.sample_rate, has_f0=kind.pitch)
            self.experiment.check_kind(self.family)
        else:
            self.family = self.experiment.config()
        if self.fits:
            self.run(self._speaker)
            self.run(self.experiment.check_voice_is_ours)

    def _speaker(self) -> None:
        assert self.family is not None
        check_speaker(self.family, self.options.speaker_id)

    def folders(self) -> None:
        """Check that the folders of the experiment and of the voices can be written."""
        wanted = [self.experiment.folder, *([self.experiment.voice.parent] if self.fits else [])]
        for folder in dict.fromkeys(
            next(place for place in (path, *path.parents) if place.is_dir()) for path in wanted
        ):
            with write_errors(folder / "*"), tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"\0")

    def device(self) -> None:
        """Choose device and precision."""
        if not {"extract", "fit"} & set(self.stages):
            return
        device = choose_device(self.options.device)
        self.target = device.device
        self.facts.append(Message("device: {device} ({reason})", device=str(device.device), reason=device.reason))
        precision = choose_precision(self.options.precision, device.device)
        self.facts.append(Message("precision: {dtype}", dtype=str(precision.analysis).removeprefix("torch.")))

    def data(self) -> None:
        """Add up the length of the recordings or clips, according to their headers."""
        if self.recordings is None or "prepare" not in self.stages:
            self.seconds = float(self.experiment.stage("prepare").get("seconds", 0.0))
            return
        plan = plan_recordings(self.recordings, self.options.speakers, self.experiment.folder)
        self.warnings += [reason for _, reason in plan.left_out]
        if self.family is not None:
            check_speaker(self.family, max(plan.names, default=0))
        paths = [path for path, _ in plan.recordings]
        probed = paths[:: -(-len(paths) // MAX_PROBED)]
        seconds, failures = _probe(probed)
        if len(failures) == len(probed):
            raise failures[0]
        self.seconds = seconds * len(paths) / len(probed)
        self.facts.append(
            Message("data: {count} recordings, {minutes:.1f} min", count=len(paths), minutes=self.seconds / 60)
        )
        if failures:
            self.warnings.append(
                Message(
                    "{count} of {total} recordings cannot be used. The first: {reason}",
                    count=len(failures), total=len(probed), reason=failures[0].message,
                )
            )  # fmt: skip

    def encoder(self) -> None:
        """Check that the content encoder is installed and has the family's feature dimension."""
        if self.family is None or "extract" not in self.stages:
            return
        from lib.content import find_content_encoder

        path = find_content_encoder(self.family.family, self.options.content_encoder)
        self.facts.append(Message("content encoder: {path}", path=path))

    def pitch(self) -> None:
        """Check that the pitch method is installed."""
        if self.family is not None and self.family.synthesizer.has_f0 and "extract" in self.stages:
            check_pitch_method(self.options.pitch_method)

    def earlier(self) -> None:
        """Check that the checkpoints of an earlier run can be resumed."""
        if self.fits and any(self.experiment.folder.glob("[GD]_*.pth")):
            self.resumes = True  # also if no pair is intact, which is then the only problem
            self.resumes = self.experiment.newest_pair() is not None

    def base(self) -> None:
        """Find the base models, if training starts from the beginning."""
        if self.family is None or not self.fits or self.resumes:
            return
        from lib.content import CONTENTVEC
        from train.base_models import chosen_base, without_base

        default = "lite" if self.family.family == "lite" else CONTENTVEC
        encoder = self.options.content_encoder or self.experiment.stage("extract").get("content_encoder") or default
        found = chosen_base(self.family, self.options, encoder) if self.options.base else None
        if found is not None:
            self.facts.append(Message("base models: {folder}", folder=found.folder))
        else:
            self.warnings.append(without_base(self.family, wanted=self.options.base))

    def memory(self) -> None:
        """Check that weights and optimisers fit into the memory of the device."""
        if self.family is None or self.target is None or not self.fits:
            return
        voice, others = count_parameters(self.family)
        needed, free = float(TRAINING_BYTES * (voice + others)), self._free_memory(self.target)
        needed += PROGRAM_BYTES if self.target.type == "cpu" else 0
        if free is not None and free < needed:
            raise ConfigError(
                "Training a {family} voice needs at least {needed:.1f} GB of memory on {device}, but only {free:.1f} "
                "GB is free. Close other programs, train a lite voice, or use another device.",
                family=self.family.family, needed=needed / 1e9, device=str(self.target), free=free / 1e9,
            )  # fmt: skip
        clips = clips_of(self.seconds, self.options)
        size = self.options.batch_size or default_batch_size(self.family, self.target, clips)
        self.facts.append(Message("batch size: {count} clips per step", count=size))

    def _free_memory(self, device: "torch.device") -> float | None:
        """Return the free bytes on the device; None if unknown."""
        if device.type == "cuda":
            import torch

            return float(torch.cuda.mem_get_info(device)[0])
        if device.type != "cpu":
            return None
        return float(psutil.virtual_memory().available + psutil.swap_memory().free)

    def disk(self) -> None:
        """Check that clips, features, checkpoints and voices fit onto the disk."""
        if self.family is None or not self.fits or self.resumes:
            return
        options = self.options.model_copy(update={"device": str(self.target or "cpu")})
        found = estimate_training(self.family, options, self.seconds, self.experiment.folder.parent)
        self.facts.append(
            Message("disk: about {needed:.1f} of {free:.1f} GB", needed=found.disk / 1e9, free=found.free / 1e9)
        )
        if found.disk > found.free:
            raise ConfigError(
                "Training needs about {needed:.1f} GB of disk space in {folder}, but only {free:.1f} GB is free. Free "
                "some space, or keep fewer checkpoints (--keep-checkpoints 1).",
                needed=found.disk / 1e9, folder=self.experiment.folder.parent, free=found.free / 1e9,
            )  # fmt: skip


def _probe(paths: Sequence[Path]) -> tuple[float, list[RevoiceError]]:
    """Return the seconds of recordings according to their headers, and why some cannot be used."""
    seconds, failures = 0.0, []
    for path in paths:
        try:
            seconds += stated_seconds(path)
        except RevoiceError as error:
            failures.append(error)
    return seconds, failures
