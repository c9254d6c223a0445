"""checkpoints.json and the record of an experiment: the effect of damaged, missing and half-written files."""

import hashlib
import json
import logging
from pathlib import Path

import pytest
import torch

from lib.errors import CheckpointError
from lib.files import sha256_of
from lib.voice.model_file import read_voice_model
from lib.voice.training_state import GENERATOR, TrainingState, write_training_state
from tests.test_loop import FAST, ready
from tests.test_loop import experiment as experiment
from tests.test_loop import recordings as recordings
from tests.test_loop import template as template
from train.checkpoint_index import INDEX_NAME, CheckpointIndex, find_pairs, read_index
from train.experiment import Experiment
from train.loop import fit
from train.options import FitOptions
from train.swap import READY, finish_swap, replacing_folders


@pytest.mark.slow
def test_a_damaged_newest_pair_is_named_and_the_one_before_is_used(
    experiment: Experiment, recordings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ready(experiment, recordings)
    every = FAST | {"save_every_epochs": 1, "keep_checkpoints": 3}
    want = read_voice_model(fit(experiment, FitOptions.model_validate(every | {"epochs": 3})).voice).weights
    newest, before, first = (generator for generator, _ in experiment.checkpoint_pairs())
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1  # the file can be read all the same
    newest.write_bytes(data)
    first.write_bytes(b"an older one that is damaged does not matter")
    experiment.voice.unlink()
    report = fit(experiment, FitOptions.model_validate(every | {"epochs": 3}))
    assert f"{newest} differs from the file that was saved" in caplog.text and f"from {before.name}." in caplog.text
    got = read_voice_model(report.voice).weights
    assert report.checkpoint == newest and all(torch.equal(want[key], got[key]) for key in want)
    for generator, _ in experiment.checkpoint_pairs():
        generator.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        fit(experiment, FitOptions.model_validate(every | {"epochs": 4}))


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["{", "[]", '{"fit": 3}', "", None])
def test_a_damaged_or_missing_record_is_rebuilt(
    experiment: Experiment, recordings: Path, damage: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    ready(experiment, recordings)
    index = CheckpointIndex(experiment.folder, record=experiment.record() | {"fit": {"batch_size": 7}})
    for path in index.files_of("5"):
        write_training_state(path, TrainingState({"w": torch.zeros(1)}, 2, {}, 1e-4))
    index.add("5", 2, 5, delete=[], record=index.record)
    before = experiment.record()
    record = experiment.folder / "revoice.json"
    record.unlink() if damage is None else record.write_text(damage)
    assert experiment.stage("fit") == {"batch_size": 7, "voice": str(experiment.voice), "checkpoints": [5]}
    assert experiment.stage("extract")["f0_range"] == before["extract"]["f0_range"]
    assert ("is rebuilt" in caplog.text) == (damage is not None)
    assert ready(experiment, recordings).record()["made"] == before["made"]  # the stages run again in their own folders


def write_pair(index: CheckpointIndex, step: int, *, belong_together: bool = True) -> None:
    """Write a pair of checkpoints as a save does, without listing it."""
    generator, discriminator = index.files_of(str(step))
    own = {"epoch": 1, "batch": 0, "step": step, "seconds": 0.0}
    write_training_state(generator, TrainingState({"w": torch.zeros(1)}, 1, {}, 1e-4, extra={"revoice": own}))
    own_d = own | {GENERATOR: sha256_of(generator) if belong_together else "another"}
    write_training_state(discriminator, TrainingState({"w": torch.ones(1)}, 1, {}, 1e-4, extra={"revoice": own_d}))


def numbers(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("?_*.pth"))


@pytest.mark.parametrize("killed", ["before G", "before D", "before the index", "with an older D"])
def test_a_kill_between_the_files_of_a_save_leaves_what_is_whole(tmp_path: Path, killed: str) -> None:
    index = CheckpointIndex(tmp_path)
    write_pair(index, 2)
    index.add("2", 1, 2, delete=[], record={})
    index.begin("4")
    if killed != "before G":
        write_pair(index, 4, belong_together=killed != "with an older D")
    if killed == "before D":
        index.files_of("4")[1].unlink()
    assert [pair.step for pair in find_pairs(read_index(tmp_path))[0]] == [2]  # also for those who only read
    read_index(tmp_path).recover()
    found = read_index(tmp_path)
    whole = ["2", "4"] if killed == "before the index" else ["2"]
    assert sorted(found.pairs) == whole and numbers(tmp_path) == [f"{letter}_{n}" for letter in "DG" for n in whole]
    for pair in found.pairs.values():
        pair.verify()


def test_a_kill_before_older_pairs_are_deleted_is_finished(tmp_path: Path) -> None:
    index = CheckpointIndex(tmp_path)
    for step in (2, 4):
        write_pair(index, step)
        index.add(str(step), 1, step, delete=["2"] if step == 4 else [], record={})
    index.files_of("2")[0].unlink()
    read_index(tmp_path).recover()
    assert numbers(tmp_path) == ["D_4", "G_4"] and list(read_index(tmp_path).pairs) == ["4"]


@pytest.mark.parametrize("change", ["flip", "truncate", "delete"])
def test_a_damaged_index_is_noticed_and_the_pairs_are_found_by_name(
    tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    index = CheckpointIndex(tmp_path)
    write_pair(index, 2)
    index.add("2", 1, 2, delete=[], record={})
    path = tmp_path / INDEX_NAME
    text = path.read_text()
    path.write_text({"flip": text.replace('"step": 2', '"step": 3'), "truncate": text[:50], "delete": ""}[change])
    if change == "delete":
        path.unlink()
    with caplog.at_level(logging.WARNING):
        (pair,), problems = find_pairs(read_index(tmp_path))
    assert pair.step == 2 and not problems and ("cannot be used" in caplog.text) == (change != "delete")
    pair.verify()
    write_pair(index, 2, belong_together=False)
    with pytest.raises(CheckpointError, match="differs from the file that was saved"):
        find_pairs(read_index(tmp_path))[0][0].verify()


@pytest.mark.parametrize(
    "change",
    [
        {"deleting": ["../../precious"]}, {"deleting": 3}, {"writing": 4}, {"writing": "2/../3"}, {"exported": "2"},
        {"record": []}, {"record": {"fit": {"batch_size": "many"}}}, {"pairs": []}, {"pairs": {"x": {}}},
        {"pairs": {"2": {"epoch": True, "step": 2, "files": []}}},
        {"pairs": {"2": {"epoch": 1, "step": -2, "files": [[1, "0" * 64], [1, "0" * 64]]}}},
        {"pairs": {"2": {"epoch": 1, "step": 2, "files": [[1, "0" * 64]]}}},
        {"pairs": {"2": {"epoch": 1, "step": 2, "files": [["1", "0" * 64], [1, 5]]}}},
        {"format": 2}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_an_index_with_wrong_values_and_a_right_checksum_is_not_used(
    tmp_path: Path, change: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    index = CheckpointIndex(tmp_path)
    write_pair(index, 2)
    index.add("2", 1, 2, delete=[], record={})
    path = tmp_path / INDEX_NAME
    assert list(read_index(tmp_path).pairs) == ["2"]
    content = json.loads(path.read_text()) | change
    del content["checksum"]
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content | {"checksum": checksum}))
    found = read_index(tmp_path)
    assert "cannot be used" in caplog.text and "checksum" not in caplog.text and found == CheckpointIndex(tmp_path)
    assert [pair.step for pair in find_pairs(found)[0]] == [2]


def test_folders_are_replaced_together_or_not_at_all(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").touch()
    with pytest.raises(ZeroDivisionError), replacing_folders(tmp_path, ("a", "b")) as folders:
        (folders[0] / "new").touch()
        raise ZeroDivisionError
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "old", "old"]
    for name in ("b", "a"):  # killed when only "a" had been replaced: "b" is still below READY
        (tmp_path / READY / name).mkdir(parents=True)
        (tmp_path / READY / name / "new").touch()
    (tmp_path / ".old").mkdir()
    (tmp_path / "a").rename(tmp_path / ".old" / "a")
    (tmp_path / READY / "a").rename(tmp_path / "a")
    assert finish_swap(tmp_path) and not finish_swap(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "new", "new"]
