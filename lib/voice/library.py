"""Finds voice models on disk, and the index that belongs to each."""

import difflib
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.errors import ConfigError, MissingFileError, RevoiceError
from lib.installations import index_folders, voice_folders
from lib.json_reader import read_json
from lib.messages import Message
from lib.paths import LOGS, PRETRAINED, VOICE_SUFFIXES, WEIGHTS, given_path

VOICE_ROOTS = (WEIGHTS, PRETRAINED / "lite" / "voices")  # the user's, then the bundled ones
INDEX_ROOTS = (LOGS, PRETRAINED / "lite" / "voices")
TRASH = ".trash"  # below a folder of voices
INDEX_FILES = "*.[iI][nN][dD][eE][xX]"
RECORDED, STANDARD, NAMED, ONLY = range(4)  # ranks of indexes
RECORD = "revoice.json"  # in the folder of an experiment; names the index of its last training run
SPEAKER_INDEXES = "speakers"  # folder of an experiment, and entry of its record: an index for each speaker
MAX_LISTED = 5  # paths in a message
MAX_ECHOED = 200  # characters of an unknown name that an error repeats
_EPOCH_AND_STEP = re.compile(r"(_e\d+(_s\d+)?|_\d+e(_\d+s)?)(_best_epoch)?$", re.IGNORECASE)
_COPY = re.compile(  # what people and programs append besides: of copies, of the best epoch, of kinds
    r"([_ -]*\(\d+\)|[_ -]+(e(pochs?)?[_ -]?\d+|\d+e(pochs?)?|s(teps?)?[_ -]?\d+|\d+s(teps?)?|best([_ -]?epoch)?|v[12]"
    r"|(24|32|40|48)k))+$",
    re.IGNORECASE,
)
_DELETED = re.compile(r"\d{20}_")
_NO_VOICE = re.compile(r"[GD]_\w+$|(f0)?[GD](24|32|40|48)k\w*$")  # checkpoints and base models
_STANDARD = re.compile(r"added_IVF\d+_Flat(_nprobe_\d+)?_(?P<experiment>.+)_(?P<family>v1|v2|lite)$")


def voice_roots() -> tuple[Path, ...]:
    """Return the folders that are searched for voices: the user's, those of other programs, the bundled one."""
    return (VOICE_ROOTS[0], *voice_folders(), *VOICE_ROOTS[1:])


def index_roots(logs: Path = LOGS) -> tuple[Path, ...]:
    """Return the folders that are searched for indexes, those of the experiments in `logs` first."""
    return (logs, *index_folders(), *INDEX_ROOTS[1:])


@dataclass(frozen=True)
class Voice:
    """A voice model on disk."""

    name: str
    path: Path


def list_voices(roots: Sequence[Path] | None = None) -> list[Voice]:
    """List all voices, sorted by name; if names clash, the earlier root takes precedence.

    `roots` defaults to `voice_roots`. Checkpoints and base models, which other programs keep next to voices, are
    omitted from all roots but the first.
    """
    found: dict[str, Voice] = {}
    for number, root in enumerate(voice_roots() if roots is None else roots):
        for path in sorted(root.glob("*")):
            if path.suffix.lower() not in VOICE_SUFFIXES or (number and _NO_VOICE.match(path.stem)):
                continue
            if path.is_file() and not path.name.startswith("."):
                found.setdefault(path.stem, Voice(path.stem, path))
    return sorted(found.values(), key=lambda voice: voice.name.casefold())


def find_voice(name: str, roots: Sequence[Path] | None = None) -> Voice:
    """Find a voice by its name, with or without suffix, or by the path of its file.

    Raises ConfigError, listing the available voices, if there is none of that name, and MissingFileError if `name` is
    the path of a file that does not exist.
    """
    voices = list_voices(roots)
    for voice in voices:
        if name in (voice.name, voice.path.name):
            return voice
    path = given_path(name)
    with suppress(OSError):  # too long for a path
        if path.is_file():
            return Voice(path.stem, path)
        if path.is_dir() or len(path.parts) > 1:
            raise MissingFileError(
                path, "Specify the name of a voice, or the path of a voice model (.pth or .safetensors)."
            )
    name = name[:MAX_ECHOED]
    names = [voice.name for voice in voices]
    if not names:
        raise ConfigError(
            "There is no voice {name!r}; no voice is installed. Train one, or put a .pth file into {folder}.",
            name=name,
            folder=(roots or VOICE_ROOTS)[0],
        )
    listed = ", ".join(names)
    if close := difflib.get_close_matches(name, names, n=1):
        raise ConfigError(
            "There is no voice {name!r}; did you mean {close!r}? Available: {names}.",
            name=name,
            close=close[0],
            names=listed,
        )
    raise ConfigError("There is no voice {name!r}. Available: {names}.", name=name, names=listed)


