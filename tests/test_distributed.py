"""Several processes: equal losses, exact resume, orderly stop, and a clear error when one is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import torch

from lib.progress import Cancelled, no_progress
from lib.voice.model_file import read_voice_model
from tests.helpers import Floats
from tests.page_server import copy_program
from tests.test_loop import FAST, tiny_lite
from tests.test_state import new_state, tiny_batch
from train.__main__ import main
from train.dataset import Batch
from train.distributed import any_process, check_launcher, deferring_signals, disconnect, minimum
from train.estimate import batch_for, default_batch_size
from train.experiment import Experiment
from train.extract import extract
from train.loop import fit
from train.options import ExtractOptions, FitOptions, PrepareOptions
from train.preprocess import prepare_stage
from train.step import train_step

PATIENCE = 600.0  # seconds
ON_A_CPU = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


# --- without other processes ------------------------------------------------------------------------------------------


def test_a_single_process_agrees_with_itself() -> None:
    assert any_process(True, False) == (True, False) and minimum(7) == 7


@pytest.mark.parametrize(("memory", "clips"), [(1e9, 1), (4.2e9, 2), (8.5e9, 4), (25.4e9, 12), (150e9, 40)])
def test_a_gpu_takes_half_its_gigabytes_in_clips(memory: float, clips: int) -> None:
    assert batch_for(memory, 1000, 4) == clips


@pytest.mark.parametrize(("clips", "batch"), [(1, 4), (50, 5), (200, 20), (490, 40)])
def test_a_small_data_set_does_not_become_one_batch(clips: int, batch: int) -> None:
    assert batch_for(150e9, clips, 4) == batch


def test_a_cpu_takes_the_batch_of_the_family() -> None:
    config = tiny_lite()
    assert default_batch_size(config, torch.device("cpu"), 10) == config.train.batch_size


@pytest.mark.parametrize(
    "environment", [{}, {"WORLD_SIZE": "2"}, ON_A_CPU | {"RANK": "0"}, ON_A_CPU | {"ACCELERATE_USE_CPU": "False"}]
)
def test_a_launcher_that_starts_all_processes_is_accepted(environment: dict[str, str]) -> None:
    check_launcher(environment)


def test_accelerate_launch_on_a_cpu_is_refused_with_the_command_that_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in ON_A_CPU.items():
        monkeypatch.setenv(name, value)
    assert main(["fit", "v"]) == 1
    assert "python -m torch.distributed.run --standalone --nproc_per_node N -m train" in capsys.readouterr().err


def test_a_signal_becomes_a_stop_however_often_it_comes() -> None:
    with deferring_signals(no_progress) as progress:
        progress(0, 1, "")
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Cancelled):
            progress(1, 1, "")


def test_one_gpu_for_several_processes_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs" / "v").mkdir(parents=True)
    monkeypatch.setattr(Experiment.__init__, "__defaults__", (tmp_path / "logs", tmp_path / "weights"))
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1")):
        monkeypatch.setenv(name, value)
    assert main(["fit", "v", "--device", "cuda:1"]) == 1
    assert capsys.readouterr().err.startswith(
        "process 2: --device cuda:1 names one GPU, but each process uses its own."
    )


# --- two processes ----------------------------------------------------------------------------------------------------


def losses_of_steps() -> "list[dict[str, float]] | None":
    """Losses of three steps on a batch of four clips of unequal lengths, of which each process takes its part."""
    from accelerate import Accelerator

    processes = Accelerator(cpu=True)
    torch.manual_seed(processes.process_index + 1)
    state = new_state(seed=processes.process_index + 1)  # the others' weights are replaced by the main process's
    found = []
    for seed in range(3):
        halves = [tiny_batch(2 * seed + i) for i in range(2)]
        halves[1] = halves[1]._replace(lengths=torch.tensor([20, 17]))
        batch = Batch(*(torch.cat(tensors) for tensors in zip(*halves, strict=True)))
        starts = torch.tensor([3, 1, 0, 2])
        with processes.split_between_processes([0, 1, 2, 3]) as rows:
            own = Batch(*(tensor[rows] for tensor in batch))
            found.append(train_step(state, own, starts[rows], temperature=0.0))
    return found if processes.is_main_process else None


def _save_losses(rank: int, port: str, path: Path) -> None:
    os.environ |= ON_A_CPU | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": port}
    torch.set_num_threads(1)
    found = losses_of_steps()
    if found is not None:
        path.write_text(json.dumps(found), encoding="utf-8")
    disconnect()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_two_processes_have_the_losses_of_one_with_the_doubled_batch(tmp_path: Path) -> None:
    """The processes are connected as a launcher connects them, but forked from a server that has imported torch."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.fault_child"])  # of which there is one for all tests
    processes = [context.Process(target=_save_losses, args=(rank, port, tmp_path / "losses.json")) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0]
    two = json.loads((tmp_path / "losses.json").read_text())
    one = losses_of_steps()
    assert one is not None and len(two) == len(one) == 3
    for got, want in zip(two, one, strict=True):
        assert got.keys() == want.keys() and want["loss/g/kl"] != 0
        for name, value in want.items():
            assert got[name] == pytest.approx(value, rel=2e-4, abs=1e-6), name


