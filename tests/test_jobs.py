"""The registry of jobs: order, cancelling, errors, and what a restart finds."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lib.errors import AudioError, ConfigError
from web.jobs import registry as jobs_module
from web.jobs.registry import JobContext, JobRegistry

PATIENCE = 120.0  # seconds


class Runners:
    """Jobs that do what their request says."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.order: list[str] = []
        self.steps = 0  # of jobs that wait

    def run(self, request: Mapping[str, Any], context: JobContext) -> list[Path]:
        """Fail, wait or write a file."""
        self.order.append(request.get("name", ""))
        what = request.get("do")
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


def wait_for(registry: JobRegistry, job_id: str, state: str) -> None:
    """Wait until a job is in a state."""
    deadline = time.monotonic() + PATIENCE
    while registry.get(job_id).state != state:
        assert time.monotonic() < deadline, registry.get(job_id)
        time.sleep(0.005)


def test_a_job_tells_what_it_did(registry: JobRegistry, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("x", encoding="utf-8")
    job = registry.wait(registry.submit("convert", "A job", {"name": "a"}, [tmp_path / "in.txt"]), PATIENCE)
    assert (job.state, job.error, job.log, job.details) == ("done", None, ("a line",), {"rows": [1], "more": 2})
    assert Path(job.results[0]).read_text(encoding="utf-8") == "done"
    (copy,) = job.request["files"]
    assert Path(copy).is_relative_to(tmp_path / job.id) and Path(copy).name == "in.txt"


def test_lanes_do_not_wait_for_each_other_and_keep_their_order(registry: JobRegistry, runners: Runners) -> None:
    long = registry.submit("train", "long", {"do": "wait", "name": "long"})
    queued = [registry.submit("train", name, {"name": name}) for name in ("second", "third")]
    wait_for(registry, long, "running")
    assert registry.wait(registry.submit("convert", "quick", {"name": "quick"}), PATIENCE).state == "done"
    assert [registry.get(job_id).state for job_id in queued] == ["waiting", "waiting"]
    left = registry.get(long).seconds_left
    assert left is None or left >= 0
    runners.go_on.set()
    assert registry.wait(queued[1], PATIENCE).state == "done"
    assert runners.order == ["long", "quick", "second", "third"]


def test_cancel_ends_running_and_waiting_jobs(registry: JobRegistry, runners: Runners) -> None:
    running = registry.submit("train", "running", {"do": "wait"})
    waiting = registry.submit("train", "waiting", {})
    wait_for(registry, running, "running")
    registry.cancel(waiting)
    assert registry.get(waiting).state == "cancelled"
    registry.cancel(running)
    steps = runners.steps
    assert registry.wait(running, PATIENCE).state == "cancelled"
    assert runners.steps <= steps + 1  # the next report of progress ends it
    registry.cancel(running)  # of an ended job: nothing happens


@pytest.mark.parametrize(("do", "says"), [("fail", "silent"), ("crash", "ZeroDivisionError")])
def test_a_job_that_fails_leaves_the_server_alive(registry: JobRegistry, do: str, says: str) -> None:
    job = registry.wait(registry.submit("convert", "bad", {"do": do}), PATIENCE)
    assert job.state == "failed" and says in str(job.error)
    assert registry.wait(registry.submit("convert", "good", {}), PATIENCE).state == "done"


def test_what_a_killed_server_left_can_be_resumed(registry: JobRegistry, runners: Runners, tmp_path: Path) -> None:
    running = registry.submit("train", "running", {"do": "wait", "name": "again"})
    registry.submit("train", "waiting", {"name": "later"})
    done = registry.submit("convert", "done", {})
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
    assert second.order == ["again"]
    with pytest.raises(ConfigError, match="cannot be resumed"):
        restarted.resume(done)
    restarted.close()


def test_closing_interrupts(registry: JobRegistry, runners: Runners, tmp_path: Path) -> None:
    running = registry.submit("train", "running", {"do": "wait"})
    waiting = registry.submit("train", "waiting", {})
    wait_for(registry, running, "running")
    registry.close()
    for job_id in (running, waiting):
        assert json.loads((tmp_path / job_id / "job.json").read_text(encoding="utf-8"))["state"] == "interrupted"


def test_limits(registry: JobRegistry, runners: Runners, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jobs_module, "MOST_WAITING", 1)
    monkeypatch.setattr(jobs_module, "KEPT_JOBS", 2)
    first = registry.submit("train", "first", {"do": "wait"})
    wait_for(registry, first, "running")
    registry.submit("train", "second", {})
    with pytest.raises(ConfigError, match="already queued"):
        registry.submit("train", "third", {})
    with pytest.raises(ConfigError, match="Cancel it first"):
        registry.forget(first)
    ids: list[str] = []
    for number in range(5):
        ids.append(registry.submit("convert", str(number), {}))
        registry.wait(ids[-1], PATIENCE)
    assert len([job for job in registry.jobs("convert")]) <= 3
    assert not (tmp_path / ids[0]).exists()
    for unknown in ("../x", "", "0" * 16):
        with pytest.raises(ConfigError, match="no job"):
            registry.get(unknown)
