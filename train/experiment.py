"""One training run on disk: every path under `logs/<name>/`, its clips, and which stages are done.

The folder names are the ecosystem's (spec: README, "Folder layout"; training, "File list"), so that other programs can
continue where we stop and the other way round. `revoice.json` holds what only we know: what each stage was made from.
"""

import glob
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lib.config import FamilyConfig, load_family, read_config
from lib.errors import CheckpointError, ConfigError, MissingFileError
from lib.files import write_json, write_text
from lib.paths import LOGS, WEIGHTS, check_name, inside

RESERVED_NAMES = ("mute", "pretrain_lite")
SAMPLES_FOLDER = "samples"  # listening samples, written with the checkpoints
STAGES = ("prepare", "extract", "index", "fit")


def list_clips(folder: Path) -> list[Path]:
    """The WAV files of a folder by name, without what a killed run left half-written."""
    return sorted(path for path in folder.glob("*.wav") if not path.name.startswith("."))


@dataclass(frozen=True)
class Clip:
    """One training clip: where its audio and features lie."""

    name: str
    audio: Path  # float32 WAV at the voice's rate
    content: Path  # (N, C) float32, 50 frames/s
    pitch_bins: Path | None  # (F,) integer, 100 frames/s
    f0: Path | None  # (F,) Hz
    speaker_id: int = 0
    views: Path | None = None  # (K, N, C) float16, see train/feature_augment.py


def _kind(config: FamilyConfig) -> tuple[Any, ...]:
    """What clips, features and voices of one experiment have in common."""
    return config.family, config.audio, config.synthesizer.content_width, config.synthesizer.has_f0


