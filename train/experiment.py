"""An experiment on disk: all paths below `logs/<name>/`, its clips and checkpoints, and the record of its stages.

The folder names are RVC's, so that other programs can resume experiments created here, and vice versa. `revoice.json`,
which they ignore, records the fingerprint of each stage's inputs.
"""

import glob
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib.config import FamilyConfig, load_family, read_config
from lib.errors import CheckpointError, ConfigError, MissingFileError
from lib.files import remove_leftovers, write_errors, write_json, write_text
from lib.locks import folder_lock
from lib.messages import Message
from lib.paths import LOGS, WEIGHTS, check_name, inside
from train.checkpoint_index import INDEX_NAME, CheckpointIndex, find_pairs, read_index
from train.record import read_record
from train.swap import finish_swap

logger = logging.getLogger(__name__)

RESERVED_NAMES = ("mute", "pretrain_lite")
PLOT_NAME = "losses.png"
SAMPLES_FOLDER = "samples"  # audio samples, written with the checkpoints


def list_clips(folder: Path) -> list[Path]:
    """List the WAV files in a folder by name, without temporary files of a killed process."""
    return sorted(path for path in folder.glob("*.wav") if not path.name.startswith("."))


@dataclass(frozen=True)
class Clip:
    """The files of one training clip."""

    name: str
    audio: Path  # float32 WAV at the voice's rate
    content: Path  # (N, C) float32, 50 frames/s
    pitch_bins: Path | None  # (F,) integer, 100 frames/s
    f0: Path | None  # (F,) Hz
    speaker_id: int = 0
    augmented: Path | None = None  # (K, N, C) float16 augmented features, see train/feature_augment.py


def _kind(config: FamilyConfig) -> tuple[Any, ...]:
    """The properties shared by all clips, features and voices of an experiment."""
    return config.family, config.audio, config.synthesizer.content_width, config.synthesizer.has_f0


def check_speaker(config: FamilyConfig, speaker_id: int) -> None:
    """Raise ConfigError if the speaker embedding of the family has no row `speaker_id`."""
    count = config.synthesizer.n_speakers
    if speaker_id >= count:
        raise ConfigError(
            "The speaker id {speaker} does not exist in the {family} family; it has {count} speakers, 0 to {last}.",
            speaker=speaker_id, family=config.family, count=count, last=count - 1,
        )  # fmt: skip


