"""The Colab notebook, executed cell by cell as a user would, and the files of the container image."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile

from lib.paths import ROOT
from tests.page_server import copy_program

NOTEBOOK = ROOT / "notebooks" / "colab.ipynb"
SHIPPED = ROOT / "pretrained" / "lite" / "demo"


def cells() -> list[str]:
    """The sources of the code cells."""
    notebook: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_every_cell_is_plain_python_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    for number, source in enumerate(cells()):
        compile(source, f"cell {number}", "exec")


def test_the_set_up_says_what_is_missing(tmp_path: Path) -> None:
    none = (tmp_path / "none").as_uri()
    done = run_cells(cells()[:1], tmp_path, REVOICE_FOLDER=str(tmp_path / "nothing"), REVOICE_SESSIONS=none)
    assert done.returncode != 0
    assert "Set REPOSITORY above to the address of the project's git repository." in done.stderr


@pytest.mark.parametrize(
    ("path", "address"),
    [
        (
            "fileId=https%3A//github.com/someone/revoice/blob/main/notebooks/colab.ipynb",
            "https://github.com/someone/revoice.git",
        ),
        ("fileId=1aBcD", ""),
    ],
)
def test_the_repository_is_that_of_the_opened_notebook(tmp_path: Path, path: str, address: str) -> None:
    sessions = tmp_path / "sessions.json"
    sessions.write_text(json.dumps([{"path": path}]), encoding="utf-8")
    source = cells()[0].split("if not (PROGRAM")[0] + "\nprint(opened_from())"
    done = run_cells([source], tmp_path, REVOICE_SESSIONS=sessions.as_uri())
    assert (done.returncode, done.stdout.strip()) == (0, address), done.stderr


@pytest.mark.slow
def test_the_notebook_keeps_voices_in_the_drive_and_trains_and_converts(tmp_path: Path) -> None:
    program, drive = copy_program(tmp_path / "program"), tmp_path / "drive"
    (program / "weights" / "earlier.txt").write_text("made before the Drive was there", encoding="utf-8")
    recordings = drive / "MyDrive" / "recordings"
    recordings.mkdir(parents=True)
    first = min((SHIPPED / "voice").iterdir(), key=lambda path: path.stat().st_size)
    recordings.joinpath(first.name).write_bytes(first.read_bytes())
    audio, rate = soundfile.read(SHIPPED / "source.flac")
    soundfile.write(drive / "MyDrive" / "song.wav", audio[: 2 * rate], rate)
    done = run_cells(
        cells(),
        tmp_path,
        REVOICE_FOLDER=str(program),
        REVOICE_DRIVE=str(drive),
        REVOICE_INSTALL="no",
        REVOICE_SHARE="no",
        REVOICE_PAGE_SECONDS="2",
        REVOICE_MINUTES="0.05",
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    kept = drive / "MyDrive" / "revoice"
    assert (kept / "weights" / "my-voice.pth").is_file() and (kept / "logs" / "my-voice").is_dir()
    assert (kept / "weights" / "earlier.txt").read_text(encoding="utf-8").startswith("made before")
    assert "The page is at http://127.0.0.1" in done.stdout
    assert soundfile.info(kept / "song_my-voice.wav").duration == pytest.approx(2, abs=0.01)


def run_cells(sources: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run cells in one Python, as a notebook does."""
    script = folder / "notebook.py"
    script.write_text("\n".join(sources), encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


def test_the_container_image_gets_every_file_it_copies() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = [name for line in re.findall(r"^COPY (.+)$", dockerfile, re.MULTILINE) for name in line.split()[:-1]]
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"
    ]
    assert sorted(copied) == sorted(allowed)
    assert all((ROOT / name).exists() for name in copied)
    packages = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()} - {"recipes", "tests"}
    assert packages | {"docs"} <= set(copied), "a package of the program, or its manual, is missing in the image"
    assert "USER revoice" in dockerfile and "--host" in dockerfile
    assert re.search(r"^ARG BASE=python:3\.12-slim@sha256:[0-9a-f]{64}$", dockerfile, re.MULTILINE)
