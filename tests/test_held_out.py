"""Held-out recordings: which, that training never uses them, the best epoch, and overtraining."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import soundfile
import torch

from lib.audio.mel import log_mel
from lib.config import load_family
from lib.errors import ConfigError
from lib.progress import Cancelled
from lib.typing import FloatArray
from lib.voice.model_file import load_synthesizer, read_voice_model
from tests.test_loop import FAST, StopAfter, tiny_lite
from tests.test_speakers import buzz
from train import held_out as module
from train.experiment import Clip, Experiment
from train.extract import extract
from train.held_out import (
    MAX_SHARE,
    choose_parts,
    held_out_parts,
    make_held_out,
    speaker_similarity,
    split_clips,
    to_event,
)
from train.history import MARGIN, PATIENCE, Evaluation, best_of, describe_best, is_overtrained, read_history
from train.loop import fit
from train.metrics import Events
from train.options import ExtractOptions, FitOptions, PrepareOptions
from train.preprocess import prepare_stage
from train.setup import set_up
from train.speakers import Source, Table, read_table
from web.i18n.translator import Translator
from web.tabs.train_held_out import HeldOutPanel

ON = FAST | {"held_out": "on", "save_every_epochs": 1}


def table_of(*seconds: float, speakers: int = 1) -> Table:
    sources = [Source(f"{i}.wav", i % speakers, round(length / 3), length) for i, length in enumerate(seconds)]
    return Table(tuple(sources), {})


@pytest.mark.parametrize("seconds", [[30.0] * 40, [7.0] * 12, [3.0, 200.0, 5.0, 90.0, 60.0], [10.0, 11.0]])
def test_a_part_of_the_recordings_is_held_out_never_most_of_them(seconds: list[float]) -> None:
    table = table_of(*seconds)
    parts = choose_parts(table)
    held = sum(item.seconds * (1 - parts[item.file] / item.clips) for item in table.recordings if item.file in parts)
    assert 0 < held <= MAX_SHARE * sum(seconds) + 3.5
    assert held >= min(0.05 * sum(seconds), MAX_SHARE * sum(seconds)) - 1e-6
    assert choose_parts(table) == parts


def test_of_each_speaker_something_is_held_out() -> None:
    parts = choose_parts(table_of(*[20.0] * 30, speakers=3))
    assert {int(file.split(".")[0]) % 3 for file in parts} == {0, 1, 2}


def test_of_one_long_recording_the_end_is_held_out_without_overlap() -> None:
    table = table_of(900.0)
    ((file, first),) = choose_parts(table).items()
    assert file == "0.wav" and first == 285  # 45 s of 15 minutes
    clips = [Clip(f"0_{i}", Path(), Path(), None, None) for i in range(300)]
    training, held_out = split_clips(table, clips, {file: first})
    assert [clip.name for clip in held_out] == [f"0_{i}" for i in range(285, 300)]
    assert [clip.name for clip in training] == [f"0_{i}" for i in range(284)]  # clip 284 overlaps clip 285
    assert not choose_parts(table_of(4.0))


def history(*mels: float) -> list[Evaluation]:
    return [Evaluation(10 * i, i, mel, 5.0, 0.1) for i, mel in enumerate(mels)]


def test_a_voice_is_overtrained_once_it_has_clearly_become_worse() -> None:
    worse = 1.0 * (1 + 2 * MARGIN)
    assert not is_overtrained([]) and describe_best([]) is None
    assert not is_overtrained(history(2.0, 1.0, *[worse] * (PATIENCE - 1)))
    assert is_overtrained(history(2.0, 1.0, *[worse] * PATIENCE))
    assert not is_overtrained(history(2.0, 1.0, *[1 + MARGIN / 2] * PATIENCE))  # noise around a plateau
    assert not is_overtrained(history(2.0, 1.0, *[worse] * PATIENCE, 0.9))
    message = describe_best(history(2.0, 1.0, *[worse] * PATIENCE), Path("weights/v_e1_s10_best_epoch.pth"))
    assert (
        message is not None
        and "overtrained" in message
        and "epoch 1 " in message
        and "v_e1_s10_best_epoch.pth" in message
    )


def test_the_history_of_a_resumed_run_ends_where_it_resumes() -> None:
    events: list[dict[str, Any]] = [
        {"done": 10, "mel": 2.0, "epoch": 1}, {"done": 20, "mel": 1.0, "epoch": 2}, {"done": 30, "mel": 0.5},
        {"done": 20, "mel": 1.5, "epoch": 2, "f0_cents": 3.0}, {"done": "x"},
    ]  # fmt: skip
    assert read_history(events, 20) == [
        Evaluation(10, 1, 2.0, None, None), Evaluation(20, 2, 1.5, 3.0, None),
    ]  # fmt: skip
    best = best_of(read_history(events))
    assert best is not None and best.step == 30


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six recordings of two seconds, prepared and extracted."""
    folder = tmp_path_factory.mktemp("prepared")
    data = folder / "data"
    data.mkdir()
    for i in range(6):
        soundfile.write(data / f"{i}.wav", buzz(180.0 + 15 * i, 2.0), 24_000)
    experiment = Experiment("v", folder / "logs", folder / "weights")
    prepare_stage(experiment, data, tiny_lite(), PrepareOptions())
    extract(experiment, ExtractOptions(pitch_method="pm", device="cpu"))
    return folder


