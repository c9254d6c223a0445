"""Checks the entries of a voice archive and decodes their names. Parts are never unpacked under these names."""

import re
import stat
import zipfile
from pathlib import Path

from lib.errors import CheckpointError
from lib.messages import Message

MAX_PARTS = 200  # entries of an archive
MAX_BYTES = 4 << 30  # unpacked, all parts together
MAX_RATIO = 20  # compression of a part; weights and vectors hardly compress ...
SPARE_BYTES = 1 << 20  # ... and small files are allowed any ratio
UTF8_FLAG = 0x800  # of an entry: its name is UTF-8
JAPANESE = r"[\x20-\x7e\u3005\u3041-\u30ff\u4e00-\u9fff\uff01-\uffef]*"  # ASCII, kana, kanji, full and half width
CHINESE = r"[\x20-\x7e\u3001-\u3017\u4e00-\u9fff\uff01-\uff5e]*"  # ASCII, ideographs, punctuation
MIXED = re.compile(r"[A-Za-z][\u4e00-\u9fff]|[\u4e00-\u9fff][A-Za-z]")  # as words with an umlaut read as Japanese
HALF_WIDTH = re.compile(r"[\uff61-\uff9f]")  # kana of one byte: most Chinese names, too, read as Japanese


def checked_entries(opened: zipfile.ZipFile, archive: Path) -> list[zipfile.ZipInfo]:
    """Return the files in an archive.

    Raises CheckpointError if an entry is unsafe or the uncompressed size exceeds the limit.
    """
    entries = opened.infolist()
    if len(entries) > MAX_PARTS:
        raise CheckpointError(
            "{path} contains {count} files; a voice archive has at most {max_parts}.",
            path=archive,
            count=len(entries),
            max_parts=MAX_PARTS,
        )
    seen = set()
    for entry in entries:
        problem = _problem(entry)
        if entry.filename.casefold() in seen:
            problem = Message("occurs twice")
        if problem:
            raise CheckpointError(
                "{path} is unsafe and was not imported: its entry {entry!r} {problem}.",
                path=archive,
                entry=_decoded(entry),
                problem=problem,
            )
        seen.add(entry.filename.casefold())
    if (total := sum(entry.file_size for entry in entries)) > MAX_BYTES:
        raise CheckpointError(
            "{path} was not imported: it would unpack to {total} bytes, more than any voice has.",
            path=archive,
            total=total,
        )
    return [entry for entry in entries if not entry.is_dir() and not entry_name(entry).startswith(".")]


def _problem(entry: zipfile.ZipInfo) -> Message | None:
    """Return what is unsafe about an entry; None if nothing is."""
    mode = entry.external_attr >> 16
    name = _decoded(entry)
    if not name:
        return Message("has no name")
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or "\x00" in name:
        return Message("has an absolute path or an invalid name")
    if ".." in re.split(r"[/\\]", name):
        return Message("has '..' in its path")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return Message("is a link or device")
    if entry.flag_bits & 1:
        return Message("is encrypted")
    if entry.file_size > MAX_RATIO * entry.compress_size + SPARE_BYTES:
        return Message("would unpack to {size} bytes from {packed}", size=entry.file_size, packed=entry.compress_size)
    return None


def entry_name(entry: zipfile.ZipInfo) -> str:
    """Return the file name of an entry, without its folders and control characters."""
    return re.sub(r"[\x00-\x1f\x7f]", "_", re.split(r"[/\\]", _decoded(entry))[-1])


def _decoded(entry: zipfile.ZipInfo) -> str:
    """Decode the path of an entry: UTF-8, Japanese, Chinese or DOS; old archivers do not record which."""
    name = entry.orig_filename
    if name.isascii() or entry.flag_bits & UTF8_FLAG:
        return name
    data = name.encode("cp437")
    utf8, japanese, chinese = (
        _read_as(data, *form) for form in (("utf-8", r".*"), ("cp932", JAPANESE), ("gb2312", CHINESE))
    )
    western = all(letter.isascii() or "\u00c0" <= letter <= "\u00ff" for letter in name)
    if japanese and ((chinese and HALF_WIDTH.search(japanese)) or (western and MIXED.search(japanese))):
        japanese = None
    return utf8 or japanese or chinese or name


def _read_as(data: bytes, encoding: str, letters: str) -> str | None:
    """Decode the path in an encoding; None if that fails or gives characters of other scripts."""
    try:
        decoded = data.decode(encoding)
    except UnicodeDecodeError:
        return None
    return decoded if re.fullmatch(letters, decoded, re.DOTALL) else None
