"""The order of the stages, and what makes a stage done."""

from pathlib import Path

import pytest

from train.experiment import Experiment
from train.options import RunOptions
from train.pipeline import STAGES, fingerprint, is_done, record


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    experiment = Experiment("v", tmp_path / "logs", tmp_path / "weights")
    experiment.folder.mkdir(parents=True)
    return experiment


def test_equal_inputs_have_equal_fingerprints() -> None:
    assert fingerprint(Path("a"), {"b": 1, "c": [2]}) == fingerprint(Path("a"), {"c": [2], "b": 1})
    assert fingerprint("a", 1) != fingerprint("a", 2)


def test_a_stage_is_done_with_the_same_inputs_while_its_outputs_exist(experiment: Experiment) -> None:
    output = experiment.folder / "added.index"
    assert not is_done(experiment, "index", "x")
    record(experiment, "index", made_from="x")
    assert is_done(experiment, "index", "x") and not is_done(experiment, "index", "y")
    assert not is_done(experiment, "index", "x", output)
    output.touch()
    assert is_done(experiment, "index", "x", output)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_invalidates_those_after_it_but_never_the_training(experiment: Experiment, stage: str) -> None:
    for name in STAGES:
        record(experiment, name, made_from=name)
    record(experiment, stage, made_from="new")
    kept = {name for name in STAGES if experiment.stage(name)}
    names = list(STAGES)
    assert kept == {*names[: names.index(stage) + 1], "fit"}
    assert experiment.stage(stage) == {"made_from": "new"}


def test_a_run_has_the_options_of_every_stage() -> None:
    for model in STAGES.values():
        assert model.model_fields.keys() <= RunOptions.model_fields.keys()