@pytest.fixture
def experiment(prepared: Path, tmp_path: Path) -> Experiment:
    """A copy of the prepared experiment."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return Experiment("v", tmp_path / "logs", tmp_path / "weights")


@pytest.mark.slow
def test_held_out_clips_are_not_trained_on_and_the_best_epoch_is_exported(experiment: Experiment) -> None:
    options = FitOptions.model_validate(ON | {"epochs": 3, "stop_when_overtrained": True})
    training = set_up(experiment, options)
    assert training.best is not None
    held_out = training.best.held_out
    names = {clip.name for clip in held_out.dataset.clips}
    assert 0 < len(names) <= 3 and not names & {clip.name for clip in training.batches.dataset.clips}
    report = fit(experiment, options)
    found = read_history(Events(experiment.events).read("held_out"))
    assert [item.epoch for item in found] == [1, 2, 3]
    assert all(item.mel > 0 and item.voicing is not None for item in found)
    best = min(found, key=lambda item: item.mel)
    (voice,) = experiment.voice.parent.glob("v_e*_best_epoch.pth")
    assert voice.name == f"v_e{best.epoch}_s{best.step}_best_epoch.pth" and report.best_voice == voice
    network = load_synthesizer(read_voice_model(voice))
    again = held_out.evaluate(network, torch.device("cpu"), best.step, best.epoch)
    assert again.mel == pytest.approx(best.mel, rel=1e-2)  # stored in fp16
    assert voice in experiment.products()
    board = b"".join(path.read_bytes() for path in experiment.folder.glob("events.out.tfevents*"))
    tags = (b"held_out/mel", b"held_out/f0_cents", b"held_out/sample", b"RIFF", b"\x89PNG")  # figures, sound, picture
    assert all(tag in board for tag in tags)


@pytest.mark.slow
def test_an_evaluated_training_resumes_bit_for_bit(experiment: Experiment, tmp_path: Path) -> None:
    options = FitOptions.model_validate(ON | {"epochs": 2, "keep_checkpoints": 1})
    fit(experiment, options)
    whole = {path.name: path.read_bytes() for path in (experiment.voice, *experiment.voice.parent.glob("*best*"))}
    events = [item.mel for item in read_history(Events(experiment.events).read("held_out"))]
    for path in [*experiment.folder.glob("[GD]_*.pth"), *experiment.voice.parent.iterdir(), experiment.events]:
        path.unlink()
    experiment.update_record({}, discard=["fit"])
    with pytest.raises(Cancelled):
        fit(experiment, options, StopAfter(1))
    fit(experiment, options)
    weights = [read_voice_model(experiment.voice).weights, None]
    (tmp_path / "whole.pth").write_bytes(whole["v.pth"])
    weights[1] = read_voice_model(tmp_path / "whole.pth").weights
    assert weights[0] is not None and weights[1] is not None
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    resumed = [item.mel for item in read_history(Events(experiment.events).read("held_out"))]
    assert resumed[-len(events) :] == events


@pytest.mark.slow
def test_short_recordings_are_all_trained_on_and_nothing_is_evaluated(experiment: Experiment) -> None:
    options = FitOptions.model_validate(FAST | {"epochs": 1})
    assert held_out_parts(experiment, options) == {}
    fit(experiment, options)
    assert not Events(experiment.events).read("held_out") and not [*experiment.voice.parent.glob("*best*")]
    with pytest.raises(ConfigError, match="has been trained on all of its recordings"):
        held_out_parts(experiment, options.model_copy(update={"held_out": "on"}))


def test_ten_minutes_are_enough_by_default(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENOUGH_SECONDS", 11.0)
    assert held_out_parts(experiment, FitOptions())
    assert held_out_parts(experiment, FitOptions(held_out="off")) == {}
    (experiment.folder / "recordings.json").unlink()  # prepared by an earlier version
    assert held_out_parts(experiment, FitOptions()) == {}


@pytest.mark.slow
def test_a_worse_network_is_measured_as_worse(experiment: Experiment) -> None:
    table = read_table(experiment)
    training = set_up(experiment, FitOptions.model_validate(ON))
    assert table is not None
    held_out = make_held_out(split_clips(table, experiment.clips(), {"0.wav": 0})[1], experiment.config())
    assert held_out.pitch is not None
    network = training.state.voice
    before = held_out.evaluate(network, torch.device("cpu"), 1, 1)
    state = torch.get_rng_state()
    assert held_out.evaluate(network, torch.device("cpu"), 1, 1) == before
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(3.0)
    assert held_out.evaluate(network, torch.device("cpu"), 1, 1).mel > 1.05 * before.mel
    assert replace(held_out, pitch=None, _real={}).evaluate(network, torch.device("cpu"), 1, 1).f0_cents is None
    assert np.isfinite(before.mel)


def timbre(audio: FloatArray) -> FloatArray:
    """A small speaker encoder: the mean log mel spectrum, without its mean, as a unit vector."""
    mel = log_mel(torch.from_numpy(audio)[None], load_family("lite").audio)[0].mean(1).numpy()
    centred = mel - mel.mean()
    return np.asarray(centred / np.linalg.norm(centred), np.float32)


@pytest.mark.slow
def test_speaker_similarity_is_measured_where_there_is_a_speaker_encoder(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Resemblyzer", lambda: timbre)
    training = set_up(experiment, FitOptions.model_validate(ON))
    assert training.best is not None
    held_out = training.best.held_out
    found = held_out.evaluate(training.state.voice, torch.device("cpu"), 1, 1)
    assert found.similarity is not None and -1 <= found.similarity <= 1
    assert read_history([{"done": 1} | to_event(found)])[0].similarity == pytest.approx(found.similarity, abs=1e-5)
    real = np.stack([timbre(buzz(frequency, 1.0)) for frequency in (120.0, 240.0)])
    assert speaker_similarity([0, 1], real, real) == pytest.approx(1)
    assert speaker_similarity([0, 0], real, real) == pytest.approx(float(real[0] @ real[1])) != pytest.approx(1)


@pytest.mark.slow
def test_the_random_state_is_the_same_with_and_without_a_speaker_encoder(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = []
    for encoder in (lambda: torch.randn(9).numpy(), missing):
        monkeypatch.setattr(module, "Resemblyzer", encoder)
        set_up(experiment, FitOptions.model_validate(ON))
        states.append(torch.get_rng_state())
    assert torch.equal(states[0], states[1])


def missing() -> None:
    raise ImportError(name="resemblyzer")


def tones(frequency: float, harmonics: int, tilt: float) -> FloatArray:
    """Two seconds of a tone whose harmonics fall off with their number."""
    times = np.arange(48_000) / 24_000
    audio = sum(n**tilt * np.sin(2 * np.pi * frequency * n * times) for n in range(1, harmonics))
    return np.asarray(0.5 * audio / np.abs(audio).max(), np.float32)


@pytest.mark.slow
def test_an_overtrained_voice_stops_and_its_best_epoch_is_better_than_its_last(tmp_path: Path) -> None:
    """The network learns silence and level of all recordings first, then the dull timbre of those it is trained on."""
    data = tmp_path / "data"
    data.mkdir()
    held = choose_parts(table_of(*[2.0] * 6))  # by their names
    for i in range(6):
        bright = f"{i}.wav" in held
        soundfile.write(
            data / f"{i}.wav", tones(180 + 10 * i, 30, -0.3) if bright else tones(150 + 10 * i, 6, -1.5), 24_000
        )
    experiment = Experiment("v", tmp_path / "logs", tmp_path / "weights")
    prepare_stage(experiment, data, tiny_lite(), PrepareOptions())
    extract(experiment, ExtractOptions(pitch_method="pm", device="cpu"))
    options = FitOptions.model_validate(ON | {"epochs": 60, "learning_rate": 0.05, "stop_when_overtrained": True})
    report = fit(experiment, options)
    assert experiment.stage("held_out")["parts"] == held

    found = read_history(Events(experiment.events).read("held_out"))
    best, last = min(found, key=lambda item: item.mel), found[-1]
    assert is_overtrained(found) and report.epochs == last.epoch == best.epoch + PATIENCE < 60
    assert best.mel < found[0].mel and last.mel > best.mel * (1 + MARGIN)
    assert report.best_voice is not None and f"_e{best.epoch}_" in report.best_voice.name
    assert "overtrained" in str(report.verdict) and report.best_voice.name in str(report.verdict)

    clips = split_clips(table_of(*[2.0] * 6), experiment.clips(), held)[1]
    held_out = make_held_out(clips, experiment.config())
    voices = (load_synthesizer(read_voice_model(path)) for path in (report.best_voice, experiment.voice))
    again = [held_out.evaluate(network, torch.device("cpu"), 0, 0).mel for network in voices]
    assert again == pytest.approx([best.mel, last.mel], rel=1e-2) and again[0] < again[1]


def test_the_page_shows_the_curve_and_the_best_epoch(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "it's"
    folder.mkdir(parents=True)
    (tmp_path / "weights").mkdir()
    for name in ("it's_e1_s10_best_epoch.pth", "its_e9_s9_best_epoch.pth"):
        (tmp_path / "weights" / name).write_bytes(b"")
    with gr.Blocks():
        panel = HeldOutPanel(Translator())
    visible, curve, *others, text = panel.update(folder, tmp_path / "weights")
    assert visible["visible"] is False and curve["value"].empty and text == ""
    for item in history(2.0, 1.0, *[1.1] * PATIENCE):
        Events(folder / "events.jsonl").write("held_out", item.step, 0, **to_event(item))
    visible, curve, *others, text = panel.update(folder, tmp_path / "weights")
    assert visible["visible"] is True and list(curve["value"]["mel"][:2]) == [2.0, 1.0]
    assert len(curve["value"]) == len(others[0]["value"]) == PATIENCE + 2
    assert [other["visible"] for other in others] == [True, False]  # no speaker encoder was installed
    assert "it's_e1_s10_best_epoch.pth" in text