def find_index(voice: Path, family: str | None = None, roots: Sequence[Path] | None = None) -> Path | None:
    """Find the index that belongs to a voice model, in its folder or below the roots; None if there is none.

    In order of preference: the index recorded in the experiment; a name in RVC's form with the name of the experiment;
    a name that contains the name of the experiment or voice; the only index in the experiment's folder. Among equals,
    indexes in that folder come first, then newer ones. Empty ("trained") indexes are skipped; if `family` is given, so
    are those named for another family.
    """
    files = _usable(_index_files(voice.parent, index_roots() if roots is None else roots), family)
    for experiment in _experiments_of(voice.stem):
        candidates = []
        for path in files:
            in_folder = path.parent.name.casefold() == experiment.casefold()
            rank = rank_index(path.stem, experiment, voice.stem)
            if in_folder and _recorded(path.parent) == path.name:
                rank = RECORDED
            if rank is None and in_folder and sum(path.parent == file.parent for file in files) == 1:
                rank = ONLY
            if rank is not None:
                other_case = path.parent.name != experiment
                candidates.append((rank, not in_folder, other_case, -path.stat().st_mtime, str(path), path))
        if candidates:
            return min(candidates)[-1]
    return None


def unmatched_indexes(voice: Path, roots: Sequence[Path] | None = None) -> list[Path]:
    """List the indexes in the folders of a voice's experiment, for a voice for which `find_index` returns None."""
    roots = index_roots() if roots is None else roots
    names = {name.casefold() for name in _experiments_of(voice.stem)}
    files = _usable(_index_files(voice.parent, roots), None)
    return sorted(path for path in files if path.parent.name.casefold() in names)


def explain_no_index(voice: Path, roots: Sequence[Path] | None = None) -> Message:
    """Explain why `find_index` returned None: list the indexes in the voice's folder, and how to choose one."""
    files = unmatched_indexes(voice, roots)
    if not files:
        return Message("no index was found")
    names = ", ".join(map(str, files[:MAX_LISTED]))
    return Message("no index has the name of the voice; choose one by its path (--index): {names}", names=names)


def experiment_of(voice: str) -> str:
    """Return the name of a voice, the stem of its file, without the epoch and step that RVC and Applio append."""
    return _EPOCH_AND_STEP.sub("", voice) or voice


def _experiments_of(voice: str) -> list[str]:
    """Return the possible names of a voice's experiment, most likely first."""
    return list(dict.fromkeys((experiment_of(voice), voice, _COPY.sub("", voice) or voice)))


def is_experiment(folder: Path) -> bool:
    """Whether a folder below logs/ is a training run of this program or RVC, not just a folder with an index."""
    return any((folder / name).exists() for name in (RECORD, "config.json", "0_gt_wavs", "filelist.txt"))


def _recorded(folder: Path) -> str | None:
    """Return the index recorded in an experiment; None if there is no record or it is damaged."""
    name = _index_record(folder).get("file")
    return name if isinstance(name, str) else None


def _index_record(folder: Path) -> dict[str, Any]:
    """Return the entry on indexes in an experiment's record; empty if there is no record or it is damaged."""
    try:
        entry = read_json(folder / RECORD)["index"]
    except (RevoiceError, KeyError, TypeError):
        return {}
    return entry if isinstance(entry, dict) else {}


def speaker_indexes(voice: Path, roots: Sequence[Path] = INDEX_ROOTS) -> dict[int, Path]:
    """Return the indexes of individual speakers of a voice, keyed by speaker number; empty for a single speaker."""
    for folder in (root / experiment_of(voice.stem) for root in roots):
        named = _index_record(folder).get(SPEAKER_INDEXES)
        numbers = [key for key in named if key.isdecimal()] if isinstance(named, dict) else []
        found = {int(number): folder / SPEAKER_INDEXES / f"{number}.index" for number in numbers}
        if found:
            return {number: path for number, path in found.items() if path.is_file()}
    return {}


