"""Limits per client: failed logins, uploads, events in the queue, concurrent requests, and the disk."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.test_request_checks import start
from web import limits
from web.limits import (
    FIRST_WAIT,
    FREE_LOGINS,
    FREE_LOGINS_IN_ALL,
    LONGEST_WAIT,
    MAX_CLIENTS,
    THIS_MACHINE,
    ClientLimits,
    LoginLimits,
    check_disk,
    client_of,
    events_of,
)
from web.request_checks import RequestChecks, route_path

OTHER = "192.0.2.7"


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("127.0.0.1", THIS_MACHINE), ("127.9.9.9", THIS_MACHINE), ("::1", THIS_MACHINE), (None, THIS_MACHINE),
        ("::ffff:127.0.0.1", THIS_MACHINE), ("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"), ("testclient", "testclient"), ("x" * 1000, "x" * 64),
    ],
)  # fmt: skip
def test_a_client_is_an_address_or_a_network(address: str | None, client: str) -> None:
    assert client_of(address) == client


def test_each_failed_login_doubles_the_wait() -> None:
    clock = Clock()
    logins = LoginLimits(clock)
    for _ in range(FREE_LOGINS):
        assert logins.wait(OTHER) == 0
        logins.begin(OTHER)
    waits = []
    for _ in range(12):
        waits.append(logins.wait(OTHER))
        clock.now += waits[-1]
        assert logins.wait(OTHER) == 0
        logins.begin(OTHER)
    assert waits[:3] == [FIRST_WAIT, 2 * FIRST_WAIT, 4 * FIRST_WAIT] and waits[-1] == LONGEST_WAIT
    assert logins.wait("192.0.2.8") == 0  # others are not locked out
    logins.succeed(OTHER)
    assert logins.wait(OTHER) == 0


def test_many_addresses_together_are_locked_out_and_cost_no_memory() -> None:
    logins = LoginLimits(Clock())
    for number in range(FREE_LOGINS_IN_ALL):
        assert logins.wait(f"client {number}") == 0
        logins.begin(f"client {number}")
    assert logins.wait("another") == FIRST_WAIT
    for number in range(MAX_CLIENTS + 100):
        logins.begin(f"client {number}")
    assert len(logins._failures) == MAX_CLIENTS
    assert logins.wait("another") > 0


def test_uploads_of_a_day_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_UPLOADED", 100)
    clock = Clock()
    counted = ClientLimits(clock)
    assert counted.receive(OTHER, 60, tmp_path) is None
    clock.now += 3600
    assert counted.receive(OTHER, 60, tmp_path) == (429, "More than 0 GB were uploaded from this address within a day.")
    assert counted.receive(THIS_MACHINE, 1000, tmp_path) is None
    clock.now += limits.UPLOAD_SECONDS - 10  # the first is older than a day
    assert counted.receive(OTHER, 0, tmp_path) is None


def test_the_disk_is_never_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(free=limits.MIN_FREE + 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: free)
    assert check_disk(tmp_path / "not" / "there", 1000) is None
    refused = check_disk(tmp_path, 1001)
    assert refused is not None and refused[0] == 507
    assert ClientLimits().receive(THIS_MACHINE, 1001, tmp_path) == refused


def test_requests_and_uploads_at_a_time() -> None:
    counted = ClientLimits()
    for _ in range(limits.MAX_UPLOADS_AT_ONCE):
        assert counted.enter(OTHER, uploads=True) is None
    assert counted.enter(OTHER, uploads=True) == (429, "Too many uploads at a time.")
    for _ in range(limits.MAX_OPEN - limits.MAX_UPLOADS_AT_ONCE):
        assert counted.enter(OTHER, uploads=False) is None
    assert counted.enter(OTHER, uploads=False) == (429, "Too many requests at a time.")
    assert counted.enter("192.0.2.8", uploads=True) is None
    for _ in range(10 * limits.MAX_OPEN):
        assert counted.enter(THIS_MACHINE, uploads=True) is None
    counted.leave(OTHER, uploads=True)
    assert counted.enter(OTHER, uploads=True) is None


def request(path: str, client: str, **values: Any) -> dict[str, Any]:
    """The ASGI scope of a request."""
    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "client": (client, 1)}
    return scope | values


async def answer(checks: RequestChecks, scope: dict[str, Any], body: bytes = b"") -> tuple[int, dict[str, Any]]:
    """Status and JSON of the answer to a request."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    await checks(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def queue_of(*clients: str) -> Any:
    """Gradio's queue, with events of these clients: the first runs, the others wait."""
    events = [SimpleNamespace(request=SimpleNamespace(client=SimpleNamespace(host=client))) for client in clients]
    part = SimpleNamespace(queue=events[1:])
    return SimpleNamespace(event_queue_per_concurrency_id={"a": part}, active_jobs=[None, events[:1]])


