"""The server's jobs: queued, running and finished. They do not depend on an open browser window and survive a restart.

There are two queues, each of which runs one job at a time: conversions, and training (in subprocesses, see runners.py).
Every job has a folder with `job.json`, written on each change of state; jobs that were running or queued when the
server was killed are "interrupted" at the next start and can be resumed.
"""

import json
import logging
import re
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from lib.errors import ConfigError, RevoiceError, WriteError
from lib.files import replacing
from lib.json_reader import read_json_table
from lib.machine import machine_error
from lib.messages import Message, from_json, to_json
from lib.progress import Cancelled
from web.jobs.requests import Kind, Request, kind_of, read_request
from web.jobs.uploads import MAX_CLIENT_BYTES, size_of, with_copies
from web.limits import THIS_MACHINE
from web.validation import describe_problems

logger = logging.getLogger(__name__)

State = Literal["waiting", "running", "done", "failed", "cancelled", "interrupted"]
QUEUES: tuple[tuple[Kind, ...], ...] = (("convert", "batch", "compare", "cover", "say"), ("train",))
LOG_LINES = 200  # of a job that are kept
MAX_LINE = 1000  # characters of a line of the log
MAX_JOB_BYTES = 64 << 20  # of a job file; it lists every recording of a batch
KEPT_JOBS = 50  # ended jobs; older ones are deleted with their results when a new one is submitted
MAX_WAITING = 20  # per queue ...
MAX_WAITING_OF_CLIENT = 5  # ... and per client on another machine
_ID = re.compile(r"[0-9a-f]{16}")
Count = Annotated[int, Field(ge=0, le=2**53)]
Time = Annotated[float, Field(ge=0, le=2.5e11)]  # Unix seconds


@dataclass(frozen=True)
class JobView:
    """A snapshot of a job."""

    id: str
    kind: Kind
    title: str
    request: Request | None  # everything needed to run it again; None if its file has no usable request
    state: State = "waiting"
    stopping: bool = False  # it runs and was asked to end
    done: Count = 0
    total: Count = 0
    what: str = ""
    log: tuple[str, ...] = ()
    results: tuple[str, ...] = ()  # paths of files
    error: str | None = None  # the message, with its template
    details: Mapping[str, Any] = field(default_factory=dict)  # values that the runner published
    created: Time = 0.0
    number: Count = 0  # order of queueing, which does not depend on the clock; 0 in older files
    started: Time | None = None
    ended: Time | None = None

    @property
    def active(self) -> bool:
        """Whether the job is running or queued."""
        return self.state in ("waiting", "running")

    @property
    def resumable(self) -> bool:
        """Whether the job can be queued again with `resume`."""
        return self.request is not None and self.state in ("interrupted", "failed", "cancelled")

    @property
    def seconds_left(self) -> float | None:
        """Estimated remaining time in seconds; None before the job has made progress."""
        if self.state != "running" or self.started is None or not 0 < self.done <= self.total:
            return None
        return max(0.0, (_now() - self.started) / self.done * (self.total - self.done))


def unexpected(error: Exception) -> Message:
    """Return the message for a system failure or a bug; the log has the details."""
    if known := machine_error(error):
        return known.message
    return Message(
        "An unexpected error occurred ({kind}). See the window where the program was started for details.",
        kind=type(error).__name__,
    )


class JobContext:
    """The interface of a runner to its job: a folder for files, and functions for progress, log lines and details."""

    def __init__(self, folder: Path, change: Callable[..., None], add_line: Callable[[str], None]) -> None:
        self.folder = folder
        self.cancelled = threading.Event()
        self._change = change
        self._add_line = add_line

    def progress(self, done: int, total: int, what: str) -> None:
        """Report the progress, as a `lib.progress.Progress`. Raises Cancelled once the job has been cancelled."""
        if self.cancelled.is_set():
            raise Cancelled
        self._change(done=done, total=total, what=what)

    def log(self, line: str) -> None:
        """Add a line to the job's log."""
        self._add_line(line)

    def publish(self, **details: Any) -> None:
        """Publish JSON-serialisable values to the web UI."""
        self._change(details=details)


Runner = Callable[[Any, JobContext], Sequence[Path]]  # the request of its kind, context -> files
_JOB_FILE = TypeAdapter(JobView)  # validates; its values would not keep the templates of messages