def standard_experiment(index: Path) -> str | None:
    """Return the experiment named in an index file name of RVC's form, full or empty; None for other names."""
    match = _STANDARD.match(re.sub("^trained_", "added_", index.stem))
    return match["experiment"] if match else None


def _usable(paths: Sequence[Path], family: str | None) -> list[Path]:
    """Omit empty ("trained") indexes and those named for another family."""
    standard = {path: _STANDARD.match(path.stem) for path in paths if not path.stem.startswith("trained_")}
    return [path for path, match in standard.items() if not match or family in (None, match["family"])]


def rank_index(stem: str, experiment: str, voice: str) -> int | None:
    """Rank how well the name of an index matches a voice, ignoring case; None if it is unrelated."""
    experiment, voice = experiment.casefold(), voice.casefold()
    if match := _STANDARD.match(stem):
        if match["experiment"].casefold() == experiment:
            return STANDARD
        return NAMED if f"{match['experiment']}_{match['family']}".casefold() == voice else None
    stem = stem.casefold()
    if stem.startswith(f"{experiment}_added_"):
        return STANDARD
    names = (re.escape(name) for name in (voice, experiment))
    pattern = rf"(?<![^\W_])({'|'.join(names)})(?![^\W_])"  # as whole words: "a" is not in "added"
    return NAMED if re.search(pattern, stem) else None


def list_indexes(roots: Sequence[Path] | None = None) -> dict[str, Path]:
    """List all usable indexes, keyed by "folder/name"; empty ("trained") ones are skipped."""
    roots = (*index_roots(), WEIGHTS) if roots is None else roots
    files = _index_files(roots[0], roots)
    found = {f"{path.parent.name}/{path.stem}": path for path in files if not path.name.startswith("trained_")}
    return dict(sorted(found.items()))


def _index_files(beside: Path, roots: Sequence[Path]) -> list[Path]:
    """List the index files in the folder of a voice, in the roots and in the experiments' folders below the roots."""
    places = [beside.glob(INDEX_FILES), *(root.glob(sub + INDEX_FILES) for root in roots for sub in ("", "*/"))]
    found = {path.resolve(): path for place in places for path in place}
    return [path for path in found.values() if path.is_file()]


def delete_voice(name: str, root: Path = WEIGHTS) -> Path:
    """Move a voice in `root` to root/.trash, from where `restore_voice` restores it; return its new path.

    This program never empties the trash. Raises ConfigError if the voice is not in `root`.
    """
    voice = next((voice for voice in list_voices([root]) if voice.name == name), None)
    if voice is None:
        raise ConfigError(
            "The voice {name!r} is not in {folder}. Only voices in that folder can be deleted.", name=name, folder=root
        )
    trash = root / TRASH
    trash.mkdir(exist_ok=True)
    numbers = [int(path.name.split("_")[0]) for path in _deleted(root)]
    number = max([time.time_ns(), *(known + 1 for known in numbers[:1])])  # the clock may have been set back
    place = trash / f"{number:020d}_{voice.path.name}"
    voice.path.rename(place)
    return place


def restore_voice(root: Path = WEIGHTS) -> str:
    """Restore the most recently deleted voice of `root`; return its name. Raises ConfigError if there is none."""
    found = _deleted(root)
    if not found:
        raise ConfigError("No voice was deleted, so there is none to restore.")
    target = root / found[0].name.split("_", 1)[1]
    if target.exists():
        raise ConfigError(
            "{path} exists again. Rename that voice first; the deleted one is {deleted}.", path=target, deleted=found[0]
        )
    found[0].rename(target)
    return target.stem


def _deleted(root: Path) -> list[Path]:
    """List the deleted voices of `root`, most recent first."""
    return sorted((path for path in (root / TRASH).glob("[0-9]*_*") if _DELETED.match(path.name)), reverse=True)


def list_checkpoints(logs: Path = LOGS) -> list[Path]:
    """List the generator checkpoints of all experiments, newest first."""
    found = [path for path in logs.glob("*/G_*.pth") if not path.parent.name.startswith(".")]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
