"""One file to share a voice: NAME.zip with the voice model, its index and a card, written and safely read.

The parts lie flat in the archive. `card.json` is for programs (it has the SHA-256 of the parts), `README.md` for
people. Archives of other programs are accepted too: one voice model and at most one index, in whatever folders.
"""

import functools
import hashlib
import json
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from lib.errors import CheckpointError, ConfigError, MissingFileError, RevoiceError
from lib.files import replacing
from lib.index import FeatureIndex, index_names
from lib.paths import LOGS, VOICE_SUFFIXES, WEIGHTS, check_name, inside
from lib.voice.model_file import VoiceModel, read_voice_model
from lib.voice.safe_load import check_directory

CARD, README, INDEX_SUFFIX = "card.json", "README.md", ".index"
FORMAT = "revoice-voice-1"
MAX_PARTS = 200  # entries of an archive
MAX_BYTES = 4 << 30  # unpacked, all parts together
MAX_CARD_BYTES = 1 << 20
MAX_RATIO = 20  # of a part; weights and vectors hardly shrink ...
SPARE_BYTES = 1 << 20  # ... and small texts do not matter
BLOCK_BYTES = 1 << 20
EPOCH_OF_ZIP = (1980, 1, 1, 0, 0, 0)  # the same voice gives the same archive, whenever it is made
CARD_FIELDS = ("author", "licence", "epoch", "dataset_length", "creation_date")  # optional entries of a voice


@dataclass(frozen=True)
class Imported:
    """A voice that came out of an archive."""

    name: str
    voice: Path
    index: Path | None
    card: dict[str, Any]


# --- export -----------------------------------------------------------------------------------------------------------


def export_voice(voice: Path, index: Path | None, output: Path, name: str | None = None) -> Path:
    """Write voice, index and card into one archive, atomically, and return its path.

    Both are read first: what could not be imported is not exported. `name` None is the name of the voice's file.
    """
    name = check_name(name or voice.stem, "voice")
    model = read_voice_model(voice)
    files = {f"{name}{voice.suffix.lower()}": voice}
    if index is not None:
        cells = _checked_index(index, model).n_cells
        files[index_names(name, model.family, cells)[1]] = index
    card = describe_voice(name, model) | {"files": {part: _sha256(path) for part, path in files.items()}}
    with replacing(output) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
        _add_text(archive, README, _readme(card))
        _add_text(archive, CARD, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
        for part, path in files.items():
            entry = _entry(part)
            entry.file_size = path.stat().st_size  # else a large file would not get the long form of its size
            with path.open("rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target, BLOCK_BYTES)
    return output


def describe_voice(name: str, voice: VoiceModel) -> dict[str, Any]:
    """The card of a voice: what somebody who receives it wants to know before using it."""
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
    return card | {key: voice.extra[key] for key in CARD_FIELDS if voice.extra.get(key) is not None}


def _readme(card: dict[str, Any]) -> str:
    facts = "\n".join(f"- {key}: {value}" for key, value in card.items() if key not in ("format", "name", "files"))
    return (
        f"# Voice {card['name']}\n\n{facts}\n\n"
        f"Import it with `python -m train ckpt import {card['name']}.zip`, or put the voice model into `weights/` and "
        f"the index into `logs/{card['name']}/`. Ask the person whose voice it is before you publish what it sings.\n"
    )


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EPOCH_OF_ZIP)
    entry.external_attr = 0o644 << 16
    return entry


def _add_text(archive: zipfile.ZipFile, name: str, text: str) -> None:
    archive.writestr(_entry(name), text.encode())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _checked_index(path: Path, voice: VoiceModel) -> FeatureIndex:
    """Read an index. CheckpointError if it is damaged or not of the voice's content features."""
    index = FeatureIndex.load(path)
    if index.width != voice.config.content_width:
        raise CheckpointError(
            f"{path} holds {index.width} content features, but the voice works on {voice.config.content_width}. "
            "It is the index of another voice."
        )
    return index


# --- import -----------------------------------------------------------------------------------------------------------


def import_voice(
    archive: Path, name: str | None = None, *, overwrite: bool = False, weights: Path = WEIGHTS, logs: Path = LOGS
) -> Imported:
    """Take the voice out of an archive into `weights/NAME.pth` and its index into `logs/NAME/`.

    Everything is checked before anything is put in place. ConfigError if the voice exists and `overwrite` is not given,
    CheckpointError if the archive is unsafe, damaged or holds no usable voice.
    """
    if not archive.is_file():
        raise MissingFileError(archive, "Give the path of a voice archive (NAME.zip).")
    check_directory(archive, MAX_PARTS)
    weights.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=weights) as folder:
        try:
            with zipfile.ZipFile(archive) as opened:
                found = _unpack(opened, archive, Path(folder))
        except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, OSError, zlib.error) as error:
            raise CheckpointError(f"{archive} is not a readable .zip archive ({error}). Get it again.") from error
        except (RuntimeError, ValueError, UnicodeError) as error:
            raise CheckpointError(f"{archive} is encrypted or damaged ({error}). Get it again.") from error
        return _install(found, name, overwrite, weights, logs)