class JobRegistry:
    """All jobs of a server. Thread-safe."""

    def __init__(self, folder: Path, runners: Mapping[Kind, Runner]) -> None:
        self._folder = folder
        self._runners = runners
        self._changed = threading.Condition()
        self._jobs: dict[str, JobView] = {}
        self._contexts: dict[str, JobContext] = {}
        self._clients: dict[str, str] = {}  # of jobs since the start; addresses are not written down
        self._closing = False
        self._queues: tuple[deque[str], ...] = tuple(deque() for _ in QUEUES)
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*/job.json")):
            self._read(path)
        self._threads = [threading.Thread(target=self._work, args=(queue,), daemon=True) for queue in self._queues]
        for thread in self._threads:
            thread.start()

    def _read(self, path: Path) -> None:
        """Read a job from an earlier run of the server; a damaged file is ignored."""
        try:
            job = _read_job(path)
        except (RevoiceError, ValueError, LookupError, TypeError) as error:
            reason = describe_problems(error) if isinstance(error, ValidationError) else error
            logger.warning("%s is not a job file and is ignored: %s", path, reason)
            return
        if _ID.fullmatch(job.id) is not None and path.parent.name == job.id and job.kind in self._runners:
            self._jobs[job.id] = job
            self._write(job.id)

    def submit(self, title: str, request: Request, client: str = THIS_MACHINE) -> str:
        """Copy the uploads of a request into a new job's folder, add the job to its queue and return its id.

        They are copied because the server deletes uploads when it exits. Raises ConfigError if the queue already has
        too many jobs, in total or of this client, or if the copies exceed a limit.
        """
        kind = kind_of(request)
        job_id = secrets.token_hex(8)
        folder = self._folder / job_id
        with self._changed:
            queue = self._queue_of(kind)
            self._check_queue(queue, client)
            held = [self._folder / known for known, owner in self._clients.items() if owner == client]
        complete = with_copies(request, folder, None if client == THIS_MACHINE else MAX_CLIENT_BYTES - size_of(held))
        with self._changed:
            self._jobs[job_id] = JobView(job_id, kind, title, complete, created=_now(), number=self._next_number())
            self._clients[job_id] = client
            self._write(job_id)
            queue.append(job_id)
            self._delete_old()
            self._changed.notify_all()
        return job_id

    def get(self, job_id: str) -> JobView:
        """Return the current state of a job. Raises ConfigError if the id is unknown."""
        with self._changed:
            if job_id not in self._jobs:
                raise ConfigError("There is no job {job!r}. It may have been deleted.", job=job_id[:MAX_LINE])
            return self._jobs[job_id]

    def jobs(self, *kinds: Kind) -> list[JobView]:
        """Return the jobs of these kinds, or all jobs, newest first."""
        with self._changed:
            found = [job for job in self._jobs.values() if not kinds or job.kind in kinds]
        return sorted(found, key=lambda job: (job.number, job.created), reverse=True)

    def cancel(self, job_id: str) -> None:
        """Remove a queued job from its queue, or ask a running one to stop."""
        with self._changed:
            job = self.get(job_id)
            if job.state == "waiting":
                self._queue_of(job.kind).remove(job_id)
                self._set(job_id, state="cancelled", ended=_now())
            elif job_id in self._contexts:
                self._contexts[job_id].cancelled.set()
                self._set(job_id, stopping=True)

    def resume(self, job_id: str) -> str:
        """Queue an interrupted, failed or cancelled job again, keeping the files it has written; return its id."""
        with self._changed:
            job = self.get(job_id)
            if not job.resumable:
                raise ConfigError("The job “{job}” cannot be resumed.", job=job.title)
            self._set(
                job_id, state="waiting", error=None, started=None, ended=None, created=_now(),
                number=self._next_number(),
            )  # fmt: skip
            self._queue_of(job.kind).append(job_id)
            self._changed.notify_all()
        return job_id

    def delete(self, job_id: str) -> None:
        """Delete a finished job and the files in its folder."""
        with self._changed:
            if self.get(job_id).active:
                raise ConfigError("A queued or running job cannot be deleted. Cancel it first.")
            del self._jobs[job_id]
            self._clients.pop(job_id, None)
            shutil.rmtree(self._folder / job_id, ignore_errors=True)

    def wait(self, job_id: str, seconds: float | None = None) -> JobView:
        """Wait until the job has ended, at most `seconds`; return its state."""
        with self._changed:
            self._changed.wait_for(lambda: not self.get(job_id).active, seconds)
            return self.get(job_id)

    def close(self, seconds: float = 60.0) -> None:
        """Cancel running jobs and wait until they have ended; queued jobs become "interrupted"."""
        with self._changed:
            self._closing = True
            for context in self._contexts.values():
                context.cancelled.set()
            for queue in self._queues:
                for job_id in queue:
                    self._set(job_id, state="interrupted", ended=_now())
                queue.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(seconds)

    # --- inside; the lock is held unless a docstring says otherwise ------------------------------------------------

    def _queue_of(self, kind: Kind) -> deque[str]:
        return next(queue for queue, kinds in zip(self._queues, QUEUES, strict=True) if kind in kinds)

    def _check_queue(self, queue: deque[str], client: str) -> None:
        """Raise ConfigError if a queue is full, or a client of another machine has used up its share."""
        if len(queue) >= MAX_WAITING:
            raise ConfigError("{count} jobs are already queued. Try again later.", count=len(queue))
        own = sum(self._clients.get(job_id) == client for job_id in queue)
        if client != THIS_MACHINE and own >= MAX_WAITING_OF_CLIENT:
            raise ConfigError("{count} of your jobs are already queued. Try again when one has ended.", count=own)

    def _next_number(self) -> int:
        return 1 + max((job.number for job in self._jobs.values()), default=0)

    def _work(self, queue: deque[str]) -> None:
        """Run the jobs of one queue until the server closes. Acquires the lock."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(queue) or self._closing)
                if self._closing:
                    return
                job_id = queue.popleft()
                self._set(job_id, state="running", started=_now(), done=0, total=0, what="", log=())
                context = JobContext(
                    self._folder / job_id, partial(self._update, job_id), partial(self._add_line, job_id)
                )
                self._contexts[job_id] = context
            ended = self._run(self._jobs[job_id], context)
            with self._changed:
                del self._contexts[job_id]
                if self._closing and ended["state"] == "cancelled":
                    ended["state"] = "interrupted"
                self._set(job_id, ended=_now(), stopping=False, **ended)

    def _run(self, job: JobView, context: JobContext) -> dict[str, Any]:
        """Run one job without the lock; returns the final changes to its JobView. Catches every exception."""
        try:
            results = self._runners[job.kind](job.request, context)
        except Cancelled:
            return {"state": "cancelled"}
        except RevoiceError as error:
            return {"state": "failed", "error": error.message}
        except Exception as error:  # a bug in one job must not stop its queue
            logger.exception("unexpected error in job %s", job.id)
            return {"state": "failed", "error": unexpected(error)}
        return {"state": "done", "results": tuple(map(str, results))}

    def _update(self, job_id: str, **values: Any) -> None:
        """Update a running job. Acquires the lock; writes no file, because this is called too often."""
        with self._changed:
            job = self._jobs[job_id]
            if "details" in values:
                values["details"] = {**job.details, **values["details"]}
            self._jobs[job_id] = replace(job, **values)

    def _add_line(self, job_id: str, text: str) -> None:
        """Add to the job's log. Acquires the lock."""
        with self._changed:
            job = self._jobs[job_id]
            self._jobs[job_id] = replace(job, log=(*job.log, text[:MAX_LINE])[-LOG_LINES:])

    def _set(self, job_id: str, **values: Any) -> None:
        self._jobs[job_id] = replace(self._jobs[job_id], **values)
        self._write(job_id)
        self._changed.notify_all()

    def _write(self, job_id: str) -> None:
        try:
            with replacing(self._folder / job_id / "job.json") as path:
                path.write_text(json.dumps(_job_to_json(self._jobs[job_id])), encoding="utf-8")
        except WriteError as error:  # a full disk must not end the server; the job is only missing after a restart
            logger.warning("the file of job %s could not be written: %s", job_id, error)

    def _delete_old(self) -> None:
        for job in [job for job in self.jobs() if not job.active][KEPT_JOBS:]:
            self.delete(job.id)


def _now() -> float:
    """Return the Unix time in seconds, as stored in job files."""
    return max(0.0, time.time())


def _job_to_json(job: JobView) -> object:
    request = job.request.model_dump(mode="json") if job.request else None
    return to_json({**asdict(replace(job, request=None)), "request": request})


def _read_job(path: Path) -> JobView:
    """Return the job of a file, as interrupted if it was queued or running.

    A job without a valid request cannot be resumed. Raises ConfigError, ValueError, LookupError or TypeError if the
    file is not a job file.
    """
    values: Any = from_json(read_json_table(path, MAX_JOB_BYTES, allow_nan=True))
    _JOB_FILE.validate_python({**values, "request": None})
    job = JobView(**{**values, "request": None} | {name: tuple(values[name]) for name in ("log", "results")})
    try:
        job = replace(job, request=read_request(job.kind, values["request"]))
    except ConfigError as error:
        logger.warning("%s has no usable request, so the job cannot be resumed: %s", path, error)
    if not job.active:
        return job
    if job.request is None:
        reason = Message("The job “{job}” cannot be resumed.", job=job.title)
        return replace(job, state="failed", error=reason, ended=_now())
    return replace(job, state="interrupted", stopping=False, ended=_now())
