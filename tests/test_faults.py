"""A training meets every fault of a machine: kills, a full disk, no memory, read-only folders, SIGTERM.

Whatever happens, the process ends with one sentence and the right exit status, the same command continues, and the
voice is bit for bit that of the uninterrupted training. `pytest -rP` shows the results as a table.
"""

import os
import random
import shutil
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lib.voice.model_file import read_voice_model
from lib.voice.weights import Weights
from tests.fault_child import Ending, Fault, run
from tests.test_loop import run_stages
from train.checkpoint_index import find_pairs, read_index
from train.experiment import Experiment
from web.jobs.registry import JobContext, JobRegistry
from web.jobs.requests import ConvertRequest, SayRequest
from web.services import converting_runners

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are forked and limited as Linux does it"),
]
NAME = "v"
EPOCHS = 20
FIT = f"fit {NAME} --device cpu --precision fp32 --batch-size 2 --no-base --workers 0 --keep-checkpoints 2".split()
SAVING = [*FIT, "--epochs", str(EPOCHS), "--save-every-epochs", "1"]
SHORT = [*FIT, "--epochs", "1"]
RANDOM_KILLS = 30
SIGTERM_STRIDE = 7  # odd: of the pairs of writing a file and renaming it, both are met
STEPS = 2  # of an epoch
SHIPPED_VOICE = "ljspeech"
PATIENCE = 600.0  # seconds
OK, FAILED, STOPPED, KILLED = 0, 1, 130, -9
ROWS: list[tuple[str, str, str]] = []  # fault, what was said, what was saved


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Print the messages and the state after each fault."""
    yield
    rows = [("fault", "exit status and message", "then"), *ROWS]
    sys.stdout.write("\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two short recordings and an experiment that is ready for training."""
    folder = tmp_path_factory.mktemp("prepared")
    times = np.arange(12_000) / 24_000
    (folder / "data").mkdir()
    for i, frequency in enumerate((180.0, 220.0)):
        tone = sum(0.3 / h * np.sin(2 * np.pi * frequency * h * times) for h in range(1, 8))
        soundfile.write(folder / "data" / f"take {i}.wav", tone, 24_000)
    run_stages(experiment_in(folder), folder / "data")
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of `prepared`."""
    return shutil.copytree(prepared, tmp_path / "copy")


def experiment_in(folder: Path) -> Experiment:
    return Experiment(NAME, folder / "logs", folder / "weights")


def weights_of(folder: Path) -> Weights:
    return read_voice_model(folder / "weights" / f"{NAME}.pth").weights


def uninterrupted(prepared: Path, folder: Path, words: list[str]) -> Weights:
    """The voice of a training that nothing disturbs."""
    copy = shutil.copytree(prepared, folder)
    assert run(copy, words).status == OK
    return weights_of(copy)


def same(got: Weights, want: Weights) -> bool:
    return got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in want)


def steps_saved(folder: Path) -> int:
    """The progress of the newest whole pair; every listed pair must be what was saved."""
    index = read_index(folder / "logs" / NAME)
    for pair in index.pairs.values():
        pair.verify()
    return max((pair.step for pair in find_pairs(index)[0]), default=0)


def said(ending: Ending) -> str:
    """The last line of what a process printed on stderr, which must not be a traceback."""
    assert "Traceback" not in ending.text, ending.text
    lines = [line for line in ending.text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def check_whole_files(folder: Path) -> None:
    """No temporary file is left, and the voice can be read."""
    assert not [path for path in folder.rglob(".*") if path.name.startswith((".part-", ".import-", ".new", ".ready"))]


def test_kills_between_all_files_and_at_random_moments(prepared: Path, folder: Path, tmp_path: Path) -> None:
    """One training is killed before every change of a file of a save, then 30 times at random lines of its code: while
    it starts, in a step, during a save."""
    straight = [*FIT, "--epochs", str(EPOCHS)]
    want = uninterrupted(prepared, tmp_path / "straight", straight)
    lines = run(shutil.copytree(prepared, tmp_path / "lines"), SHORT, Fault("kill at line", -1)).moments
    rng = random.Random(0)
    faults = [Fault("kill at line", rng.randrange(2 * lines)) for _ in range(RANDOM_KILLS)]
    reached, kills, place = 0, 0, 0
    while True:  # until a run was killed behind its second save, at which older pairs are deleted, too
        place += 1
        ending = run(folder, SAVING, Fault("kill", place))
        now = steps_saved(folder)
        assert now >= reached and ending.status in (KILLED, OK)
        saves, reached, kills = now - reached, now, kills + (ending.status == KILLED)
        if saves >= 2 * STEPS or ending.status == OK:
            break
    between, places = kills, set[int]()
    for fault in faults:
        ending = run(folder, SAVING, fault)
        assert ending.status in (KILLED, OK) and steps_saved(folder) >= reached
        reached, kills = steps_saved(folder), kills + (ending.status == KILLED)
        places.add(reached)
    assert between >= 15 and kills - between >= 20 and len(places) >= 5
    last = run(folder, straight)
    assert last.status == OK and same(weights_of(folder), want), last.text
    check_whole_files(folder)
    ROWS.append((f"{between} kills between files, {kills - between} at random lines", "-", "identical weights"))


def test_a_disk_that_is_full_at_any_write_of_the_training(prepared: Path, folder: Path, tmp_path: Path) -> None:
    want = uninterrupted(prepared, tmp_path / "straight", SHORT)
    for n in range(1, 40):
        ending = run(folder, SHORT, Fault("full disk", n))
        text = said(ending)
        if ending.status == OK:
            break
        assert ending.status == FAILED and "File too large" in text and "checkpoint" in text, text
        ROWS.append(
            (f"disk full at write {n} of fit", f"{ending.status}: {_short(text)}", "the same command continues")
        )
    assert n > 5
    if ending.status != OK:
        assert run(folder, SHORT).status == OK
    assert same(weights_of(folder), want)
    check_whole_files(folder)


@pytest.mark.parametrize("stage", ["prepare", "extract", "index"])
def test_a_disk_that_is_full_at_any_write_of_a_stage(prepared: Path, folder: Path, stage: str) -> None:
    words = {
        "prepare": ["prepare", "w", "--data", str(folder / "data")],
        "extract": ["extract", NAME, "--pitch-method", "dio", "--device", "cpu"],
        "index": ["index", NAME, "--seed", "7"],
    }[stage]
    text = ""
    for n in range(1, 40):
        ending = run(folder, words, Fault("full disk", n))
        if ending.status == OK:
            break
        text = said(ending)
        assert ending.status == FAILED and "File too large" in text, text
    ROWS.append((f"disk full at {n - 1} writes of {stage}", f"1: {_short(text)}", "the same command continues"))
    assert n > 2 and run(folder, words).status == OK
    check_whole_files(folder)


def test_too_little_memory_is_said_and_nothing_is_lost(prepared: Path, folder: Path, tmp_path: Path) -> None:
    want = uninterrupted(prepared, tmp_path / "straight", SHORT)
    for megabytes in (24, 64, 128):  # with less, Python itself fails in ways that no program can report
        ending = run(folder, SHORT, Fault("memory", megabytes))
        text = said(ending) if ending.status != OK else ""
        assert ending.status == OK or (ending.status == FAILED and "memory" in text), (ending.status, ending.text)
        ROWS.append(
            (f"{megabytes} MB of memory left", f"{ending.status}: {_short(text)}", "the same command continues")
        )
    assert run(folder, SHORT).status == OK and same(weights_of(folder), want)


def test_read_only_folders_are_said(prepared: Path, folder: Path) -> None:
    for path in (folder, *folder.parents):
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        path.chmod(0o555)
    for words in (SHORT, ["index", NAME, "--seed", "7"], ["prepare", "w", "--data", str(folder / "data")]):
        ending = run(folder, words, Fault("read-only"))
        assert ending.status == FAILED and "Permission denied" in said(ending), ending.text
        ROWS.append((f"read-only folder, {words[0]}", f"1: {_short(said(ending))}", "nothing has changed"))
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        path.chmod(0o755)


def test_after_sigterm_the_same_command_continues(prepared: Path, folder: Path, tmp_path: Path) -> None:
    words = [*FIT, "--epochs", "3"]
    want = uninterrupted(prepared, tmp_path / "straight", words)
    ending = run(folder, words, Fault("SIGTERM", 5))
    assert ending.status == STOPPED and "resume" in said(ending).lower(), ending.text
    ROWS.append(("SIGTERM", f"130: {_short(said(ending))}", "the same command continues"))
    assert run(folder, words).status == OK and same(weights_of(folder), want)


def test_sigterm_during_a_save_leaves_a_whole_checkpoint(prepared: Path, folder: Path, tmp_path: Path) -> None:
    """One training gets the signal before a file is written, renamed or deleted, at another moment in each start."""
    epochs = ["--epochs", "16"]
    want = uninterrupted(prepared, tmp_path / "straight", [*FIT, *epochs])
    moments = run(shutil.copytree(prepared, tmp_path / "one"), SHORT, Fault("SIGTERM", -1)).moments
    reached = saves = 0
    for n in range(1, moments + 1, SIGTERM_STRIDE):  # the first of them lie before the first step
        ending = run(folder, [*FIT, *epochs, "--save-every-epochs", "1"], Fault("SIGTERM", n))
        now = steps_saved(folder)
        assert ending.status == STOPPED and said(ending) == "Stopped. Run the same command to resume.", ending.text
        assert now >= reached and read_index(folder / "logs" / NAME).writing is None
        assert not now or read_voice_model(folder / "weights" / f"{NAME}.pth").extra["step"] == now
        check_whole_files(folder)
        reached, saves = now, saves + (now > reached)
    assert saves >= 5
    last = run(folder, [*FIT, *epochs])
    assert last.status == OK and same(weights_of(folder), want), last.text
    ROWS.append((f"SIGTERM at {saves} moments of a save", f"130: {_short(said(ending))}", "identical weights"))


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(prepared: Path, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    for words in (FIT, ["extract", NAME, "--pitch-method", "dio"]):
        ending = run(folder, [*[word for word in words if word not in ("--device", "cpu")], "--device", "cuda:7"])
        assert ending.status == FAILED and "'cuda:7' cannot be used here" in said(ending), ending.text
        ROWS.append((f"no such device, {words[0]}", f"1: {_short(said(ending))}", "nothing has changed"))
    assert sorted(folder.rglob("*")) == before


STAGES_THAT_READ = {  # with the folder of the files that they read
    "fit": (SHORT, "2b-f0nsf"),
    "index": (["index", NAME, "--seed", "7"], "3_feature129"),
}


@pytest.mark.parametrize("stage", STAGES_THAT_READ)
def test_a_file_that_cannot_be_read_is_reported(prepared: Path, folder: Path, stage: str) -> None:
    words, name = STAGES_THAT_READ[stage]
    victim = min((folder / "logs" / NAME / name).glob("*.npy"))
    kept = victim.rename(folder / "kept")
    victim.symlink_to("/proc/self/mem")  # whose first page is nowhere: the system reports an input/output error
    ending = run(folder, words)
    assert ending.status == FAILED and f"{victim} cannot be read: Input/output error." in said(ending), ending.text
    assert "damaged" not in said(ending) and "Delete" not in said(ending)
    ROWS.append((f"unreadable file, {stage}", f"1: {_short(said(ending))}", "the same command continues"))
    kept.replace(victim)
    assert run(folder, words).status == OK


@pytest.mark.parametrize(("stage", "n"), [("fit", 2), ("index", 1)])
def test_a_file_that_vanishes_after_it_was_listed_is_named(prepared: Path, folder: Path, stage: str, n: int) -> None:
    words, name = STAGES_THAT_READ[stage]
    victim = max((folder / "logs" / NAME / name).glob("*.npy"))
    content = victim.read_bytes()
    ending = run(folder, words, Fault("vanish", n, victim))
    text = said(ending)
    assert not victim.exists() and ending.status == FAILED, ending.text
    assert victim.name in text and "No such file" in text
    ROWS.append((f"file vanishes, {stage}", f"1: {_short(text)}", "the same command continues"))
    victim.write_bytes(content)
    assert run(folder, words).status == OK


def test_a_recording_that_vanishes_after_it_was_listed_is_named(prepared: Path, folder: Path) -> None:
    """As every recording that cannot be used: the others are prepared."""
    victim = folder / "data" / "take 1.wav"
    first_clip = 2  # the first file is the configuration
    ending = run(folder, ["prepare", "w", "--data", str(folder / "data")], Fault("vanish", first_clip, victim))
    assert ending.status == OK and f"Not found: {victim}" in ending.text, ending.text
    ROWS.append(("recording vanishes, prepare", "0: Not found: … take 1.wav", "the clips of the others"))


def test_a_recording_that_vanishes_while_its_job_waits_is_named(tmp_path: Path) -> None:
    """A job of the page: the queue is held until the copy of the upload is gone."""
    held = threading.Event()

    def hold(request: SayRequest, context: JobContext) -> list[Path]:
        held.wait(PATIENCE)
        return []

    soundfile.write(tmp_path / "in.wav", np.zeros(16_000), 16_000)
    registry = JobRegistry(tmp_path / "jobs", {**converting_runners(), "say": hold})
    try:
        registry.submit("first", SayRequest(voice=SHIPPED_VOICE, text="a"))
        job = registry.submit("second", ConvertRequest(voice=SHIPPED_VOICE, recording=tmp_path / "in.wav"))
        (copy,) = (tmp_path / "jobs" / job).rglob("in.wav")
        copy.unlink()
        held.set()
        registry.wait(job, PATIENCE)
        ended = registry.get(job)
        assert ended.state == "failed" and str(ended.error).startswith("Not found: in.wav."), ended
        ROWS.append(("upload vanishes, job of the page", _short(str(ended.error)), "the job can be resumed"))
    finally:
        held.set()
        registry.close()


def _short(text: str) -> str:
    return text if len(text) < 120 else f"{text[:40]} … {text[-75:]}"