@dataclass(frozen=True)
class _Found:
    """What an archive held, unpacked into a temporary folder."""

    archive: Path
    voice: Path
    index: Path | None
    stem: str  # of the voice's file in the archive
    card: dict[str, Any]


def _install(found: _Found, name: str | None, overwrite: bool, weights: Path, logs: Path) -> Imported:
    """Check the unpacked parts and move them to their places, the voice last."""
    name = check_name(name or str(found.card.get("name") or found.stem), "voice")
    existing = [path for suffix in VOICE_SUFFIXES if (path := inside(weights, name + suffix, "voice")).exists()]
    if existing and not overwrite:
        raise ConfigError(
            f"{existing[0]} exists. Import under another name (--name), or say that it may be replaced (--overwrite)."
        )
    try:
        model = read_voice_model(found.voice)
        index = None if found.index is None else _checked_index(found.index, model)
    except RevoiceError as error:
        named = {str(found.voice): found.stem + found.voice.suffix, str(found.index): "its index"}
        told = functools.reduce(lambda text, path: text.replace(path, named[path]), named, str(error))
        raise CheckpointError(f"{found.archive} was not imported: {told}") from error
    target = None
    if index is not None and found.index is not None:
        target = inside(logs, name, "voice") / index_names(name, model.family, index.n_cells)[1]
        target.parent.mkdir(parents=True, exist_ok=True)
        _move(found.index, target)
    voice = inside(weights, name + found.voice.suffix, "voice")
    _move(found.voice, voice)
    for old in existing:
        if old != voice:
            old.unlink()  # the same voice in the other format, which would hide the new one
    return Imported(name, voice, target, found.card)


