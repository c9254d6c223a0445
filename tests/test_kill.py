"""The server is killed during training and a batch: nothing is broken, and both resume after a restart."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import soundfile
from gradio_client import Client, handle_file

from lib.voice.safe_load import safe_load
from tests.page_server import ROOT, copy_program, start_page, stop_page

SHIPPED = ROOT / "pretrained" / "lite" / "demo"
PATIENCE = 600.0  # seconds
FILES = 5  # of the batch, which is killed after the first

pytestmark = pytest.mark.slow


def jobs(client: Client) -> dict[str, dict[str, Any]]:
    """The newest job of each kind."""
    return {job["kind"]: job for job in reversed(client.predict(api_name="/list_jobs"))}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def running_in(folder: Path) -> list[int]:
    """The processes that run in a folder."""
    return [process.pid for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(folder)]


def check_files(program: Path) -> None:
    """Every file that is there under its own name can be read."""
    for path in (program / "logs").rglob("*"):
        if path.name.startswith(".part-"):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix in (".wav", ".flac"):
            soundfile.read(path)
    for path in [*(program / "weights").glob("*.pth"), *(program / "logs").glob("*/?_*.pth")]:
        safe_load(path)


def test_a_killed_server_offers_both_jobs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    program = copy_program(tmp_path / "my program")
    recordings = sorted((SHIPPED / "voice").glob("*.flac"))[:2]
    process, address = start_page(program)
    client = Client(address, verbose=False, httpx_kwargs={"timeout": PATIENCE})
    empty = {"max_minutes": "", "batch_size": "", "learning_rate": "", "save_every_epochs": "", "workers": "",
             "content_encoder": "", "folder": ""}  # fmt: skip
    client.predict(
        **empty | {"save_every_epochs": "4"}, name="voice 声", files=[handle_file(path) for path in recordings],
        epochs=500, api_name="/train",
    )  # fmt: skip
    wait_until(lambda: (program / "weights" / "voice 声.pth").is_file())
    batch = client.submit(
        voice="voice 声", files=[handle_file(SHIPPED / "source.flac")] * FILES, folder="", pitch_method="pm",
        api_name="/convert_batch",
    )  # fmt: skip
    wait_until(lambda: jobs(client).get("batch", {}).get("done", 0) >= 1000)
    stop_page(process, kill=True)
    del batch

    wait_until(lambda: not running_in(program))  # the training sees that its server is gone, and saves
    check_files(program)
    process, address = start_page(program)
    client = Client(address, verbose=False, httpx_kwargs={"timeout": PATIENCE})
    found = jobs(client)
    assert {kind: job["state"] for kind, job in found.items()} == {"train": "interrupted", "batch": "interrupted"}
    made = len(list((program / "logs" / ".jobs" / found["batch"]["id"]).glob("*.wav")))
    assert 1 <= made < FILES
    for job in found.values():
        client.predict(job_id=job["id"], api_name="/resume_job")
    wait_until(lambda: jobs(client)["batch"]["state"] == "done")
    wait_until(lambda: "training" in jobs(client)["train"]["what"])
    client.predict(job_id=found["train"]["id"], api_name="/cancel_job")
    wait_until(lambda: jobs(client)["train"]["state"] == "cancelled")
    results = client.predict(job_id=found["batch"]["id"], api_name="/job_status")["results"]
    assert len(results) == FILES + 1 and results[0].endswith(".zip")
    stop_page(process)
    check_files(program)
    assert "Traceback" not in (program / "page.log").read_text(encoding="utf-8")
