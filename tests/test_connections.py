"""Limits of connections, with real sockets: half-sent headers and bodies, and too many connections of a client."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from tests.test_request_checks import PATIENCE
from tests.test_request_checks import client as client
from web import connections
from web.connections import LimitedProtocol, limit_connections

HALF_HEADER = b"GET / HTTP/1.1\r\nHost: "
REST = b"127.0.0.1\r\n\r\n"
HALF_BODY = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nhalf"
HELD = b"GET /hold HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class HeldApp:
    """An ASGI application that answers a request for /hold when `release` is called."""

    def __init__(self) -> None:
        self.begun = self.held = 0
        self._go: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        self.begun += 1
        self._loop, self._go = asyncio.get_running_loop(), self._go or asyncio.Event()
        while (await receive()).get("more_body"):
            pass
        if scope["path"] == "/hold":
            self.held += 1
            await self._go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    def release(self) -> None:
        assert self._loop is not None and self._go is not None
        self._loop.call_soon_threadsafe(self._go.set)


@contextlib.contextmanager
def served(app: HeldApp, **limits: float) -> Iterator[Callable[[bytes], socket.socket]]:
    """Serve an application; the function opens a connection and sends bytes."""
    config = uvicorn.Config(app, port=0, log_level="warning", lifespan="off")
    limit_connections(config, **limits)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    address = server.servers[0].sockets[0].getsockname()
    with contextlib.ExitStack() as opened:

        def connect(data: bytes) -> socket.socket:
            connection = opened.enter_context(socket.create_connection(address, PATIENCE))
            connection.sendall(data)
            return connection

        yield connect
    server.should_exit = True
    thread.join(PATIENCE)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def answer(connection: socket.socket) -> bytes:
    """What arrives next on a connection; empty if it has been closed."""
    try:
        return connection.recv(10_000)
    except ConnectionError:
        return b""


@pytest.mark.slow
def test_half_a_header_on_500_connections_stops_nobody(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol: type[LimitedProtocol] = client.app.server.config.http  # type: ignore[attr-defined]
    monkeypatch.setattr(protocol.limits, "in_all", 100)
    address = (client.base_url.host, client.base_url.port or 0)
    with contextlib.ExitStack() as opened:
        held = [opened.enter_context(socket.create_connection(address, PATIENCE)) for _ in range(500)]
        for connection in held:
            with contextlib.suppress(ConnectionError):  # it may have been closed
                connection.sendall(HALF_HEADER)
        with httpx.Client(base_url=client.base_url, timeout=PATIENCE) as other:
            assert other.get("/config").status_code == 200
        assert [answer(connection) for connection in held[:400]] == [b""] * 400
        held[-1].sendall(REST)
        assert answer(held[-1]).startswith(b"HTTP/1.1 200 OK")


def test_half_a_request_is_not_waited_for_and_a_slow_answer_is() -> None:
    app = HeldApp()
    with served(app, seconds=0.2) as connect:
        working = [connect(HELD), connect(HALF_BODY.replace(b"/", b"/hold", 1))]
        wait_until(lambda: app.begun == 2)
        working[1].sendall(bytes(96))
        wait_until(lambda: app.held == 2)
        for data in (b"", HALF_HEADER, HALF_BODY):
            assert answer(connect(data)) == b""
        app.release()
        assert all(answer(connection).startswith(b"HTTP/1.1 200 OK") for connection in working)


def test_a_client_at_its_limit_loses_the_connection_that_waits_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "client_of", lambda address: str(address))  # this machine has no limit of its own
    app = HeldApp()
    with served(app, of_client=3) as connect:
        first, second = connect(HALF_HEADER), connect(HALF_HEADER)
        working = [connect(HELD) for _ in range(3)]
        wait_until(lambda: app.held == 3)
        assert answer(first) == answer(second) == b""
        assert answer(connect(HALF_HEADER)) == b""  # all others are in use
        app.release()
        assert all(answer(connection).startswith(b"HTTP/1.1 200 OK") for connection in working)
        assert answer(connect(HALF_HEADER + REST)).startswith(b"HTTP/1.1 200 OK")
