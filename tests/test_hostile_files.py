"""Hostile files of every kind: a typed error of one sentence, quickly, with little memory and no side effects."""

import json
import os
import pickle
import random
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lib.errors import RevoiceError
from lib.index import FeatureIndex
from lib.voice.model_file import METADATA
from tests.hostile import (
    READERS,
    Content,
    build_index,
    damaged_source,
    import_everything,
    open_archive,
    open_voice,
    reader_of,
    refused,
)
from tests.tiny_files import save_voice, small_voice
from tests.tiny_hubert import TINY, tensors_of


@pytest.fixture(scope="module", autouse=True)
def _everything_is_imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    import_everything(tmp_path_factory.mktemp("warm"))


# --- code in files ----------------------------------------------------------------------------------------------------


class Call:
    """Calls a function when it is unpickled without care."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.parts = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("kind", ["voice", "state", "fairseq"])
@pytest.mark.parametrize("function", [os.system, eval, Path.touch])
def test_code_in_a_file_is_not_run(tmp_path: Path, kind: str, modern: bool, function: Callable[..., Any]) -> None:
    mark = tmp_path / "ran"
    arguments = {
        os.system: f"touch {mark}", eval: f"open({str(mark)!r}, 'w')", Path.touch: mark,
    }.get(function, str(mark))  # fmt: skip
    content: Content = {
        "voice": save_voice(tmp_path / "a.pth", small_voice()),
        "state": {"model": {"a": torch.zeros(3)}, "iteration": 1, "optimizer": {}},
        "fairseq": {"model": tensors_of(TINY)},
    }[kind]
    torch.save(
        content | {"extra": Call(function, arguments)}, tmp_path / "x.pth", _use_new_zipfile_serialization=modern
    )
    with refused(tmp_path, "could run code on your computer"):
        READERS[kind](tmp_path / "x.pth")
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["voice", "state", "fairseq"])
def test_a_bare_pickle_is_not_run(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x.pth").write_bytes(pickle.dumps(Call(os.mkdir, str(tmp_path / "ran")), protocol=2))
    with refused(tmp_path):
        READERS[kind](tmp_path / "x.pth")
    pickle.loads((tmp_path / "x.pth").read_bytes())  # noqa: S301 (the file is as dangerous as this test thinks)
    assert (tmp_path / "ran").is_dir()


def test_an_index_that_is_a_pickle_is_not_run(tmp_path: Path) -> None:
    for data in (pickle.dumps(Call(os.mkdir, str(tmp_path / "ran"))), b"\x93NUMPY\x01\x00"):
        (tmp_path / "x.index").write_bytes(data)
        with refused(tmp_path, "not an index of content features"):
            FeatureIndex.load(tmp_path / "x.index")


# --- little files that want much --------------------------------------------------------------------------------------


def laughs(levels: int) -> list[Any]:
    """Ten times ten times ... the same list: small as a file, enormous as a text."""
    value: list[Any] = ["ha"] * 10
    for _ in range(levels):
        value = [value] * 10
    return value


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["voice", "state", "fairseq"])
@pytest.mark.parametrize(
    ("value", "pattern"),
    [
        (laughs(8), "nested or repeated"),
        (nested(300), "nested or repeated"),
        ([("ha" * 50_000,) * 1000] * 1000, "nested or repeated"),
        (Call(bytearray, 8 << 30), "excessive amount of memory"),
    ],
    ids=["laughs", "nested", "texts", "bytearray"],
)
@pytest.mark.parametrize("modern", [True, False])
def test_values_that_expand_are_refused(tmp_path: Path, kind: str, value: Any, pattern: str, modern: bool) -> None:
    content = {"model": tensors_of(TINY), "cfg": {"model": {"conv_feature_layers": value}}, "iteration": value}
    if kind == "voice":
        content = save_voice(tmp_path / "a.pth", small_voice()) | {"info": value}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=modern)
    with refused(tmp_path, pattern):
        READERS[kind](tmp_path / "x.pth")


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["info", "sr", "version", "vocoder", "author", "content_encoder", "f0", "config"])
def test_every_entry_of_a_voice_is_looked_at(tmp_path: Path, entry: str) -> None:
    content = save_voice(tmp_path / "a.pth", small_voice())
    torch.save(content | {entry: laughs(8)}, tmp_path / "x.pth")
    with refused(tmp_path, "nested or repeated"):
        open_voice(tmp_path / "x.pth")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["archive/data.pkl", "archive/DATA.PKL", "archive/data/0"])
@pytest.mark.parametrize("kind", ["voice", "state", "fairseq"])
def test_a_zip_bomb_as_a_model_file_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(100 << 20))
    with refused(tmp_path, "would unpack to 104857600"):
        READERS[kind](tmp_path / "x.pth")


def huge_header(path: Path) -> None:
    path.write_bytes((10 << 30).to_bytes(8, "little") + b'{"a":' + bytes(1000))


def huge_tensor(path: Path) -> None:
    header = {"a": {"dtype": "F16", "shape": [1 << 33], "data_offsets": [0, 1 << 34]}, "__metadata__": {METADATA: "{}"}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(1000))


def huge_number(path: Path) -> None:
    save_file(small_voice().weights, path, {METADATA: '{"tensors": [], "config": [' + "1" * 6000 + "]}"})


def infinite_numbers(path: Path) -> None:
    config = "1e999, " * 17 + "1e999"
    save_file(small_voice().weights, path, {METADATA: f'{{"tensors": [], "config": [{config}], "version": "v2"}}'})


@pytest.mark.parametrize("make", [huge_header, huge_tensor, huge_number, infinite_numbers])
def test_safetensors_that_promise_too_much_are_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x.safetensors")
    with refused(tmp_path):
        open_voice(tmp_path / "x.safetensors")


def test_a_file_larger_than_any_model_is_not_read(tmp_path: Path) -> None:
    for name, kind in (("x.pth", "voice"), ("x.safetensors", "voice"), ("g.pth", "state"), ("h.pt", "fairseq")):
        with (tmp_path / name).open("wb") as file:
            file.truncate(5 << 30)  # takes no room on the disk
        with refused(tmp_path, "not a model file"):
            READERS[kind](tmp_path / name)


@pytest.mark.parametrize(
    ("at", "value"),
    [(8, 1 << 62), (8, -1), (37, 1 << 62), (37, 0), (45, 1 << 40), (4, 1 << 30), (4, -1), (4, 0)],
    ids=["vectors", "no-vectors", "cells", "no-cells", "probes", "width", "negative-width", "no-width"],
)  # fmt: skip
def test_an_index_with_impossible_counts_is_refused(tmp_path: Path, at: int, value: int) -> None:
    build_index(tmp_path / "x.index")
    data = bytearray((tmp_path / "x.index").read_bytes())
    size = 4 if at == 4 else 8  # the width is the one short number: "IwFl", width, vectors, 17 bytes, cells, probes
    data[at : at + size] = value.to_bytes(size, "little", signed=True)
    (tmp_path / "x.index").write_bytes(data)
    with refused(tmp_path, "not an index of content features"):
        FeatureIndex.load(tmp_path / "x.index")


def test_an_enormous_file_is_not_read_as_an_index(tmp_path: Path) -> None:
    for name, begin in (("a.index", b""), ("b.index", b"IwFl")):
        with (tmp_path / name).open("wb") as file:
            file.write(begin)
            file.truncate(8 << 30)
        with refused(tmp_path, "not an index of content features"):
            FeatureIndex.load(tmp_path / name)


# --- archives ---------------------------------------------------------------------------------------------------------


def entry(name: str, mode: int = stat.S_IFREG | 0o644, data: bytes = b"x") -> Callable[[zipfile.ZipFile], None]:
    """An archive with one entry of that name and mode."""

    def fill(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, data)

    return fill


UNSAFE: dict[str, tuple[Callable[[zipfile.ZipFile], None], str]] = {
    "parent": (entry("../x.pth"), "has '..' in its path"),
    "parent inside": (entry("a/../../x.pth"), "has '..' in its path"),
    "absolute": (entry("/tmp/x.pth"), "absolute path"), "drive": (entry("C:x.pth"), "absolute path"),
    "share": (entry("\\\\host\\x.pth"), "absolute path"),
    "link": (entry("x.pth", stat.S_IFLNK | 0o777, b"/etc/passwd"), "link or device"),
    "device": (entry("x.pth", stat.S_IFBLK | 0o666), "link or device"),
    "pipe": (entry("x.pth", stat.S_IFIFO | 0o666), "link or device"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_entries_of_an_archive_are_refused(tmp_path: Path, name: str) -> None:
    fill, pattern = UNSAFE[name]
    (tmp_path / "weights").mkdir()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        fill(archive)
    with refused(tmp_path / "weights", pattern):
        open_archive(tmp_path / "x.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights", "x.zip"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.pth", "x.index", "card.json", "notes.txt"])
def test_a_zip_bomb_as_a_voice_archive_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(100 << 20))
    (tmp_path / "weights").mkdir()
    with refused(tmp_path / "weights", "would unpack to 104857600 bytes"):
        open_archive(tmp_path / "x.zip")


@pytest.mark.slow
def test_a_bomb_inside_an_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100 << 20))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "a.pth", "a.pth")
    (tmp_path / "weights").mkdir()
    with refused(tmp_path / "weights", "would unpack to 104857600"):
        open_archive(tmp_path / "x.zip")


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pth", "legacy", "safetensors", "index", "zip"])
def test_truncated_files_are_refused(tmp_path: Path, kind: str) -> None:
    whole = damaged_source(tmp_path, kind)
    data = whole.read_bytes()
    for cut in (1, 3, 40, 700, len(data) // 2, len(data) - 1):
        cut_file = tmp_path / f"cut{whole.suffix}"
        cut_file.write_bytes(data[:cut])
        (tmp_path / "weights").mkdir(exist_ok=True)
        with refused(tmp_path / "weights"):
            reader_of(cut_file)(cut_file)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pth", "legacy", "safetensors", "index", "zip"])
def test_a_flipped_bit_is_refused_or_harmless(tmp_path: Path, kind: str) -> None:
    """Random flips, most of them in what describes the tensors; only typed errors may come of it."""
    whole = damaged_source(tmp_path, kind)
    data, rng = whole.read_bytes(), random.Random(1)
    places = [*rng.sample(range(900), 40), *(rng.randrange(len(data)) for _ in range(10))]
    n_refused = 0
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.randrange(8)
        path = tmp_path / f"flipped{whole.suffix}"
        path.write_bytes(flipped)
        shutil.rmtree(tmp_path / "weights", ignore_errors=True)
        try:
            reader_of(path)(path)
        except RevoiceError:
            n_refused += 1
    assert n_refused > 5
