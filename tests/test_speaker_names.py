"""Speakers by name: stored in a voice of either file format, set by the tools, shown on the page."""

from pathlib import Path
from typing import Any

import pytest

from lib.errors import ConfigError
from lib.voice.model_file import VoiceModel, extract_voice_model, read_voice_model, speaker_names, write_voice_model
from lib.voice.safe_load import safe_load
from tests.tiny_voice import lite_synthesizer
from train.ckpt.tools import describe, edit, merge
from web.services import names_of_speakers


def voice(names: Any = None) -> VoiceModel:
    """A tiny voice with this entry for its speakers."""
    made = extract_voice_model(lite_synthesizer(), "lite", "1epoch", None)
    if names is not None:
        made.extra["speaker_names"] = names
    return made


@pytest.mark.parametrize(
    ("stored", "names"),
    [
        (None, {}),
        ({"0": "alice"}, {0: "alice"}),
        ({"1": "bob", "0": "alice"}, {0: "alice", 1: "bob"}),
        ({"99999": "nobody", "-1": "x", "two": "y", "0": 7, "1": ""}, {}),
        (["alice"], {}),
        ("alice", {}),
    ],
)
def test_only_names_that_make_sense_are_taken(stored: Any, names: dict[int, str]) -> None:
    assert speaker_names(voice(stored)) == names


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_names_given_by_edit_are_kept_in_the_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"two{suffix}"
    write_voice_model(path, edit(voice(), speakers="alice, , 声"))
    assert names_of_speakers("two", [tmp_path]) == {0: "alice", 2: "声"}
    assert describe(path)["speaker names"] == "0 alice, 2 声"
    again = edit(read_voice_model(path), info="other")
    assert speaker_names(again) == {0: "alice", 2: "声"}, "what is not named stays"
    assert "speaker_names" not in edit(again, speakers="").extra
    if suffix == ".pth":
        content = safe_load(path)
        assert content["speaker_names"] == {"0": "alice", "2": "声"}
        assert {"weight", "config", "info", "sr", "f0", "version"} <= set(content), "as other programs read it"


def test_too_many_names_are_refused() -> None:
    many = ",".join("abcdefgh" * 200)
    with pytest.raises(ConfigError, match="speakers, not 1600"):
        edit(voice(), speakers=many)


def test_a_blend_names_its_sources() -> None:
    both = merge(voice({"0": "alice", "1": "bob"}), voice({"0": "ada", "1": "bob", "2": "eve"}))
    assert speaker_names(both) == {0: "alice + ada", 1: "bob"}
    assert speaker_names(merge(voice(), voice({"0": "ada"}))) == {}
