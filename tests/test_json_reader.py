"""The reader of all JSON files: limits, typed errors, and what each kind of file accepts."""

import ast
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from infer.options import ConvertOptions
from lib import json_reader
from lib.config import read_config
from lib.errors import ConfigError, MissingFileError, RevoiceError
from lib.json_reader import MAX_DEPTH, parse_json, read_json, read_json_table
from lib.paths import CONFIGS
from lib.voice.library import RECORD, find_index
from tests.helpers import ROOT
from tests.work import lines_run, processor_limit
from train import record
from train.experiment import Experiment
from train.metrics import Events
from web.presets import Presets

BAD = {
    "": "not valid JSON", "{": "not valid JSON", '{"a": }': "not valid JSON", "\0": "not valid JSON",
    "[" * 100_000: "nested", "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1): "nested",
    '{"a":' * 100_000: "nested", "9" * 100_000: "out of range", "9223372036854775808": "out of range",
    "-1e999": "out of range", "NaN": "out of range", "[1, Infinity]": "out of range",
}  # fmt: skip


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:12])
def test_invalid_or_excessive_json_is_refused(text: str) -> None:
    for data in (text, text.encode()):
        with pytest.raises(ValueError, match=BAD[text]):
            parse_json(data)


def test_values_at_the_limits_are_read() -> None:
    deep = parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    for _ in range(MAX_DEPTH - 1):
        (deep,) = deep
    assert deep == []
    assert parse_json("[9223372036854775807, -9223372036854775808, 1e308, -0.0]") == [2**63 - 1, -(2**63), 1e308, 0]
    assert parse_json('\ufeff{"é": true}'.encode()) == {"é": True}  # as editors of Windows write it
    with pytest.raises(ValueError, match="larger than 3 bytes"):
        parse_json("1000", 3)


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "close"), [("[],", "1]"), ('{"a":1},', "1]"), ('"\\u0000",', "1]"), ("1e5,", "1]")])
def test_a_megabyte_of_json_takes_work_in_proportion(unit: str, close: str) -> None:
    texts = ["[" + unit * (size // len(unit)) + close for size in (10_000, 20_000)]
    small, large = (lines_run(json_reader, lambda text=text: parse_json(text)) for text in texts)  # type: ignore[misc]
    assert large <= 2 * small
    with processor_limit(60):
        parse_json("[" + unit * (1_000_000 // len(unit)) + close)


def test_files_that_cannot_be_read_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_json(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_json(tmp_path)
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"is not a JSON object. Delete or repair it\.$"):
        read_json_table(tmp_path / "list.json")
    with pytest.raises(ConfigError, match="larger than 1 bytes"):
        read_json(tmp_path / "list.json", 1)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems lack this file")
def test_a_failure_of_the_disk_does_not_lead_to_the_deletion_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to("/proc/self/mem")  # whose first page is nowhere: an input/output error
    with pytest.raises(ConfigError, match=r"a\.json cannot be read: Input/output error\. Check the disk"):
        read_json(tmp_path / "a.json")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_json(tmp_path / "pipe.json")


@pytest.mark.slow
def test_no_other_code_of_the_program_parses_json() -> None:
    """Texts of the page are part of the program, so web/i18n reads them without limits."""
    found = set()
    for package in ("lib", "infer", "train", "web"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and node.attr in ("loads", "load", "JSONDecoder"):
                    found |= {path.relative_to(ROOT).as_posix()} if getattr(node.value, "id", "") == "json" else set()
    assert {path for path in found if not path.startswith("web/i18n/")} == {"lib/json_reader.py"}


def read_record(folder: Path, text: str) -> Any:
    (folder / "revoice.json").write_text(text, encoding="utf-8")
    return record.read_record(folder / "revoice.json")


def read_configuration(folder: Path, text: str) -> Any:
    (folder / "config.json").write_text(text, encoding="utf-8")
    return read_config(folder / "config.json")


def read_preset(folder: Path, text: str) -> ConvertOptions:
    (folder / "mine.json").write_text(text, encoding="utf-8")
    return Presets(folder).load("mine")


READERS = {"record": read_record, "configuration": read_configuration, "preset": read_preset}
WRONG = {
    "record": ['{"fit": 5}', '{"index": {"file": "../../other.index"}}', '{"fit": {"batch_size": -1}}', '{"made": 1}'],
    "configuration": ['{"train": {}, "data": {}, "model": {}, "revoice": {"family": "v9"}}', "{}", "5"],
    "preset": ['{"spell": 1}', '{"index_rate": 7}', '{"device": []}', "[]"],
}


@pytest.mark.parametrize("kind", READERS)
def test_every_own_file_is_refused_with_a_typed_error(tmp_path: Path, kind: str) -> None:
    for number, text in enumerate([*BAD, *WRONG[kind]]):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(RevoiceError) as caught:
            READERS[kind](folder, text)
        assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


def test_shipped_and_written_files_are_read(tmp_path: Path) -> None:
    for path in sorted(CONFIGS.rglob("*.json")):
        assert read_config(path).to_json()
    presets = Presets(tmp_path)
    presets.save("mine", ConvertOptions(index_rate=0.5))
    assert presets.load("mine") == ConvertOptions(index_rate=0.5)
    experiment = Experiment("alice", tmp_path, tmp_path)
    experiment.update_record({"fit": {"made_from": "x", "checkpoints": [1], "batch_size": 4}})
    assert experiment.stage("fit")["checkpoints"] == [1] and experiment.stage("index") == {}


def test_damaged_lines_of_events_are_skipped(tmp_path: Path) -> None:
    events = Events(tmp_path / "events.jsonl")
    events.write("fit", 1, 9, losses={"loss/g/mel": 1.0})
    with events._path.open("ab") as file:
        file.write(b"[" * 70_000 + b"\n\xff\n5\n{}\n" + b'{"stage": "fit", "done": "many"}\n')
        file.write(b'{"stage": "fit", "done": 2, "losses": {"loss/g/mel": NaN}}\n')
    events.write("fit", 3, 9)
    events.write("prepare", 3, 9)
    assert [event["done"] for event in events.read("fit")] == [1, 3]


def test_a_damaged_record_hides_no_index(tmp_path: Path) -> None:
    folder = tmp_path / "alice"
    folder.mkdir()
    index = folder / "added_IVF1_Flat_nprobe_1_alice_v2.index"
    index.write_bytes(b"x")
    for text in BAD:
        (folder / RECORD).write_text(text)
        assert find_index(tmp_path / "alice.pth", "v2", [tmp_path]) == index


def test_numbers_that_json_does_not_have_are_read_where_this_program_writes_them() -> None:
    text = json.dumps([math.inf, -math.inf, 1.5])
    assert parse_json(text, allow_nan=True) == [math.inf, -math.inf, 1.5]
    with pytest.raises(ValueError, match="out of range"):
        parse_json(text)
