"""Import of loose files: voice models, indexes and archives given together, recognised by their content and
paired by name or feature dimension.

`inspect_files` determines what an import would add, `install` adds it. Nothing is replaced: if the name of a voice is
taken, the voice is added under a new name, and a voice that is already installed is not added twice.
"""

import filecmp
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lib.config import Family
from lib.errors import CheckpointError, ConfigError, RevoiceError
from lib.files import copy_file, write_errors
from lib.index import FeatureIndex, index_names
from lib.messages import Message
from lib.paths import LOGS, VOICE_SUFFIXES, WEIGHTS, check_name, clean_name, inside
from lib.voice.archive import INDEX_SUFFIX, unpack_parts
from lib.voice.library import Voice, experiment_of, find_index, index_roots, list_voices, rank_index
from lib.voice.model_file import read_voice_model
from lib.voice.training_state import is_training_state

ARCHIVE_SUFFIX = ".zip"
INTAKE_SUFFIXES = (*VOICE_SUFFIXES, INDEX_SUFFIX, ARCHIVE_SUFFIX)
MAX_FILES = 50  # given at once
MAX_TRIES = 1000  # names tried for a voice whose name is taken


@dataclass(frozen=True)
class Part:
    """A voice model or index among the given files."""

    path: Path  # to read it from; that of a part of an archive is temporary
    label: str  # its file name, as the user knows it
    source: Path  # the given file: itself, or its archive

    @property
    def stem(self) -> str:
        """The file name without its suffix."""
        return Path(self.label).stem.strip(" .")


@dataclass(frozen=True)
class FoundModel:
    """A voice model and the properties inferred from its tensors."""

    part: Part
    family: Family
    sample_rate: int  # Hz
    has_f0: bool
    width: int  # content features per frame


@dataclass(frozen=True)
class FoundIndex:
    """An index; `voice` is the installed voice to which it belongs, or None if unknown."""

    part: Part
    width: int  # content features per vector
    vectors: int
    voice: Voice | None = None


@dataclass(frozen=True)
class FoundVoice:
    """A voice to add, under an unused name. `installed` is the name under which the same file is already installed."""

    name: str
    model: FoundModel
    index: FoundIndex | None = None
    installed: str | None = None


@dataclass(frozen=True)
class Inspected:
    """The contents of the given files. `unused` lists the files that are not used, with the reasons."""

    voices: tuple[FoundVoice, ...] = ()
    indexes: tuple[FoundIndex, ...] = ()  # for voices that are installed
    unused: tuple[tuple[str, Message], ...] = ()


@dataclass
class _Sorted:
    """The given files while they are being recognised."""

    models: list[FoundModel] = field(default_factory=list)
    indexes: list[FoundIndex] = field(default_factory=list)
    names: dict[Path, str] = field(default_factory=dict)  # of voices, from the cards of archives, by source
    unused: list[tuple[str, Message]] = field(default_factory=list)


# --- recognise --------------------------------------------------------------------------------------------------------


def inspect_files(
    files: Sequence[Path], folder: Path, *, logs: Path = LOGS, roots: Sequence[Path] | None = None
) -> Inspected:
    """Recognise voice models, indexes and archives, and pair each index with its voice.

    Archives are unpacked below `folder`, a temporary folder created by the caller, from which `install` reads. An index
    is paired with the voice whose name its file name contains, if their feature dimensions are equal; otherwise with
    the only voice of the same dimension in the same archive or, failing that, among all files. Files that cannot be
    used are listed in `unused`. Raises ConfigError if there are no files or more than MAX_FILES.
    """
    if not files:
        raise ConfigError("No file was given. Choose a .pth, .safetensors, .index or .zip file.")
    if len(files) > MAX_FILES:
        raise ConfigError(
            "{count} files are more than the {most} that can be added at once.", count=len(files), most=MAX_FILES
        )
    found = _Sorted()
    for number, file in enumerate(files):
        _recognise(file, folder / str(number), found)
    owners = _pair(found)
    paired = {index.part for index in owners.values()}
    installed = list_voices(roots)
    taken = {voice.name for voice in installed}
    voices = []
    for model in found.models:
        voices.append(_plan(model, owners.get(model.part), found, installed, taken, logs))
        taken.add(voices[-1].name)
    loose = [index for index in found.indexes if index.part not in paired]
    return Inspected(tuple(voices), _for_installed_voices(loose, found, installed, logs), tuple(found.unused))


def _recognise(file: Path, folder: Path, found: _Sorted) -> None:
    """Sort one given file, or all parts of an archive, into `found`."""
    suffix = file.suffix.lower()
    try:
        if suffix == ARCHIVE_SUFFIX:
            folder.mkdir(parents=True)
            card, parts = unpack_parts(file, folder)
            if card.get("name"):
                found.names[file] = str(card["name"])
            if not parts:
                found.unused.append((file.name, Message("contains neither a voice model nor an index")))
            for label, path in parts:
                _read(Part(path, label, file), found)
        elif suffix in INTAKE_SUFFIXES:
            _read(Part(file, file.name, file), found)
        else:
            found.unused.append((file.name, Message("is neither a voice model nor an index nor a ZIP archive")))
    except RevoiceError as error:
        found.unused.append((file.name, _without_path(error, file.name)))


