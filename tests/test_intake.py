"""Loose files: voices, indexes and archives are recognised by their content, paired, and added without replacing."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.errors import ConfigError
from lib.index import FeatureIndex
from lib.voice import intake
from lib.voice.archive import export_voice
from lib.voice.intake import FoundVoice, Inspected, free_name, inspect_files, install
from lib.voice.library import find_index
from lib.voice.model_file import read_voice_model, write_voice_model
from tests.tiny_files import save_checkpoint, small_voice, tiny_family
from train.ckpt.cli import Import, use

Look = Callable[..., Inspected]


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A folder with two voices of v1, one of v2 and indexes of 256 and 768 features."""
    folder = tmp_path / "given"
    write_voice_model(folder / "Anna_e200_s4000.pth", small_voice("v1", "40k"))
    write_voice_model(folder / "bea.safetensors", small_voice("v1", "48k", seed=1))
    write_voice_model(folder / "cora v2.pth", small_voice("v2", "40k", seed=2))
    for name, width in (("added_IVF1_Flat_nprobe_1_anna_v1", 256), ("bea", 256), ("anything", 768)):
        save_index(folder / f"{name}.index", width)
    return folder


def save_index(path: Path, width: int, vectors: int = 50) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(width + vectors).standard_normal((vectors, width)).astype(np.float32)
    FeatureIndex.build([values]).save(path)
    return path


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """inspect_files with the folders of a test."""

    def call(*files: Path) -> Inspected:
        folder = tmp_path / "temporary"
        shutil.rmtree(folder, ignore_errors=True)
        return inspect_files(files, folder, logs=tmp_path / "logs", roots=[tmp_path / "weights"])

    return call


def add(tmp_path: Path, found: Inspected, name: str | None = None) -> list[str]:
    return install(found, name, weights=tmp_path / "weights", logs=tmp_path / "logs")


def pairs(found: Inspected) -> dict[str, str | None]:
    """The file of each voice's index, by the name of the voice."""
    return {voice.name: voice.index.part.label if voice.index else None for voice in found.voices}


@pytest.mark.slow
def test_files_dropped_together_are_paired_by_width_and_name(tmp_path: Path, given: Path, look: Look) -> None:
    found = look(*sorted(given.iterdir()))
    assert pairs(found) == {
        "Anna_e200_s4000": "added_IVF1_Flat_nprobe_1_anna_v1.index", "bea": "bea.index", "cora v2": "anything.index"
    }  # fmt: skip
    facts = {(voice.model.family, voice.model.sample_rate, voice.model.has_f0) for voice in found.voices}
    assert facts == {("v1", 40_000, True), ("v1", 48_000, True), ("v2", 40_000, True)}
    assert not found.unused and not found.indexes and not (tmp_path / "weights").exists(), "looking changes nothing"
    assert add(tmp_path, found) == ["Anna_e200_s4000", "bea", "cora v2"]
    for voice in found.voices:
        path = tmp_path / "weights" / f"{voice.name}{voice.model.part.path.suffix}"
        assert path.read_bytes() == voice.model.part.path.read_bytes()
        index = find_index(path, voice.model.family, [tmp_path / "logs"])
        assert index and voice.index and index.read_bytes() == voice.index.part.path.read_bytes()


def test_an_index_of_another_width_is_never_paired(given: Path, look: Look) -> None:
    save_index(given / "added_IVF1_Flat_nprobe_1_cora v2_v2.index", 256)
    found = look(given / "cora v2.pth", given / "added_IVF1_Flat_nprobe_1_cora v2_v2.index")
    assert pairs(found) == {"cora v2": None}
    assert [name for name, _ in found.unused] == ["added_IVF1_Flat_nprobe_1_cora v2_v2.index"]
    assert "256-dimensional features" in found.unused[0][1]


@pytest.mark.slow
def test_an_index_that_could_be_of_two_voices_is_left_out(given: Path, look: Look) -> None:
    save_index(given / "who.index", 256)
    found = look(given / "Anna_e200_s4000.pth", given / "bea.safetensors", given / "who.index")
    assert pairs(found) == {"Anna_e200_s4000": None, "bea": None} and found.unused[0][0] == "who.index"


def test_of_two_indexes_of_a_voice_the_larger_is_taken(given: Path, look: Look) -> None:
    save_index(given / "added_bea.index", 256, 70)
    found = look(given / "bea.safetensors", given / "bea.index", given / "added_bea.index")
    assert pairs(found) == {"bea": "added_bea.index"}
    assert found.unused == (("bea.index", found.unused[0][1]),) and "added_bea.index" in found.unused[0][1]


@pytest.mark.slow
def test_an_archive_with_several_voices_and_checkpoints(tmp_path: Path, given: Path, look: Look) -> None:
    save_checkpoint(given / "G_2333.pth", tiny_family("v1", "40k").synthesizer)
    with zipfile.ZipFile(tmp_path / "pack.zip", "w") as archive:
        for path in given.iterdir():
            archive.write(path, f"models/{path.name}")
        archive.writestr("models/trained_IVF1_Flat_nprobe_1_anna_v1.index", b"x")
        archive.writestr("models/readme.txt", b"x")
    found = look(tmp_path / "pack.zip")
    assert pairs(found)["bea"] == "bea.index" and len(found.voices) == 3
    assert {name: str(reason) for name, reason in found.unused} == {
        "G_2333.pth": "is a training checkpoint (G or D), not a finished voice",
        "trained_IVF1_Flat_nprobe_1_anna_v1.index": "is an empty index, which conversion never uses",
    }
    assert len(add(tmp_path, found)) == 3


