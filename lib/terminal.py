"""What the command lines of infer and train share: a progress bar, warnings, Ctrl-C, and mistakes as one sentence."""

import contextlib
import json
import logging
import re
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pydantic import ValidationError

from lib.progress import Cancelled, Progress

if TYPE_CHECKING:
    pass

REPORT_SECONDS = 0.3  # between two reports of progress to a program
LINE_SECONDS = 30.0  # between two lines of progress where there is no terminal to draw a bar on
FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130  # exit status


def usage_error(leaving: SystemExit, told: str) -> str:
    """One sentence for a mistake in the options: `leaving` is how the parser left, `told` what it wrote."""
    cause: BaseException | None = leaving
    while cause is not None and not isinstance(cause, ValidationError):
        cause = cause.__cause__ or cause.__context__
    return _condense(told) if cause is None else _describe(cause)


def _describe(error: ValidationError) -> str:
    """Put pydantic's findings about options into one sentence."""
    found = []
    for problem in error.errors():
        name = "--" + "-".join(str(part) for part in problem["loc"]).replace("_", "-")
        rule = problem["msg"].removeprefix("Value error, ").replace("Input should be", "it must be")
        found.append(f"{name} cannot be {problem['input']}: {rule}")
    return "; ".join(found) + "."


def _condense(told: str) -> str:
    """Put what the parser tells in a box into one line."""
    lines = [line.strip("│ ") for line in told.splitlines() if not line.startswith(("╭", "╰"))]
    sections = re.split(r"^[─-]{3,}$", "\n".join(lines), flags=re.MULTILINE)
    # Where the terminal cannot show boxes, the title is a section of its own instead of a part of the border.
    sections = sections if told.startswith("╭") else sections[1:]
    kept = [" ".join(s.split()) for s in sections if "full helptext" not in s and "Argument helptext" not in s]
    sentence = ". ".join(text.rstrip(".") for text in kept if text)
    return re.sub(r"(?<=Expected one of )\((.*?)\)", _sort_choices, sentence) + "."


def _sort_choices(found: re.Match[str]) -> str:
    """Put choices in order: the parser's come out of a set."""
    return ", ".join(sorted(found[1].split(", ")))


@contextlib.contextmanager
def _interrupts(show: Callable[[str], None]) -> Iterator[list[bool]]:
    """Collect the first Ctrl-C instead of raising, so that a step is never torn; the second one raises as usual."""
    pressed: list[bool] = []

    def handle(number: int, frame: types.FrameType | None) -> None:
        if pressed:
            signal.default_int_handler(number, frame)
        pressed.append(True)
        show("Stopping as soon as nothing gets lost; Ctrl-C again stops at once.")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _log_to(show: Callable[[str], None], level: int) -> Iterator[None]:
    """Show our own log messages of `level` and others' warnings; afterwards logging is as it was."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            prefix = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
            show(prefix + record.getMessage())

    handler, ours = Handler(), [logging.getLogger(name) for name in ("lib", "infer", "train")]
    before = [logger.level for logger in ours]
    logging.getLogger().addHandler(handler)
    for logger in ours:
        logger.setLevel(level)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        for logger, old in zip(ours, before, strict=True):
            logger.setLevel(old)


@contextlib.contextmanager
def terminal(first: str, level: int = logging.WARNING, *, whole_steps: bool = True) -> Iterator[Progress]:
    """Show a progress bar and log messages on stderr while the body runs; Ctrl-C raises Cancelled from the Progress.

    With whole_steps=False it raises KeyboardInterrupt at once: for work that can be left at any point.
    `first` is shown until the Progress is called. Without a terminal a line is printed every half minute instead.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    nothing: contextlib.AbstractContextManager[list[bool]] = contextlib.nullcontext([])

    def show(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    with (
        _log_to(show, level),
        _interrupts(show) if whole_steps else nothing as pressed,
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
    """Like `terminal`, for a program that reads: one JSON object per line, {"done", "total", "what"} or {"log"}.

    The work stops as after Ctrl-C when standard input ends: when the program closes it, or is no more.
    """

    def write(**values: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(json.dumps(values) + "\n")
            sys.stdout.flush()

    def show(line: str) -> None:
        write(log=line)

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
                write(done=done, total=total, what=what)
            if stopped:
                raise Cancelled

        yield progress
