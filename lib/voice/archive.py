"""Voice archives: NAME.zip with a voice model, its index and a card.

An exported archive has no folders. `card.json` contains the metadata and the SHA-256 of the parts, `README.md` the same
in readable form. Archives from other programs can be imported, too: one voice model and at most one index, in any
folder and under any name, because parts are never unpacked under their own names.
"""

import contextlib
import hashlib
import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from lib.errors import CheckpointError, ConfigError, MissingFileError, RevoiceError
from lib.files import copy_file, replacing, sha256_of, temporary_folder, write_errors
from lib.index import FeatureIndex, index_names
from lib.json_reader import parse_json
from lib.machine import machine_error
from lib.messages import Message
from lib.paths import LOGS, VOICE_SUFFIXES, WEIGHTS, check_name, clean_name, inside
from lib.voice.archive_entries import MAX_PARTS, checked_entries, entry_name
from lib.voice.facts import ENTRIES
from lib.voice.library import experiment_of, is_experiment
from lib.voice.model_file import MAX_TEXT, VoiceModel, read_voice_model
from lib.voice.safe_load import check_directory
from lib.voice.training_state import is_training_state

CARD, README, INDEX_SUFFIX = "card.json", "README.md", ".index"
FORMAT = "revoice-voice-1"
MAX_CARD_BYTES = 1 << 20
BLOCK_BYTES = 1 << 20
EPOCH_OF_ZIP = (1980, 1, 1, 0, 0, 0)  # a fixed date, so that the same voice gives the same archive
NOT_AN_ARCHIVE = (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, zlib.error)
CARD_FIELDS = (*ENTRIES, "author", "licence", "epoch", "dataset_length", "creation_date")  # optional entries of a voice


@dataclass(frozen=True)
class Imported:
    """An imported voice. `skipped` lists the other model files of the archive, which are training checkpoints."""

    name: str
    voice: Path
    index: Path | None
    card: dict[str, Any]
    skipped: tuple[str, ...] = ()


# --- export -----------------------------------------------------------------------------------------------------------


def export_voice(voice: Path, index: Path | None, output: Path, name: str | None = None) -> Path:
    """Write voice, index and card into one archive, atomically, and return its path.

    Both model files are validated first, to make sure that the archive can be imported. `name` defaults to the stem of
    the voice's file.
    """
    name = check_name(name or voice.stem, "voice")
    model = read_voice_model(voice)
    files = {f"{name}{voice.suffix.lower()}": voice}
    if index is not None:
        cells = checked_index(index, model).n_cells
        files[index_names(name, model.family, cells)[1]] = index
    card = describe_voice(name, model) | {"files": {part: sha256_of(path) for part, path in files.items()}}
    with (
        replacing(output) as temporary,
        zipfile.ZipFile(temporary, "w", allowZip64=True) as archive,
    ):
        _add_text(archive, README, _readme(card))
        _add_text(archive, CARD, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
        for part, path in files.items():
            entry = _entry(part)
            entry.file_size = path.stat().st_size  # selects ZIP64 for large files
            with path.open("rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target, BLOCK_BYTES)
    return output


def describe_voice(name: str, voice: VoiceModel) -> dict[str, Any]:
    """Return the card of a voice: its metadata."""
    card: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "family": voice.family,
        "sample_rate": voice.config.sample_rate,
        "f0": voice.config.has_f0,
        "speakers": voice.config.n_speakers,
        "info": voice.info,
    }
    if voice.content_encoder is not None:
        card["content_encoder"] = voice.content_encoder._asdict()
    facts = {key: voice.extra[key] for key in CARD_FIELDS if voice.extra.get(key) is not None}
    return card | {
        key: value if isinstance(value, int | float) else str(value)[:MAX_TEXT] for key, value in facts.items()
    }


def _readme(card: dict[str, Any]) -> str:
    facts = "\n".join(f"- {key}: {value}" for key, value in card.items() if key not in ("format", "name", "files"))
    return (
        f"# Voice {card['name']}\n\n{facts}\n\n"
        f"Import it with `python -m train ckpt import {card['name']}.zip`, or put the voice model into `weights/` and "
        f"the index into `logs/{card['name']}/`. Ask the speaker before you publish conversions.\n"
    )


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EPOCH_OF_ZIP)
    entry.external_attr = 0o644 << 16
    return entry


def _add_text(archive: zipfile.ZipFile, name: str, text: str) -> None:
    archive.writestr(_entry(name), text.encode())


def checked_index(path: Path, voice: VoiceModel) -> FeatureIndex:
    """Read an index.

    Raises CheckpointError if it is damaged or its dimension differs from that of the voice's content features.
    """
    index = FeatureIndex.load(path)
    if index.width != voice.config.content_width:
        raise CheckpointError(
            "{path} contains {index_width}-dimensional content features, but the voice uses {voice_width}-dimensional "
            "ones. It is the index of another voice.",
            path=path,
            index_width=index.width,
            voice_width=voice.config.content_width,
        )
    return index


