"""Training runs: what is logged and written besides checkpoints, and settings that a resumed run keeps."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from lib.errors import ConfigError
from tests.test_loop import FAST, ready
from tests.test_loop import experiment as experiment
from tests.test_loop import recordings as recordings
from tests.test_loop import template as template
from train import metrics
from train.experiment import Experiment, list_samples
from train.loop import fit
from train.metrics import Events
from train.options import FitOptions


@pytest.mark.slow
def test_on_a_slow_machine_every_step_logs_its_losses(
    experiment: Experiment, recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "LOG_SECONDS", -1.0)
    report = fit(ready(experiment, recordings), FitOptions.model_validate(FAST | {"epochs": 1}))
    assert [event["done"] for event in Events(experiment.events).read("fit")] == [*range(1, report.steps + 1)]


def test_events_survive_a_torn_line(tmp_path: Path) -> None:
    events = Events(tmp_path / "events.jsonl")
    events.write("fit", 1, 2)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"stage": "fi')
    events.write("fit", 2, 2)
    assert [event["done"] for event in events.read("fit")] == [1, 2]


@pytest.mark.slow
def test_a_resumed_training_keeps_its_batch_size(experiment: Experiment, recordings: Path) -> None:
    ready(experiment, recordings)
    once = fit(experiment, FitOptions.model_validate(FAST | {"epochs": 1, "batch_size": 1}))
    twice = fit(experiment, FitOptions.model_validate(FAST | {"epochs": 2, "batch_size": None}))
    assert twice.steps == 2 * once.steps and experiment.stage("fit")["batch_size"] == 1


@pytest.mark.slow
def test_a_training_keeps_its_network_when_the_family_has_changed(experiment: Experiment, recordings: Path) -> None:
    ready(experiment, recordings)
    old = experiment.config()
    new = old.model_copy(update={"synthesizer": old.synthesizer.model_copy(update={"prior_channels": 12})})
    experiment.create(new)
    assert experiment.config().synthesizer == new.synthesizer  # nothing was trained yet
    experiment.create(old)
    fit(experiment, FitOptions(epochs=1, **FAST))
    experiment.create(new)
    assert experiment.config().synthesizer == old.synthesizer
    assert fit(experiment, FitOptions(epochs=2, **FAST)).epochs == 2
    with pytest.raises(ConfigError, match="F0 on"):
        experiment.create(old.model_copy(update={"synthesizer": old.synthesizer.model_copy(update={"has_f0": False})}))


@pytest.mark.slow
def test_a_validation_sample_is_written_at_a_save(experiment: Experiment, recordings: Path) -> None:
    fit(ready(experiment, recordings), FitOptions.model_validate(FAST | {"epochs": 1}))
    (sample,) = list_samples(experiment.folder)
    audio, rate = soundfile.read(sample)
    assert rate == 24_000 and np.isfinite(audio).all() and np.abs(audio).max() > 0


@pytest.mark.slow
def test_a_sample_that_cannot_be_written_does_not_stop_the_training(
    experiment: Experiment, recordings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ready(experiment, recordings)
    (experiment.folder / "samples").write_text("in the way", encoding="utf-8")
    report = fit(experiment, FitOptions(epochs=1, **FAST))
    assert report.checkpoint.is_file() and "audio sample" in caplog.text
