"""Limits on connections: how many there are, and how long one may wait for a request.

uvicorn does not limit the connections per client, and waits indefinitely for the end of a header or body. A client
could therefore use up the file descriptors of the server with half a header on each connection (slowloris).
"""

import asyncio
import math
import sys
from collections import Counter
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from web.limits import THIS_MACHINE, client_of

REQUEST_SECONDS = 30.0  # to send the header of a request, or the next part of its body
MAX_OF_CLIENT = 128  # connections of a client on another machine
MAX_IN_ALL = 1000  # connections, if the system allows twice as many open files


class Connections:
    """The open connections of a server. Used only on the event loop."""

    def __init__(self, in_all: int, of_client: int = MAX_OF_CLIENT, seconds: float = REQUEST_SECONDS) -> None:
        self.in_all = in_all
        self.of_client = of_client
        self.seconds = seconds
        self._of_client: Counter[str] = Counter()
        self._waiting: dict[LimitedProtocol, None] = {}  # for a request, those that have waited longest first

    def open(self, connection: "LimitedProtocol") -> bool:
        """Count a connection, unless a limit is reached and no other connection can be closed for it.

        The connection that has waited longest for a request is closed; if the client has reached its own limit, one of
        its connections is chosen.
        """
        client = connection.counted_for
        if client != THIS_MACHINE and self._of_client[client] >= self.of_client:
            oldest = next((other for other in self._waiting if other.counted_for == client), None)
        elif self._of_client.total() >= self.in_all:
            oldest = next(iter(self._waiting), None)
        else:
            self._of_client[client] += 1
            return True
        if oldest is None:
            return False
        oldest.drop()
        self._of_client[client] += 1
        return True

    def close(self, connection: "LimitedProtocol") -> None:
        """Count the end of a connection."""
        self._waiting.pop(connection, None)
        self._of_client[connection.counted_for] -= 1
        if not self._of_client[connection.counted_for]:
            del self._of_client[connection.counted_for]

    def wait(self, connection: "LimitedProtocol", *, waits: bool) -> None:
        """Record whether a connection waits for a request."""
        if waits:
            self._waiting.setdefault(connection)
        else:
            self._waiting.pop(connection, None)


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol with the limits of `Connections`."""

    limits: Connections  # of a server; set by `limit_connections`
    counted_for: str
    _counted = False
    _awaits: str | None = None  # "request", "body" or, while the server works on a request, None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Count the connection, or close it."""
        super().connection_made(transport)
        self.counted_for = client_of((transport.get_extra_info("peername") or (None,))[0])
        self._counted = self.limits.open(self)
        if self._counted:
            self._watch()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the end of the connection."""
        self._release()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        if self._awaits == "body":
            self._awaits = None  # its time starts again
            self._stop_timer()
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._awaits = None
        super().on_response_complete()
        self._watch()

    def drop(self) -> None:
        """Close the connection at once."""
        self._release()
        self.transport.abort()

    def _release(self) -> None:
        if self._counted:
            self._counted = False
            self.limits.close(self)
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self) -> None:
        """Start or stop the timer if what the connection waits for has changed."""
        if not self._counted:
            return
        awaits: str | None = "request"
        if self.cycle is not None and not self.cycle.response_complete:
            awaits = "body" if self.cycle.more_body else None
        if awaits == self._awaits:
            return
        self._awaits = awaits
        self.limits.wait(self, waits=awaits == "request")
        self._stop_timer()
        if awaits is not None:
            self._timer = self.loop.call_later(self.limits.seconds, self._expire)

    def _expire(self) -> None:
        if self._awaits == "body" and self.flow.read_paused:  # the server is slower than the client
            self._awaits = None
            self._watch()
        else:
            self.drop()


def limit_connections(config: Config, **limits: Any) -> None:
    """Make a server use `LimitedProtocol`; `limits` are arguments of `Connections`."""
    own = Connections(**{"in_all": _most_connections(), **limits})
    config.http = type("LimitedProtocol", (LimitedProtocol,), {"limits": own})
    config.ws = "none"  # Gradio uses none, and their protocol would not count the end of a connection
    config.timeout_keep_alive = math.ceil(own.seconds)  # longer than clients keep one, so that they close it


def _most_connections() -> int:
    """Half of the files that this process may open, at most MAX_IN_ALL."""
    if sys.platform == "win32":
        return MAX_IN_ALL
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_IN_ALL if files == resource.RLIM_INFINITY else min(MAX_IN_ALL, max(16, files // 2))
