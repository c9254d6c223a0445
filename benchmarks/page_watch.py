"""Fetches plain pages of a server from a process of its own, and measures how long they wait for a processor.

On Linux the system counts how long a thread was ready to run but had no processor. The part of a page's time for which
the thread of the server's event loop or this process waited so would not exist on an idle machine. Waits of the
server's other threads, and its waits for Python's global lock, count as its own time.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import httpx

PLAIN = ("/", "/config", "/theme.css", "/gradio_api/info")
PAUSE = 0.1  # seconds between two pages
TICK = 0.01  # seconds for which the control process sleeps
PATIENCE = 120.0  # seconds
REFUSED = "/no-such-page"  # is answered on the event loop
REQUESTS = 50  # that show which thread runs it


@dataclass
class PagesFetched:
    """Times of pages, and of a control process that only sleeps, in seconds."""

    pages: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)  # for a processor, within the same pages
    failures: int = 0  # answers other than 200, or none
    late: list[float] = field(default_factory=list)  # how much later than asked for the control process woke up

    @property
    def own(self) -> list[float]:
        """Times of the pages without the waits for a processor."""
        return [max(0.0, page - wait) for page, wait in zip(self.pages, self.waits, strict=True)]

    def figures(self, limit: float) -> dict[str, object]:
        """The figures to print; `limit` in seconds."""
        if not self.pages:
            return {"pages": 0, "failed_pages": self.failures}
        return {
            "pages": len(self.pages), "failed_pages": self.failures,
            "median_page_s": _part(self.pages, 0.5), "p99_page_s": _part(self.pages, 0.99),
            "slowest_page_s": _part(self.pages, 1), "pages_over_limit": sum(page > limit for page in self.pages),
            "median_own_s": _part(self.own, 0.5), "p99_own_s": _part(self.own, 0.99),
            "slowest_own_s": _part(self.own, 1), "own_over_limit": sum(page > limit for page in self.own),
            "control_median_late_s": _part(self.late, 0.5), "control_p99_late_s": _part(self.late, 0.99),
            "control_latest_s": _part(self.late, 1),
        }  # fmt: skip


def _part(values: list[float], part: float) -> float:
    """A quantile, in seconds."""
    return round(sorted(values)[min(len(values) - 1, int(part * len(values)))], 3)


def _schedule(task: Path) -> tuple[float, float]:
    """Seconds that a thread has run, and has waited for a processor; zeros where the system does not count them."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        ran, waited = (task / "schedstat").read_text().split()[:2]
        return int(ran) / 1e9, int(waited) / 1e9
    return 0.0, 0.0


def _loop_thread(client: httpx.Client, process: int | None) -> Path:
    """The thread of a process that runs most while it answers requests on its event loop."""
    tasks = list(Path(f"/proc/{process}/task").glob("*")) if process is not None else []
    before = {task: _schedule(task)[0] for task in tasks}
    for _ in range(REQUESTS):
        client.get(REFUSED)
    return max(tasks, key=lambda task: _schedule(task)[0] - before[task], default=Path())


def fetch_pages(results: Connection, url: str, process: int | None) -> None:
    """Fetch pages until `results` is asked to end; sends the PagesFetched."""
    found, number = PagesFetched(), 0
    with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        threads = (_loop_thread(client, process), Path("/proc/thread-self"))
        results.send(None)  # ready
        while not results.poll():
            waited = sum(_schedule(thread)[1] for thread in threads)
            begin = time.perf_counter()
            try:
                status = client.get(PLAIN[number % len(PLAIN)]).status_code
            except httpx.HTTPError:
                status = 0
            found.pages.append(time.perf_counter() - begin)
            found.waits.append(sum(_schedule(thread)[1] for thread in threads) - waited)
            found.failures += status != 200
            number += 1
            time.sleep(PAUSE)
    results.send(found)


def sleep_repeatedly(results: Connection) -> None:
    """Sleep until `results` is asked to end; sends how late each sleep ended."""
    late = []
    results.send(None)
    while not results.poll():
        begin = time.perf_counter()
        time.sleep(TICK)
        late.append(time.perf_counter() - begin - TICK)
    results.send(late)


@contextlib.contextmanager
def watching(url: str, process: int | None) -> Iterator[list[PagesFetched]]:
    """Fetch pages of the server with this process id during the body; the yielded list then holds the result."""
    context, results = get_context("spawn"), list[PagesFetched]()
    pipes = [context.Pipe() for _ in range(2)]
    children = [
        context.Process(target=fetch_pages, args=(pipes[0][1], url, process)),
        context.Process(target=sleep_repeatedly, args=(pipes[1][1],)),
    ]
    for child in children:
        child.start()
    try:
        for own, _ in pipes:
            own.recv()
        yield results
        for own, _ in pipes:
            own.send(None)
        results.append(pipes[0][0].recv())
        results[0].late = pipes[1][0].recv()
    finally:
        for child in children:
            if not results:
                child.kill()
            child.join()
