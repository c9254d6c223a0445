"""Load test: many clients on one server. Measures page latency and memory growth, and
counts damaged results.

    python -m benchmarks.load [--clients 50] [--minutes 5] [--url http://127.0.0.1:7865]

Without --url the script starts a server of its own, from a copy of the program in a temporary folder. Each client of a
group repeats one action: it converts a second of a recording, uploads and cancels a conversion, or lists jobs.
Meanwhile, one client sends the worst inputs known, and a separate process repeatedly fetches a plain page; the slowest
request is reported. On a busy machine, serving a page also includes time spent waiting for a CPU that other programs
are using. On Linux this time is reported (benchmarks/page_watch.py), and only the rest of a page's time is compared
with the limit.
"""

import argparse
import asyncio
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import soundfile

from benchmarks.page_watch import PagesFetched, watching
from lib.paths import ROOT
from lib.run_main import run_main

PROGRAM = ("lib", "infer", "train", "web", "configs", "i18n", "pretrained/lite", "infer-web.py")
VOICE = "ljspeech"
SLOWEST = 1.0  # seconds that a plain page may take
GROWTH = 1.1  # of memory
PATIENCE = 120.0  # seconds
WORST = ("a: ", "{", "[", '"', "\\", "<b>", "\n", "\ue7b0", "a")
TEXTS = ("voice_info", "delete_voice", "load_preset", "job_status", "cancel_job", "export_voice")  # take one text


@dataclass
class Found:
    """Results that the clients collected."""

    answers: Counter[str] = field(default_factory=Counter)
    results: dict[str, str] = field(default_factory=dict)  # SHA-256 of finished results, by path


def recording(seconds: float = 1.0) -> bytes:
    """Return a rising tone as a WAV file."""
    time_ = np.arange(int(16_000 * seconds)) / 16_000
    data = io.BytesIO()
    soundfile.write(data, 0.5 * np.sin(2 * np.pi * (200 + 100 * time_) * time_), 16_000, format="WAV")
    return data.getvalue()


async def call(client: httpx.AsyncClient, name: str, data: list[object]) -> str:
    """Call an endpoint and return its response, a stream of events."""
    begun = await client.post(f"/gradio_api/call/{name}", json={"data": data})
    if begun.status_code != 200:
        return f"status {begun.status_code}"
    return (await client.get(f"/gradio_api/call/{name}/{begun.json()['event_id']}")).text


async def upload(client: httpx.AsyncClient, data: bytes) -> dict[str, object]:
    """Upload a recording; return it as a parameter of an endpoint."""
    answer = await client.post("/gradio_api/upload", files={"files": ("take.wav", data)})
    return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}


async def parameters(client: httpx.AsyncClient, name: str, **values: object) -> list[object]:
    """Return the parameters of an endpoint in order, with `values` in place of the defaults."""
    about = (await client.get("/gradio_api/info")).json()["named_endpoints"][f"/{name}"]["parameters"]
    return [values.get(each["parameter_name"], each.get("parameter_default")) for each in about]


async def convert(client: httpx.AsyncClient, found: Found, number: int) -> None:
    """Convert a recording and store the hash of the result."""
    file = await upload(client, recording(0.5 + number % 3 / 2))
    answer = await call(client, "convert", await parameters(client, "convert", voice=VOICE, recording=file))
    if "event: complete" not in answer:
        found.answers["refused: " + ("queue full" if "queued" in answer else "other")] += 1
        return
    result = json.loads(answer.rsplit("data: ", 1)[1])[0]
    if result is None:  # another client has cancelled the job
        found.answers["cancelled by another client"] += 1
        return
    path = result["path"]
    data = (await client.get(f"/gradio_api/file={path}")).content
    soundfile.read(io.BytesIO(data))  # a whole file
    found.results[path] = hashlib.sha256(data).hexdigest()
    found.answers["converted"] += 1


async def upload_and_cancel(client: httpx.AsyncClient, found: Found, number: int) -> None:
    """Start a conversion, and cancel a job that is queued or running."""
    file = await upload(client, recording(2.0))
    data = await parameters(client, "convert", voice=VOICE, recording=file)
    begun = await client.post("/gradio_api/call/convert", json={"data": data})
    await asyncio.sleep(random.random())
    jobs = json.loads((await call(client, "list_jobs", [])).rsplit("data: ", 1)[1])[0]
    active = [job["id"] for job in jobs if job["state"] in ("waiting", "running")]
    if active:
        await call(client, "cancel_job", [random.choice(active)])
        found.answers["cancelled"] += 1
    if begun.status_code == 200:
        await client.get(f"/gradio_api/call/convert/{begun.json()['event_id']}")


