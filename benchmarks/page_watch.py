"""Measures the latency of plain pages, and how long the requests wait for a CPU (scheduling delay).

    python -m benchmarks.page_watch http://127.0.0.1:7865 --pid PID [--seconds 60] [--limit 1]

The pages are fetched in a separate process, also for benchmarks/load.py. Prints one line of JSON.

On Linux, the kernel records how long each thread was runnable but had no CPU (run-queue wait). The part of a page's
latency during which the server's event-loop thread or this process waited in this way would not occur on an idle
machine. Run-queue waits of the server's other threads, and waits for the GIL, count as the server's own time.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import httpx

from lib.run_main import run_main

PLAIN = ("/", "/config", "/theme.css", "/gradio_api/info")
PAUSE = 0.1  # seconds between two pages
TICK = 0.01  # seconds for which the control process sleeps
PATIENCE = 120.0  # seconds
REFUSED = "/no-such-page"  # is answered on the event loop
REQUESTS = 50  # that show which thread runs it


@dataclass
class PagesFetched:
    """Latencies in seconds of page requests, and wake-up delays of a control process that only sleeps."""

    pages: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)  # run-queue waits during the same requests
    failures: int = 0  # answers other than 200, or none
    late: list[float] = field(default_factory=list)  # how much later than asked for the control process woke up

    @property
    def own(self) -> list[float]:
        """Page latencies minus the run-queue waits."""
        return [max(0.0, page - wait) for page, wait in zip(self.pages, self.waits, strict=True)]

    def figures(self, limit: float) -> dict[str, object]:
        """Return the statistics to print; `limit` is in seconds."""
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
    """Seconds that a thread has run, and has waited in the run queue; zeros where the system does not count them."""
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
    """Fetch pages until a stop request arrives on `results`, then send the PagesFetched over it."""
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
    """Sleep repeatedly until a stop request arrives on `results`, then send how late each wake-up was."""
    late = []
    results.send(None)
    while not results.poll():
        begin = time.perf_counter()
        time.sleep(TICK)
        late.append(time.perf_counter() - begin - TICK)
    results.send(late)


@contextlib.contextmanager
def watching(url: str, process: int | None) -> Iterator[list[PagesFetched]]:
    """Fetch pages of the server with this process id during the `with` block; afterwards, the yielded list contains the
    result."""
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


def main() -> None:
    """Measure a running server, and print the statistics."""
    description = "Measure the latency of plain pages of a running server, and how long the requests wait for a CPU."
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page_watch", description=description)
    parser.add_argument("url", help="URL of the server, such as http://127.0.0.1:7865")
    parser.add_argument("--pid", type=int, help="process ID of the server (default: scheduling delay is not measured)")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of the measurement (default: 60)")
    parser.add_argument("--limit", type=float, default=1.0, help="latency in seconds above which pages are counted")
    options = parser.parse_args()
    with watching(options.url, options.pid) as watched:
        time.sleep(options.seconds)
    print(json.dumps(watched[0].figures(options.limit)))


if __name__ == "__main__":
    sys.exit(run_main(main))
