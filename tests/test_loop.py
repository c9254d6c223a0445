"""A complete small training run: recordings to voice, stopped, resumed, with the real encoder and a tiny network."""

import contextlib
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from infer.load import load_converter
from infer.options import ConvertOptions
from lib.config import FamilyConfig
from lib.errors import CheckpointError, ConfigError, WriteError
from lib.files import write_json
from lib.index import FeatureIndex
from lib.models.lite_synthesizer import LiteSynthesizer
from lib.progress import Cancelled
from lib.voice.library import find_index
from lib.voice.model_file import read_voice_model
from lib.voice.training_state import TrainingState, read_training_state, write_training_state
from tests.helpers import full_disk
from tests.tiny_files import tiny_family
from train import loop
from train.experiment import Experiment
from train.extract import batches_by_length, extract
from train.index import index_stage
from train.loop import fit, train
from train.metrics import TensorBoard
from train.options import ExtractOptions, FitOptions, IndexOptions, PrepareOptions
from train.preprocess import prepare_stage
from train.setup import set_up

DATA = "my data '🎤' 声音"
NAME = "my voice 声"
FAST = {"precision": "fp32", "device": "cpu", "batch_size": 2, "base": False}


def tiny_lite() -> FamilyConfig:
    """The lite family with networks of a few thousand parameters; the first two steps are of the prior alone."""
    config = tiny_family("lite", "24k")
    assert config.lite is not None
    train = config.train.model_copy(update={"log_interval": 2})
    lite = config.lite.model_copy(update={"prior_steps": 2})
    return config.model_copy(update={"train": train, "lite": lite, "augmentations": 2})


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings in a folder whose name has a space, a quote, an emoji and Chinese characters, and an experiment.

    It is ready for training; tests work on copies.
    """
    folder = tmp_path_factory.mktemp("template")
    data = folder / DATA
    data.mkdir()
    times = np.arange(48_000) / 24_000
    for i, frequency in enumerate((180.0, 220.0, 260.0)):
        harmonics = sum(0.3 / h * np.sin(2 * np.pi * frequency * h * times) for h in range(1, 8))
        soundfile.write(data / f"take {i}.wav", harmonics, 24000)
    run_stages(Experiment(NAME, folder / "logs", folder / "weights"), data)
    return folder


@pytest.fixture
def recordings(tmp_path: Path, template: Path) -> Path:
    """The recordings; what was made of them lies beside them."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    (tmp_path / "logs").rename(tmp_path / "made")
    return tmp_path / DATA


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment(NAME, tmp_path / "logs", tmp_path / "weights")


def run_stages(experiment: Experiment, recordings: Path) -> Experiment:
    """Prepare, extract and index what is not done."""
    prepare_stage(experiment, recordings, tiny_lite(), PrepareOptions())
    extract(experiment, ExtractOptions(pitch_method="pm", device="cpu"))
    index_stage(experiment, IndexOptions())
    return experiment


def ready(experiment: Experiment, recordings: Path) -> Experiment:
    """An experiment that can be trained, copied if this is the first time."""
    made = recordings.parent / "made" / experiment.folder.name
    if made.is_dir() and not experiment.folder.exists():
        shutil.copytree(made, experiment.folder)
    return run_stages(experiment, recordings)


