"""The job registry: order, cancelling, errors, and restarts."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infer.options import ConvertOptions
from lib.errors import AudioError, ConfigError, RevoiceError
from train.options import RunOptions
from web.jobs import registry as jobs_module
from web.jobs.registry import JobContext, JobRegistry
from web.jobs.requests import (
    BatchRequest,
    CompareRequest,
    ConvertRequest,
    Kind,
    Request,
    TrainRequest,
    kind_of,
    read_request,
)

PATIENCE = 120.0  # seconds


class Runners:
    """Jobs that act as the first word of their voice's name requests."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.order: list[str] = []
        self.steps = 0  # of jobs that wait

    def run(self, request: ConvertRequest | TrainRequest, context: JobContext) -> list[Path]:
        """Fail, wait or write a file."""
        name = request.name if isinstance(request, TrainRequest) else request.voice
        self.order.append(name)
        what = name.split()[0]
        if what == "fail":
            raise AudioError("The recording is silent. Give another.")
        if what == "crash":
            raise ZeroDivisionError
        while what == "wait" and not self.go_on.is_set():
            self.steps += 1
            context.progress(1, 4, "waiting")
            time.sleep(0.005)
        context.log("a line")
        context.publish(rows=[1])
        context.publish(more=2)
        path = context.folder / "result.txt"
        path.write_text("done", encoding="utf-8")
        return [path]


@pytest.fixture
def runners() -> Runners:
    return Runners()


@pytest.fixture
def registry(runners: Runners, tmp_path: Path) -> Iterator[JobRegistry]:
    made = JobRegistry(tmp_path, {"convert": runners.run, "train": runners.run})
    yield made
    runners.go_on.set()
    made.close()


def convert(folder: Path, voice: str = "alice") -> ConvertRequest:
    """The request of a conversion."""
    (folder / "in.txt").write_text("x", encoding="utf-8")
    return ConvertRequest(voice=voice, recording=folder / "in.txt")


def wait_for(registry: JobRegistry, job_id: str, state: str) -> None:
    """Wait until a job is in a state."""
    deadline = time.monotonic() + PATIENCE
    while registry.get(job_id).state != state:
        assert time.monotonic() < deadline, registry.get(job_id)
        time.sleep(0.005)


def test_a_job_reports_its_progress_and_results(registry: JobRegistry, tmp_path: Path) -> None:
    job = registry.wait(registry.submit("A job", convert(tmp_path)), PATIENCE)
    assert (job.state, job.error, job.log, job.details) == ("done", None, ("a line",), {"rows": [1], "more": 2})
    assert Path(job.results[0]).read_text(encoding="utf-8") == "done"
    assert isinstance(job.request, ConvertRequest)
    copy = job.request.recording
    assert copy.is_relative_to(tmp_path / job.id) and copy.name == "in.txt"


def test_queues_do_not_wait_for_each_other_and_keep_their_order(
    registry: JobRegistry, runners: Runners, tmp_path: Path
) -> None:
    long = registry.submit("long", TrainRequest(name="wait"))
    queued = [registry.submit(name, TrainRequest(name=name)) for name in ("second", "third")]
    wait_for(registry, long, "running")
    assert registry.wait(registry.submit("quick", convert(tmp_path, "quick")), PATIENCE).state == "done"
    assert [registry.get(job_id).state for job_id in queued] == ["waiting", "waiting"]
    left = registry.get(long).seconds_left
    assert left is None or left >= 0
    runners.go_on.set()
    assert registry.wait(queued[1], PATIENCE).state == "done"
    assert runners.order == ["wait", "quick", "second", "third"]


def test_cancel_ends_running_and_waiting_jobs(registry: JobRegistry, runners: Runners) -> None:
    running = registry.submit("running", TrainRequest(name="wait"))
    waiting = registry.submit("waiting", TrainRequest(name="later"))
    wait_for(registry, running, "running")
    registry.cancel(waiting)
    assert registry.get(waiting).state == "cancelled"
    registry.cancel(running)
    steps = runners.steps
    assert registry.wait(running, PATIENCE).state == "cancelled"
    assert runners.steps <= steps + 1  # the next report of progress ends it
    registry.cancel(running)  # of an ended job: nothing happens


