"""Folders of this checkout, suffixes of model files, and the rules for names."""

import re
from pathlib import Path

from lib.errors import ConfigError

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

    Spaces, quotes ('), emoji and any script are fine; separators, control characters, leading or trailing dots and
    spaces and the device names of Windows are not. `what` says whose name it is ("experiment", "voice").
    """
    problem, size = "", len(name.encode(errors="surrogatepass"))
    if not name:
        problem = "it is empty"
    elif len(name) > MAX_NAME_LENGTH or size > MAX_NAME_BYTES:
        problem = f"it is too long ({size} bytes; {MAX_NAME_BYTES} bytes and {MAX_NAME_LENGTH} characters are allowed)"
    elif any("\ud800" <= letter <= "\udfff" for letter in name):
        problem = "it is not valid Unicode"
    elif match := _FORBIDDEN.search(name):
        problem = f"the character {match.group()!r} is not allowed in file names"
    elif name != name.strip(" .") or name.split(".")[0].lower() in _RESERVED:
        problem = "it begins or ends with a dot or space, or is a reserved word"
    if problem:
        raise ConfigError(f"{name!r} cannot be used as {what} name: {problem}. Choose another name.")
    return name


def inside(root: Path, name: str | Path, what: str) -> Path:
    """Resolve `name` below `root`; ConfigError if it would lead out of it (`..`, absolute path, link)."""
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ConfigError(f"{str(name)!r} is outside {root}; give the name of a {what} inside that folder.")
    return path