class StopAfter:
    """A Progress that cancels at its n-th call."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, done: int, total: int, what: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise Cancelled


def test_recordings_become_a_voice_that_converts(experiment: Experiment, recordings: Path) -> None:
    ready(experiment, recordings)
    report = fit(experiment, FitOptions.model_validate(FAST | {"epochs": 2}))
    assert report.finished and report.epochs == 2 and report.losses_plot.stat().st_size > 1000
    voice = read_voice_model(report.voice)
    assert voice.family == "lite" and voice.info == "2epoch"
    assert voice.content_encoder is not None and voice.content_encoder.name == "lite"
    low, _, high = voice.extra["training_f0"]
    assert 150 < low < high < 300
    index = next(experiment.folder.glob("added_*.index"))
    assert len(FeatureIndex.load(index)) > 100
    source, rate = soundfile.read(recordings / "take 0.wav", dtype="float32")
    converter = load_converter(report.voice, index)
    out = converter.convert(source[::3][:8000], ConvertOptions(pitch_method="pm", device="cpu"))
    assert rate == 24000 and len(out) == 12000 and bool(np.isfinite(out).all())


@pytest.mark.slow
def test_a_voice_trained_without_unvoiced_gaps_is_converted_so(experiment: Experiment, recordings: Path) -> None:
    prepare_stage(experiment, recordings, tiny_lite(), PrepareOptions())
    extract(experiment, ExtractOptions(pitch_method="pm", device="cpu", interpolate_unvoiced=True))
    report = fit(experiment, FitOptions.model_validate(FAST | {"epochs": 1}))
    assert read_voice_model(report.voice).extra["interpolate_unvoiced"] is True
    phase = 2 * np.pi * 200 * np.arange(8000) / 16000
    tone = np.asarray(0.2 * sum(np.sin(h * phase) / h for h in range(1, 8)), np.float32)
    gap = np.concatenate([tone, np.zeros(4000, np.float32), tone])
    options = ConvertOptions(pitch_method="pm", device="cpu")
    converter = load_converter(report.voice)
    asked = converter.convert(gap, options.model_copy(update={"interpolate_unvoiced": True}))
    assert np.array_equal(converter.convert(gap, options), asked)
    converter._interpolate_unvoiced = False
    assert not np.array_equal(converter.convert(gap, options), asked)


def test_the_experiment_folder_is_laid_out_as_in_rvc(experiment: Experiment, recordings: Path) -> None:
    ready(experiment, recordings)
    fit(experiment, FitOptions.model_validate(FAST | {"epochs": 1}))
    lines = experiment.file_list.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(list(experiment.gt_wavs.glob("*.wav"))) + 2
    for line in lines:
        audio, content, bins, f0, speaker = line.split("|")
        assert soundfile.info(audio).samplerate == 24000
        assert np.load(content).dtype == np.float32 and np.load(content).shape[1] == 129
        assert np.issubdtype(np.load(bins).dtype, np.integer) and np.load(f0).dtype == np.float64
        assert speaker == "0"
    state = read_training_state(next(experiment.folder.glob("G_*.pth")))
    assert state.epoch == 1 and set(state.optimizer) == {"state", "param_groups"}


@pytest.mark.slow
def test_stages_that_are_done_and_unchanged_are_skipped(experiment: Experiment, recordings: Path) -> None:
    ready(experiment, recordings)
    assert prepare_stage(experiment, recordings, tiny_lite(), PrepareOptions()) is None
    assert extract(experiment, ExtractOptions(pitch_method="pm", device="cpu")).skipped
    assert index_stage(experiment, IndexOptions()).skipped


@pytest.mark.slow
def test_other_settings_or_data_repeat_the_stages(experiment: Experiment, recordings: Path) -> None:
    ready(experiment, recordings)
    before = {path.name: path.stat().st_mtime_ns for path in experiment.f0.iterdir()}
    changed = extract(experiment, ExtractOptions(pitch_method="dio", device="cpu"))
    assert not changed.skipped and changed.pitch_method == "dio"
    assert all(path.stat().st_mtime_ns > before[path.name] for path in experiment.f0.iterdir())
    assert not index_stage(experiment, IndexOptions(seed=5)).skipped
    (recordings / "take 2.wav").unlink()
    report = prepare_stage(experiment, recordings, tiny_lite(), PrepareOptions())
    assert report is not None and report.recordings == 2
    assert extract(experiment, ExtractOptions(pitch_method="dio", device="cpu")).clips == report.clips
    assert len(list(experiment.f0.iterdir())) == report.clips
    names = ("added_IVF9_Flat_nprobe_1_other_lite.index", "of a friend.index")  # not of this experiment
    stale = f"IVF9_Flat_nprobe_1_{experiment.name}_lite.index"
    for name in (*names, f"added_{stale}", f"trained_{stale}"):
        (experiment.folder / name).touch()
    new = index_stage(experiment, IndexOptions(seed=5)).path
    kept = {path.name for path in experiment.folder.glob("*.index")}
    assert kept == {*names, new.name, new.name.replace("added_", "trained_", 1)}
    assert find_index(experiment.voice, "lite", [experiment.folder.parent]) == new


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch leaves its file open
@pytest.mark.parametrize("half", ["G", "D"])
def test_a_full_disk_at_a_checkpoint_leaves_no_lone_half(
    experiment: Experiment, recordings: Path, half: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(experiment, recordings)

    def write(path: Path, state: TrainingState) -> None:
        with full_disk(10_000) if path.name.startswith(half) else contextlib.nullcontext():
            write_training_state(path, state)

    monkeypatch.setattr("train.checkpoints.write_training_state", write)
    options = FitOptions.model_validate(FAST | {"epochs": 1})
    with pytest.raises(WriteError, match=rf"Cannot write .*{half}_\d+\.pth: File too large"):
        fit(experiment, options)
    assert not [*experiment.folder.glob("[GD]_*.pth"), *experiment.folder.glob(".part-*")]
    monkeypatch.setattr("train.checkpoints.write_training_state", write_training_state)
    assert fit(experiment, options).finished


@pytest.mark.slow
def test_indexes_beside_the_features_of_another_program_stay(experiment: Experiment, recordings: Path) -> None:
    ready(experiment, recordings)
    theirs = experiment.folder / f"added_IVF9_Flat_nprobe_1_{experiment.name}_lite.index"
    theirs.touch()
    state = json.loads((experiment.folder / "revoice.json").read_text(encoding="utf-8"))
    write_json(experiment.folder / "revoice.json", state | {"made": []})
    ours = index_stage(experiment, IndexOptions()).path
    new = index_stage(experiment, IndexOptions(most_vectors=100)).path
    assert theirs.is_file() and new.is_file() and new != ours and not ours.exists()


@pytest.mark.slow
def test_stopped_and_resumed_equals_straight_through(tmp_path: Path, recordings: Path) -> None:
    straight, stopped = (Experiment(NAME, tmp_path / part / "logs", tmp_path / part / "weights") for part in "ab")
    options = FitOptions.model_validate(FAST | {"epochs": 3})
    fit(ready(straight, recordings), options)
    ready(stopped, recordings)
    with pytest.raises(Cancelled):
        fit(stopped, options, StopAfter(2))  # in the middle of the first epoch
    assert [path.name for path in stopped.folder.glob("G_*.pth")] == ["G_2.pth"]
    report = fit(stopped, options)
    want, got = (read_voice_model(e.voice).weights for e in (straight, stopped))
    assert report.finished and all(torch.equal(want[key], got[key]) for key in want)


@pytest.mark.slow
def test_a_stop_file_ends_training_with_a_checkpoint(experiment: Experiment, recordings: Path) -> None:
    ready(experiment, recordings)

    def ask_to_stop(done: int, total: int, what: str) -> None:
        if done == 1:
            experiment.stop_file.touch()

    with pytest.raises(Cancelled):
        fit(experiment, FitOptions.model_validate(FAST | {"epochs": 5}), ask_to_stop)
    assert experiment.checkpoint_pairs() and experiment.voice.is_file()
    assert not experiment.stop_file.exists()


@pytest.mark.slow
def test_old_checkpoints_are_deleted_and_events_hold_the_losses(experiment: Experiment, recordings: Path) -> None:
    ready(experiment, recordings)
    fit(experiment, FitOptions.model_validate(FAST | {"epochs": 4, "save_every_epochs": 1, "keep_checkpoints": 2}))
    assert len(experiment.checkpoint_pairs()) == 2
    events = [json.loads(line) for line in experiment.events.read_text().splitlines()]
    assert events and all(event["stage"] == "fit" and event["losses"]["loss/g/mel"] > 0 for event in events)
    assert list(experiment.folder.glob("events.out.tfevents.*"))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_an_error_and_nothing_is_lost(experiment: Experiment, recordings: Path) -> None:
    ready(experiment, recordings)
    fit(experiment, FitOptions.model_validate(FAST | {"epochs": 1}))
    generator = experiment.checkpoint_pairs()[0][0]
    generator.write_bytes(generator.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="damaged"):
        fit(experiment, FitOptions.model_validate(FAST | {"epochs": 2}))
    assert generator.stat().st_size == 5000


@pytest.mark.slow
def test_a_lone_half_of_a_checkpoint_is_an_error(experiment: Experiment, recordings: Path) -> None:
    ready(experiment, recordings)
    fit(experiment, FitOptions.model_validate(FAST | {"epochs": 1}))
    generator, discriminator = experiment.checkpoint_pairs()[0]
    discriminator.unlink()
    with pytest.raises(CheckpointError, match=r"The counterpart of .* is missing"):
        fit(experiment, FitOptions.model_validate(FAST | {"epochs": 2}))
    assert generator.is_file()


@pytest.mark.slow
def test_time_up_at_the_last_step_of_an_epoch_does_not_repeat_it(
    experiment: Experiment, recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(experiment, recordings)
    steps = len(list(experiment.gt_wavs.glob("*.wav"))) + 2  # clips and mute clips, one per step
    one = FAST | {"batch_size": 1}
    monkeypatch.setattr(loop, "_time_is_up", lambda training: training.state.progress.step >= steps)
    report = fit(experiment, FitOptions.model_validate(one | {"epochs": 2}))
    assert (report.epochs, report.steps, report.finished) == (1, steps, False)
    monkeypatch.undo()
    report = fit(experiment, FitOptions.model_validate(one | {"epochs": 2}))
    assert (report.epochs, report.steps, report.finished) == (2, 2 * steps, True)


@pytest.mark.slow
def test_a_finished_training_is_skipped_and_changed_clips_are_reported(
    experiment: Experiment, recordings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = FitOptions.model_validate(FAST | {"epochs": 1})
    fit(ready(experiment, recordings), options)
    written = experiment.voice.stat().st_mtime_ns
    assert fit(experiment, options).skipped and "changed" not in caplog.text
    (recordings / "take 2.wav").unlink()
    assert fit(ready(experiment, recordings), options).skipped
    assert "the voice was not trained on the new ones" in caplog.text
    assert experiment.voice.stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_clip_of_20_ms_among_good_ones_does_not_stop_the_training(
    experiment: Experiment, recordings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soundfile.write(recordings / "short.wav", np.full(480, 0.5, np.float32), 24000)
    ready(experiment, recordings)
    assert fit(experiment, FitOptions.model_validate(FAST | {"epochs": 1})).finished
    assert "too short to train on" in caplog.text


@pytest.mark.slow
def test_a_broken_network_never_replaces_a_good_checkpoint(experiment: Experiment, recordings: Path) -> None:
    ready(experiment, recordings)
    fit(experiment, FitOptions.model_validate(FAST | {"epochs": 1}))
    good = experiment.voice.read_bytes()
    training = set_up(experiment, FitOptions.model_validate(FAST | {"epochs": 2}))
    generator = training.state.plain_generator
    assert isinstance(generator, LiteSynthesizer)
    torch.nn.init.constant_(generator.enc_p.last.weight, float("nan"))
    with pytest.raises(ConfigError, match="became non-finite"):
        train(training)
    training.metrics.close()
    assert experiment.voice.read_bytes() == good
    newest = experiment.newest_pair()
    assert newest is not None and read_training_state(newest[0]).epoch == 1


@pytest.mark.slow
def test_stopped_before_the_first_step_leaves_no_voice(experiment: Experiment, recordings: Path) -> None:
    ready(experiment, recordings)
    with pytest.raises(Cancelled):
        fit(experiment, FitOptions.model_validate(FAST), StopAfter(0))
    assert not experiment.voice.exists() and not experiment.checkpoint_pairs()


@pytest.mark.slow
def test_a_kill_during_extract_does_not_lose_the_f0_range(experiment: Experiment, recordings: Path) -> None:
    prepare_stage(experiment, recordings, tiny_lite(), PrepareOptions())
    options = ExtractOptions(pitch_method="pm", device="cpu")
    batches = batches_by_length(experiment.wavs_16k, [path.name for path in experiment.wavs_16k.glob("*.wav")], 15.0)
    with pytest.raises(Cancelled):
        extract(experiment, options, StopAfter(len(batches)))
    assert "f0_range" not in experiment.stage("extract") and len(list(experiment.f0.iterdir())) >= 3
    extract(experiment, options)
    assert experiment.stage("extract")["f0_range"]


def test_a_tensorboard_file_that_cannot_be_written_is_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = threading.excepthook
    board = TensorBoard(tmp_path / "v")
    shutil.rmtree(tmp_path / "v")  # TensorBoard opens its file anew for each write, in a thread
    with contextlib.suppress(WriteError):
        for step in range(50):
            board.log(step, {"loss": 1.0})
    board.close()
    assert threading.excepthook is before and "Traceback" not in capsys.readouterr().err
