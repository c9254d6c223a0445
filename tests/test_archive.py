"""NAME.zip: a voice is exported and imported unchanged, and hostile archives leave nothing behind."""

import io
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.errors import CheckpointError, ConfigError, MissingFileError
from lib.index import FeatureIndex
from lib.voice.archive import CARD, Imported, export_voice, import_voice
from lib.voice.library import find_index
from lib.voice.model_file import ContentEncoderId, VoiceModel, read_voice_model, write_voice_model
from tests.tiny_files import small_voice


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    """A voice with texts."""
    made = small_voice("v1", "40k")
    facts = {"author": "me", "licence": "CC0", "epoch": 7}
    model = VoiceModel("v1", made.config, made.weights, "7epoch", ContentEncoderId("hubert_base", "ab"), facts)
    write_voice_model(tmp_path / "made" / "anna.pth", model)
    return tmp_path / "made" / "anna.pth"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index of 256 features."""
    path = tmp_path / "made" / "odd name.index"
    path.parent.mkdir(exist_ok=True)
    FeatureIndex.build([np.random.default_rng(0).standard_normal((60, 256)).astype(np.float32)]).save(path)
    return path


@pytest.fixture
def take_in(tmp_path: Path) -> Callable[..., Imported]:
    """import_voice into folders of the test."""

    def call(archive: Path, name: str | None = None, *, overwrite: bool = False) -> Imported:
        return import_voice(
            archive, name, overwrite=overwrite, weights=tmp_path / "weights", logs=tmp_path / "logs"
        )  # fmt: skip

    return call


def installed(tmp_path: Path) -> list[str]:
    """Every file below weights/ and logs/."""
    places = (tmp_path / "weights", tmp_path / "logs")
    return sorted(
        path.relative_to(tmp_path).as_posix() for place in places for path in place.rglob("*") if path.is_file()
    )


@pytest.mark.slow
def test_a_voice_goes_out_and_comes_in(
    tmp_path: Path, voice: Path, index: Path, take_in: Callable[..., Imported]
) -> None:
    archive = export_voice(voice, index, tmp_path / "anna.zip")
    with zipfile.ZipFile(archive) as opened:
        assert opened.namelist() == ["README.md", CARD, "anna.pth", "added_IVF1_Flat_nprobe_1_anna_v1.index"]
        card, readme = json.loads(opened.read(CARD)), opened.read("README.md").decode()
    assert (card["name"], card["family"], card["sample_rate"], card["licence"]) == ("anna", "v1", 40000, "CC0")
    assert "licence: CC0" in readme and "content_encoder" in card
    imported = take_in(archive)
    assert imported.voice.read_bytes() == voice.read_bytes()
    assert imported.index is not None and imported.index.read_bytes() == index.read_bytes()
    assert find_index(imported.voice, "v1", [tmp_path / "logs"]) == imported.index
    assert installed(tmp_path) == ["logs/anna/added_IVF1_Flat_nprobe_1_anna_v1.index", "weights/anna.pth"]
    assert export_voice(voice, index, tmp_path / "again.zip").read_bytes() == archive.read_bytes()


@pytest.mark.slow
def test_an_existing_voice_is_replaced_only_on_request(
    tmp_path: Path, voice: Path, take_in: Callable[..., Imported]
) -> None:
    archive = export_voice(voice, None, tmp_path / "anna.zip")
    (tmp_path / "weights").mkdir()
    other = tmp_path / "weights" / "anna.safetensors"
    write_voice_model(other, small_voice("v2", "40k"))
    with pytest.raises(ConfigError, match=r"anna\.safetensors exists.*--name.*--overwrite"):
        take_in(archive)
    assert read_voice_model(other).family == "v2"
    assert take_in(archive, "bea").voice.name == "bea.pth"
    assert take_in(archive, overwrite=True).voice.name == "anna.pth" and not other.exists()
    with pytest.raises(ConfigError, match="cannot be used as a voice name"):
        take_in(archive, "../anna")


@pytest.mark.slow
def test_a_training_keeps_its_files_when_a_voice_of_its_name_is_imported(
    tmp_path: Path, voice: Path, index: Path, take_in: Callable[..., Imported]
) -> None:
    archive = export_voice(voice, index, tmp_path / "anna.zip")
    folder, weights = tmp_path / "logs" / "anna", tmp_path / "weights"
    own = folder / "added_IVF1_Flat_nprobe_1_anna_v1.index"
    folder.mkdir(parents=True)
    (folder / "revoice.json").write_text("{}")
    own.write_bytes(b"the training's")
    with pytest.raises(ConfigError, match=r"logs/anna belongs to a training.*--name"):
        take_in(archive)
    assert not list(weights.glob("*.pth"))
    shutil.copy(voice, weights / "anna.pth")
    with pytest.raises(ConfigError, match="belongs to a training"):
        take_in(archive, overwrite=True)
    assert own.read_bytes() == b"the training's"
    shutil.copy(index, own)  # what the training exported comes back
    assert take_in(archive, overwrite=True).index == own
    assert take_in(archive, "bea").name == "bea"
    (weights / "bea.pth").unlink()
    found = take_in(archive, "bea").index  # it was there already, as after an import that was interrupted
    assert found is not None
    (weights / "bea.pth").unlink()
    found.write_bytes(b"another")
    with pytest.raises(ConfigError, match=r"bea_v1\.index exists.*--overwrite"):
        take_in(archive, "bea")


def test_archives_of_other_programs_come_in(
    tmp_path: Path, voice: Path, index: Path, take_in: Callable[..., Imported]
) -> None:
    with zipfile.ZipFile(tmp_path / "shared.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(voice, "model/Bea_e20_s100.pth")
        archive.write(index, "model/added_IVF9_Flat_nprobe_1_bea_v1.index")
        archive.write(index, "model/trained_IVF9_Flat_nprobe_1_bea_v1.index")
        archive.writestr("__MACOSX/model/._Bea_e20_s100.pth", b"x")
        archive.writestr("model/.DS_Store", b"x")
        archive.writestr("model/sample.mp3", bytes(3000))
    with_epoch = take_in(tmp_path / "shared.zip")
    assert with_epoch.name == "Bea_e20_s100"
    assert find_index(with_epoch.voice, "v1", [tmp_path / "logs"]) == with_epoch.index
    for path in (with_epoch.voice, with_epoch.index):
        assert path is not None
        path.unlink()
    imported = take_in(tmp_path / "shared.zip", "bea")
    assert imported.card == {} and imported.index is not None
    assert installed(tmp_path) == ["logs/bea/added_IVF1_Flat_nprobe_1_bea_v1.index", "weights/bea.pth"]


def link(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("link.pth")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(entry, "/etc/passwd")


def device(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("null")
    entry.external_attr = (stat.S_IFCHR | 0o666) << 16
    archive.writestr(entry, "")


def twice(archive: zipfile.ZipFile) -> None:
    archive.writestr("a.pth", b"1")
    archive.writestr("A.PTH", b"2")


def many(archive: zipfile.ZipFile) -> None:
    for i in range(300):
        archive.writestr(f"{i}.txt", b"")


def very_many(archive: zipfile.ZipFile) -> None:
    for i in range(5000):
        archive.writestr(f"{i}.txt", b"")


def two(archive: zipfile.ZipFile) -> None:
    archive.writestr("a.pth", b"x")
    archive.writestr("b.pth", b"x")


def with_card(card: str) -> Callable[[zipfile.ZipFile], None]:
    """An archive with this card."""

    def fill(archive: zipfile.ZipFile) -> None:
        archive.writestr(CARD, card)
        archive.writestr("a.pth", b"x")

    return fill


HOSTILE: list[tuple[Callable[[zipfile.ZipFile], None], str]] = [
    (lambda a: a.writestr(zipfile.ZipInfo(""), b"x"), "has no name"),
    (lambda a: a.writestr("../../out.pth", b"x"), "has '..' in its path"),
    (lambda a: a.writestr("/out.pth", b"x"), "absolute path"),
    (lambda a: a.writestr("C:/out.pth", b"x"), "absolute path"),
    (lambda a: a.writestr("..\\out.pth", b"x"), "has '..' in its path"),
    (lambda a: a.writestr("models/CON.pth", b"x"), "cannot be used as a voice name"),
    (link, "is a link or device"), (device, "is a link or device"), (twice, "occurs twice"),
    (many, "contains 300 files"), (very_many, "more parts than any"),
    (lambda a: a.writestr("bomb.txt", bytes(200 << 20), zipfile.ZIP_DEFLATED), "would unpack to 209715200 bytes"),
    (lambda a: a.writestr("readme.txt", b"x"), "contains no voice model"),
    (two, "2 files that could be the voice model"),
    (lambda a: a.writestr("a.pth", b"not a voice"), r"was not imported: a\.pth"),
    (with_card("{"), "damaged card"),
    (with_card("[" * 100_000), "damaged card"),
    (with_card("[]"), "invalid card"),
    (with_card('{"files": {"a.pth": "00"}}'), "does not match its card"),
    (with_card('{"name": "../x"}'), "cannot be used as a voice name"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("fill", "pattern"), HOSTILE)
def test_hostile_archives_leave_nothing(
    tmp_path: Path, take_in: Callable[..., Imported], fill: Callable[[zipfile.ZipFile], None], pattern: str
) -> None:
    before = sorted(path.name for path in tmp_path.parent.iterdir())
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        fill(archive)
    with pytest.raises((CheckpointError, ConfigError), match=pattern):
        take_in(tmp_path / "x.zip")
    assert installed(tmp_path) == [] and not list(tmp_path.glob("weights/*"))
    assert sorted(path.name for path in tmp_path.parent.iterdir()) == before


def test_an_entry_that_understates_its_size_is_refused(tmp_path: Path, take_in: Callable[..., Imported]) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.pth", bytes(1_234_567))
    lie = packed.getvalue().replace((1_234_567).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    (tmp_path / "x.zip").write_bytes(lie)
    with pytest.raises(CheckpointError):
        take_in(tmp_path / "x.zip")
    assert installed(tmp_path) == []


def test_damaged_archives_and_indices_of_other_voices_are_refused(
    tmp_path: Path, voice: Path, index: Path, take_in: Callable[..., Imported]
) -> None:
    archive = export_voice(voice, index, tmp_path / "anna.zip")
    data = archive.read_bytes()
    for i, bad in enumerate((b"", data[:1000], data[: len(data) // 2], data[:3000] + bytes(100) + data[3100:])):
        (tmp_path / f"{i}.zip").write_bytes(bad)
        with pytest.raises(CheckpointError):
            take_in(tmp_path / f"{i}.zip")
    write_voice_model(voice, small_voice("v2", "40k"))
    with pytest.raises(CheckpointError, match=r"contains 256-dimensional content features, but the voice uses 768-"):
        export_voice(voice, index, tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists()
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as opened:
        opened.write(voice, "a.pth")
        opened.write(index, "a.index")
    with pytest.raises(CheckpointError, match=r"c\.zip was not imported: its index contains 256"):
        take_in(tmp_path / "c.zip")
    with pytest.raises(MissingFileError):
        take_in(tmp_path / "nowhere.zip")
    assert installed(tmp_path) == []


def test_a_checkpoint_in_an_archive_is_refused_with_the_remedy(
    tmp_path: Path, take_in: Callable[..., Imported]
) -> None:
    torch.save({"model": {"enc_p.x": torch.zeros(3)}}, tmp_path / "G_1.pth")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as opened:
        opened.write(tmp_path / "G_1.pth", "G_1.pth")
    with pytest.raises(CheckpointError, match="training checkpoint, not a voice"):
        take_in(tmp_path / "x.zip")
    shutil.copy(tmp_path / "G_1.pth", tmp_path / "y.zip")  # a .pth is a zip archive, too
    with pytest.raises(CheckpointError, match="contains no voice model"):
        take_in(tmp_path / "y.zip")


@pytest.mark.parametrize("name", ["nul.pth", "aux/x.pth", "a\x1b[2J.pth", "folder /Bea.pth", "ab:c.pth", "x/Bea .pth"])
def test_parts_can_have_any_name(tmp_path: Path, voice: Path, take_in: Callable[..., Imported], name: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as opened:
        opened.write(voice, name)
    imported = take_in(tmp_path / "x.zip", "bea")
    assert imported.voice.read_bytes() == voice.read_bytes() and installed(tmp_path) == ["weights/bea.pth"]


@pytest.mark.parametrize(
    ("name", "encoding", "expected"),
    [
        ("ソプラノ.pth", "cp932", "ソプラノ"), ("声/ソ.pth", "cp932", "ソ"), ("声.pth", "utf-8", "声"),
        ("Bär.pth", "cp437", "Bär"), ("models\\Bea.pth", "ascii", "Bea"), ("x/Bea .pth", "ascii", "Bea"),
        ("Jürgen.pth", "cp437", "Jürgen"), ("Söhne.pth", "cp437", "Söhne"),
        ("Bea?.pth", "ascii", "Bea_"), ("who* is-it<.pth", "ascii", "who_ is-it_"),
        ("-Bea.pth", "ascii", "Bea"), ("张三.pth", "gb2312", "张三"), ("李四声音.pth", "gbk", "李四声音"),
    ],
)  # fmt: skip
def test_names_without_a_declared_encoding_are_decoded(
    tmp_path: Path, voice: Path, take_in: Callable[..., Imported], name: str, encoding: str, expected: str
) -> None:
    data = name.encode(encoding)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as opened:
        opened.write(voice, "n" * len(data))
    (tmp_path / "x.zip").write_bytes(packed.getvalue().replace(b"n" * len(data), data))
    assert take_in(tmp_path / "x.zip").name == expected


def test_a_voice_beside_its_training_checkpoints_comes_in(
    tmp_path: Path, voice: Path, take_in: Callable[..., Imported]
) -> None:
    torch.save({"model": {"enc_p.x": torch.zeros(3)}, "iteration": 3}, tmp_path / "checkpoint")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as opened:
        for name in ("a/G_100.pth", "a/D_100.pth", "renamed.pth"):
            opened.write(tmp_path / "checkpoint", name)
        opened.write(voice, "a/Bea.pth")
    imported = take_in(tmp_path / "x.zip")
    assert imported.name == "Bea" and imported.voice.read_bytes() == voice.read_bytes()
    assert set(imported.skipped) == {"G_100.pth", "D_100.pth", "renamed.pth"}
