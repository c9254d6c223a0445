"""Content and ZIP file of a bug report: versions, devices and more, without private paths and names."""

import getpass
import platform
import re
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from lib.devices import list_devices
from lib.files import replacing
from lib.paths import ROOT

MAX_LINES = 1000  # of a part
PACKAGES = ("torch", "torchaudio", "gradio", "accelerate", "numpy", "faiss-cpu", "onnxruntime", "soundfile", "av")
_SHORT = 3  # user names of fewer letters are not replaced, because they occur within words
# A path of two or more parts, as on Linux or Windows, up to its last part. Folders may have spaces, so a match may
# include words up to the next slash: removing a word too many is better than leaving a name.
_PATH = re.compile(
    r"(?<![\w.:/\\>~])/(?:[^/\n\"':;,<>]+/)+[^\s/\"':;,<>]*|\b[A-Za-z]:\\(?:[^\\\n\"':;,<>]+\\)*[^\s\\\"':;,<>]*"
)


def without_private_parts(text: str) -> str:
    """Replace this machine's folders, host name and user name with placeholders such as <home>."""
    folders = {ROOT: "<revoice>", Path(tempfile.gettempdir()): "<temporary>", Path.home(): "<home>"}
    for folder, word in sorted(folders.items(), key=lambda item: -len(str(item[0]))):
        if len(folder.parts) > 1:
            text = text.replace(str(folder), word)
    text = _PATH.sub(lambda match: "<folder>/" + re.split(r"[/\\]", match[0])[-1], text)
    for name, word in ((_user(), "<user>"), (platform.node(), "<machine>")):
        if len(name) >= _SHORT:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", word, text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # an account without a name, as in some containers
        return ""


def describe_program() -> list[str]:
    """List versions and devices, one per line."""
    lines = [f"Python {sys.version.split()[0]} on {platform.platform()}"]
    for package in PACKAGES:
        try:
            lines.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{package} is not installed")
    return lines + [f"device {name}: {reason}" for name, reason in list_devices()]


def write_bundle(parts: Mapping[str, Sequence[str]], folder: Path) -> Path:
    """Write a ZIP file with these lines of text, keyed by file name, into `folder` and return its path."""
    output = folder / f"revoice-report-{time.strftime('%Y%m%d-%H%M%S')}.zip"
    with replacing(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, lines in parts.items():
            archive.writestr(name, without_private_parts("\n".join(lines[-MAX_LINES:])) + "\n")
    return output
