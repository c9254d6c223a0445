"""The worker process: runs conversions and keeps their voices in memory.

A long call into a library (e.g. harvest on 2 minutes) cannot be interrupted. If a cancelled conversion does not stop,
its process is therefore killed. A crash or running out of memory fails only the job.
"""

import contextlib
import importlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lib.errors import RevoiceError, error_from_json
from lib.json_reader import parse_json
from lib.messages import Message, to_json
from lib.progress import Cancelled
from web.jobs.registry import MAX_JOB_BYTES, JobContext, Runner, unexpected
from web.jobs.reports import handle_report, read_report, throttled
from web.jobs.requests import Kind, Request, read_request

logger = logging.getLogger(__name__)

GRACE_SECONDS = 0.5  # for a cancelled conversion to stop, so that the process and its loaded voices can be kept
POLL_SECONDS = 0.1
END_SECONDS = 5.0
LEAVE_SECONDS = 2.0  # for the process to return from its job after the server has exited

Runners = Mapping[Kind, Runner]


class Worker:
    """Starts the worker process, sends it one job at a time, and restarts it if it has exited."""

    def __init__(self, make_runners: Callable[[], Runners], imports: Sequence[str] = ()) -> None:
        """`make_runners` is a module-level function; the process calls it and runs jobs with the result.

        `imports` are modules that the process imports before the first job.
        """
        self._arguments = (make_runners, tuple(imports))
        self._starting = threading.Lock()
        self._process: Any = None
        self._pipe: Connection | None = None
        self._number = 0  # of the job

    def runner(self, kind: Kind) -> Runner:
        """Return the runner of a JobRegistry for jobs of a kind."""
        return partial(self._run, kind)

    def start(self) -> Connection:
        """Start the process if it is not running; returns the connection to it."""
        with self._starting:
            if self._pipe is not None and self._process.is_alive():
                return self._pipe
            context = get_context("spawn")
            self._pipe, other = context.Pipe()
            self._process = context.Process(target=work, args=(other, *self._arguments), daemon=True)
            self._process.start()
            other.close()  # else its end would not be noticed here
            return self._pipe

    def end(self) -> None:
        """Kill the process."""
        with self._starting:
            if self._pipe is not None:
                self._process.kill()
                self._process.join(END_SECONDS)
                self._pipe.close()
                self._pipe = None

    def _run(self, kind: Kind, request: Request, context: JobContext) -> Sequence[Path]:
        context.progress(0, 1, Message("loading the voice"))  # the process may have to start first
        pipe = self.start()
        self._number += 1
        try:
            _send(pipe, run=[self._number, kind, request.model_dump(mode="json"), str(context.folder)])
            return self._follow(pipe, context)
        except (EOFError, OSError) as error:  # of the pipe: every other error is a message
            self._process.join(END_SECONDS)
            status = self._process.exitcode
            self.end()
            raise RevoiceError(
                "The conversion process ended with status {status}, probably because memory ran out. "
                "Close other programs, then resume the job.",
                status=status,
            ) from error

    def _follow(self, pipe: Connection, context: JobContext) -> Sequence[Path]:
        """Pass on the reports of the process until the job has ended or is killed."""
        asked: float | None = None
        while True:
            if context.cancelled.is_set():
                if asked is None:
                    asked = time.monotonic()
                    _send(pipe, cancel=self._number)
                elif time.monotonic() - asked > GRACE_SECONDS:
                    self._end_job(context)
            if not pipe.poll(POLL_SECONDS):
                continue
            report = _receive(pipe)
            if "files" in report:
                return [Path(path) for path in report["files"]]
            if "error" in report:
                raise error_from_json(report["error"])
            if "cancelled" in report:
                raise Cancelled
            handle_report(report, context)

    def _end_job(self, context: JobContext) -> None:
        self.end()
        for path in context.folder.rglob(".part-*"):  # what the process was writing
            path.unlink(missing_ok=True)
        threading.Thread(
            target=self.start, daemon=True
        ).start()  # so that the next conversion need not wait for imports
        raise Cancelled


def _send(pipe: Connection, **values: Any) -> None:
    pipe.send_bytes(json.dumps(to_json(values)).encode())


def _receive(pipe: Connection) -> dict[str, Any]:
    return read_report(parse_json(pipe.recv_bytes(), MAX_JOB_BYTES, allow_nan=True))


# --- in the process -----------------------------------------------------------------------------------------------


class _WorkerLoop:
    """The child's side of the pipe: receives jobs and sends their reports, until the server has exited."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._sending = threading.Lock()
        self._context: tuple[int, JobContext] | None = None
        self._changed = threading.Condition()
        self._jobs: list[Any] = []
        self._closed = False
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, **report: Any) -> None:
        with self._sending, contextlib.suppress(OSError):
            _send(self._pipe, **report)

    def _listen(self) -> None:
        while True:
            try:
                message = _receive(self._pipe)
            except (EOFError, OSError):
                self._exit()
                return
            with self._changed:
                if "run" in message:
                    self._jobs.append(message["run"])
                    self._changed.notify()
                elif self._context is not None and self._context[0] == message["cancel"]:
                    self._context[1].cancelled.set()

    def _exit(self) -> None:
        """End the process: it returns if it is idle or its job checks for cancellation; otherwise it is terminated."""
        with self._changed:
            self._closed = True
            if self._context is not None:
                self._context[1].cancelled.set()
            self._changed.notify()
        time.sleep(LEAVE_SECONDS)  # this thread ends with the process
        os.kill(os.getpid(), signal.SIGTERM)

    def next_job(self) -> tuple[Kind, object, JobContext] | None:
        """Wait for a job; None when the server has exited."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._jobs))
            if self._closed:
                return None
            number, kind, request, folder = self._jobs.pop(0)
            context = JobContext(Path(folder), throttled(self.send), lambda line: self.send(log=line))
            self._context = (number, context)
            return kind, request, context


class _Forward(logging.Handler):
    """Sends the log to the server, which shows and keeps it."""

    def __init__(self, loop: _WorkerLoop) -> None:
        super().__init__()
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        """Send one entry, with its traceback if it has one."""
        self._loop.send(record=[record.name, record.levelno, self.format(record)])


def work(pipe: Connection, make_runners: Callable[[], Runners], imports: Sequence[str]) -> None:
    """Run jobs until the server has exited. This is the main function of the worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server handles Ctrl-C, and this process ends after it
    loop = _WorkerLoop(pipe)
    logging.basicConfig(level=logging.INFO, handlers=[_Forward(loop)], format="%(message)s")
    runners = make_runners()
    logging.getLogger("faiss").setLevel(logging.WARNING)  # its attempts to load a faster build
    for name in imports:
        with contextlib.suppress(ImportError):  # the job that needs it reports the error
            importlib.import_module(name)
    while job := loop.next_job():
        kind, request, context = job
        loop.send(**_outcome(runners[kind], kind, request, context))


def _outcome(runner: Runner, kind: Kind, request: object, context: JobContext) -> dict[str, Any]:
    """Run one job; returns its last report."""
    try:
        return {"files": [str(path) for path in runner(read_request(kind, request), context)]}
    except Cancelled:
        return {"cancelled": True}
    except RevoiceError as error:
        return {"error": error.to_json()}
    except Exception as error:  # a bug in one job must not end the process, which holds loaded voices
        logger.exception("unexpected error")
        message = unexpected(error)
        return {"error": RevoiceError(message.template, **message.values).to_json()}
