"""Writes the bug report: a ZIP with versions, devices and the last log lines, without private paths and names."""

import getpass
import logging
import platform
import re
import sys
import tempfile
import time
import zipfile
from collections import deque
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from lib.devices import list_devices
from lib.files import replacing
from lib.paths import ROOT
from web.i18n.placeholders import translate
from web.jobs.registry import JobView
from web.jobs.requests import VOICE_SETTINGS

LOG_LINES = 200
REPORTED_JOBS = 5
REPORTED_VALUES = ("options", "format", "index_rates", "stage", *VOICE_SETTINGS)  # of a request
PACKAGES = ("torch", "torchaudio", "gradio", "accelerate", "numpy", "faiss-cpu", "onnxruntime", "soundfile", "av")
_SHORT = 3  # user names of fewer letters are not replaced, because they occur within words
# A path of two or more parts, as on Linux or Windows, up to its last part. Folders may have spaces, so a match may
# include words up to the next slash: removing a word too many is better than leaving a name.
_PATH = re.compile(
    r"(?<![\w.:/\\>~])/(?:[^/\n\"':;,<>]+/)+[^\s/\"':;,<>]*|\b[A-Za-z]:\\(?:[^\\\n\"':;,<>]+\\)*[^\s\\\"':;,<>]*"
)


class LogTail(logging.Handler):
    """Keeps the last lines of the log; the program adds it to the root logger when it starts."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self.lines: deque[str] = deque(maxlen=LOG_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one entry, with its traceback if it has one."""
        self.lines.extend(self.format(record).splitlines())


def log_lines() -> list[str]:
    """The lines that a LogTail of the root logger has kept; none if the program added none."""
    tails = [handler for handler in logging.getLogger().handlers if isinstance(handler, LogTail)]
    return list(tails[0].lines) if tails else []


def without_private_parts(text: str) -> str:
    """Replace this machine's folders, and the names of user and machine, by placeholders such as <home>."""
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
    """Versions and devices, one per line."""
    lines = [f"Python {sys.version.split()[0]} on {platform.platform()}"]
    for package in PACKAGES:
        try:
            lines.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{package} is not installed")
    return lines + [f"device {name}: {reason}" for name, reason in list_devices()]


def describe_job(job: JobView) -> list[str]:
    """The options and the outcome of a job, without the names of recordings."""
    request = job.request.model_dump(mode="json") if job.request else {}
    options = {name: value for name, value in request.items() if name in REPORTED_VALUES}
    lines = [f"--- {job.kind}: {job.state}, {job.done} of {job.total} {job.what}", f"{options}"]
    return [*lines, *([f"error: {translate(job.error)}"] if job.error else []), *job.log]


def write_bug_report(jobs: Sequence[JobView], folder: Path) -> Path:
    """Write the ZIP into `folder` and return its path; `jobs`: the newest first."""
    parts = {
        "program.txt": describe_program(),
        "log.txt": log_lines() or ["(no log was kept)"],
        "jobs.txt": [line for job in jobs[:REPORTED_JOBS] for line in describe_job(job)] or ["(no jobs)"],
    }
    output = folder / f"revoice-report-{time.strftime('%Y%m%d-%H%M%S')}.zip"
    with replacing(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, lines in parts.items():
            archive.writestr(name, without_private_parts("\n".join(lines[-LOG_LINES * REPORTED_JOBS :])) + "\n")
    return output