@pytest.fixture
def program(tmp_path: Path, tone: Callable[..., Floats]) -> Path:
    """A copy of the program with prepared clips of an experiment "v" with a tiny network."""
    program = copy_program(tmp_path / "my program")
    folder = tmp_path / "recordings"
    folder.mkdir()
    for i, frequency in enumerate((180.0, 220.0, 260.0)):
        harmonics = sum(tone(frequency * h, 2.0, 24000, 0.3 / h) for h in range(1, 8))
        soundfile.write(folder / f"take {i}.wav", harmonics, 24000)
    prepare_stage(experiment_of(program), folder, tiny_lite(), PrepareOptions())
    return program


def experiment_of(program: Path) -> Experiment:
    return Experiment("v", program / "logs", program / "weights")


def launched(program: Path, *words: str) -> "subprocess.Popen[str]":
    """The command of docs/scaling.md, in a process group of its own, as a terminal starts it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*LAUNCHER, "-m", "train", *words, "--device", "cpu"], cwd=program, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
FIT = ("fit", "v", "--batch-size", "1", "--precision", "fp32", "--no-base")


def workers_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes that train: the launcher's children."""
    found: list[psutil.Process] = psutil.Process(process.pid).children()
    return found


def wait_for_a_checkpoint(experiment: Experiment, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + PATIENCE
    while not (experiment.voice.is_file() and experiment.checkpoint_pairs()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)


def long_training(program: Path) -> tuple[Experiment, "subprocess.Popen[str]", list[psutil.Process]]:
    """A training by two processes that has saved something and is far from its end: its launcher and its workers."""
    experiment = experiment_of(program)
    extract(experiment, ExtractOptions(pitch_method="pm", device="cpu"))
    process = launched(program, *FIT, "--epochs", "5000", "--save-every-epochs", "1")
    wait_for_a_checkpoint(experiment, process)
    return experiment, process, workers_of(process)


@pytest.mark.slow
def test_two_processes_extract_and_train_and_resume_exactly(program: Path) -> None:
    experiment = experiment_of(program)
    process = launched(program, "extract", "v", "--pitch-method", "pm")
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0 and output.count("extract: ") == 1, output
    f0 = {path.name: np.load(path) for path in experiment.f0.iterdir()}
    assert len(f0) == len(list(experiment.gt_wavs.glob("*.wav")))
    assert extract(experiment, ExtractOptions(pitch_method="pm", device="cpu")).skipped

    voices = []
    for epochs in (("2",), ("1", "2")):
        for number in epochs:
            process = launched(program, *FIT, "--epochs", number)
            output = process.communicate(timeout=PATIENCE)[0]
            assert process.returncode == 0 and output.count("fit: ") == 1 and "on each of 2" in output, output
        voices.append(read_voice_model(experiment.voice).weights)
        experiment.voice.unlink()
        for path in experiment.folder.glob("[GD]_*.pth"):
            path.unlink()
    assert all(torch.equal(voices[0][key], voices[1][key]) for key in voices[0])


@pytest.mark.slow
def test_losing_a_process_ends_the_run_with_a_sentence_and_it_can_be_resumed(program: Path) -> None:
    experiment, process, workers = long_training(program)
    assert len(workers) == 2
    workers[1].kill()
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode != 0
    assert output.count("Another of the 2 processes has ended, so this one is exiting, too. Run the same command") == 1
    assert not any(worker.is_running() for worker in workers)
    newest = experiment.newest_pair()
    assert newest is not None
    before = experiment.stage("fit")["checkpoints"][-1]
    report = fit(experiment, FitOptions.model_validate(FAST | {"epochs": 5000, "max_minutes": 0.02, "batch_size": 2}))
    assert report.steps > before


@pytest.mark.slow
def test_ctrl_c_saves_once_and_ends_all(program: Path) -> None:
    experiment, process, workers = long_training(program)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    output = process.communicate(timeout=PATIENCE)[0]
    for worker in workers:
        worker.wait(timeout=PATIENCE)
    assert output.count("Stopped. Run the same command to resume.") == 1
    assert "Another of the" not in output
    with experiment.locked():
        assert experiment.checkpoint_pairs()
