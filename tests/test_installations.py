"""Folders of RVC and Applio: voices, indexes and weights are found in place, and nothing in them is changed."""

from pathlib import Path

import pytest

from lib import installations
from lib.content import hubert
from lib.errors import ConfigError, MissingFileError
from lib.installations import MAX_FOLDERS, add_installation, remove_installation
from lib.pitch import rmvpe
from lib.voice import library
from lib.voice.library import delete_voice, find_index, find_voice, list_indexes, list_voices
from lib.voice.model_file import write_voice_model
from tests.test_intake import save_index
from tests.tiny_files import small_voice
from train.base_models import base_folders
from train.ckpt.cli import Folders, use


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh list of folders, and no voices of our own."""
    home = tmp_path / "home"
    home.mkdir()
    for function in (installations.installations, installations.add_installation, remove_installation):
        monkeypatch.setattr(function, "__defaults__", (*(function.__defaults__ or ())[:-1], home / "folders.txt"))
    monkeypatch.setattr(library, "VOICE_ROOTS", (home, home / "shipped"))
    monkeypatch.setattr(library, "INDEX_ROOTS", (home / "logs", home / "shipped"))
    return home


@pytest.fixture
def rvc(tmp_path: Path) -> Path:
    """An RVC folder with a voice, its index, a checkpoint, base models and weights."""
    folder = tmp_path / "RVC (old)"
    write_voice_model(folder / "assets" / "weights" / "anna.pth", small_voice("v1", "40k"))
    save_index(folder / "logs" / "anna" / "added_IVF1_Flat_nprobe_1_anna_v1.index", 256)
    for name in ("logs/anna/G_2333.pth", "assets/rmvpe/rmvpe.pt", "assets/hubert/hubert_base.pt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "assets" / "pretrained_v2").mkdir()
    return folder


@pytest.fixture
def applio(tmp_path: Path) -> Path:
    """An Applio folder: the voice and its index lie in the folder of the training, beside checkpoints."""
    folder = tmp_path / "Applio"
    write_voice_model(folder / "logs" / "bea" / "bea_200e_1000s.pth", small_voice("v2", "40k", seed=1))
    save_index(folder / "logs" / "bea" / "bea.index", 768)
    for name in ("G_2333333.pth", "D_2333333.pth"):
        (folder / "logs" / "bea" / name).write_bytes(b"x")
    for name in ("predictors/rmvpe.pt", "embedders/contentvec/config.json"):
        (folder / "rvc" / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "rvc" / "models" / name).write_bytes(b"x")
    return folder


def contents(folder: Path) -> list[tuple[Path, int]]:
    return sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_voices_and_indexes_are_used_where_they_are(home: Path, rvc: Path, applio: Path) -> None:
    assert list_voices() == []
    before = contents(rvc) + contents(applio)
    assert add_installation(f'"{rvc}"') == rvc, "as Explorer copies a path"
    add_installation(str(applio))
    assert [voice.name for voice in list_voices()] == ["anna", "bea_200e_1000s"], "no checkpoints, no base models"
    for name, index in (("anna", "added_IVF1_Flat_nprobe_1_anna_v1.index"), ("bea_200e_1000s", "bea.index")):
        found = find_index(find_voice(name).path)
        assert found is not None and found.name == index
    assert set(list_indexes()) == {"anna/added_IVF1_Flat_nprobe_1_anna_v1", "bea/bea"}
    with pytest.raises(ConfigError, match="can be deleted"):
        delete_voice("anna", home)
    assert contents(rvc) + contents(applio) == before
    remove_installation(rvc)
    assert [voice.name for voice in list_voices()] == ["bea_200e_1000s"] and contents(rvc) + contents(applio) == before


def test_a_voice_of_ours_comes_before_one_of_the_same_name(home: Path, rvc: Path) -> None:
    add_installation(str(rvc))
    write_voice_model(home / "anna.pth", small_voice("v2", "40k"))
    assert find_voice("anna").path == home / "anna.pth"


def test_weights_are_found(home: Path, rvc: Path, applio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rmvpe, "PLACES", ())
    monkeypatch.setattr(hubert, "PRETRAINED", home)
    monkeypatch.setattr(hubert, "ROOT", home)
    assert not rmvpe.is_installed()
    with pytest.raises(MissingFileError):
        hubert.find("contentvec")
    add_installation(str(applio))
    assert rmvpe.find_weights() == applio / "rvc/models/predictors/rmvpe.pt"
    assert hubert.find("contentvec") == applio / "rvc/models/embedders/contentvec"
    remove_installation(applio)
    add_installation(str(rvc))
    assert rmvpe.find_weights() == rvc / "assets/rmvpe/rmvpe.pt"
    assert hubert.find("contentvec") == rvc / "assets/hubert/hubert_base.pt"
    assert rvc / "assets" / "pretrained_v2" in base_folders("v2") and rvc / "pretrained" in base_folders("v1")


@pytest.mark.slow
def test_useless_folders_are_refused(home: Path, tmp_path: Path, rvc: Path) -> None:
    with pytest.raises(MissingFileError, match="in which the other program is installed"):
        add_installation(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"contains no voices and no weights"):
        add_installation(str(tmp_path / "empty"))
    add_installation(str(rvc))
    add_installation(str(rvc))
    assert installations.installations() == [rvc], "once"
    for number in range(MAX_FOLDERS - 1):
        write_voice_model(tmp_path / str(number) / "x.pth", small_voice("v2", "40k"))
        add_installation(str(tmp_path / str(number)))
    write_voice_model(tmp_path / "more" / "x.pth", small_voice("v2", "40k"))
    with pytest.raises(ConfigError, match="20 folders already"):
        add_installation(str(tmp_path / "more"))


def test_a_damaged_list_counts_as_missing(home: Path) -> None:
    (home / "folders.txt").write_bytes(b"\xff\xfe\x00")
    assert installations.installations() == []
    (home / "folders.txt").write_text("relative\n/does/not/exist\n", encoding="utf-8")
    assert installations.installations() == []


def test_the_command_line_lists_adds_and_removes(home: Path, rvc: Path) -> None:
    assert list(use(Folders())) == ["no folders of other programs are used"]
    assert list(use(Folders(add=rvc))) == [f"{rvc} (voices: 1)"]
    assert list(use(Folders(remove=rvc))) == ["no folders of other programs are used"]