def test_events_in_the_queue_are_counted_per_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.request_checks.MAX_EVENTS", 2)

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    queue = queue_of(OTHER, OTHER, "192.0.2.8", "127.0.0.1", "127.0.0.1", "127.0.0.1")
    assert [events_of(client, queue) for client in (OTHER, "192.0.2.8", THIS_MACHINE)] == [2, 1, 3]
    app = SimpleNamespace(auth=None, get_blocks=lambda: SimpleNamespace(_queue=queue))
    checks = RequestChecks(inner, None)
    for path in ("/gradio_api/queue/join", "/gradio_api/call/convert"):
        statuses = [
            asyncio.run(answer(checks, request(path, client, app=app)))[0] for client in (OTHER, "192.0.2.8", "::1")
        ]
        assert statuses == [429, 200, 200]
    assert asyncio.run(answer(checks, request("/gradio_api/cancel", OTHER, app=app)))[0] == 200


@pytest.mark.slow
def test_the_queue_of_gradio_has_what_is_counted(tmp_path_factory: pytest.TempPathFactory) -> None:
    for client in start(tmp_path_factory):
        app: Any = client.app  # type: ignore[attr-defined]
        assert events_of(THIS_MACHINE, app._queue) == 0


def test_an_upload_ends_when_it_exceeds_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_UPLOADED", 100)
    arrived = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        arrived.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    checks = RequestChecks(inner, None)
    scope = request("/gradio_api/upload", OTHER, app=SimpleNamespace(auth=None, uploaded_file_dir=str(tmp_path)))
    assert asyncio.run(answer(checks, scope, bytes(90)))[0] == 200
    assert asyncio.run(answer(checks, scope, bytes(90)))[0] == 429
    assert asyncio.run(answer(checks, scope, bytes(1)))[0] == 429  # now from the start
    assert len(arrived) == 1


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    yield from start(tmp_path_factory, login=("me", "secret"))


def log_in(client: httpx.Client, password: str, path: str = "/login", **headers: str) -> httpx.Response:
    return client.post(path, data={"username": "me", "password": password}, headers=headers)


def test_failed_logins_lock_the_client_out_and_nobody_else(locked: httpx.Client) -> None:
    """Uvicorn takes the address from X-Forwarded-For if a proxy on this machine sends it."""
    attacker, user = {"X-Forwarded-For": "192.0.2.66"}, {"X-Forwarded-For": "192.0.2.1"}
    for number in range(FREE_LOGINS):
        assert log_in(locked, "guess", ("/login", "/login/")[number % 2], **attacker).status_code == 400
    for path in ("/login", "/login/"):
        refused = log_in(locked, "secret", path, **attacker)  # even the right one
        assert refused.status_code == 429 and "Try again in" in refused.json()["detail"]
    for _ in range(FREE_LOGINS + 2):
        assert log_in(locked, "secret", **user).status_code == 200  # success is not counted


def test_paths_below_a_prefix_are_checked_like_others() -> None:
    for prefix in ("", "/voices"):
        scope = {"path": f"{prefix}/gradio_api/cancel", "root_path": prefix}
        assert route_path(scope) == "/gradio_api/cancel"
    assert route_path({"path": "/gradio_api/cancel", "root_path": "/voices"}) == "/gradio_api/cancel"
    assert route_path({"path": "/voicesgradio_api", "root_path": "/voices"}) == "/voicesgradio_api"
    assert route_path({"path": "/voices", "root_path": "/voices"}) == ""