def _move(source: Path, target: Path) -> None:
    """Put a file in place atomically, even if the target is on another disk."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _unpack(opened: zipfile.ZipFile, archive: Path, folder: Path) -> _Found:
    """Write the voice, the index and the card of an archive to `folder`; everything else stays inside."""
    entries = _checked_entries(opened, archive)
    voice = _only(entries, VOICE_SUFFIXES, archive, "voice model")
    if voice is None:
        raise CheckpointError(f"{archive} holds no voice model (.pth or .safetensors). It is not a voice archive.")
    index = _only([entry for entry in entries if "trained_" not in _name(entry)], (INDEX_SUFFIX,), archive, "index")
    card_entry = next((entry for entry in entries if _name(entry).lower() == CARD), None)
    card = {} if card_entry is None else _read_card(opened, card_entry, archive)
    paths = []
    for entry in (voice, index):
        if entry is None:
            continue
        path = folder / f"part{PurePosixPath(entry.filename).suffix.lower()}"
        digest = _copy(opened, entry, path, archive)
        expected = card.get("files", {}).get(_name(entry))
        if expected is not None and expected != digest:
            raise CheckpointError(f"{archive} is damaged: {_name(entry)} is not what its card says. Get it again.")
        paths.append(path)
    return _Found(archive, paths[0], paths[1] if len(paths) > 1 else None, Path(_name(voice)).stem, card)


def _name(entry: zipfile.ZipInfo) -> str:
    return PurePosixPath(entry.filename).name


def _only(
    entries: Sequence[zipfile.ZipInfo], suffixes: tuple[str, ...], archive: Path, what: str
) -> zipfile.ZipInfo | None:
    """The one entry with such a suffix, None if there is none; CheckpointError if there are several."""
    found = [entry for entry in entries if entry.filename.lower().endswith(suffixes)]
    if len(found) > 1:
        names = ", ".join(entry.filename for entry in found[:5])
        raise CheckpointError(f"{archive} holds {len(found)} files that could be the {what} ({names}). Keep one.")
    return found[0] if found else None


def _checked_entries(opened: zipfile.ZipFile, archive: Path) -> list[zipfile.ZipInfo]:
    """The files in an archive, after a look at every entry. CheckpointError if one is unsafe or too much is packed."""
    entries = opened.infolist()
    if len(entries) > MAX_PARTS:
        raise CheckpointError(f"{archive} holds {len(entries)} files; a voice archive has at most {MAX_PARTS}.")
    seen = set()
    for entry in entries:
        problem = _problem(entry)
        if entry.filename.casefold() in seen:
            problem = "is there twice"
        if problem:
            raise CheckpointError(f"{archive} is unsafe and was not imported: its entry {entry.filename!r} {problem}.")
        seen.add(entry.filename.casefold())
    if (total := sum(entry.file_size for entry in entries)) > MAX_BYTES:
        raise CheckpointError(f"{archive} was not imported: it would unpack to {total} bytes, more than any voice has.")
    return [entry for entry in entries if not entry.is_dir() and not _name(entry).startswith(".")]


def _problem(entry: zipfile.ZipInfo) -> str:
    """What is unsafe about an entry, or an empty text."""
    mode = entry.external_attr >> 16
    name = entry.orig_filename
    if name.startswith("/") or "\\" in name or re.match(r"[A-Za-z]:", name) or "\x00" in name:
        return "has an absolute path or one of another system"
    if ".." in PurePosixPath(name).parts:
        return "leads out of the folder"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or device"
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.file_size > MAX_RATIO * entry.compress_size + SPARE_BYTES:
        return f"would unpack to {entry.file_size} bytes from {entry.compress_size}"
    try:
        for part in PurePosixPath(name).parts:
            check_name(part.lstrip(".") or "hidden", "file")  # macOS adds hidden files, which stay inside
    except ConfigError:
        return "has a name that is not allowed everywhere"
    return ""


def _read_card(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, archive: Path) -> dict[str, Any]:
    """The card, as a dictionary whose `files` is one too."""
    with opened.open(entry) as file:
        data = file.read(MAX_CARD_BYTES + 1)
    try:
        card = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{archive} has a damaged card ({CARD}). Get it again.") from error
    if len(data) > MAX_CARD_BYTES or not isinstance(card, dict) or not isinstance(card.get("files", {}), dict):
        raise CheckpointError(f"{archive} has a card ({CARD}) that no voice archive has. Get it again.")
    return card


def _copy(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, archive: Path) -> str:
    """Unpack one entry, never more than it announces, and return its SHA-256."""
    digest, left = hashlib.sha256(), entry.file_size
    source: IO[bytes]
    with opened.open(entry) as source, path.open("wb") as target:
        while block := source.read(BLOCK_BYTES):
            left -= len(block)
            if left < 0:
                raise CheckpointError(f"{archive} is unsafe: {entry.filename!r} is larger than it announces.")
            digest.update(block)
            target.write(block)
    return digest.hexdigest()