def _read(part: Part, found: _Sorted) -> None:
    """Read a voice model or an index, and record its properties."""
    try:
        if part.path.suffix.lower() == INDEX_SUFFIX:
            if part.label.startswith("trained_"):
                found.unused.append((part.label, Message("is an empty index, which conversion never uses")))
            else:
                index = FeatureIndex.load(part.path)
                found.indexes.append(FoundIndex(part, index.width, len(index)))
        elif is_training_state(part.path):
            found.unused.append((part.label, Message("is a training checkpoint (G or D), not a finished voice")))
        else:
            voice = read_voice_model(part.path)
            config = voice.config
            facts = (voice.family, config.sample_rate, config.has_f0, config.content_width)
            found.models.append(FoundModel(part, *facts))
    except RevoiceError as error:
        found.unused.append((part.label, _without_path(error, part.label)))


def _without_path(error: RevoiceError, label: str) -> Message:
    """The message of an error with the file's name in place of its path, which may be temporary."""
    values = {key: label if isinstance(value, Path) else value for key, value in error.values.items()}
    return Message("cannot be used: {reason}", reason=Message(error.template, **values))


# --- pair -------------------------------------------------------------------------------------------------------------


def _pair(found: _Sorted) -> dict[Part, FoundIndex]:
    """Return the index of each model that has one. An index that fits several models equally well is not paired."""
    owners: dict[Part, FoundIndex] = {}
    rules: tuple[Callable[[FoundIndex, list[FoundModel], list[FoundIndex]], list[FoundModel]], ...]
    rules = (_named_alike, _of_same_source, _of_same_width)
    for rule in rules:
        used = {index.part for index in owners.values()}
        left = [index for index in found.indexes if index.part not in used]
        for index in left:
            free = [model for model in found.models if model.width == index.width]
            if rule is not _named_alike:
                free = [model for model in free if model.part not in owners]
            fitting = rule(index, free, left)
            if len(fitting) == 1:
                _give(index, fitting[0], owners, found)
    return owners


def _give(index: FoundIndex, model: FoundModel, owners: dict[Part, FoundIndex], found: _Sorted) -> None:
    """Assign an index to a model; if it has one already, keep the one with more vectors."""
    other = owners.get(model.part)
    kept, dropped = (index, other) if other is None or index.vectors > other.vectors else (other, index)
    owners[model.part] = kept
    if dropped is not None:
        found.indexes.remove(dropped)
        reason = Message("is not used: {other} is for the same voice and contains more", other=kept.part.label)
        found.unused.append((dropped.part.label, reason))


def _named_alike(index: FoundIndex, free: list[FoundModel], left: list[FoundIndex]) -> list[FoundModel]:
    """Return the models whose names fit the name of an index best."""
    ranks = {model.part: _rank(index.part.stem, model.part.stem) for model in free}
    best = min((rank for rank in ranks.values() if rank is not None), default=None)
    return [model for model in free if best is not None and ranks[model.part] == best]


def _of_same_source(index: FoundIndex, free: list[FoundModel], left: list[FoundIndex]) -> list[FoundModel]:
    """The models of the same archive."""
    return [model for model in free if model.part.source == index.part.source]


def _of_same_width(index: FoundIndex, free: list[FoundModel], left: list[FoundIndex]) -> list[FoundModel]:
    """Return all models, for the only remaining index of its dimension."""
    return free if sum(other.width == index.width for other in left) == 1 else []


def _rank(index: str, voice: str) -> int | None:
    """Rank how well the name of an index fits that of a voice, ignoring case and separators; None if it does not."""

    def plain(name: str) -> str:
        return re.sub(r"[\s._-]+", "_", name).casefold()

    forms = re.sub(r"_ivf(\d+)_flat(?=_)", r"_IVF\1_Flat", plain(index), count=1)
    return rank_index(forms, plain(experiment_of(voice)), plain(voice))


# --- plan -------------------------------------------------------------------------------------------------------------


def _plan(
    model: FoundModel, index: FoundIndex | None, found: _Sorted, installed: list[Voice], taken: set[str], logs: Path
) -> FoundVoice:
    """Choose a free name for a voice, unless the same file is installed already."""
    part = model.part
    same = next((voice for voice in installed if filecmp.cmp(voice.path, part.path, shallow=False)), None)
    if same is not None:
        if index and (own := find_index(same.path, roots=index_roots(logs))):
            found.unused.append((index.part.label, Message("is not used: the voice {voice} has the index {index}",
                                                           voice=same.name, index=own.name)))  # fmt: skip
            index = None
        return FoundVoice(same.name, model, index, same.name)
    alone = sum(other.part.source == part.source for other in found.models) == 1
    wanted = found.names.get(part.source, part.stem) if alone else part.stem
    return FoundVoice(free_name(wanted, taken, logs if index else None), model, index)


