"""Several processes: equal losses, exact resume, orderly stop, and a clear end when one is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import torch

from lib.errors import ConfigError, ProcessLostError
from lib.progress import Cancelled, no_progress
from lib.voice.model_file import read_voice_model
from tests.helpers import Floats
from tests.page_server import ROOT, copy_program
from tests.test_loop import FAST, tiny_lite
from tests.test_state import new_trainer, tiny_batch
from train import launch
from train.__main__ import main
from train.dataset import Batch
from train.distributed import Processes
from train.estimate import clips_for, default_batch_size
from train.experiment import Experiment
from train.extract import extract
from train.loop import fit
from train.options import ExtractOptions, FitOptions, PrepareOptions
from train.preprocess import prepare_stage

PATIENCE = 120.0  # seconds
ON_A_CPU = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


# --- without other processes ------------------------------------------------------------------------------------------


def test_a_process_alone_agrees_with_itself() -> None:
    alone = Processes()
    assert alone.any(True, False) == (True, False) and alone.first and alone.least(7) == 7
    assert list(alone.share([1, 2, 3])) == [1, 2, 3]
    assert torch.equal(alone.mean(torch.ones(2)), torch.ones(2)) and len(alone.gather(torch.ones(2))) == 1
    with alone.first_alone():
        pass


def test_all_items_are_shared_each_once() -> None:
    shares: list[int] = []
    for index in range(3):
        one = Processes()
        one.count, one.index = 3, index
        shares += one.share(range(10))
        assert len(one.share(range(10))) in (3, 4)
    assert sorted(shares) == list(range(10))


@pytest.mark.parametrize(("memory", "clips"), [(1e9, 1), (4.2e9, 2), (8.5e9, 4), (25.4e9, 12), (150e9, 40)])
def test_a_gpu_takes_half_its_gigabytes_in_clips(memory: float, clips: int) -> None:
    assert clips_for(memory) == clips


def test_a_cpu_takes_the_batch_of_the_family() -> None:
    config = tiny_lite()
    assert default_batch_size(config, torch.device("cpu")) == config.train.batch_size


@pytest.mark.parametrize(
    "environment", [{}, {"WORLD_SIZE": "2"}, ON_A_CPU | {"RANK": "0"}, ON_A_CPU | {"ACCELERATE_USE_CPU": "False"}]
)
def test_nothing_is_started_where_accelerate_does_it(environment: dict[str, str]) -> None:
    assert launch.wanted_processes(environment) == 1


class Parent:
    """A process with a command line, in the place of psutil's."""

    words: tuple[str, ...] = ()

    def parent(self) -> "Parent":
        return self

    def cmdline(self) -> list[str]:
        return ["python", "accelerate", "launch", "--cpu", *self.words, "-m", "train", "fit", "v"]


@pytest.mark.parametrize("words", [("--num_processes", "3"), ("--num-processes=3",), ("--num_processes=3", "-q")])
def test_the_number_is_read_from_the_launcher(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    monkeypatch.setattr(Parent, "words", words)
    monkeypatch.setattr(psutil, "Process", Parent)
    assert launch.wanted_processes(ON_A_CPU) == 3


@pytest.mark.parametrize("words", [(), ("--num_processes", "4", "--num_machines", "2"), ("--num_processes", "x")])
def test_a_number_that_is_not_told_is_refused(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    monkeypatch.setattr(Parent, "words", words)
    monkeypatch.setattr(psutil, "Process", Parent)
    with pytest.raises(ConfigError, match=r"torch\.distributed\.run"):
        launch.wanted_processes(ON_A_CPU)


def test_a_signal_becomes_a_stop_however_often_it_comes() -> None:
    with launch.stopping_together(no_progress) as progress:
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
        "process 2: --device cuda:1 names one GPU, but each process takes its own."
    )


def run_python(*programs: str) -> list[str]:
    """The commands of processes that each run a program of their own, told apart by RANK."""
    code = f"import os; exec({list(programs)!r}[int(os.environ['RANK'])])"
    return [sys.executable, "-c", code]


def test_a_killed_process_is_told_and_the_others_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.5)
    began = time.monotonic()
    command = run_python("import time; time.sleep(60)", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ProcessLostError, match=r"Process 2 of 2 was ended by signal 9\. The same command continues"):
        launch.start_processes(command, 2, os.environ)
    assert time.monotonic() - began < 30


