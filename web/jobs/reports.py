"""The reports of a process that runs a job: JSON objects, printed as lines by training and sent by the worker process.

    {"done", "total", "what"}   progress; "what" may be a message
    {"log"}                     a line of the job's log
    {"details"}                 values that the runner publishes to the web UI
    {"record"}                  an entry of the log of the process: [logger, level, text]
    {"files"}                   last, after a success: the files that were written
    {"error"}                   last, after a failure: {"type", "template", "values"}
    {"cancelled"}               last, after a cancellation

`lib.terminal.reporting` prints those of a command line.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from lib.messages import from_json
from lib.progress import Cancelled
from web.jobs.registry import JobContext

REPORT_SECONDS = 0.1  # between two reports of the progress of a step


def read_report(value: Any) -> dict[str, Any]:
    """Return a report from parsed JSON; anything else becomes a line of the log."""
    return {key: from_json(item) for key, item in value.items()} if isinstance(value, dict) else {"log": str(value)}


def throttled(send: Callable[..., None]) -> Callable[..., None]:
    """Return a function that passes reports to `send`, but at most ten progress reports per second for one step."""
    last: tuple[object, float] = (None, 0.0)

    def report(**values: Any) -> None:
        nonlocal last
        if "done" in values:
            step, now = values["what"], time.monotonic()
            if step == last[0] and now - last[1] < REPORT_SECONDS:
                return
            last = step, now
        send(**values)

    return report


def handle_report(report: Mapping[str, Any], context: JobContext) -> None:
    """Pass progress, log lines and details on to the job; other reports are ignored."""
    if {"done", "total", "what"} <= report.keys():
        with contextlib.suppress(Cancelled):  # the process itself is asked to stop
            context.progress(int(report["done"]), int(report["total"]), _text(report["what"]))
    elif "log" in report:
        context.log(_text(report["log"]))
    elif "details" in report:
        context.publish(**report["details"])
    elif "record" in report:
        name, level, text = report["record"]
        logging.getLogger(name).log(level, "%s", text)


def _text(value: object) -> str:
    return value if isinstance(value, str) else str(value)
