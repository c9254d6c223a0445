"""Voices and their indexes on disk."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from infer.load import load_converter
from infer.options import ConvertOptions
from lib.errors import ConfigError, MissingFileError
from lib.paths import PRETRAINED
from lib.voice.library import (
    delete_voice,
    explain_no_index,
    find_index,
    find_voice,
    list_indexes,
    list_voices,
    restore_voice,
)


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of voices: own (Bob, alice, 声 o'é) and shipped (demo, alice)."""
    own, shipped = tmp_path / "weights", tmp_path / "shipped"
    for folder, names in ((own, ("Bob", "alice", "声 o'é")), (shipped, ("demo", "alice"))):
        folder.mkdir()
        for name in names:
            (folder / f"{name}.pth").touch()
    (own / "notes.txt").touch()
    (own / ".hidden.pth").touch()
    (own / "folder.pth").mkdir()
    return own, shipped


def test_voices_are_listed_by_name_and_the_first_root_wins(roots: tuple[Path, Path]) -> None:
    voices = list_voices(roots)
    assert [voice.name for voice in voices] == ["alice", "Bob", "demo", "声 o'é"]
    assert voices[0].path.parent == roots[0]
    assert list_voices([roots[0] / "missing"]) == []


@pytest.mark.parametrize("name", ["Bob", "Bob.pth", "声 o'é"])
def test_a_voice_is_found_by_name(roots: tuple[Path, Path], name: str) -> None:
    assert find_voice(name, roots).name == name.removesuffix(".pth")


