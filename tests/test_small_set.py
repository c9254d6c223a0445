"""The golden data in the repository: complete, small, made by its script; tests skip only for files it lacks."""

import json
import shutil
from pathlib import Path

import pytest

from tests.data.make_data import CHOSEN, LIMIT, damage, make
from tests.helpers import SMALL_SET, SmallSet


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_small_set_is_complete_and_small() -> None:
    rows = json.loads((SMALL_SET / "manifest.json").read_text(encoding="utf-8"))
    assert list(rows) == list(CHOSEN)
    assert set(files_in(SMALL_SET)) == {*CHOSEN, "manifest.json"}
    assert not [text for name, facts in rows.items() if (text := damage(SMALL_SET / name, facts))]
    tracked = [len(content) for name, content in files_in(SMALL_SET.parent).items() if "__pycache__" not in name]
    assert sum(tracked) <= LIMIT


def test_the_small_set_is_what_the_script_makes(tmp_path: Path) -> None:
    make(SMALL_SET, tmp_path / "made")
    assert files_in(tmp_path / "made") == files_in(SMALL_SET)


@pytest.mark.parametrize("change", ["one byte", "shorter", "missing"])
def test_data_that_differ_from_their_manifest_are_refused(tmp_path: Path, change: str) -> None:
    full, made = tmp_path / "full", tmp_path / "made"
    shutil.copytree(SMALL_SET, full)
    made.mkdir()
    (made / "before").touch()
    victim = full / "pipeline" / "highpass.safetensors"
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.unlink()
    if change != "missing":
        victim.write_bytes(content if change == "one byte" else content[:-1])
    with pytest.raises(SystemExit, match=r"highpass\.safetensors"):
        make(full, made)
    assert set(files_in(made)) == {"before"}


def test_only_what_the_small_set_does_not_hold_skips() -> None:
    small = SmallSet(SMALL_SET)
    assert (small / "pipeline" / "speech_16k.wav").read_bytes()[:4] == b"RIFF"
    for name in ("preprocess/recording.wav", "training"):
        with pytest.raises(pytest.skip.Exception, match="not in the small set; set GOLDEN_DIR"):
            small / name