def fingerprint(*parts: Any) -> str:
    """A short hash of JSON-able values: equal inputs, equal text."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Experiment:
    """The folder `logs/<name>/` and the voice `weights/<name>.pth` that comes out of it."""

    def __init__(self, name: str, logs: Path = LOGS, weights: Path = WEIGHTS) -> None:
        check_name(name, "experiment")
        if name.lower() in RESERVED_NAMES:
            raise ConfigError(f"The experiment name {name!r} is reserved. Choose another name.")
        self.name = name
        self.folder = inside(logs, name, "experiment")
        self.gt_wavs = self.folder / "0_gt_wavs"
        self.wavs_16k = self.folder / "1_16k_wavs"
        self.pitch_bins = self.folder / "2a_f0"
        self.f0 = self.folder / "2b-f0nsf"
        self.config_file = self.folder / "config.json"
        self.views = self.folder / "3_feature_views"
        self.file_list = self.folder / "filelist.txt"
        self.events = self.folder / "events.jsonl"
        self.stop_file = self.folder / "STOP"
        self.voice = weights / f"{name}.pth"
        self._state_file = self.folder / "revoice.json"

    def content_folder(self, width: int) -> Path:
        """The folder of content features of a width: 3_feature256 or 3_feature768."""
        return self.folder / f"3_feature{width}"

    # --- configuration -------------------------------------------------------------------------------------------

    def config(self) -> FamilyConfig:
        """The configuration this experiment was created with."""
        if not self.config_file.is_file():
            raise MissingFileError(
                self.config_file, f"Prepare the recordings first: python -m train prepare {self.name!r} --data FOLDER"
            )
        return read_config(self.config_file, self._foreign_family)

    def _foreign_family(self) -> FamilyConfig:
        """The family of an experiment that another program made, told by its folders."""
        return load_family("v2" if self.content_folder(768).is_dir() else "v1", has_f0=self.pitch_bins.is_dir())

    def create(self, config: FamilyConfig) -> None:
        """Make the folder with its configuration; ConfigError if it exists with another kind of voice.

        A training that has begun keeps its network, whatever the family has become since.
        """
        if self.config_file.is_file():
            old = self.config()
            if _kind(old) != _kind(config):
                raise ConfigError(
                    f"The experiment {self.name!r} exists with family {old.family}, {old.audio.sample_rate} Hz and "
                    f"F0 {'on' if old.synthesizer.has_f0 else 'off'}; choose the same or another name."
                )
            if old.synthesizer == config.synthesizer or any(self.folder.glob("G_*.pth")):
                return
        write_json(self.config_file, config.to_json())

    # --- stages --------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        if not self._state_file.is_file():
            return {}
        try:
            state: dict[str, Any] = json.loads(self._state_file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{self._state_file} is damaged ({error}). Choose another name, or delete {self.folder} and "
                f"{self.voice} to start anew."
            ) from error
        return state

    def stage(self, name: str) -> dict[str, Any]:
        """What is recorded of a stage: at least `made_from` (a fingerprint) once it is done, else {}."""
        found: dict[str, Any] = self._state().get(name, {})
        return found

    def record_stage(self, name: str, **facts: Any) -> None:
        """Record that a stage is done and forget the later ones that were made from it (never the training)."""
        state = self._state()
        state[name] = facts
        for later in STAGES[STAGES.index(name) + 1 : -1]:
            state.pop(later, None)
        write_json(self._state_file, state)

    def claim(self, folders: Sequence[Path], *, clear: bool = False) -> None:
        """Record that the folders are made by this program, before anything is written into them.

        `clear` removes what an earlier, different run of a stage left in them. ConfigError if a folder holds files and
        no record says that they are ours: they are another program's work, and stay.
        """
        state = self._state()
        ours = set(state.get("made", []))
        for folder in folders:
            if folder.name not in ours and folder.is_dir() and any(folder.iterdir()):
                raise ConfigError(
                    f"{folder} holds files that another program made. Go on with them as they are (python -m train fit "
                    f"{self.name!r}), or choose another name."
                )
        if not {folder.name for folder in folders} <= ours:
            write_json(self._state_file, state | {"made": sorted(ours | {folder.name for folder in folders})})
        for folder in folders if clear else ():
            if folder.is_dir():
                shutil.rmtree(folder)

    # --- clips ---------------------------------------------------------------------------------------------------

    def clips(self, *, speaker_id: int = 0) -> list[Clip]:
        """Every clip that has all its files, by name. ConfigError if there is none."""
        network = self.config().synthesizer
        content = self.content_folder(network.content_width)
        found = []
        for audio in list_clips(self.gt_wavs):
            bins, f0 = self.pitch_bins / f"{audio.name}.npy", self.f0 / f"{audio.name}.npy"
            features = content / f"{audio.stem}.npy"
            if features.is_file() and (not network.has_f0 or (bins.is_file() and f0.is_file())):
                pitched, views = network.has_f0, self.views / features.name
                clip = Clip(audio.stem, audio, features, bins if pitched else None, f0 if pitched else None, speaker_id)
                found.append(replace(clip, views=views) if views.is_file() else clip)
        if not found:
            raise ConfigError(
                f"The experiment {self.name!r} has no clips with features. Run: python -m train extract {self.name!r}"
            )
        return found

    def write_file_list(self, clips: Sequence[Clip]) -> None:
        """Write the classic `filelist.txt` for other programs; we read the folders themselves.

        A path that contains `|` cannot be expressed in that format and is left out.
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
        """Every generator checkpoint with its discriminator. CheckpointError if there are only halves of pairs."""
        halves = sorted(path for letter in "GD" for path in self.folder.glob(f"{letter}_*.pth"))
        pairs = [(path, path.with_name("D" + path.name[1:])) for path in halves if path.name.startswith("G")]
        whole = [(generator, discriminator) for generator, discriminator in pairs if discriminator.is_file()]
        if halves and not whole:
            raise CheckpointError(
                f"{halves[0]} lacks its other half (G_*.pth and D_*.pth of one number belong together). Put it back, "
                f"or move {halves[0].name} away to start anew."
            )
        return whole

    def newest_pair(self) -> tuple[Path, Path] | None:
        """The pair that is furthest, by what the files say; None where no training has been saved."""
        from lib.voice.training_state import peek_progress

        return max(self.checkpoint_pairs(), key=lambda pair: peek_progress(pair[0]), default=None)

    def products(self) -> list[Path]:
        """What the stages have made so far, the voice last; folders stand for the clips in them."""
        width = self.config().synthesizer.content_width
        found = [self.gt_wavs, self.wavs_16k, self.pitch_bins, self.f0, self.content_folder(width), self.views]
        found += [self.config_file]
        found += [self.file_list, self.events, *sorted(self.folder.glob("events.out.tfevents.*"))]
        found += [self.folder / "losses.png"]
        found += [
            self.folder / f"{letter}_{step}.pth" for step in self.stage("fit").get("checkpoints", []) for letter in "GD"
        ]
        found += sorted(self.folder.glob("*.index"))
        found += sorted(self.voice.parent.glob(f"{glob.escape(self.name)}_e*_s*.pth"))
        return [path for path in [*found, self.voice] if path.exists()]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the experiment for one job. ConfigError if another one works on it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise ConfigError(
                f"Another job is working on the experiment {self.name!r}. Wait for it or stop it."
            ) from error
        try:
            yield
        finally:
            lock.release()
            if {path.name for path in self.folder.iterdir()} <= {".lock", self._state_file.name}:
                shutil.rmtree(self.folder)  # nothing was made


def list_samples(folder: Path) -> list[Path]:
    """The samples of an experiment's folder, the newest last."""
    return sorted((folder / SAMPLES_FOLDER).glob("step_*.flac"))