def test_a_voice_is_found_by_path(roots: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.pth"
    path.touch()
    assert find_voice(str(path), roots).path == path


def test_unknown_voices_list_those_that_exist(roots: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no voice 'alcie'; did you mean 'alice'\? Available: alice, Bob, demo"):
        find_voice("alcie", roots)
    with pytest.raises(MissingFileError, match="Specify the name of a voice"):
        find_voice(str(tmp_path / "none.pth"), roots)
    with pytest.raises(ConfigError, match="no voice is installed"):
        find_voice("alice", [tmp_path / "empty"])


def index(logs: Path, name: str, age: int = 0) -> Path:
    """An index file `age` seconds old."""
    path = logs / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path


def test_the_standard_name_comes_first_then_the_newest(tmp_path: Path) -> None:
    voice = tmp_path / "weights/lj_e10_s200.pth"
    index(tmp_path, "lj/lj_e10_s200.index")
    old = index(tmp_path, "lj/added_IVF8_Flat_nprobe_1_lj_v2.index", age=50)
    assert find_index(voice, "v2", [tmp_path]) == old
    new = index(tmp_path, "lj/added_IVF9_Flat_nprobe_1_lj_v2.index", age=20)
    assert find_index(voice, "v2", [tmp_path]) == new


@pytest.mark.parametrize(
    "name",
    [
        "lj/added_IVF8_Flat_nprobe_1_lj_lite.index",
        "lj_added_IVF8_Flat_nprobe_1_lj_lite.index",
        "lj/lj.index",
        "old/my lj (2023).index",
        "trained_lj/lj.index",
    ],
)
def test_names_that_belong(tmp_path: Path, name: str) -> None:
    path = index(tmp_path, name)
    assert find_index(tmp_path / "weights/lj.pth", "lite", [tmp_path]) == path


@pytest.mark.parametrize(
    "name",
    [
        "lj/trained_IVF8_Flat_nprobe_1_lj_lite.index",
        "my_lj/added_IVF8_Flat_nprobe_1_my_lj_lite.index",
        "lj/added_IVF8_Flat_nprobe_1_lj_v2.index",
        "ljspeech/ljspeech.index",
        "lj/deep/lj.index",
        "lj/lj.txt",
    ],
)
def test_names_that_do_not_belong(tmp_path: Path, name: str) -> None:
    index(tmp_path, name)
    assert find_index(tmp_path / "weights/lj.pth", "lite", [tmp_path]) is None


def test_a_short_name_is_not_found_inside_words(tmp_path: Path) -> None:
    index(tmp_path, "x/added_IVF256_Flat_nprobe_1.index")
    assert find_index(tmp_path / "weights/a.pth", None, [tmp_path]) is None


def test_an_index_beside_the_voice_is_found(tmp_path: Path) -> None:
    path = index(tmp_path, "downloads/singer.index")
    assert find_index(tmp_path / "downloads/singer.pth", "v2", []) == path


def test_names_with_special_characters(tmp_path: Path) -> None:
    path = index(tmp_path, "a (b) [c]+/added_IVF8_Flat_nprobe_1_a (b) [c]+_v1.index")
    assert find_index(tmp_path / "a (b) [c]+.pth", "v1", [tmp_path]) == path


def test_safetensors_voices_are_voices_too(tmp_path: Path) -> None:
    (tmp_path / "anna.safetensors").touch()
    assert [voice.path.name for voice in list_voices([tmp_path])] == ["anna.safetensors"]
    assert find_voice("anna.safetensors", [tmp_path]).name == "anna"
    (tmp_path / "anna.pth").touch()
    assert [voice.path.name for voice in list_voices([tmp_path])] == ["anna.pth"]


@pytest.mark.slow
def test_the_shipped_voice_opens_with_the_shipped_encoder_and_index() -> None:
    folder = PRETRAINED / "lite" / "voices"
    voice = find_voice("ljspeech", [folder])
    index = find_index(voice.path, "lite", [folder])
    assert index is not None
    assert sum(path.stat().st_size for path in (voice.path, index)) <= 15_000_000
    converter = load_converter(voice.path, index)  # refuses another encoder than the one it was trained on
    source, _ = soundfile.read(PRETRAINED / "lite" / "demo" / "source.flac", dtype="float32")
    converted = converter.convert(source[:32_000], ConvertOptions(pitch_method="pm"))
    assert len(converted) == 48_000 and np.abs(converted).max() > 0.05


def test_indexes_are_listed_by_folder_and_name(tmp_path: Path) -> None:
    for name in ("logs/alice/added_a.index", "logs/alice/trained_a.index", "logs/b.index", "logs/alice/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = list_indexes([tmp_path / "logs"])
    assert list(found) == ["alice/added_a", "logs/b"]
    assert found["alice/added_a"] == tmp_path / "logs" / "alice" / "added_a.index"


@pytest.mark.parametrize("record", ['{"index": {"file": "%s"}}', "{}", "damaged", '{"index": [1]}'])
def test_the_index_that_the_record_names_is_the_one(tmp_path: Path, record: str) -> None:
    folder = tmp_path / "logs/alice"
    folder.mkdir(parents=True)
    names = [f"added_IVF{cells}_Flat_nprobe_1_alice_v2.index" for cells in (100, 30, 5)]
    for name in (*names, "trained_IVF9_Flat_nprobe_1_alice_v2.index"):
        (folder / name).touch()
        os.utime(folder / name, (1000, 1000))
    os.utime(folder / names[0], (2000, 2000))
    (folder / "revoice.json").write_text(record.replace("%s", names[1]))
    found = find_index(tmp_path / "weights/alice.pth", "v2", [tmp_path / "logs"])
    assert found == folder / names["%s" in record]  # otherwise the newest


def test_a_deleted_voice_can_be_brought_back(roots: tuple[Path, Path]) -> None:
    own, _ = roots
    place = delete_voice("Bob", own)
    assert place.is_file() and "Bob" not in [voice.name for voice in list_voices([own])]
    (own / "Bob.pth").touch()
    with pytest.raises(ConfigError, match="exists again"):
        restore_voice(own)
    (own / "Bob.pth").unlink()
    assert restore_voice(own) == "Bob" and (own / "Bob.pth").is_file()
    with pytest.raises(ConfigError, match="No voice was deleted"):
        restore_voice(own)
    with pytest.raises(ConfigError, match="is not in"):
        delete_voice("demo", own)


@pytest.mark.parametrize("name", ["alice_200e_1000s", "alice_e200", "alice_e200_s1000", "alice_200e_9s_best_epoch"])
@pytest.mark.parametrize("folder", ["logs/alice", "weights"])
def test_names_of_applio_find_their_index(tmp_path: Path, name: str, folder: str) -> None:
    path = index(tmp_path / "logs", "alice/alice.index")
    assert find_index(tmp_path / folder / f"{name}.pth", "v2", [tmp_path / "logs"]) == path


@pytest.mark.parametrize(
    ("voice", "name"),
    [
        ("Alice", "alice/alice.index"),
        ("alice", "Alice/added_IVF9_Flat_nprobe_1_ALICE_v2.index"),
        ("alice", "ALICE/features.index"),
        ("alice", "alice/alice.INDEX"),
        ("alice-e200-s1000", "alice/alice.index"),
        ("alice 200 epochs", "alice 200 epochs/x.index"),
        ("alice_E200_S1000", "Alice/alice.index"),
        ("alice (1)", "alice/added_IVF9_Flat_nprobe_1_alice_v2.index"),
        ("alice_best_epoch", "alice/alice.index"),
        ("alice_epoch200", "alice/alice.index"),
        ("alice_v2_40k", "alice/alice.index"),
        ("alice_v2", "alice/added_IVF9_Flat_nprobe_1_alice_v2.index"),
        ("alice_e200", "alice_e200/x.index"),
        ("alice_e200", "alice_e200/added_IVF9_Flat_nprobe_1_alice_e200_v2.index"),
    ],
)
def test_other_capitals_separators_and_endings_find_their_index(tmp_path: Path, voice: str, name: str) -> None:
    path = index(tmp_path / "logs", name)
    assert find_index(tmp_path / "weights" / f"{voice}.pth", "v2", [tmp_path / "logs"]) == path


def test_the_exact_name_comes_before_similar_ones(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    paths = {name: index(logs, f"{name}/{name}.index") for name in ("alice", "Alice", "alice_v2", "bob")}
    for name, path in paths.items():
        assert find_index(tmp_path / "weights" / f"{name}.pth", "v2", [logs]) == path
    assert find_index(tmp_path / "weights" / "alice_e9.pth", "v2", [logs]) == paths["alice"]
    assert find_index(tmp_path / "weights" / "alicebob.pth", "v2", [logs]) is None


def test_the_only_index_in_the_folder_of_a_voice_is_its_own(tmp_path: Path) -> None:
    voice, logs = tmp_path / "weights" / "model.pth", tmp_path / "logs"
    first = index(logs, "model/features.index")
    index(logs, "model/trained_IVF8_Flat_nprobe_1_model_v2.index")
    assert find_index(voice, "v2", [logs]) == first
    second = index(logs, "model/others.index")
    assert find_index(voice, "v2", [logs]) is None
    assert f"(--index): {first}, {second}" in explain_no_index(voice, [logs])
    assert explain_no_index(tmp_path / "weights" / "other.pth", [logs]) == "no index was found"