def test_the_first_bad_status_counts() -> None:
    assert launch.start_processes(run_python("pass", "pass"), 2, os.environ) == 0
    assert launch.start_processes(run_python("pass", "raise SystemExit(1)"), 2, os.environ) == 1
    assert launch.start_processes(run_python("raise SystemExit(130)", "raise SystemExit(130)"), 2, os.environ) == 130


# --- two processes ----------------------------------------------------------------------------------------------------

STEPS = """
import json, sys, torch, warnings
torch.set_num_threads(1)
from tests.test_distributed import losses_of_steps
found = losses_of_steps()
if found is not None:
    with open(sys.argv[1], "w") as file:
        json.dump(found, file)
"""


def losses_of_steps() -> "list[dict[str, float]] | None":
    """Losses of three steps on a batch of four clips of unequal lengths, of which each process takes its part."""
    from accelerate import Accelerator
    from accelerate.state import PartialState

    together = Processes(PartialState(cpu=True))
    torch.manual_seed(together.index + 1)
    trainer = new_trainer(seed=together.index + 1)  # the others' weights are replaced by the first's
    assert Accelerator().num_processes == together.count
    found = []
    for seed in range(3):
        halves = [tiny_batch(2 * seed + i) for i in range(2)]
        halves[1] = halves[1]._replace(lengths=torch.tensor([20, 17]))
        batch = Batch(*(torch.cat(tensors) for tensors in zip(*halves, strict=True)))
        starts = torch.tensor([3, 1, 0, 2])
        rows = list(together.share(range(4)))
        found.append(trainer.train_step(Batch(*(tensor[rows] for tensor in batch)), starts[rows], temperature=0.0))
    return found if together.first else None


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_with_the_doubled_batch(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "True"}
    command = [sys.executable, "-c", STEPS, str(tmp_path / "losses.json")]
    assert launch.start_processes(command, 2, environment) == 0
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
    wanted = ["--cpu", "--num_processes", "2", "-m", "train", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    environment = {name: value for name, value in environment.items() if not name.startswith("MASTER_")}
    return subprocess.Popen(
        [sys.executable, "-m", "accelerate.commands.launch", *wanted], cwd=program, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


FIT = ("fit", "v", "--batch-size", "1", "--precision", "fp32", "--no-base")


def workers_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes that train: the launcher's child's children."""
    (starter,) = psutil.Process(process.pid).children()
    found: list[psutil.Process] = starter.children()
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
    told = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0 and told.count("extract: ") == 1, told
    f0 = {path.name: np.load(path) for path in experiment.f0.iterdir()}
    assert len(f0) == len(list(experiment.gt_wavs.glob("*.wav")))
    assert extract(experiment, ExtractOptions(pitch_method="pm", device="cpu")).skipped

    voices = []
    for epochs in (("2",), ("1", "2")):
        for number in epochs:
            process = launched(program, *FIT, "--epochs", number)
            told = process.communicate(timeout=PATIENCE)[0]
            assert process.returncode == 0 and told.count("fit: ") == 1 and "on each of 2" in told, told
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
    told = process.communicate(timeout=PATIENCE)[0]
    ours = told[: told.find("Traceback")]  # Accelerate adds its own about the status
    assert process.returncode != 0 and "raise subprocess.CalledProcessError" in told.replace(ours, "")
    assert ours.count("Another of the 2 processes has ended, so this one ends, too. The same command continues") == 1
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
    told = process.communicate(timeout=PATIENCE)[0]
    for worker in workers:
        worker.wait(timeout=PATIENCE)
    assert told.count("Stopped. The same command continues where it was.") == 1
    assert "Another of the" not in told
    with experiment.locked():
        assert experiment.checkpoint_pairs()