@pytest.mark.slow
def test_an_archive_of_ours_keeps_its_name_and_archives_do_not_mix(tmp_path: Path, given: Path, look: Look) -> None:
    for voice, index in (("bea.safetensors", "bea.index"), ("Anna_e200_s4000.pth", "added_IVF1_Flat_nprobe_1_anna_v1")):
        export_voice(
            given / voice, given / f"{index.removesuffix('.index')}.index", tmp_path / f"{index}.zip", f"x {index[:3]}"
        )
    found = look(*sorted(tmp_path.glob("*.zip")))
    assert sorted(voice.name for voice in found.voices) == ["x add", "x bea"]
    assert all(voice.index and voice.index.part.source == voice.model.part.source for voice in found.voices)


@pytest.mark.slow
def test_taken_names_get_a_number_and_the_same_voice_is_not_added_twice(
    tmp_path: Path, given: Path, look: Look
) -> None:
    add(tmp_path, look(given / "bea.safetensors"))
    write_voice_model(given / "BEA.pth", small_voice("v1", "40k", seed=3))
    again = look(given / "bea.safetensors", given / "BEA.pth")
    assert [(voice.name, voice.installed) for voice in again.voices] == [("bea", "bea"), ("BEA_2", None)]
    before = (tmp_path / "weights" / "bea.safetensors").stat().st_mtime_ns
    assert add(tmp_path, again) == ["BEA_2"]
    assert (tmp_path / "weights" / "bea.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="already"):
        add(tmp_path, look(given / "cora v2.pth"), "Bea")
    assert add(tmp_path, look(given / "cora v2.pth"), "dora") == ["dora"]
    write_voice_model(given / "new.pth", small_voice("v1", "40k", seed=4))
    with pytest.raises(ConfigError, match="single voice"):
        add(tmp_path, look(given / "Anna_e200_s4000.pth", given / "new.pth"), "x")


def test_an_index_alone_goes_to_the_installed_voice_of_its_name(tmp_path: Path, given: Path, look: Look) -> None:
    add(tmp_path, look(given / "bea.safetensors"))
    found = look(given / "bea.index", given / "anything.index")
    assert [index.voice.name for index in found.indexes if index.voice] == ["bea"]
    assert found.unused[0][0] == "anything.index"
    assert add(tmp_path, found) == ["bea"]
    index = find_index(tmp_path / "weights" / "bea.safetensors", "v1", [tmp_path / "logs"])
    assert index and index.read_bytes() == (given / "bea.index").read_bytes()
    assert "has the index" in look(given / "bea.index").unused[0][1]


def test_damaged_and_foreign_files_are_reported_by_name_without_a_path(tmp_path: Path, look: Look) -> None:
    for name in ("broken.pth", "broken.index", "broken.zip", "song.mp3"):
        (tmp_path / name).write_bytes(b"not what the name pattern")
    found = look(*(tmp_path / name for name in ("broken.pth", "broken.index", "broken.zip", "song.mp3")))
    assert not found.voices and [name for name, _ in found.unused] == [
        "broken.pth", "broken.index", "broken.zip", "song.mp3"
    ]  # fmt: skip
    assert not any(str(tmp_path) in reason for _, reason in found.unused)
    with pytest.raises(ConfigError, match="No file"):
        look()
    with pytest.raises(ConfigError, match="more than the 50"):
        look(*[tmp_path / "song.mp3"] * 51)


def test_free_names(tmp_path: Path) -> None:
    assert free_name("a/b", []) == "a_b" and free_name("ä", ["Ä"]) == "ä_2" and free_name(" . ", []) == "voice"
    save_index(tmp_path / "a" / "added_x.index", 256)
    assert free_name("a", [], tmp_path) == "a_2", "the folder of another voice's index is not used"


@pytest.mark.slow
def test_the_command_line_imports_loose_files(tmp_path: Path, given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def into(found: Any, name: str | None) -> list[str]:
        return install(found, name, weights=tmp_path / "weights", logs=tmp_path / "logs")

    monkeypatch.setattr(intake, "install", into)
    output = "\n".join(use(Import(files=(str(given / "bea.index"), str(given / "bea.safetensors")), name="new")))
    assert "imported the voice 'new' with the index bea.index" in output
    assert read_voice_model(tmp_path / "weights" / "new.safetensors").family == "v1"
    save_checkpoint(given / "G_1.pth", tiny_family("v1", "40k").synthesizer)
    with pytest.raises(Exception, match=r"G_1\.pth is a training checkpoint"):
        list(use(Import(files=(str(given / "G_1.pth"),))))


@pytest.mark.slow
def test_a_voice_without_pitch_is_recognised(given: Path, look: Look) -> None:
    write_voice_model(given / "speech.pth", small_voice("v2", "32k", has_f0=False))
    (voice,) = look(given / "speech.pth").voices
    assert isinstance(voice, FoundVoice) and not voice.model.has_f0 and voice.model.sample_rate == 32_000
