"""Which voice models exist, and which index belongs to which."""

import difflib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lib.errors import ConfigError, MissingFileError
from lib.paths import LOGS, PRETRAINED, VOICE_SUFFIXES, WEIGHTS

VOICE_ROOTS = (WEIGHTS, PRETRAINED / "lite" / "voices")  # what the user made first, then what is shipped
INDEX_ROOTS = (LOGS, PRETRAINED / "lite" / "voices")
TRASH = ".trash"  # below a folder of voices
_EPOCH_AND_STEP = re.compile(r"_e\d+_s\d+$", re.IGNORECASE)
_STANDARD = re.compile(r"added_IVF\d+_Flat(_nprobe_\d+)?_(?P<experiment>.+)_(?P<family>v1|v2|lite)$")


@dataclass(frozen=True)
class Voice:
    """A voice model on disk."""

    name: str
    path: Path


def list_voices(roots: Sequence[Path] = VOICE_ROOTS) -> list[Voice]:
    """All voices, by name; of two with one name that in the earlier root counts."""
    found: dict[str, Voice] = {}
    for root in roots:
        for path in sorted(root.glob("*")):
            if path.suffix.lower() in VOICE_SUFFIXES and path.is_file() and not path.name.startswith("."):
                found.setdefault(path.stem, Voice(path.stem, path))
    return sorted(found.values(), key=lambda voice: voice.name.casefold())


def find_voice(name: str, roots: Sequence[Path] = VOICE_ROOTS) -> Voice:
    """Find a voice by its name, with or without suffix, or by the path of its file.

    ConfigError lists the voices there are; MissingFileError if `name` is the path of a file that does not exist.
    """
    voices = list_voices(roots)
    for voice in voices:
        if name in (voice.name, voice.path.name):
            return voice
    path = Path(name)
    if path.is_file():
        return Voice(path.stem, path)
    if path.is_dir() or len(path.parts) > 1:
        raise MissingFileError(path, "Give the name of a voice, or the path of a voice model (.pth or .safetensors).")
    names = [voice.name for voice in voices]
    if not names:
        raise ConfigError(f"There is no voice {name!r}, nor any other: train one, or put a .pth file in {roots[0]}.")
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise ConfigError(f"There is no voice {name!r}{hint} These exist: {', '.join(names)}.")


def find_index(voice: Path, family: str | None = None, roots: Sequence[Path] = INDEX_ROOTS) -> Path | None:
    """Find the index that belongs to a voice model: beside it, or under the roots; None if there is none.

    Empty ("trained") indices do not count. Names in the standard form for this experiment come first, then those that
    contain the voice's name; among equals those in the experiment's folder, then the newest. With `family` given, an
    index named for another family is left out.
    """
    experiment = _EPOCH_AND_STEP.sub("", voice.stem)
    candidates = []
    for path in _index_files(voice.parent, roots):
        is_standard = _match(path.stem, experiment, voice.stem, family)
        if is_standard is not None:
            at_home = path.parent.name == experiment
            candidates.append((not is_standard, not at_home, -path.stat().st_mtime, str(path), path))
    return min(candidates)[-1] if candidates else None


def _match(stem: str, experiment: str, voice: str, family: str | None) -> bool | None:
    """Whether an index so named is the experiment's: True in the standard form, False by containing the voice's name.

    None: it is not. A standard name of another experiment or family never matches, whatever it contains.
    """
    if stem.startswith("trained_"):
        return None
    if standard := _STANDARD.match(stem):
        mine = standard["experiment"] == experiment and family in (None, standard["family"])
        return True if mine else None
    if stem.startswith(f"{experiment}_added_"):
        return True
    named = re.search(rf"(?<![^\W_]){re.escape(voice)}(?![^\W_])", stem)  # as whole words: "a" is not in "added"
    return False if named else None


def list_indexes(roots: Sequence[Path] = (*INDEX_ROOTS, WEIGHTS)) -> dict[str, Path]:
    """Every index that can be used, by "folder/name"; empty ("trained") ones are left out."""
    files = _index_files(roots[0], roots)
    found = {f"{path.parent.name}/{path.stem}": path for path in files if not path.name.startswith("trained_")}
    return dict(sorted(found.items()))


def _index_files(beside: Path, roots: Sequence[Path]) -> list[Path]:
    """Index files beside a voice, in the roots and in the roots' folders, which are experiments."""
    places = [beside.glob("*.index"), *(root.glob(f"{sub}*.index") for root in roots for sub in ("", "*/"))]
    found = {path.resolve(): path for place in places for path in place}
    return [path for path in found.values() if path.is_file()]


def delete_voice(name: str, root: Path = WEIGHTS) -> Path:
    """Put a voice of `root` aside, into root/.trash, where `restore_voice` finds it; returns where it lies.

    Nothing is ever deleted from there by this program. ConfigError for a voice that is not in `root`.
    """
    voice = next((voice for voice in list_voices([root]) if voice.name == name), None)
    if voice is None:
        raise ConfigError(f"The voice {name!r} is not in {root}. Only voices in that folder can be deleted.")
    trash = root / TRASH
    trash.mkdir(exist_ok=True)
    place = trash / f"{time.time_ns():020d}_{voice.path.name}"
    voice.path.rename(place)
    return place


def restore_voice(root: Path = WEIGHTS) -> str:
    """Bring back the voice of `root` that was deleted last; returns its name. ConfigError if there is none."""
    found = sorted((root / TRASH).glob("[0-9]*_*"), reverse=True)
    if not found:
        raise ConfigError("No voice was deleted, so there is none to bring back.")
    target = root / found[0].name.split("_", 1)[1]
    if target.exists():
        raise ConfigError(f"{target} exists again. Rename that voice first; the deleted one is {found[0]}.")
    found[0].rename(target)
    return target.stem


def list_checkpoints(logs: Path = LOGS) -> list[Path]:
    """Generator checkpoints of all experiments, the newest first."""
    found = [path for path in logs.glob("*/G_*.pth") if not path.parent.name.startswith(".")]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
