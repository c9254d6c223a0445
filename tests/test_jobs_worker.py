"""Conversions in a process of their own: their reports arrive, they can always be ended, and the next one runs."""

import json
import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lib.errors import AudioError
from web.jobs import worker as worker_module
from web.jobs.registry import JobContext, JobRegistry, Runner
from web.jobs.reports import throttled
from web.jobs.requests import ConvertRequest, Kind
from web.jobs.worker import Worker

PATIENCE = 120.0  # seconds


def do(request: ConvertRequest, context: JobContext) -> Sequence[Path]:
    """Act as the name of the voice requests; runs in the process."""
    what = request.voice
    context.publish(process=os.getpid())
    if what == "fail":
        raise AudioError("The recording is silent. Give another.")
    if what == "mistake":
        raise ZeroDivisionError
    if what == "crash":
        os._exit(9)
    if what == "deaf":
        (context.folder / ".part-half.wav").write_bytes(b"half")
        context.progress(1, 2, "deaf")
        time.sleep(600)
    for i in range(10_000 if what == "listen" else 2):
        context.progress(i, 10_000, "listening")
        time.sleep(0.01)
    context.log("a line")
    context.publish(rows=[["a", "声"]])
    logging.getLogger("somewhere").warning("logged by the process")
    path = context.folder / "result.txt"
    path.write_text("done", encoding="utf-8")
    return [path]


def make_runners() -> dict[Kind, Runner]:
    """What the process does."""
    return {"convert": do}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    made = Worker(make_runners)
    yield made
    made.end()


@pytest.fixture
def registry(worker: Worker, tmp_path: Path) -> Iterator[JobRegistry]:
    made = JobRegistry(tmp_path, {"convert": worker.runner("convert")})
    yield made
    made.close()


def order(folder: Path, what: str) -> ConvertRequest:
    """The request of a job that does `what`."""
    (folder / "in.wav").touch()
    return ConvertRequest(voice=what, recording=folder / "in.wav")


def begin(registry: JobRegistry, request: ConvertRequest) -> str:
    """Start a job and wait for its first report."""
    job_id = registry.submit("a job", request)
    deadline = time.monotonic() + PATIENCE
    while registry.get(job_id).what not in ("deaf", "listening"):
        assert time.monotonic() < deadline and registry.get(job_id).active, registry.get(job_id)
        time.sleep(0.01)
    return job_id


@pytest.mark.slow
def test_reports_of_a_job_arrive(registry: JobRegistry, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    done = registry.wait(registry.submit("a", order(tmp_path, "work")), PATIENCE)
    assert (done.state, done.error, done.log, done.what) == ("done", None, ("a line",), "listening")
    assert done.details["rows"] == [["a", "声"]] and done.details["process"] != os.getpid()
    assert Path(done.results[0]).read_text(encoding="utf-8") == "done"
    assert "logged by the process" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "sentence"), [("fail", "silent"), ("mistake", "ZeroDivisionError"), ("crash", "ended with status 9")]
)
def test_a_failure_is_a_sentence_and_the_next_job_works(
    registry: JobRegistry, tmp_path: Path, what: str, sentence: str
) -> None:
    failed = registry.wait(registry.submit(what, order(tmp_path, what)), PATIENCE)
    assert failed.state == "failed" and sentence in str(failed.error)
    assert registry.wait(registry.submit("next", order(tmp_path, "work")), PATIENCE).state == "done"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["listen", "deaf"])
def test_cancel_ends_any_conversion(
    registry: JobRegistry, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker_module.GRACE_SECONDS + worker_module.POLL_SECONDS < 1
    if what == "listen":  # it stops by itself, however busy the machine is
        monkeypatch.setattr(worker_module, "GRACE_SECONDS", 10 * PATIENCE)
    job_id = begin(registry, order(tmp_path, what))
    process = registry.get(job_id).details["process"]
    registry.cancel(job_id)
    assert registry.wait(job_id, PATIENCE).state == "cancelled"
    assert not list(tmp_path.glob("*/.part-*"))
    after = registry.wait(registry.submit("next", order(tmp_path, "work")), PATIENCE)
    assert after.state == "done"
    assert (after.details["process"] == process) is (what == "listen"), "only what does not listen is ended"


@pytest.mark.slow
def test_the_process_leaves_when_the_server_is_gone(tmp_path: Path) -> None:
    worker = Worker(make_runners)
    worker.start().close()  # as the end of this process would
    assert worker._process is not None
    worker._process.join(PATIENCE)
    assert worker._process.exitcode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("what", "status"), [("listen", 0), ("deaf", -signal.SIGTERM)])
def test_a_job_does_not_hold_the_process_when_the_server_is_gone(tmp_path: Path, what: str, status: int) -> None:
    worker = Worker(make_runners)
    pipe = worker.start()
    request = order(tmp_path, what).model_dump(mode="json")
    pipe.send_bytes(json.dumps({"run": [1, "convert", request, str(tmp_path)]}).encode())
    while "done" not in json.loads(pipe.recv_bytes()):
        pass
    pipe.close()
    worker._process.join(PATIENCE)
    assert worker._process.exitcode == status


def test_the_progress_of_a_step_is_sent_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.jobs.reports.REPORT_SECONDS", 1e9)
    sent: list[dict[str, object]] = []
    report = throttled(lambda **values: sent.append(values))
    for step in ("mixing", "writing"):
        for done in range(50):
            report(done=done, total=50, what=step)
        report(details={"step": step})
    assert [values.get("what") for values in sent] == ["mixing", None, "writing", None]
    monkeypatch.setattr("web.jobs.reports.REPORT_SECONDS", 0.0)
    for done in range(3):
        report(done=done, total=3, what="writing")
    assert len(sent) == 7