def free_name(wanted: str, taken: Iterable[str], logs: Path | None = None) -> str:
    """Return `wanted`, with a number appended if the name is taken or its folder in `logs` contains an index.

    Names that differ only in case count as equal, because they clash on Windows and macOS. Raises ConfigError if no
    name is free.
    """
    folded = {name.casefold() for name in taken}
    clean = clean_name(wanted) or "voice"
    for number in range(1, MAX_TRIES):
        name = check_name(clean if number == 1 else f"{clean}_{number}", "voice")
        if name.casefold() not in folded and not (logs and _has_index(logs, name)):
            return name
    raise ConfigError("There are too many voices named {name!r}. Rename the file, then add it again.", name=wanted)


def _has_index(logs: Path, name: str) -> bool:
    """Whether the folder for the index of a voice of this name has an index."""
    return any((logs / experiment_of(name)).glob(f"*{INDEX_SUFFIX}"))


def _for_installed_voices(
    loose: list[FoundIndex], found: _Sorted, installed: list[Voice], logs: Path
) -> tuple[FoundIndex, ...]:  # fmt: skip
    """Return the indexes of installed voices, found by their names; the others become unused."""
    kept = []
    for index in loose:
        label, owner = index.part.label, None
        for voice in installed:
            if _rank(index.part.stem, voice.name) is not None and _width_of(voice) == index.width:
                owner = voice
                break
        if owner is None:
            reason = Message("its name does not match any voice with {width}-dimensional features. Add it together "
                             "with its voice, or rename it to the name of the voice", width=index.width)  # fmt: skip
            found.unused.append((label, reason))
        elif own := find_index(owner.path, roots=index_roots(logs)):
            reason = Message("is not used: the voice {voice} has the index {index}", voice=owner.name, index=own.name)
            found.unused.append((label, reason))
        else:
            kept.append(replace(index, voice=owner))
    return tuple(kept)


def _width_of(voice: Voice) -> int | None:
    """Return the dimension of an installed voice's content features; None if it cannot be read."""
    try:
        return read_voice_model(voice.path).config.content_width
    except RevoiceError:
        return None


# --- install ----------------------------------------------------------------------------------------------------------


def install(found: Inspected, name: str | None = None, *, weights: Path = WEIGHTS, logs: Path = LOGS) -> list[str]:
    """Add the voices and indexes that `inspect_files` found; return the names of the voices that were changed.

    `name` is a new name if there is only one voice. A voice that is already installed is not added again, but its index
    is. Raises ConfigError if `name` is taken or there are several voices, and RevoiceError if a file cannot be written.
    """
    voices = [voice for voice in found.voices if voice.installed is None or voice.index]
    if name:
        voices = [_renamed(voices, name, weights)]
    with write_errors(weights):
        weights.mkdir(parents=True, exist_ok=True)
    for voice in voices:
        if voice.index:
            _install_index(voice.index, voice.installed or voice.name, voice.model.family, logs)
        if voice.installed is None:
            source = voice.model.part.path
            copy_file(source, inside(weights, voice.name + source.suffix.lower(), "voice"))
    added = [voice.name for voice in voices]
    for index in found.indexes:
        assert index.voice is not None
        _install_index(index, index.voice.name, read_voice_model(index.voice.path).family, logs)
        added.append(index.voice.name)
    return added


def _renamed(voices: list[FoundVoice], name: str, weights: Path) -> FoundVoice:
    """Return the only voice under a name that must be unused."""
    if len(voices) != 1 or voices[0].installed:
        raise ConfigError(
            "A name can be chosen only when a single voice is added; there are {count}.", count=len(voices)
        )
    if any(voice.name.casefold() == name.casefold() for voice in list_voices([weights])):
        raise ConfigError("There is a voice named {name!r} already. Choose another name.", name=name)
    return replace(voices[0], name=check_name(name, "voice", is_argument=True))


def _install_index(index: FoundIndex, voice: str, family: Family, logs: Path) -> None:
    """Copy an index to where `find_index` finds it for a voice. Raises CheckpointError if another is there."""
    source, experiment = index.part.path, experiment_of(voice)
    target = inside(logs, experiment, "voice") / index_names(experiment, family, FeatureIndex.load(source).n_cells)[1]
    if target.exists() and not filecmp.cmp(target, source, shallow=False):
        raise CheckpointError(
            "{path} exists and is a different index. Move it away first if the new one is to be used.", path=target
        )
    copy_file(source, target)
