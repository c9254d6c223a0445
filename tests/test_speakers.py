"""Several speakers from sub-folders: numbers, table, balance, one voice with their names, an index for each."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from infer import __main__ as infer_cli
from infer.load import load_converter
from infer.options import ConvertOptions
from lib.config import load_family
from lib.errors import ConfigError
from lib.index import FeatureIndex
from lib.voice.library import find_index, speaker_indexes
from lib.voice.model_file import find_speaker, read_voice_model, speaker_names
from tests.helpers import Floats
from tests.test_loop import FAST, tiny_lite
from train.experiment import Experiment
from train.extract import extract
from train.held_out import choose_clips
from train.index import index_stage
from train.loop import fit
from train.options import ExtractOptions, FitOptions, IndexOptions, PrepareOptions
from train.preprocess import prepare_stage
from train.speakers import MAX_REPEAT, Source, Table, number_speakers, plan_recordings, read_table

FOLDERS = PrepareOptions(speakers="folders")


def buzz(frequency: float, seconds: float) -> Floats:
    times = np.arange(round(seconds * 24_000)) / 24_000
    return np.asarray(sum(0.3 / h * np.sin(2 * np.pi * frequency * h * times) for h in range(1, 8)), np.float32)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Two speakers, one with a folder below theirs, and a recording that belongs to none."""
    data = tmp_path / "data"
    for name, frequency, seconds in (
        ("bob/a.wav", 120.0, 2.0), ("anna/a.wav", 220.0, 4.0), ("anna/monday/late/b.wav", 230.0, 4.0),
        ("nobody.wav", 300.0, 1.0),
    ):  # fmt: skip
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(data / name, buzz(frequency, seconds), 24_000)
    (data / "empty").mkdir()
    return data


def test_folders_are_speakers_and_skipped_recordings_are_reported(recordings: Path) -> None:
    plan = plan_recordings(recordings, "folders")
    files = [(path.relative_to(recordings).as_posix(), speaker) for path, speaker in plan.recordings]
    assert files == [("anna/a.wav", 0), ("anna/monday/late/b.wav", 0), ("bob/a.wav", 1)]
    assert plan.names == {0: "anna", 1: "bob"}
    reasons = [str(reason) for _, reason in plan.left_out]
    assert len(reasons) == 2 and "empty is empty" in reasons[0] and "1 recordings in" in reasons[1]
    assert len(plan_recordings(recordings, "one").recordings) == 4
    with pytest.raises(ConfigError, match="no sub-folders with recordings"):
        plan_recordings(recordings / "bob", "folders")
    with pytest.raises(ConfigError, match="no sub-folders with recordings"):
        plan_recordings(recordings / "nobody.wav", "folders")  # a file


def test_a_number_stands_for_itself_and_names_take_what_is_free() -> None:
    assert number_speakers(["0", "2", "anna", "bob"]) == {"0": 0, "2": 2, "anna": 1, "bob": 3}
    assert number_speakers(["声", "07"]) == {"声": 0, "07": 7}
    assert number_speakers(["12345"]) == {"12345": 0}  # a year or an identifier, not a row of the embedding
    with pytest.raises(ConfigError, match="1 and 01"):
        number_speakers(["1", "01"])


def test_speakers_with_less_material_are_repeated() -> None:
    sources = (Source("a", 0, 30, 100.0), Source("b", 0, 30, 100.0), Source("c", 3, 10, 41.0), Source("d", 4, 1, 2.0))
    table = Table((*sources, Source("silent", 5)), {0: "anna", 3: "bob", 4: "eve", 5: "mute"})
    assert [(item.name, item.recordings, item.repeat) for item in table.speakers()] == [
        ("anna", 2, 1), ("bob", 1, 5), ("eve", 1, MAX_REPEAT),
    ]  # fmt: skip
    assert "speaker 3 bob: 0.7 min, 10 clips from 1 recordings, repeat 5" in map(str, table.speakers())