class Experiment:
    """The folder `logs/<name>/` and the voice `weights/<name>.pth` that is trained in it."""

    def __init__(self, name: str, logs: Path = LOGS, weights: Path = WEIGHTS) -> None:
        check_name(name, "experiment", is_argument=True)
        if name.lower() in RESERVED_NAMES:
            raise ConfigError(
                "A training run cannot be named {name!r}, which is reserved. Choose another name.", name=name
            )
        self.name = name
        self.folder = inside(logs, name, "experiment")
        self.gt_wavs = self.folder / "0_gt_wavs"
        self.wavs_16k = self.folder / "1_16k_wavs"
        self.pitch_bins = self.folder / "2a_f0"
        self.f0 = self.folder / "2b-f0nsf"
        self.config_file = self.folder / "config.json"
        self.augmented = self.folder / "3_feature_augmented"
        self.file_list = self.folder / "filelist.txt"
        self.events = self.folder / "events.jsonl"
        self.stop_file = self.folder / "STOP"
        self.voice = weights / f"{name}.pth"
        self._state_file = self.folder / "revoice.json"

    def content_folder(self, width: int) -> Path:
        """Return the folder of content features of a dimension: 3_feature256, 3_feature768, or 3_feature129 (lite)."""
        return self.folder / f"3_feature{width}"

    # --- configuration -------------------------------------------------------------------------------------------

    def config(self) -> FamilyConfig:
        """Read the configuration with which this experiment was created.

        Raises MissingFileError if it has not been created.
        """
        if not self.config_file.is_file():
            raise MissingFileError(
                self.config_file,
                "Prepare the recordings first: python -m train prepare {name!r} --data FOLDER",
                name=self.name,
            )
        return read_config(self.config_file, self._foreign_family)

    def _foreign_family(self) -> FamilyConfig:
        """The family of another program's experiment, inferred from its folders."""
        return load_family("v2" if self.content_folder(768).is_dir() else "v1", has_f0=self.pitch_bins.is_dir())

    def _own_config(self) -> FamilyConfig | None:
        """Return the configuration if this program has written it."""
        try:
            return read_config(self.config_file)
        except (MissingFileError, ConfigError):
            return None

    def create(self, config: FamilyConfig) -> None:
        """Write the configuration. Raises ConfigError if the experiment exists with another kind of voice.

        Once there is a checkpoint, the network sizes are kept, even if those of the family have changed since.
        """
        if self.config_file.is_file():
            old = self.check_kind(config)
            if old.synthesizer == config.synthesizer or any(self.folder.glob("G_*.pth")):
                return
        write_json(self.config_file, config.to_json())

    def check_kind(self, config: FamilyConfig) -> FamilyConfig:
        """Return the configuration of the experiment, or `config` if it is new.

        Raises ConfigError if the experiment is of another kind.
        """
        if not self.config_file.is_file():
            return config
        old = self.config()
        if _kind(old) != _kind(config):
            raise ConfigError(
                "The training run {name!r} exists with family {family}, {rate} Hz and F0 {f0}; use the same "
                "settings, or choose another name.",
                name=self.name, family=old.family, rate=old.audio.sample_rate,
                f0=Message("on") if old.synthesizer.has_f0 else Message("off"),
            )  # fmt: skip
        return old

    def check_voice_is_ours(self) -> None:
        """Raise ConfigError if a voice of this name exists that was not trained in this experiment."""
        if self.voice.exists() and not self.stage("fit").get("voice"):
            raise ConfigError(
                "{path} exists and does not belong to the training run {name!r}. Rename it, or choose another "
                "name for the training run.",
                path=self.voice, name=self.name,
            )  # fmt: skip

    # --- stages --------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        """The record of all stages; rebuilt from the other files if it is missing or damaged."""
        if not self._state_file.is_file():
            return self._rebuilt_state()
        try:
            return read_record(self._state_file)
        except ConfigError as error:
            logger.warning("%s It is rebuilt from the other files of the experiment.", error)
            return self._rebuilt_state()

    def _rebuilt_state(self) -> dict[str, Any]:
        """Rebuild the record from the files: that of the last save, without fingerprints, so that the stages run again.

        Folders count as ours if the configuration is, because it is written only after they were found empty or ours.
        """
        index = read_index(self.folder)
        state = dict(index.record)
        for name in state.keys() - {"fit", "made"}:
            state[name] = {key: value for key, value in state[name].items() if key != "made_from"}
        if index.pairs:
            state["fit"] = state.get("fit", {}) | {"voice": str(self.voice), "checkpoints": _numbers(index)}
        if (config := self._own_config()) is not None:
            content = self.content_folder(config.synthesizer.content_width)
            made = (self.gt_wavs, self.wavs_16k, content, self.augmented, self.pitch_bins, self.f0)
            state["made"] = sorted({*index.record.get("made", []), *(path.name for path in made if path.is_dir())})
        return state

    def stage(self, name: str) -> dict[str, Any]:
        """Return the record of a stage: at least `made_from` (a fingerprint) once it is done, otherwise {}."""
        record: dict[str, Any] = self._state().get(name, {})
        return record

    def record(self) -> dict[str, Any]:
        """Return the records of all stages."""
        return self._state()

    def update_record(self, entries: Mapping[str, Any], discard: Sequence[str] = ()) -> None:
        """Replace some entries of the record and discard others; `train.pipeline` decides which."""
        state = {name: entry for name, entry in self._state().items() if name not in discard}
        write_json(self._state_file, state | dict(entries))

    def mark_owned(self, folders: Sequence[Path], *, clear: bool = False) -> None:
        """Record that this program writes the folders, before it writes into them.

        If `clear` is set, files left by an earlier run of the stage are deleted. Raises ConfigError if a folder
        contains files and is not recorded: another program has written them, and they are kept.
        """
        state = self._state()
        ours = set(state.get("made", []))
        for folder in folders:
            if folder.name not in ours and folder.is_dir() and any(folder.iterdir()):
                raise ConfigError(
                    "{folder} contains files from another program. Train on them as they are (python -m train fit "
                    "{name!r}), or choose another name.",
                    folder=folder, name=self.name,
                )  # fmt: skip
        if not {folder.name for folder in folders} <= ours:
            write_json(self._state_file, state | {"made": sorted(ours | {folder.name for folder in folders})})
        for folder in folders if clear else ():
            if folder.is_dir():
                shutil.rmtree(folder)

    def is_owned(self, folder: Path) -> bool:
        """Whether `mark_owned` has recorded the folder."""
        return folder.name in self._state().get("made", [])

    # --- clips ---------------------------------------------------------------------------------------------------

    def clips(self, *, speaker_id: int = 0) -> list[Clip]:
        """Return all clips that have all their files, sorted by name. Raises ConfigError if there are none."""
        network = self.config().synthesizer
        content = self.content_folder(network.content_width)
        found = []
        for audio in list_clips(self.gt_wavs):
            bins, f0 = self.pitch_bins / f"{audio.name}.npy", self.f0 / f"{audio.name}.npy"
            features = content / f"{audio.stem}.npy"
            if features.is_file() and (not network.has_f0 or (bins.is_file() and f0.is_file())):
                pitched, augmented = network.has_f0, self.augmented / features.name
                clip = Clip(audio.stem, audio, features, bins if pitched else None, f0 if pitched else None, speaker_id)
                found.append(replace(clip, augmented=augmented) if augmented.is_file() else clip)
        if not found:
            raise ConfigError(
                "The training run {name!r} has no clips with features. Run: python -m train extract {name!r}",
                name=self.name,
            )
        return found

    def write_file_list(self, clips: Sequence[Clip]) -> None:
        """Write RVC's `filelist.txt` for other programs; this program reads the folders themselves.

        The format does not support paths that contain `|`; such clips are skipped.
        """
        lines = []
        for clip in clips:
            parts = [clip.audio, clip.content, clip.pitch_bins, clip.f0, clip.speaker_id]
            fields = [str(part) for part in parts if part is not None]
            if not any("|" in text for text in fields):
                lines.append("|".join(fields))
        write_text(self.file_list, "\n".join(lines))

    # --- checkpoints and indices -----------------------------------------------------------------------------------

    def checkpoint_pairs(self) -> list[tuple[Path, Path]]:
        """Return the pairs of checkpoints (G, D) that seem intact, the one with the most progress first.

        Raises CheckpointError if there are checkpoints but no intact pair.
        """
        pairs, problems = find_pairs(read_index(self.folder))
        if not pairs and (lost := [problem for problem in problems if self.was_saved(problem)]):
            raise lost[0]
        return [pair.files for pair in pairs]

    def was_saved(self, problem: CheckpointError) -> bool:
        """Whether the lone or damaged checkpoint behind `problem` may be the remainder of a completed save.

        If no save has been completed and this program wrote the file, it is not: the file was left by a run of an
        earlier version, killed while saving.
        """
        from lib.voice.safe_load import safe_load

        if self.stage("fit"):
            return True
        try:
            return not isinstance(safe_load(Path(str(problem.values["path"])), lazily=True).get("revoice"), dict)
        except (CheckpointError, AttributeError):
            return True

    def newest_pair(self) -> tuple[Path, Path] | None:
        """Return the pair with the most progress; None if nothing was saved.

        Raises CheckpointError if no pair is intact.
        """
        return next(iter(self.checkpoint_pairs()), None)

    def recover(self) -> None:
        """Complete or undo what a killed process left unfinished, and remove its temporary files.

        The process that has locked the experiment calls this before it writes.
        """
        if not self.folder.is_dir():
            return
        read_index(self.folder).recover()
        if finish_swap(self.folder):
            self.update_record({}, discard=("prepare", "extract", "index"))
        for folder in (self.folder, *(path for path in self.folder.iterdir() if path.is_dir())):
            remove_leftovers(folder, all_unused=True)

    def products(self) -> list[Path]:
        """Return the files and folders that the stages have written so far, the voice last."""
        width = self.config().synthesizer.content_width
        found = [self.gt_wavs, self.wavs_16k, self.pitch_bins, self.f0, self.content_folder(width), self.augmented]
        found += [self.config_file]
        found += [self.file_list, self.events, *sorted(self.folder.glob("events.out.tfevents.*"))]
        found += [self.folder / PLOT_NAME]
        found += [
            self.folder / f"{letter}_{step}.pth" for step in self.stage("fit").get("checkpoints", []) for letter in "GD"
        ]
        found += [self.folder / INDEX_NAME]
        found += sorted(self.folder.glob("*.index"))
        found += sorted(self.voice.parent.glob(f"{glob.escape(self.name)}_e*_s*.pth"))
        return [path for path in [*found, self.voice] if path.exists()]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the experiment for one job. Raises ConfigError if another job holds the lock."""
        with ExitStack() as after, folder_lock(self.folder, ".lock", self._in_use):
            after.callback(self._remove_if_unused)
            with write_errors(self.folder):
                self.recover()
            yield

    def _remove_if_unused(self) -> None:
        """Remove the folder if no stage has written anything."""
        if {path.name for path in self.folder.iterdir()} <= {".lock", self._state_file.name}:
            shutil.rmtree(self.folder)

    def _in_use(self) -> ConfigError:
        return ConfigError(
            "Another job is working on the training run {name!r}. Wait for it or stop it.", name=self.name
        )


def _numbers(index: CheckpointIndex) -> list[int]:
    """The numbers of the listed pairs, by progress."""
    return [int(pair.number) for pair in sorted(index.pairs.values(), key=lambda pair: pair.step)]


def list_samples(folder: Path) -> list[Path]:
    """List the samples in an experiment's folder, newest last."""
    return sorted((folder / SAMPLES_FOLDER).glob("step_*.flac"))
