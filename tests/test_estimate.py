"""Estimates of a training run: counted as training counts, with speeds that were measured here."""

from pathlib import Path

import pytest

from lib.config import Family, load_family
from lib.voice.infer_config import build_network
from train.dataset import BucketSampler
from train.estimate import GOOD_STEPS, MAX_EPOCHS, count_parameters, estimate_training, known_speed, suggested_epochs
from train.experiment import Experiment
from train.metrics import Events
from train.options import RunOptions

LITE = load_family("lite")


@pytest.mark.parametrize(("seconds", "batch_size"), [(37.0, None), (203.0, 4), (600.0, 16)])
def test_steps_are_those_of_the_sampler(tmp_path: Path, seconds: float, batch_size: int | None) -> None:
    options = RunOptions(device="cpu", epochs=3, batch_size=batch_size)
    clips = -(-seconds // options.slice_seconds) + 2
    sampler = BucketSampler([128] * int(clips), batch_size or LITE.train.batch_size)
    assert estimate_training(LITE, options, seconds, tmp_path).steps == 3 * len(sampler)


def test_suggested_epochs_make_the_good_number_of_steps(tmp_path: Path) -> None:
    for seconds in (203.0, 3000.0):
        options = RunOptions(device="cpu", epochs=suggested_epochs(LITE, RunOptions(), seconds))
        assert (
            0
            <= estimate_training(LITE, options, seconds, tmp_path).steps - GOOD_STEPS["lite"]
            < GOOD_STEPS["lite"] / 10
        )


@pytest.mark.parametrize("family", ["lite", "v1", "v2"])
@pytest.mark.parametrize("seconds", [0.5, 8.0, 30.0])
def test_a_few_seconds_do_not_make_thousands_of_epochs(family: Family, seconds: float) -> None:
    assert suggested_epochs(load_family(family), RunOptions(), seconds) == MAX_EPOCHS == 600


@pytest.mark.parametrize(("seconds", "epochs"), [(203.0, 533), (600.0, 200), (3000.0, 200)])
def test_epochs_of_v2_follow_length_and_noise(seconds: float, epochs: int) -> None:
    assert suggested_epochs(load_family("v2"), RunOptions(), seconds) == pytest.approx(epochs, rel=0.05)
    assert suggested_epochs(load_family("v2"), RunOptions(), seconds, noisy=True) == 30
    assert suggested_epochs(LITE, RunOptions(), seconds, noisy=True) == suggested_epochs(LITE, RunOptions(), seconds)


def test_parameters_are_those_of_the_networks() -> None:
    voice, others = count_parameters(LITE)
    assert voice == sum(parameter.numel() for parameter in build_network(LITE.synthesizer).parameters())
    assert others > 0


def test_time_is_known_from_the_newest_training_of_the_kind(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    assert estimate_training(LITE, RunOptions(device="cpu"), 60.0, logs).minutes is None
    for name, speed in (("first", 1.0), ("second", 2.0)):
        experiment = Experiment(name, logs)
        experiment.create(LITE)
        Events(experiment.events).write("fit", 50, 0, steps_per_second=speed)
    found = estimate_training(LITE, RunOptions(device="cpu"), 60.0, logs)
    assert found.minutes == pytest.approx(found.steps / 2.0 / 60)
    assert estimate_training(LITE, RunOptions(device="cpu", max_minutes=1.0), 60.0, logs).minutes == 1.0
    assert known_speed("v2", LITE.train.batch_size, logs) is None
    assert known_speed("lite", LITE.train.batch_size + 1, logs) is None
    (logs / "second" / "config.json").write_text("{", encoding="utf-8")
    assert known_speed("lite", LITE.train.batch_size, logs) == 1.0


def test_kept_checkpoints_take_space(tmp_path: Path) -> None:
    few = estimate_training(LITE, RunOptions(device="cpu", keep_checkpoints=1), 60.0, tmp_path)
    many = estimate_training(LITE, RunOptions(device="cpu", keep_checkpoints=11), 60.0, tmp_path)
    voice, others = count_parameters(LITE)
    assert LITE.average  # a third set of the voice in every checkpoint
    assert many.disk - few.disk == 10 * (12 * (voice + others) + 4 * voice)
    voices = estimate_training(
        LITE, RunOptions(device="cpu", keep_checkpoints=1, save_every_voice=True, save_every_epochs=20), 60.0, tmp_path
    )
    assert voices.disk - few.disk == 10 * 2 * voice
    assert few.free > 0