@pytest.mark.parametrize(("do", "pattern"), [("fail", "silent"), ("crash", "ZeroDivisionError")])
def test_a_job_that_fails_leaves_the_server_alive(registry: JobRegistry, tmp_path: Path, do: str, pattern: str) -> None:
    job = registry.wait(registry.submit("bad", convert(tmp_path, do)), PATIENCE)
    assert job.state == "failed" and pattern in str(job.error)
    assert registry.wait(registry.submit("good", convert(tmp_path)), PATIENCE).state == "done"


def test_jobs_of_a_killed_server_can_be_resumed(registry: JobRegistry, runners: Runners, tmp_path: Path) -> None:
    running = registry.submit("running", TrainRequest(name="wait again"))
    registry.submit("waiting", TrainRequest(name="later"))
    done = registry.submit("done", convert(tmp_path))
    registry.wait(done, PATIENCE)
    wait_for(registry, running, "running")
    (tmp_path / ("0" * 16)).mkdir()
    (tmp_path / ("0" * 16) / "job.json").write_text('{"id": "torn', encoding="utf-8")
    # A second registry on the same folder sees what one would see after the first was killed.
    second = Runners()
    second.go_on.set()
    restarted = JobRegistry(tmp_path, {"convert": second.run, "train": second.run})
    states = {job.title: job.state for job in restarted.jobs()}
    assert states == {"running": "interrupted", "waiting": "interrupted", "done": "done"}
    assert restarted.wait(restarted.resume(running), PATIENCE).state == "done"
    assert second.order == ["wait again"]
    with pytest.raises(ConfigError, match="cannot be resumed"):
        restarted.resume(done)
    restarted.close()


def test_closing_interrupts(registry: JobRegistry, runners: Runners, tmp_path: Path) -> None:
    running = registry.submit("running", TrainRequest(name="wait"))
    waiting = registry.submit("waiting", TrainRequest(name="later"))
    wait_for(registry, running, "running")
    registry.close()
    for job_id in (running, waiting):
        assert json.loads((tmp_path / job_id / "job.json").read_text(encoding="utf-8"))["state"] == "interrupted"


def test_limits(registry: JobRegistry, runners: Runners, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jobs_module, "MAX_WAITING", 1)
    monkeypatch.setattr(jobs_module, "KEPT_JOBS", 2)
    first = registry.submit("first", TrainRequest(name="wait"))
    wait_for(registry, first, "running")
    registry.submit("second", TrainRequest(name="later"))
    with pytest.raises(ConfigError, match="already queued"):
        registry.submit("third", TrainRequest(name="later"))
    with pytest.raises(ConfigError, match="Cancel it first"):
        registry.delete(first)
    ids: list[str] = []
    for number in range(5):
        ids.append(registry.submit(str(number), convert(tmp_path)))
        registry.wait(ids[-1], PATIENCE)
    assert len([job for job in registry.jobs("convert")]) <= 3
    assert not (tmp_path / ids[0]).exists()
    for unknown in ("../x", "", "0" * 16):
        with pytest.raises(ConfigError, match="no job"):
            registry.get(unknown)


OLD = {  # job.json as it was written when requests were dictionaries
    "id": "", "kind": "convert", "title": "a → b", "state": "running", "done": 1, "total": 2, "what": "", "log": ["x"],
    "results": [], "error": None, "details": {}, "created": 1e9, "started": 1e9, "ended": None,
    "request": {"voice": "b", "options": {"pitch_shift": 3}, "format": "mp3", "index": "none",
                "files": ["/in/0/a.wav", "/in/1/f0.csv"]},
}  # fmt: skip