# --- import -----------------------------------------------------------------------------------------------------------


def import_voice(
    archive: Path, name: str | None = None, *, overwrite: bool = False, weights: Path = WEIGHTS, logs: Path = LOGS
) -> Imported:
    """Import the voice of an archive as `weights/NAME.pth` or `.safetensors`, and its index into `logs/NAME/`.

    All parts are checked before any is installed. Raises ConfigError if the voice exists and `overwrite` is not set,
    CheckpointError if the archive is unsafe, damaged or has no usable voice, and RevoiceError if it cannot be written.
    """
    with write_errors(weights):
        weights.mkdir(parents=True, exist_ok=True)
        with temporary_folder(weights) as folder:
            with _opened(archive) as opened:
                unpacked = _unpack(opened, archive, folder)
            return _install(unpacked, name, overwrite, weights, logs)


def unpack_parts(archive: Path, folder: Path) -> tuple[dict[str, Any], list[tuple[str, Path]]]:
    """Unpack all voice models and indexes of an archive into `folder`.

    Returns the card, and the file names with their paths. Raises MissingFileError if the archive does not exist, and
    CheckpointError if it is unsafe or damaged.
    """
    with _opened(archive) as opened:
        entries, card = _entries_and_card(opened, archive)
        parts = _with_suffix(entries, (*VOICE_SUFFIXES, INDEX_SUFFIX))
        return card, [(entry_name(entry), _copy(opened, entry, folder, archive, card)) for entry in parts]


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive; errors while it is read in the `with` block become CheckpointErrors."""
    if not archive.is_file():
        raise MissingFileError(archive, "Specify the path of a voice archive (NAME.zip).")
    check_directory(archive, MAX_PARTS)
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except (*NOT_AN_ARCHIVE, OSError, MemoryError) as error:
        if known := machine_error(error, archive):
            raise known from error
        raise CheckpointError(
            "{path} is not a readable .zip archive ({detail}). Get a new copy.", path=archive, detail=str(error)
        ) from error
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            "{path} is encrypted or damaged ({detail}). Get a new copy.", path=archive, detail=str(error)
        ) from error


@dataclass(frozen=True)
class _Unpacked:
    """The parts of an archive, unpacked into a temporary folder."""

    archive: Path
    voice: Path
    index: Path | None
    stem: str  # of the voice's file in the archive
    card: dict[str, Any]
    skipped: tuple[str, ...]


def _install(found: _Unpacked, name: str | None, overwrite: bool, weights: Path, logs: Path) -> Imported:
    """Check the unpacked parts and install them, the voice last."""
    name = check_name(name or str(found.card.get("name") or clean_name(found.stem)), "voice", is_argument=True)
    existing = [path for suffix in VOICE_SUFFIXES if (path := inside(weights, name + suffix, "voice")).exists()]
    if existing and not overwrite:
        raise _exists(existing[0])
    if not existing and is_experiment(folder := inside(logs, name, "voice")):
        raise ConfigError(
            "{folder} belongs to a training run, which is not changed. Import the voice under another name (--name).",
            folder=folder,
        )
    try:
        model = read_voice_model(found.voice)
        index = None if found.index is None else checked_index(found.index, model)
    except RevoiceError as error:
        named = {str(found.voice): found.stem + found.voice.suffix, str(found.index): Message("its index")}
        values = {key: named.get(str(value), value) for key, value in error.values.items()}
        reason = Message(error.template, **values)
        raise CheckpointError("{path} was not imported: {reason}", path=found.archive, reason=reason) from error
    target = None
    if index is not None and found.index is not None:
        experiment = experiment_of(name)  # where `find_index` looks
        target = inside(logs, experiment, "voice") / index_names(experiment, model.family, index.n_cells)[1]
        _move_index(found.index, target, overwrite=overwrite)
    voice = inside(weights, name + found.voice.suffix, "voice")
    copy_file(found.voice, voice)
    for old in existing:
        if old != voice:
            old.unlink()  # the same voice in the other format would hide the new one
    return Imported(name, voice, target, found.card, found.skipped)


def _exists(path: Path) -> ConfigError:
    return ConfigError(
        "{path} exists. Import under another name (--name), or allow replacing it (--overwrite).", path=path
    )


def _move_index(source: Path, target: Path, *, overwrite: bool) -> None:
    """Move an index to its place, unless it is there already, as after an import that was interrupted.

    Raises ConfigError if a training run has another index there, or one that must stay.
    """
    if target.is_file() and sha256_of(target) == sha256_of(source):
        return
    if is_experiment(target.parent):
        raise ConfigError(
            "{folder} belongs to a training run, which is not changed. Import the voice under another name (--name).",
            folder=target.parent,
        )
    if target.exists() and not overwrite:
        raise _exists(target)
    copy_file(source, target)


def _unpack(opened: zipfile.ZipFile, archive: Path, folder: Path) -> _Unpacked:
    """Write the voice, the index and the card of an archive to `folder`; other entries are not unpacked."""
    entries, card = _entries_and_card(opened, archive)
    models = _with_suffix(entries, VOICE_SUFFIXES)
    indexes = [entry for entry in _with_suffix(entries, (INDEX_SUFFIX,)) if "trained_" not in entry_name(entry)]
    if not models:
        raise CheckpointError(
            "{path} contains no voice model (.pth or .safetensors). It is not a voice archive.", path=archive
        )
    if len(indexes) > 1:
        raise _several(indexes, archive, Message("index"))
    files = {entry.filename: _copy(opened, entry, folder, archive, card) for entry in (*models, *indexes)}
    voice, *others = _voice_first(models, files, archive)
    index = files[indexes[0].filename] if indexes else None
    stem = PurePosixPath(entry_name(voice)).stem.strip(" .")
    return _Unpacked(archive, files[voice.filename], index, stem, card, tuple(map(entry_name, others)))


def _entries_and_card(opened: zipfile.ZipFile, archive: Path) -> tuple[list[zipfile.ZipInfo], dict[str, Any]]:
    """The checked entries of an archive, and its card, empty if it has none."""
    entries = checked_entries(opened, archive)
    card_entry = next((entry for entry in entries if entry_name(entry).lower() == CARD), None)
    return entries, {} if card_entry is None else _read_card(opened, card_entry, archive)


def _voice_first(models: Sequence[zipfile.ZipInfo], files: dict[str, Path], archive: Path) -> Sequence[zipfile.ZipInfo]:
    """Return the one voice of an archive, then its training checkpoints.

    A single model file is returned unchecked: its reader reports what is wrong with it. Raises CheckpointError unless
    there is exactly one voice.
    """
    if len(models) == 1:
        return models
    checkpoints = [entry for entry in models if _is_checkpoint(files[entry.filename])]
    voices = [entry for entry in models if entry not in checkpoints]
    if len(voices) != 1:
        raise _several(voices or models, archive, Message("voice model"))
    return [*voices, *checkpoints]


def _is_checkpoint(path: Path) -> bool:
    """Whether a model file is readable and contains a training checkpoint, G or D."""
    with contextlib.suppress(CheckpointError):
        return is_training_state(path)
    return False


def _with_suffix(entries: Sequence[zipfile.ZipInfo], suffixes: tuple[str, ...]) -> list[zipfile.ZipInfo]:
    return [entry for entry in entries if entry_name(entry).lower().endswith(suffixes)]


def _several(entries: Sequence[zipfile.ZipInfo], archive: Path, what: Message) -> CheckpointError:
    return CheckpointError(
        "{path} contains {count} files that could be the {what} ({names}). Keep one.",
        path=archive,
        count=len(entries),
        what=what,
        names=", ".join(map(entry_name, entries[:5])),
    )


def _read_card(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, archive: Path) -> dict[str, Any]:
    """Return the card: a dictionary whose entry `files`, if any, is a dictionary, too.

    Raises CheckpointError if it has another form.
    """
    with opened.open(entry) as file:
        data = file.read(MAX_CARD_BYTES + 1)
    try:
        card = parse_json(data, MAX_CARD_BYTES)
    except ValueError as error:
        raise CheckpointError("{path} has a damaged card ({card}). Get a new copy.", path=archive, card=CARD) from error
    if not isinstance(card, dict) or not isinstance(card.get("files", {}), dict):
        raise CheckpointError("{path} has an invalid card ({card}). Get a new copy.", path=archive, card=CARD)
    return card


def _copy(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, archive: Path, card: dict[str, Any]) -> Path:
    """Unpack one entry and return its path. Raises CheckpointError if it exceeds its size or differs from the card."""
    name = entry_name(entry)
    path = folder / f"part{len(list(folder.iterdir()))}{PurePosixPath(name).suffix.lower()}"
    digest, left = hashlib.sha256(), entry.file_size
    source: IO[bytes]
    with opened.open(entry) as source, write_errors(path), path.open("wb") as target:
        while block := source.read(BLOCK_BYTES):
            left -= len(block)
            if left < 0:
                raise CheckpointError(
                    "{path} is unsafe: {entry!r} is larger than its declared size.", path=archive, entry=name
                )
            digest.update(block)
            target.write(block)
    if card.get("files", {}).get(name) not in (None, digest.hexdigest()):
        raise CheckpointError(
            "{path} is damaged: {entry} does not match its card. Get a new copy.", path=archive, entry=name
        )
    return path