async def list_jobs(client: httpx.AsyncClient, found: Found, number: int) -> None:
    """List jobs and voices."""
    await call(client, "list_jobs", [])
    await call(client, "list_voices", [])
    found.answers["listed"] += 1
    await asyncio.sleep(0.5)


async def attack(client: httpx.AsyncClient, found: Found, number: int) -> None:
    """Send a megabyte of one of the worst inputs to one of the endpoints that accept text."""
    unit = WORST[number % len(WORST)]
    text = unit * (990_000 // len(json.dumps(unit).encode()))
    place = number // len(WORST) % (len(TEXTS) + 2)
    if place < len(TEXTS):
        await call(client, TEXTS[place], [text])
    else:
        path = ("cancel", "reset")[place - len(TEXTS)]
        await client.post(f"/gradio_api/{path}", content=text.encode(), headers={"Content-Type": "application/json"})
    found.answers["attacked"] += 1


Action = Callable[[httpx.AsyncClient, Found, int], Awaitable[None]]


async def repeat(url: str, found: Found, action: Action, until: float) -> None:
    """Run one client, which repeats one action."""
    number = 0
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        while time.monotonic() < until:
            try:
                await action(client, found, number)
            except (httpx.HTTPError, ValueError, KeyError, IndexError, soundfile.SoundFileError) as error:
                found.answers[f"error of {action.__name__}: {error!r:.200}"] += 1
            number += 1


async def run(url: str, clients: int, seconds: float) -> Found:
    """Let all clients run for the given time."""
    found, until = Found(), time.monotonic() + seconds
    actions: list[Action] = [(convert, upload_and_cancel, list_jobs)[number % 3] for number in range(clients)]
    await asyncio.gather(*(repeat(url, found, action, until) for action in (*actions, attack)))
    return found


def damaged(found: Found) -> list[str]:
    """Return the finished results that have changed since; those that the server has deleted are left out."""
    wrong = []
    for path, digest in found.results.items():
        with contextlib.suppress(FileNotFoundError):
            if hashlib.sha256(Path(path).read_bytes()).hexdigest() != digest:
                wrong.append(path)
    return wrong


@contextlib.contextmanager
def own_server() -> Iterator[tuple[str, int]]:
    """Start a server from a copy of the program; yield its address and process id."""
    with tempfile.TemporaryDirectory(prefix="revoice-load-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for part in PROGRAM:
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copyfile
            copy(ROOT / part, folder / part)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        command = [sys.executable, str(folder / "infer-web.py"), "--device", "cpu", "--port", port]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            address = next(line.split()[4] for line in process.stdout if "The page is at" in line)
            try:
                yield address, process.pid
            finally:
                process.terminate()
                process.wait()


def memory(process: int | None) -> int:
    """Bytes of memory that the server and its processes hold; 0 for an external server (--url)."""
    if process is None:
        return 0
    server = psutil.Process(process)
    return sum(each.memory_info().rss for each in (server, *server.children(recursive=True)))


def measure(url: str, process: int | None, clients: int, seconds: float) -> int:
    """Warm up, run, print the results, and return the exit status."""
    asyncio.run(run(url, 3, min(60.0, seconds)))  # one of each kind: what is loaded once is not growth
    held = memory(process)
    with watching(url, process) as watched:
        found = asyncio.run(run(url, clients, seconds))
    asyncio.run(run(url, 3, 5.0))  # what was running has ended
    growth, wrong = (memory(process) / held if held else 0.0), damaged(found)
    pages: PagesFetched = watched[0]
    facts = {
        "clients": clients, "seconds": seconds, "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
        **pages.figures(SLOWEST), "memory_mb": held >> 20, "memory_growth": round(growth, 3),
        "results": len(found.results), "damaged_results": wrong, "answers": dict(found.answers),
    }  # fmt: skip
    print(json.dumps(facts))
    return int(not pages.own or max(pages.own) > SLOWEST or growth > GROWTH or bool(wrong))


def main() -> int:
    """Run the load test and print one line of JSON; return 1 if a limit was exceeded, otherwise 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load", description="Load-test a server, and print the results as one line of JSON."
    )
    parser.add_argument("--clients", type=int, default=50, help="number of simultaneous clients (default: 50)")
    parser.add_argument("--minutes", type=float, default=5.0, help="duration of the test (default: 5)")
    parser.add_argument("--url", help="URL of a running server (default: start a temporary one)")
    arguments = parser.parse_args()
    if arguments.url:
        return measure(arguments.url, None, arguments.clients, 60 * arguments.minutes)
    with own_server() as (address, process):
        return measure(address, process, arguments.clients, 60 * arguments.minutes)


if __name__ == "__main__":
    sys.exit(run_main(main))
