"""Human-readable metadata of a voice: display name, language and speaker. They are optional entries of its file.

Those of the bundled voices are in a `voices.json` in the same folder, so that they can be shown without opening the
files.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lib.errors import RevoiceError
from lib.json_reader import parse_json, read_json
from lib.paths import PRETRAINED, SAFETENSORS

ENTRIES = ("display_name", "language", "reader")
MAX_FACT = 100  # characters
SHIPPED = PRETRAINED / "lite" / "voices" / "voices.json"


@dataclass(frozen=True)
class VoiceFacts:
    """Display name, language and speaker of a voice; empty if unknown.

    `language` is a code such as en or pt, or a name; `reader`, a description of the speaker, is free text.
    """

    display_name: str = ""
    language: str = ""
    reader: str = ""


def facts_of(entries: Mapping[str, Any]) -> VoiceFacts:
    """Return the metadata among the entries of a voice's file; values that are not short strings are ignored."""
    known = {name: entries[name] for name in ENTRIES if isinstance(entries.get(name), str)}
    return VoiceFacts(**{name: " ".join(text.split())[:MAX_FACT] for name, text in known.items()})


def read_facts(path: Path, *, open_file: bool = True) -> VoiceFacts:
    """Return the metadata of a voice, empty if its file cannot be read. It is cached until the file changes.

    If `open_file` is false, only the metadata of bundled voices is available, and no package is imported for it.
    """
    if path.parent == SHIPPED.parent:
        return _shipped().get(path.stem, VoiceFacts())
    if not open_file:
        return VoiceFacts()
    try:
        about = path.stat()
        return _read(path, about.st_mtime_ns, about.st_size)
    except (OSError, RevoiceError, SafetensorError, ValueError):  # reported when the voice is used
        return VoiceFacts()


@functools.cache
def _shipped() -> Mapping[str, VoiceFacts]:
    return {name: facts_of(entries) for name, entries in read_json(SHIPPED).items()} if SHIPPED.is_file() else {}


@functools.lru_cache(maxsize=1000)
def _read(path: Path, changed: int, size: int) -> VoiceFacts:
    """Return the metadata in a file of this size, changed at this time."""
    from lib.voice.model_file import METADATA
    from lib.voice.safe_load import safe_load

    if path.suffix.lower() == SAFETENSORS:
        with safe_open(path, "np") as file:
            content = parse_json((file.metadata() or {}).get(METADATA, "{}"))
    else:
        content = safe_load(path, lazily=True)
    return facts_of(content) if isinstance(content, dict) else VoiceFacts()


def titles_of(facts: Sequence[tuple[str, str]]) -> list[str]:
    """Return titles for voices given as (name, title); if several have the same title, the name is appended to it."""
    titles = [title or name for name, title in facts]
    return [
        f"{title}: {name}" if titles.count(title) > 1 and title != name else title
        for (name, _), title in zip(facts, titles, strict=True)
    ]
