"""Training runs that are refused: names, foreign files, other families, a second job, missing speakers."""

from pathlib import Path

import pytest

from lib.config import load_family
from lib.errors import ConfigError, MissingFileError
from tests.test_loop import FAST, ready, tiny_lite
from tests.test_loop import experiment as experiment
from tests.test_loop import recordings as recordings
from tests.test_loop import template as template
from train.experiment import Experiment
from train.loop import fit
from train.options import FitOptions, PrepareOptions
from train.preprocess import prepare_stage


def test_a_foreign_voice_of_the_same_name_is_not_replaced(experiment: Experiment, recordings: Path) -> None:
    ready(experiment, recordings)
    experiment.voice.parent.mkdir(parents=True)
    experiment.voice.write_bytes(b"somebody's")
    with pytest.raises(ConfigError, match="does not belong to the training run"):
        fit(experiment, FitOptions.model_validate(FAST | {"epochs": 1}))
    assert experiment.voice.read_bytes() == b"somebody's"


def test_two_jobs_on_one_experiment_are_refused(experiment: Experiment) -> None:
    other = Experiment(experiment.name, experiment.folder.parent, experiment.voice.parent)
    with experiment.locked(), pytest.raises(ConfigError, match="Another job"), other.locked():
        pass


def test_an_experiment_keeps_its_family(experiment: Experiment, recordings: Path) -> None:
    prepare_stage(experiment, recordings, tiny_lite(), PrepareOptions())
    with pytest.raises(ConfigError, match="exists with family lite"):
        prepare_stage(experiment, recordings, load_family("v2"), PrepareOptions())


def test_clips_of_another_program_are_not_removed(experiment: Experiment, recordings: Path) -> None:
    experiment.gt_wavs.mkdir(parents=True)
    (experiment.gt_wavs / "0_0.wav").write_bytes(b"theirs")
    with pytest.raises(ConfigError, match="another program"):
        prepare_stage(experiment, recordings, tiny_lite(), PrepareOptions())
    assert (experiment.gt_wavs / "0_0.wav").read_bytes() == b"theirs"


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "con", "mute", " x", "x.", "a" * 101, "tab\t"])
def test_names_that_cannot_be_folders_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Experiment(name, tmp_path / "logs", tmp_path / "weights")


def test_fitting_before_preparing_says_what_to_do(experiment: Experiment) -> None:
    with pytest.raises(MissingFileError, match="python -m train prepare"):
        fit(experiment, FitOptions.model_validate(FAST))


@pytest.mark.slow
def test_a_speaker_that_does_not_exist_is_refused(experiment: Experiment, recordings: Path) -> None:
    ready(experiment, recordings)
    with pytest.raises(ConfigError, match="3 speakers, 0 to 2"):
        fit(experiment, FitOptions.model_validate(FAST | {"speaker_id": 64}))
