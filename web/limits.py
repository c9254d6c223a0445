"""Limits per client: failed logins, uploads, events in Gradio's queue, open requests, and free disk space.

A client is an IP address. Clients on this machine are limited only by the login and the disk.
"""

import ipaddress
import math
import shutil
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

THIS_MACHINE = ""  # the client of loopback addresses
MAX_CLIENTS = 10_000  # that are remembered
FREE_LOGINS = 5  # failed ones of a client before it has to wait
FREE_LOGINS_IN_ALL = 100  # of all clients together
FIRST_WAIT, LONGEST_WAIT = 30.0, 3600.0  # seconds; doubled with each further failure
FORGET_SECONDS = 4 * 3600.0  # after which failed logins are forgotten
EVERYBODY = "*"  # counts the failed logins of all clients
MAX_UPLOADS_AT_ONCE = 4
UPLOAD_SECONDS = 24 * 3600.0  # for which an upload counts
MAX_UPLOADED = 20 << 30  # bytes of a client within UPLOAD_SECONDS
MIN_FREE = 1 << 30  # bytes that must remain on the disk
MAX_OPEN = 64  # requests of a client at a time
MAX_EVENTS = 12  # of a client that run or wait in Gradio's queue

Refusal = tuple[int, str]  # status and reason


def client_of(address: str | None) -> str:
    """Return the client at an address: THIS_MACHINE, an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        found = ipaddress.ip_address(address or "127.0.0.1")
    except ValueError:
        return (address or "")[:64]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return THIS_MACHINE if found.is_loopback else str(ipaddress.ip_network((found, 64), strict=False))
        found = found.ipv4_mapped
    return THIS_MACHINE if found.is_loopback else str(found)


def check_disk(folder: Path, incoming: int = 0) -> Refusal | None:
    """Return a refusal if `incoming` bytes would leave less than MIN_FREE on the disk of a folder; otherwise None."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if shutil.disk_usage(folder).free - incoming < MIN_FREE:
        return 507, "The disk of the server is almost full. Delete jobs that have ended, then try again."
    return None


@dataclass
class _Failures:
    count: int = 0
    last: float = 0.0


class LoginLimits:
    """Locks a client out after failed logins; each further failure doubles the waiting time.

    An attempt is counted as a failure when it starts, so that parallel attempts cannot evade the limit.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def wait(self, client: str) -> float:
        """Return the seconds until a client may try again; 0 if it may do so now."""
        return max(self._wait(client, FREE_LOGINS), self._wait(EVERYBODY, FREE_LOGINS_IN_ALL))

    def begin(self, client: str) -> None:
        """Count an attempt."""
        for key in (client, EVERYBODY):
            failures = self._failures.pop(key, None) or _Failures()
            if self._clock() - failures.last > FORGET_SECONDS:
                failures = _Failures()
            self._failures[key] = _Failures(failures.count + 1, self._clock())
        while len(self._failures) > MAX_CLIENTS:
            oldest = next(key for key in self._failures if key != EVERYBODY)
            del self._failures[oldest]

    def succeed(self, client: str) -> None:
        """Clear the failures of a client whose login succeeded."""
        self._failures.pop(client, None)
        if (everybody := self._failures.get(EVERYBODY)) is not None:
            everybody.count -= 1

    def _wait(self, key: str, free: int) -> float:
        failures = self._failures.get(key)
        if failures is None or failures.count < free:
            return 0.0
        wait = min(FIRST_WAIT * 2.0 ** min(failures.count - free, 32), LONGEST_WAIT)
        return max(0.0, failures.last + wait - self._clock())


class ClientLimits:
    """Counts what each client uses. Called only on the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.logins = LoginLimits(clock)
        self._clock = clock
        self._open: Counter[str] = Counter()
        self._uploading: Counter[str] = Counter()
        self._uploaded: OrderedDict[str, deque[tuple[float, int]]] = OrderedDict()

    def login(self, client: str) -> Refusal | None:
        """Count the start of a login, unless the client is locked out; return a refusal if it is."""
        if wait := self.logins.wait(client):
            return 429, f"Too many failed logins. Try again in {math.ceil(wait)} seconds."
        self.logins.begin(client)
        return None

    def enter(self, client: str, *, uploads: bool) -> Refusal | None:
        """Count the start of a request; `leave` must follow if it is not refused."""
        if client != THIS_MACHINE:
            if self._open[client] >= MAX_OPEN:
                return 429, "Too many requests at a time."
            if uploads and self._uploading[client] >= MAX_UPLOADS_AT_ONCE:
                return 429, "Too many uploads at a time."
        self._open[client] += 1
        self._uploading[client] += uploads
        return None

    def leave(self, client: str, *, uploads: bool) -> None:
        """Count the end of a request."""
        for counter, step in ((self._open, 1), (self._uploading, int(uploads))):
            counter[client] -= step
            if counter[client] <= 0:
                del counter[client]

    def receive(self, client: str, size: int, folder: Path) -> Refusal | None:
        """Count the received bytes of an upload; a size of 0 only checks the limit."""
        if refusal := check_disk(folder, size):
            return refusal
        if client == THIS_MACHINE:
            return None
        parts = self._uploaded.pop(client, None) or deque([(self._clock(), 0)])
        while parts and self._clock() - parts[0][0] > UPLOAD_SECONDS:
            parts.popleft()
        if not parts or self._clock() - parts[-1][0] > 60:
            parts.append((self._clock(), 0))
        parts[-1] = (parts[-1][0], parts[-1][1] + size)
        self._uploaded[client] = parts
        while len(self._uploaded) > MAX_CLIENTS:
            self._uploaded.popitem(last=False)
        if sum(part for _, part in parts) > MAX_UPLOADED:
            return 429, f"More than {MAX_UPLOADED >> 30} GB were uploaded from this address within a day."
        return None


def events_of(client: str, queue: Any) -> int:
    """Return the number of a client's events that are running or waiting in Gradio's queue."""
    waiting = [event for part in queue.event_queue_per_concurrency_id.values() for event in part.queue]
    running = [event for job in queue.active_jobs if job is not None for event in job]
    return sum(client_of(event.request.client and event.request.client.host) == client for event in waiting + running)


def client_of_request(request: Any) -> str:
    """Return the client that sent a gr.Request."""
    return client_of(getattr(getattr(request, "client", None), "host", None))
