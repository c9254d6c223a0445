"""Writes the bug report: a ZIP file with versions, devices and the last log lines, without private paths and names."""

import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from lib.bug_report import describe_program, write_bundle
from web.i18n.placeholders import translate
from web.jobs.registry import JobView
from web.jobs.requests import VOICE_SETTINGS

LOG_LINES = 200
REPORTED_JOBS = 5
REPORTED_VALUES = ("options", "format", "index_rates", "stage", *VOICE_SETTINGS)  # of a request


class LogTail(logging.Handler):
    """Keeps the last lines of the log; it is added to the root logger when the server starts."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self.lines: deque[str] = deque(maxlen=LOG_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one entry, with its traceback if it has one."""
        self.lines.extend(self.format(record).splitlines())


def log_lines() -> list[str]:
    """Return the lines kept by the root logger's LogTail; an empty list if the root logger has none."""
    tails = [handler for handler in logging.getLogger().handlers if isinstance(handler, LogTail)]
    return list(tails[0].lines) if tails else []


def describe_job(job: JobView) -> list[str]:
    """List the options and the outcome of a job, without the names of recordings."""
    request = job.request.model_dump(mode="json") if job.request else {}
    options = {name: value for name, value in request.items() if name in REPORTED_VALUES}
    lines = [f"--- {job.kind}: {job.state}, {job.done} of {job.total} {job.what}", f"{options}"]
    return [*lines, *([f"error: {translate(job.error)}"] if job.error else []), *job.log]


def write_bug_report(jobs: Sequence[JobView], folder: Path) -> Path:
    """Write the ZIP file into `folder` and return its path; `jobs` are sorted newest first."""
    parts = {
        "program.txt": describe_program(),
        "log.txt": log_lines() or ["(no log was kept)"],
        "jobs.txt": [line for job in jobs[:REPORTED_JOBS] for line in describe_job(job)] or ["(no jobs)"],
    }
    return write_bundle(parts, folder)
