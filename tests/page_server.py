"""Runs the page from a copy of the program in a separate folder, with a browser to test it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ("lib", "infer", "train", "web", "configs", "i18n", "pretrained/lite", "docs", "infer-web.py")
IGNORED = shutil.ignore_patterns("__pycache__", "pretrain_lite", "images", "quality", "browser")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMIUM_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
END_SECONDS = 300.0


def copy_program(folder: Path) -> Path:
    """Copy what runs into a folder, so that voices and trainings of the page never touch those of the checkout."""
    for name in PROGRAM:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=IGNORED)
        else:
            shutil.copyfile(source, target)
    for name in ("weights", "logs"):
        (folder / name).mkdir(exist_ok=True)
    return folder


def start_page(program: Path, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """Start the page of a copy of the program; returns the process and the address, once it is served."""
    with socket.socket() as probe:  # not one of the usual ports: a page of the user may be there, and come back there
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    log = (program / "page.log").open("a", encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(program / "infer-web.py"), "--device", "cpu", "--port", port, "--no-browser", *arguments],
        cwd=program, env=environment, stdout=subprocess.PIPE, stderr=log, text=True,
    )  # fmt: skip
    log.close()
    assert process.stdout is not None
    for line in process.stdout:
        if "The page is at" in line:
            return process, line.split()[4]
    raise AssertionError(f"the page did not start: {(program / 'page.log').read_text(encoding='utf-8')[-2000:]}")


def stop_page(process: subprocess.Popen[str], *, kill: bool = False) -> None:
    """End the page, as its user does or (`kill`) as a power cut does."""
    process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
    process.wait(END_SECONDS)
    assert process.stdout is not None
    process.stdout.close()


@contextmanager
def open_browser() -> Iterator[Any]:
    """A Chromium without a window, for playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


def tabs_of(page: Any) -> list[str]:
    """The tabs of the page, also those in the menu of a narrow window, by the names in their ids."""
    components = page.evaluate("window.gradio_config.components")
    found = [each["props"]["elem_id"].removeprefix("tab-") for each in components if each["type"] == "tabitem"]
    assert "convert" in found
    return found
