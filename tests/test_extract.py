"""Clips are extracted in batches of similar length, with the same features as one at a time."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.config import load_family
from lib.content import hubert
from lib.errors import AudioError
from tests.helpers import Floats
from tests.tiny_files import tiny_family
from tests.tiny_hubert import TINY, tensors_of, write_folder
from train import extract as module
from train.experiment import Experiment
from train.extract import batches_by_length, extract
from train.index import index_stage
from train.options import ExtractOptions, IndexOptions, PrepareOptions
from train.preprocess import prepare_stage


@pytest.mark.slow
@given(lengths=st.lists(st.floats(0.1, 9.0), max_size=40), seconds=st.floats(1.0, 30.0))
def test_batches_hold_each_clip_once_and_are_no_longer_than_asked(lengths: list[float], seconds: float) -> None:
    names = [str(i) for i in range(len(lengths))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_seconds", lambda path: lengths[int(path.name)])
        batches = batches_by_length(Path(), names, seconds)
    assert sorted(name for batch in batches for name in batch) == sorted(names)
    for batch in batches:
        padded = len(batch) * max(lengths[int(name)] for name in batch)
        assert len(batch) == 1 or padded <= seconds


@pytest.fixture
def recordings(tmp_path: Path, tone: Callable[..., Floats]) -> Path:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for i, seconds in enumerate((1.2, 2.0, 2.9, 3.3, 1.2)):
        harmonics = sum(tone(170.0 + 20 * i, seconds, 16000, 0.3 / h) for h in range(1, 5))
        soundfile.write(folder / f"take {i}.wav", harmonics, 16000)
    return folder


class RecordedProgress:
    """A Progress that records its calls."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def __call__(self, done: int, total: int, what: str) -> None:
        self.done.append(done)


def features(experiment: Experiment) -> dict[str, Floats]:
    """Everything that extraction wrote."""
    folders = (experiment.f0, experiment.pitch_bins, experiment.content_folder(TINY.width))
    return {f"{folder.name}/{path.name}": np.load(path) for folder in folders for path in sorted(folder.iterdir())}


@pytest.mark.slow
def test_batches_give_the_files_of_one_clip_at_a_time(
    tmp_path: Path, recordings: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(tmp_path / "hubert", tensors_of(TINY))
    monkeypatch.setattr(hubert, "find", lambda name: tmp_path / "hubert")
    config = tiny_family("v2", "40k")
    network = config.synthesizer.model_copy(update={"content_width": TINY.width})
    found = []
    with caplog.at_level(logging.ERROR):
        for folder, seconds in (("alone", 0.0), ("batches", 15.0)):
            experiment = Experiment("v", tmp_path / folder / "logs", tmp_path / folder / "weights")
            prepare_stage(experiment, recordings, config.model_copy(update={"synthesizer": network}), PrepareOptions())
            monkeypatch.setattr(module, "CPU_SECONDS", seconds)
            progress = RecordedProgress()
            torch.set_num_threads(1 if folder == "alone" else 3)
            extract(experiment, ExtractOptions(pitch_method="pm", device="cpu", precision="fp32"), progress)
            assert torch.get_num_threads() == (1 if folder == "alone" else 3)
            clips = len(list(experiment.wavs_16k.glob("*.wav")))
            assert progress.done[-1] == clips and (len(progress.done) == clips + 1) == (folder == "alone")
            found.append(features(experiment))
    alone, batches = found
    assert alone.keys() == batches.keys() and len(alone) >= 15
    for name, values in alone.items():
        assert values.dtype == batches[name].dtype and np.allclose(batches[name], values, rtol=1e-4, atol=1e-5), name


@pytest.mark.slow
def test_auto_keeps_the_dtype_of_an_experiment(
    tmp_path: Path, recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "hubert", tensors_of(TINY))
    monkeypatch.setattr(hubert, "find", lambda name: tmp_path / "hubert")
    config = tiny_family("v2", "40k")
    network = config.synthesizer.model_copy(update={"content_width": TINY.width})
    experiment = Experiment("v", tmp_path / "logs", tmp_path / "weights")
    prepare_stage(experiment, recordings, config.model_copy(update={"synthesizer": network}), PrepareOptions())

    def extracted(precision: str, *, fast: bool) -> dict[str, Floats] | None:
        """The features, or None if none were computed again."""
        monkeypatch.setattr("lib.devices.has_fast_bfloat16", lambda device: fast)
        options = ExtractOptions.model_validate({"pitch_method": "pm", "device": "cpu", "precision": precision})
        return None if extract(experiment, options).skipped else features(experiment)

    exact = extracted("auto", fast=False)
    assert exact is not None and experiment.stage("extract")["precision"] == "fp32"
    assert extracted("auto", fast=True) is None and extracted("fp32", fast=True) is None
    narrow = extracted("bf16", fast=False)
    assert narrow is not None and experiment.stage("extract")["precision"] == "bf16"
    assert extracted("auto", fast=False) is None
    for name, values in exact.items():
        assert np.allclose(narrow[name], values, atol=0.1) and values.dtype == narrow[name].dtype, name
    assert any(not np.array_equal(narrow[name], values) for name, values in exact.items())


@pytest.mark.parametrize(("memory", "workers"), [(0.0, 1), (2.5e9, 2), (1e12, 8)])
def test_workers_are_bounded_by_memory_and_threads(memory: float, workers: int) -> None:
    assert module.cpu_workers(8, memory) == workers


@pytest.mark.slow
def test_a_damaged_clip_is_named(tmp_path: Path, recordings: Path) -> None:
    experiment = Experiment("v", tmp_path / "logs", tmp_path / "weights")
    prepare_stage(experiment, recordings, load_family("lite"), PrepareOptions())
    clip = sorted(experiment.wavs_16k.glob("*.wav"))[1]
    clip.write_bytes(b"RIFF, but no more")
    with pytest.raises(AudioError, match=clip.name):
        extract(experiment, ExtractOptions(pitch_method="pm", device="cpu"))


@pytest.mark.slow
def test_damaged_features_of_a_clip_are_named_by_the_index(tmp_path: Path, recordings: Path) -> None:
    config = tiny_family("v2", "40k")
    experiment = Experiment("v", tmp_path / "logs", tmp_path / "weights")
    prepare_stage(experiment, recordings, config, PrepareOptions())
    contents = experiment.content_folder(config.synthesizer.content_width)
    for audio in sorted(experiment.gt_wavs.glob("*.wav")):
        for folder, name in ((contents, audio.stem), (experiment.f0, audio.name), (experiment.pitch_bins, audio.name)):
            folder.mkdir(exist_ok=True)
            np.save(folder / f"{name}.npy", np.ones((50, config.synthesizer.content_width), np.float32))
    damaged = sorted(contents.iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(AudioError, match=rf"{damaged.stem}\.wav or its features are damaged"):
        index_stage(experiment, IndexOptions())
