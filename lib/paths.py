"""Folders of this checkout, suffixes of model files, and the rules for names and paths given by users."""

import os
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote
from urllib.request import url2pathname

from pydantic import BeforeValidator

from lib.errors import ConfigError
from lib.messages import Message

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
LOGS = ROOT / "logs"
PRETRAINED = ROOT / "pretrained"
WEIGHTS = ROOT / "weights"

SAFETENSORS = ".safetensors"
VOICE_SUFFIXES = (".pth", SAFETENSORS)

MAX_NAME_LENGTH = 100  # characters
MAX_NAME_BYTES = 200  # in UTF-8; leaves room for suffixes within the 255 bytes of a file name
_QUOTES = {'"': '"', "'": "'", "“": "”", "\u2018": "\u2019", "„": "“", "«": "»"}
_FILE_URL = re.compile(r"file:/+(?:localhost(?=/))?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f<>:"/\\|?*]')
_NAMED = {
    "base model": Message("base model"),
    "voice": Message("voice"),
    "experiment": Message("training run"),
    "preset": Message("preset"),
    "content encoder": Message("content encoder"),
}
_RESERVED = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(1, 10)), *(f"lpt{i}" for i in range(1, 10))}


def given_path(text: str | Path) -> Path:
    """Convert a path typed or pasted by the user: quotes around it are removed, `file://` URLs and `~` are resolved.

    If the path exists as it is written, it is returned unchanged.
    """
    if os.path.lexists(text):
        return Path(text)
    path = _without_quotes(str(text).strip())
    # A URL that was a Path before has lost one of its slashes, and on Windows they are backslashes.
    if match := _FILE_URL.match(url := path.replace(os.sep, "/")):
        has_host = os.name == "nt" and match.group().count("/") == 2
        rest = f"{'//' if has_host else '/'}{url[match.end() :].lstrip('/')}"
        path = url2pathname(rest) if os.name == "nt" else unquote(rest)
    path = path.replace("\0", "%00")  # no file has such a name, and the system's functions raise ValueError for it
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user, or no home folder
        return Path(path)


def _without_quotes(text: str) -> str:
    if len(text) > 2 and _QUOTES.get(text[0]) == text[-1]:
        return text[1:-1].strip()
    # The Windows shell reads "C:\\takes\\" as C:\\takes followed by a quote.
    return text[:-1] if len(text) > 1 and text.endswith('"') and text.count('"') == 1 else text


GivenPath = Annotated[Path, BeforeValidator(given_path)]  # a path among the options of a command line


def check_name(name: str, what: str, *, is_argument: bool = False) -> str:
    """Return `name` if it is valid as the name of a file or folder on every system.

    Spaces, apostrophes, emoji and any script are allowed. Separators, control characters, leading or trailing dots and
    spaces, and Windows device names are not. If `is_argument` is set, the name may not begin with a hyphen
    either, because a command would read it as an option. `what` is a key of _NAMED, for the message. Raises ConfigError
    if the name is not valid.
    """
    problem, size = None, len(name.encode(errors="surrogatepass"))
    if not name:
        problem = Message("it is empty")
    elif len(name) > MAX_NAME_LENGTH or size > MAX_NAME_BYTES:
        problem = Message(
            "it is too long ({size} bytes; {max_bytes} bytes and {max_characters} characters are allowed)",
            size=size,
            max_bytes=MAX_NAME_BYTES,
            max_characters=MAX_NAME_LENGTH,
        )
    elif any("\ud800" <= letter <= "\udfff" for letter in name):
        problem = Message("it is not valid Unicode")
    elif match := _FORBIDDEN.search(name):
        problem = Message("the character {character!r} is not allowed in file names", character=match.group())
    elif name != name.strip(" .") or name.split(".")[0].lower() in _RESERVED:
        problem = Message("it begins or ends with a dot or space, or is a reserved word")
    elif is_argument and name.startswith("-"):
        problem = Message("it begins with a hyphen, like a command-line option")
    if problem:
        raise ConfigError(
            "{name!r} cannot be used as a {what} name: {problem}. Choose another name.",
            name=name[:MAX_NAME_LENGTH],
            what=_NAMED[what],
            problem=problem,
        )
    return name


def clean_name(text: str) -> str:
    """Replace or remove the characters in `text` that `check_name` does not allow: "Bea?" becomes "Bea_"."""
    return _FORBIDDEN.sub("_", text).strip(" .").lstrip("-")


def inside(root: Path, name: str | Path, what: str) -> Path:
    """Resolve `name` below `root`. Raises ConfigError if the result is outside `root` (`..`, absolute path, link)."""
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ConfigError(
            "{name!r} is outside {folder}; use the name of a {what} inside that folder.",
            name=str(name),
            folder=root,
            what=_NAMED[what],
        )
    return path
