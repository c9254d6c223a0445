"""Before training, everything is checked together, and nothing is written."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import soundfile

from lib.config import load_family
from lib.content import hubert
from lib.errors import AudioError, ConfigError
from train import base_models
from train.experiment import Experiment
from train.options import RunOptions
from train.preflight import VoiceKind, preflight

CPU = RunOptions(device="cpu")


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment("v", tmp_path / "logs", tmp_path / "weights")


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Two seconds in a folder and three below it."""
    folder = tmp_path / "data"
    (folder / "monday").mkdir(parents=True)
    soundfile.write(folder / "a.wav", np.zeros(32_000), 16_000)
    soundfile.write(folder / "monday" / "b.flac", np.zeros(48_000), 16_000)
    return folder


@pytest.mark.slow
def test_a_training_that_can_run_has_facts_and_no_problem(experiment: Experiment, recordings: Path) -> None:
    found = preflight(experiment, VoiceKind(), recordings, CPU)
    found.raise_problems()
    assert not found.warnings
    facts = "\n".join(found.facts)
    for part in (
        "device: cpu (", "precision: ", "encoder.safetensors", "base models: ", "2 recordings, 0.1 min",
        "batch size: ", "disk: about 0.",
    ):  # fmt: skip
        assert part in facts
    assert not experiment.folder.exists() and not experiment.voice.parent.exists()


@pytest.mark.slow
def test_all_problems_are_reported_at_once(
    experiment: Experiment, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubert, "PRETRAINED", tmp_path)
    monkeypatch.setattr(hubert, "ROOT", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000_000))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1e8))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(free=0))
    experiment.voice.parent.mkdir()
    experiment.voice.write_bytes(b"somebody's")
    options = RunOptions(device="cpu", precision="fp16", speaker_id=108, base=False, pitch_method="rmvpe")
    found = preflight(experiment, VoiceKind("v2"), tmp_path / "nothing", options)
    with pytest.raises(ConfigError) as raised:
        found.raise_problems()
    message = str(raised.value)
    assert "because of 7 problems" in message and message.count("\n- ") == 7
    for part in (
        "does not belong to the training run", "fp16 is not supported", "nothing", "hubert_base", "rmvpe.pt",
        "at least 2.2 GB of memory on cpu, but only 0.1 GB is free", "disk space",
    ):  # fmt: skip
        assert part in message
    assert "from scratch" in found.warnings[0]


@pytest.mark.slow
def test_an_unknown_device_hides_no_other_problem(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubert, "PRETRAINED", tmp_path)
    monkeypatch.setattr(hubert, "ROOT", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000_000))
    half = tmp_path / "G.pth"
    options = RunOptions(device="cuda:7", content_encoder="spin-v2", pitch_method="rmvpe", base_generator=half)
    found = preflight(experiment, VoiceKind("v2"), tmp_path / "nothing", options)
    told = [str(problem) for problem in found.problems]
    for part in ("'cuda:7' cannot be used", "nothing", "'spin-v2'", "rmvpe.pt", "belong together", "disk space"):
        assert any(part in text for text in told), part
    assert len(told) == 6 and not experiment.folder.exists()


def test_one_problem_is_raised_as_it_is(experiment: Experiment, recordings: Path) -> None:
    with pytest.raises(ConfigError, match="'cuda:7' cannot be used here"):
        preflight(experiment, VoiceKind(), recordings, RunOptions(device="cuda:7")).raise_problems()
    with pytest.raises(ConfigError, match="no sample rate '48k'"):
        preflight(experiment, VoiceKind("lite", "48k"), recordings, CPU).raise_problems()


def test_an_experiment_of_another_kind_is_a_problem(experiment: Experiment, recordings: Path) -> None:
    experiment.create(load_family("v2"))
    found = preflight(experiment, VoiceKind(), recordings, CPU, ["prepare"])
    with pytest.raises(ConfigError, match="exists with family v2"):
        found.raise_problems()


@pytest.mark.slow
def test_recordings_that_cannot_be_read_are_a_warning_or_a_problem(experiment: Experiment, recordings: Path) -> None:
    (recordings / "a.wav").write_bytes(b"")
    found = preflight(experiment, VoiceKind(), recordings, CPU)
    assert not found.problems and "1 of 2 recordings cannot be used" in found.warnings[0]
    (recordings / "monday" / "b.flac").write_bytes(b"")
    with pytest.raises(AudioError, match=r"a\.wav is empty"):
        preflight(experiment, VoiceKind(), recordings, CPU).raise_problems()


@pytest.mark.slow
def test_an_encoder_with_too_few_layers_is_a_problem(
    experiment: Experiment, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubert, "PRETRAINED", tmp_path)
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text('{"num_hidden_layers": 6}')
    found = preflight(experiment, VoiceKind("v2"), recordings, RunOptions(device="cpu", content_encoder="small"))
    assert "has 6 layers, but v2 needs 12" in str(found.problems[0])


@pytest.mark.slow
def test_without_base_models_of_v2_the_warning_names_the_download(
    experiment: Experiment, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_models.find_base, "__defaults__", (tmp_path,))
    found = preflight(experiment, VoiceKind("v2", "48k"), recordings, CPU, ["fit"])
    assert not found.warnings  # fit needs an experiment first
    experiment.create(load_family("v2", "48k"))
    (warning,) = preflight(experiment, None, None, CPU, ["fit"]).warnings
    assert "v2 at 48k" in warning and "python -m lib.assets download v2-48k" in warning