def restarted_with(folder: Path, text: str, number: int = 0) -> str:
    """Write a job file as an earlier start would have left it; returns the job's id."""
    job_id = f"{number:016x}"
    (folder / job_id).mkdir()
    (folder / job_id / "job.json").write_text(text.replace('"id": ""', f'"id": "{job_id}"'), encoding="utf-8")
    return job_id


@pytest.mark.parametrize(
    ("values", "request_"),
    [
        (
            {"voice": "b", "options": {"pitch_shift": 3}, "format": "mp3", "index": "none", "files": ["/a.wav", "/f"]},
            ConvertRequest(voice="b", options=ConvertOptions(pitch_shift=3), format="mp3", index="none",
                           recording=Path("/a.wav"), f0_file=Path("/f")),
        ),
        (
            {"voice": "b", "options": {}, "index_rates": [0, 1], "files": ["/a.wav"]},
            CompareRequest(voice="b", recording=Path("/a.wav"), index_rates=(0, 1)),
        ),
        (
            {"voice": "b", "options": {}, "format": "wav", "index": "auto", "inputs": ["/c.wav"], "files": ["/a.wav"]},
            BatchRequest(voice="b", uploads=(Path("/a.wav"),), inputs=(Path("/c.wav"),)),
        ),
        (
            {"name": "b", "data": "/in", "stage": "run", "files": [],
             "options": {"family": "v2", "sample_rate": "40k", "pitch": False, "epochs": 7}},
            TrainRequest(name="b", data=Path("/in"), family="v2", sample_rate="40k", pitch=False,
                         options=RunOptions(epochs=7)),
        ),
    ],
)  # fmt: skip
def test_requests_are_read_as_they_were_written_today_and_before(values: dict[str, Any], request_: Request) -> None:
    kind = kind_of(request_)
    assert read_request(kind, values) == request_
    assert read_request(kind, json.loads(json.dumps(request_.model_dump(mode="json")))) == request_


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("convert", {"voice": "b", "recording": "/a.wav", "format": "exe"}),
        ("convert", {"voice": "b", "options": {}, "files": []}),
        ("compare", {"voice": "b", "recording": "/a.wav", "index_rates": [2]}),
        ("batch", {"voice": "b", "command": "rm"}),
        ("train", {"name": "--help/../x"}),
        ("train", {"name": "-h"}),
        ("train", {"name": "--epochs=1"}),
        ("train", {"name": "b", "stage": "shell"}),
        ("train", ["b"]),
        ("train", None),
    ],
)
def test_a_wrong_request_is_one_sentence(kind: Kind, values: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        read_request(kind, values)
    assert "\n" not in str(caught.value)


def test_a_job_file_of_an_older_version_can_be_resumed(runners: Runners, tmp_path: Path) -> None:
    job_id = restarted_with(tmp_path, json.dumps(OLD))
    registry = JobRegistry(tmp_path, {"convert": runners.run})
    job = registry.get(job_id)
    assert (job.state, job.resumable, job.log) == ("interrupted", True, ("x",))
    assert isinstance(job.request, ConvertRequest) and job.request.f0_file == Path("/in/1/f0.csv")
    assert registry.wait(registry.resume(job_id), PATIENCE).state == "done" and runners.order == ["b"]
    registry.close()


@pytest.mark.parametrize(("state", "then"), [("running", "failed"), ("waiting", "failed"), ("done", "done")])
def test_a_job_without_a_usable_request_is_listed_and_has_ended(
    runners: Runners, tmp_path: Path, state: str, then: str
) -> None:
    job_id = restarted_with(tmp_path, json.dumps({**OLD, "state": state, "request": {"spell": "abracadabra"}}))
    for _ in range(2):  # it stays as it is
        registry = JobRegistry(tmp_path, {"convert": runners.run})
        job = registry.get(job_id)
        assert (job.state, job.resumable, job.request) == (then, False, None)
        assert then == "done" or "cannot be resumed" in str(job.error)
        with pytest.raises(ConfigError, match="cannot be resumed"):
            registry.resume(job_id)
        registry.close()
    assert runners.order == []


WRONG: dict[str, Any] = {
    "state": "dancing", "kind": "spell", "created": float("inf"), "started": "now", "done": -1, "total": "many",
    "title": 5, "log": None, "results": 7, "error": [], "details": [], "id": None, "unknown": 1,
}  # fmt: skip


def test_damaged_and_foreign_job_files_affect_only_their_own_job(
    runners: Runners, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [json.dumps({**OLD, name: value}) for name, value in WRONG.items()]
    texts += ["", "null", "[]", "5", '"text"', "{}", "[" * 100_000, json.dumps(OLD)[:-20], "\0"]
    for number, text in enumerate(texts, start=1):
        restarted_with(tmp_path, text, number)
    good = restarted_with(tmp_path, json.dumps(OLD))
    registry = JobRegistry(tmp_path, {"convert": runners.run})
    assert [job.id for job in registry.jobs()] == [good]
    assert len(caplog.messages) == len(texts)
    assert not any("\n" in message for message in caplog.messages)
    registry.close()


def test_a_clock_that_is_set_back_deletes_no_new_job(
    registry: JobRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Jobs are kept in the order of queueing: those of a wrong, later date do not displace newer ones."""
    monkeypatch.setattr(jobs_module, "KEPT_JOBS", 2)
    ids = []
    for now in (4e9, 4e9, -5.0, 1e9, 1e9):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        ids.append(registry.submit(str(now), convert(tmp_path)))
        assert registry.wait(ids[-1], PATIENCE).state == "done"
    assert [job.id for job in registry.jobs()] == ids[:-4:-1]
    registry.close()
    again = JobRegistry(tmp_path, {"convert": Runners().run})
    assert [job.id for job in again.jobs()] == ids[:-4:-1]
    assert all(job.created >= 0 for job in again.jobs())
    again.close()


def test_a_client_of_another_machine_has_limits(
    registry: JobRegistry, runners: Runners, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(jobs_module, "MAX_WAITING_OF_CLIENT", 2)
    monkeypatch.setattr(jobs_module, "MAX_CLIENT_BYTES", 25)
    wait_for(registry, registry.submit("first", TrainRequest(name="wait"), "192.0.2.1"), "running")
    for _ in range(2):
        registry.submit("mine", TrainRequest(name="later"), "192.0.2.1")
    with pytest.raises(ConfigError, match="2 of your jobs are already queued"):
        registry.submit("mine", TrainRequest(name="later"), "192.0.2.1")
    for client in ("192.0.2.2", *([""] * 4)):
        registry.submit("others", TrainRequest(name="later"), client)
    runners.go_on.set()
    big = tmp_path / "big.wav"
    big.write_bytes(bytes(20))
    small = tmp_path / "small.wav"
    small.write_bytes(bytes(2))
    with pytest.raises(ConfigError, match="take up more than"):
        registry.submit("big", BatchRequest(voice="a", uploads=(big, small, small, small)), "192.0.2.3")
    assert not list(tmp_path.glob("*/inputs"))
    for client in ("", "192.0.2.3"):
        registry.submit("fits", ConvertRequest(voice="a", recording=big), client)
    with pytest.raises(ConfigError, match="take up more than"):  # with what the jobs of this client hold already
        registry.submit("more", ConvertRequest(voice="a", recording=big), "192.0.2.3")


def test_a_job_that_would_fill_the_disk_is_refused(
    registry: JobRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("web.limits.MIN_FREE", 1 << 60)
    with pytest.raises(ConfigError, match="less than 1 GB of free space"):
        registry.submit("a", convert(tmp_path))
    assert not list(tmp_path.glob("*/inputs"))


def test_a_missing_upload_is_one_sentence(registry: JobRegistry, tmp_path: Path) -> None:
    with pytest.raises(RevoiceError, match="gone"):
        registry.submit("a", ConvertRequest(voice="a", recording=tmp_path / "gone.wav"))