def test_more_speakers_than_the_family_has_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "data" / "64").mkdir(parents=True)
    soundfile.write(tmp_path / "data" / "64" / "a.wav", buzz(200.0, 1.0), 24_000)
    experiment = Experiment("v", tmp_path / "logs", tmp_path / "weights")
    with pytest.raises(ConfigError, match="64 does not exist in the lite family"):
        prepare_stage(experiment, tmp_path / "data", load_family("lite"), FOLDERS)
    assert not experiment.folder.exists()


@pytest.mark.slow
def test_one_voice_has_both_speakers_with_an_index_for_each(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = Experiment("duo", tmp_path / "logs", tmp_path / "weights")
    report = prepare_stage(experiment, recordings, tiny_lite(), FOLDERS)
    assert report is not None and len(report.failures) == 2
    assert prepare_stage(experiment, recordings, tiny_lite(), FOLDERS) is None
    extract(experiment, ExtractOptions(pitch_method="pm", device="cpu"))
    index_stage(experiment, IndexOptions())
    options = FitOptions.model_validate(FAST | {"epochs": 1})
    clips = choose_clips(experiment, options).training
    seconds = {n: sum(soundfile.info(c.audio).duration for c in clips if c.speaker_id == n) for n in (0, 1)}
    assert seconds[1] == pytest.approx(seconds[0], rel=0.2)  # bob's recording is used four times
    voice = fit(experiment, options).voice
    assert speaker_names(read_voice_model(voice)) == {0: "anna", 1: "bob"}

    roots = [experiment.folder.parent]
    joint, single = find_index(voice, "lite", roots), speaker_indexes(voice, roots)
    assert joint is not None and set(single) == {0, 1}
    assert len(FeatureIndex.load(joint)) == sum(len(FeatureIndex.load(path)) for path in single.values())

    for function in (find_index, speaker_indexes):
        monkeypatch.setattr(function, "__defaults__", (*(function.__defaults__ or ())[:-1], tuple(roots)))
    converter = load_converter(voice, "auto")
    audio, chosen = buzz(200.0, 1.0)[::3][:8000], ConvertOptions(pitch_method="pm", device="cpu", index_rate=1.0)
    anna, bob = (converter.convert(audio, chosen.model_copy(update={"speaker_id": number})) for number in (0, 1))
    assert not np.array_equal(anna, bob)
    assert converter.used_index(chosen.model_copy(update={"speaker_id": 1})) == str(single[1])

    soundfile.write(tmp_path / "in.wav", audio, 8000)
    words = [str(tmp_path / "in.wav"), "--voice", str(voice), "--pitch-method", "pm", "--device", "cpu"]
    for who, name in (("bob", "by_name"), ("1", "by_number")):
        assert infer_cli.main([*words, "--speaker", who, "-o", str(tmp_path / f"{name}.wav")]) == 0
    assert (tmp_path / "by_name.wav").read_bytes() == (tmp_path / "by_number.wav").read_bytes()
    assert infer_cli.main([*words, "--speaker", "eve"]) == 1
    assert "no speaker 'eve'. It has: anna (0), bob (1)." in capsys.readouterr().err


def test_a_damaged_table_is_one_sentence(tmp_path: Path) -> None:
    experiment = Experiment("v", tmp_path / "logs", tmp_path / "weights")
    assert read_table(experiment) is None
    experiment.folder.mkdir(parents=True)
    (experiment.folder / "recordings.json").write_text('{"speakers": []}')
    with pytest.raises(ConfigError, match="Prepare the recordings again"):
        read_table(experiment)


def test_a_speaker_is_found_by_name_first(tmp_path: Path) -> None:
    from tests.test_speaker_names import voice

    assert find_speaker(voice({"0": "1", "1": "0"}), "1") == 0
    assert find_speaker(voice({"0": "anna"}), "2") == 2
