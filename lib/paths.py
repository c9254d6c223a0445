"""Folders of this checkout, suffixes of model files, and the rules for names."""

import re
from pathlib import Path

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
_FORBIDDEN = re.compile(r'[\x00-\x1f<>:"/\\|?*]')
_RESERVED = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(1, 10)), *(f"lpt{i}" for i in range(1, 10))}


def check_name(name: str, what: str) -> str:
    """Return `name` if it can be one file or folder name on every system, else raise ConfigError.

    Allowed: spaces, quotes ('), emoji and any script. Not allowed: separators, control characters, leading or trailing
    dots and spaces, and the device names of Windows. `what` is "experiment", "voice", …, for the message.
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
    if problem:
        raise ConfigError(
            "{name!r} cannot be used as {what} name: {problem}. Choose another name.",
            name=name,
            what=what,
            problem=problem,
        )
    return name


def inside(root: Path, name: str | Path, what: str) -> Path:
    """Resolve `name` below `root`; ConfigError if it would lead out of it (`..`, absolute path, link)."""
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ConfigError(
            "{name!r} is outside {folder}; give the name of a {what} inside that folder.",
            name=str(name),
            folder=root,
            what=what,
        )
    return path
