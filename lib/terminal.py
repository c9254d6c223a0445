"""Functions shared by the command lines of infer and train: progress bar, log output, Ctrl-C, usage errors."""

import contextlib
import io
import json
import logging
import re
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from lib.errors import RevoiceError
from lib.messages import to_json
from lib.progress import Cancelled, Progress

REPORT_SECONDS = 0.3  # between progress reports to another program
LINE_SECONDS = 30.0  # between progress lines without a terminal
FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130  # exit status

Parsed = TypeVar("Parsed")


def parse_arguments(parse: Callable[[], Parsed], program: str) -> Parsed:
    """Parse the command line with `parse`, one of tyro's functions; print a usage error as one sentence, and exit."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            return parse()
    except SystemExit as exit_error:
        if not exit_error.code:
            raise  # --help
        sys.stderr.write(f"{_usage_error(exit_error, output.getvalue())} See {program} --help.\n")
        raise SystemExit(WRONG_USE) from None


def _usage_error(exit_error: SystemExit, output: str) -> str:
    """Return one sentence for a usage error, from the parser's exit and its output."""
    cause: BaseException | None = exit_error
    while cause is not None and not isinstance(cause, ValidationError):
        cause = cause.__cause__ or cause.__context__
    return _condense(output) if cause is None else _describe(cause)


def _describe(error: ValidationError) -> str:
    """Describe Pydantic's problems with options in one sentence."""
    problems = []
    for problem in error.errors():
        name = "--" + "-".join(str(part) for part in problem["loc"]).replace("_", "-")
        rule = problem["msg"].removeprefix("Value error, ").replace("Input should be", "it must be")
        problems.append(f"{name} cannot be {problem['input']}: {rule}")
    return "; ".join(problems) + "."


def _condense(output: str) -> str:
    """The parser's boxed message in one line."""
    lines = [line.strip("│ ") for line in output.splitlines() if not line.startswith(("╭", "╰"))]
    sections = re.split(r"^[─-]{3,}$", "\n".join(lines), flags=re.MULTILINE)
    # On terminals without box characters the title is its own section instead of part of the border.
    sections = sections if output.startswith("╭") else sections[1:]
    kept = [" ".join(s.split()) for s in sections if "full helptext" not in s and "Argument helptext" not in s]
    sentence = ". ".join(text.rstrip(".") for text in kept if text)
    return re.sub(r"(?<=Expected one of )\((.*?)\)", _sort_choices, sentence) + "."


def _sort_choices(match: re.Match[str]) -> str:
    """Sort choices, which the parser prints from a set."""
    return ", ".join(sorted(match[1].split(", ")))


@contextlib.contextmanager
def _interrupts(show: Callable[[str], None]) -> Iterator[list[bool]]:
    """Record the first Ctrl-C or SIGTERM, so that the current step can finish. The next one stops it at once."""
    pressed: list[bool] = []

    def handle(number: int, frame: types.FrameType | None) -> None:
        if pressed:
            signal.default_int_handler(number, frame)
        pressed.append(True)
        show("Stopping after the current step. Press Ctrl-C again to stop at once.")

    def end(number: int, frame: types.FrameType | None) -> None:
        if not pressed:
            pressed.append(True)
            show("Stopping after the current step.")

    before = {number: signal.signal(number, own) for number, own in ((signal.SIGINT, handle), (signal.SIGTERM, end))}
    try:
        yield pressed
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def _interrupts_at_once() -> Iterator[list[bool]]:
    """Make SIGTERM raise KeyboardInterrupt as Ctrl-C does, so that incomplete files are removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield []
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _log_to(show: Callable[[str], None], level: int) -> Iterator[None]:
    """Show this project's log messages from `level` on and warnings of other packages; restores logging afterwards."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            prefix = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
            show(prefix + record.getMessage())

    handler, loggers = Handler(), [logging.getLogger(name) for name in ("lib", "infer", "train")]
    before = [logger.level for logger in loggers]
    logging.getLogger().addHandler(handler)
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        for logger, old in zip(loggers, before, strict=True):
            logger.setLevel(old)


@contextlib.contextmanager
def terminal(first: str, level: int = logging.WARNING, *, whole_steps: bool = True) -> Iterator[Progress]:
    """Show a progress bar and log messages on stderr during the `with` block.

    Ctrl-C and SIGTERM make the yielded Progress raise Cancelled at its next call. If `whole_steps` is false, they raise
    KeyboardInterrupt at once, for work that may stop at any point. `first` is shown until the Progress is first called.
    If stderr is not a terminal, a line is printed every 30 seconds instead of the bar.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())

    def show(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    with (
        _log_to(show, level),
        _interrupts(show) if whole_steps else _interrupts_at_once() as pressed,
        Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task(first, total=None)
        last_line = time.monotonic()

        def progress(done: int, total: int, what: str) -> None:
            nonlocal last_line
            bar.update(task, completed=done, total=total, description=what)
            if bar.disable and time.monotonic() - last_line > LINE_SECONDS:
                last_line = time.monotonic()
                show(f"{what} ({done} of {total})")
            if pressed:
                raise Cancelled

        yield progress


@contextlib.contextmanager
def reporting(level: int = logging.WARNING) -> Iterator[Progress]:
    """Like `terminal`, but for another program: prints one JSON object per line, {"done", "total", "what"} or {"log"}.

    A message in "what" is {"template", "values"}; `report_error` and `report_files` print the last lines. EOF on
    standard input cancels the work, as Ctrl-C does: the other program has closed it, or has exited.
    """

    def show(line: str) -> None:
        _write_line(log=line)

    with _log_to(show, level), _interrupts(show) as stopped:

        def watch() -> None:
            while sys.stdin.readline():
                pass
            stopped.append(True)

        threading.Thread(target=watch, daemon=True).start()
        last = 0.0

        def progress(done: int, total: int, what: str) -> None:
            nonlocal last
            if time.monotonic() - last > REPORT_SECONDS or done >= total:
                last = time.monotonic()
                _write_line(done=done, total=total, what=to_json(what))
            if stopped:
                raise Cancelled

        yield progress


def report_error(error: RevoiceError) -> None:
    """Print, for another program, why the work failed: {"error": {"type", "template", "values"}}."""
    _write_line(error=error.to_json())


def report_files(paths: Iterable[Path]) -> None:
    """Print, for another program, which files were written: {"files": [...]}."""
    _write_line(files=[str(path) for path in paths])


def _write_line(**values: object) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(values) + "\n")
        sys.stdout.flush()
