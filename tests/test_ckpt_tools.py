"""Describe, extract, merge, edit and convert; base models; and all of it from the command line."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lib.errors import CheckpointError, ConfigError
from lib.voice import edit_file, library
from lib.voice.infer_config import config_list
from lib.voice.model_file import (
    MAX_TEXT,
    METADATA,
    ContentEncoderId,
    VoiceModel,
    load_synthesizer,
    read_voice_model,
    write_voice_model,
)
from lib.voice.safe_load import read_safetensors
from lib.voice.training_state import read_training_state
from tests.tiny_files import save_checkpoint, save_voice, small_voice, tiny_family
from train import __main__ as cli
from train.ckpt import tools as checkpoint_tools
from train.ckpt.tools import convert, describe, edit, extract, merge, new_voice


def raw(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


# --- against the reference --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_golden_merge(golden: Path, tmp_path: Path) -> None:
    alpha = float(re.search(r"with alpha ([0-9.]+)", (golden / "README.md").read_text())[1])  # type: ignore[index]
    want = raw(golden / "ckpt" / "merged.pth")
    first, second = (
        read_voice_model(golden / name) for name in ("synth/small_v2_40k_f0.pth", "ckpt/extracted_info.pth")
    )
    write_voice_model(tmp_path / "merged.pth", merge(first, second, alpha, want["info"]))
    got = raw(tmp_path / "merged.pth")
    assert got["weight"].keys() == want["weight"].keys()
    for key, value in want["weight"].items():
        places = (got["weight"][key].view(torch.int16).int() - value.view(torch.int16).int()).abs()
        assert int(places.max()) <= 1, key
    assert {key: got[key] for key in ("info", "sr", "f0", "version")} == {
        key: want[key] for key in ("info", "sr", "f0", "version")
    }
    # The reference copies the first voice's config; ours states the true number of rows of the speaker table.
    assert got["config"][15] == want["weight"]["emb_g.weight"].shape[0]
    assert got["config"][:15] + got["config"][16:] == want["config"][:15] + want["config"][16:]


@pytest.mark.slow
def test_golden_extract(golden: Path, tmp_path: Path) -> None:
    want = raw(golden / "ckpt" / "extracted_info.pth")
    source = golden / "synth" / "G_v2_40k_f0.pth"
    write_voice_model(tmp_path / "extracted.pth", extract(source, want["info"]))
    got = raw(tmp_path / "extracted.pth")
    assert list(got["weight"]) == list(want["weight"])
    assert all(torch.equal(got["weight"][key], value) for key, value in want["weight"].items())
    assert {key: got[key] for key in ("info", "sr", "f0", "version")} == {
        key: want[key] for key in ("info", "sr", "f0", "version")
    }
    # The reference writes the full-size config of the rate chosen in a form; ours describes these narrow tensors.
    small = raw(golden / "synth" / "small_v2_40k_f0.pth")["config"]
    rows = want["weight"]["emb_g.weight"].shape[0]
    assert want["config"][2] == 192 and got["config"] == [*small[:15], rows, *small[16:]]
    assert config_list(read_voice_model(golden / "ckpt" / "extracted_info.pth").config) == got["config"]
    assert got["epoch"] == read_training_state(source).epoch


@pytest.mark.slow
def test_golden_change_of_info(golden: Path, tmp_path: Path) -> None:
    want = json.loads((golden / "ckpt" / "ckpt.json").read_text())["change_info_result"]
    before = read_voice_model(golden / "ckpt" / "merged.pth")
    write_voice_model(tmp_path / "changed.pth", edit(before, want["info"]))
    got = raw(tmp_path / "changed.pth")
    assert all(torch.equal(got["weight"][key], value) for key, value in before.weights.items())
    want["config"][15] = before.config.n_speakers  # again the reference states the first voice's number
    assert {key: got[key] for key in want} == want


# --- merge ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=20)
@given(alpha=st.floats(0, 1), seed=st.integers(0, 3))
def test_merging_a_voice_with_itself_changes_nothing(alpha: float, seed: int) -> None:
    voice = small_voice("v2", "40k", seed=seed)
    merged = merge(voice, voice, alpha)
    assert merged.config == voice.config
    assert all(torch.equal(merged.weights[key], value) for key, value in voice.weights.items())


@pytest.mark.slow
def test_the_ends_of_a_merge_are_the_voices_and_speakers_are_cut() -> None:
    first, second = small_voice(seed=1), small_voice(seed=2, n_speakers=2)
    only_second = merge(first, second, 0.0)
    assert all(torch.equal(only_second.weights[key], value) for key, value in second.weights.items())
    assert merge(first, second, 0.5).config.n_speakers == 2
    assert load_synthesizer(merge(second, first, 0.5)).emb_g.weight.shape[0] == 2


def with_encoder(name: str, sha256: str = "") -> VoiceModel:
    voice = small_voice()
    return VoiceModel(voice.family, voice.config, voice.weights, "", ContentEncoderId(name, sha256), {"author": "me"})


@pytest.mark.parametrize(
    ("first", "second", "differs"),
    [
        (small_voice("v1"), small_voice("v2"), "family differs (v1 and v2)"),
        (small_voice("v2", "32k"), small_voice("v2", "48k"), "sample rate differs (32000 and 48000)"),
        (small_voice(has_f0=False), small_voice(), "use of F0 differs"),
        (small_voice(gin_channels=4), small_voice(), "gin channels differs (4 and 5)"),
        (small_voice(n_layers=2), small_voice(), "n layers differs"),
        (with_encoder("spin"), with_encoder("contentvec"), "content encoder differs (spin and contentvec)"),
        (with_encoder("spin", "aa"), with_encoder("spin", "bb"), "version of the content encoder differs (aa and bb)"),
    ],
)
def test_voices_of_different_kinds_are_not_merged(first: VoiceModel, second: VoiceModel, differs: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(differs)):
        merge(first, second)


def test_entries_that_both_voices_share_are_kept() -> None:
    merged = merge(with_encoder("spin", "aa"), with_encoder("spin"))
    assert merged.content_encoder == ContentEncoderId("spin", "aa") and merged.extra == {"author": "me"}
    assert merged.info == "Merged: 0.5 of the first voice, 0.5 of the second."
    with pytest.raises(ConfigError, match=r"cannot be 1\.5"):
        merge(small_voice(), small_voice(), 1.5)


# --- extract, describe, edit, convert ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "rate", "has_f0"),
    [("v1", "32k", False), ("v1", "48k", True), ("v2", "32k", True), ("lite", "24k", True)],
)
def test_extraction_needs_no_form(tmp_path: Path, family: Any, rate: str, has_f0: bool) -> None:
    network = save_checkpoint(tmp_path / "G_9.pth", tiny_family(family, rate, has_f0=has_f0).synthesizer)
    voice = extract(tmp_path / "G_9.pth")
    assert (voice.family, voice.rate_name, voice.config.has_f0) == (family, rate, has_f0)
    assert voice.info == "Extracted model." and voice.extra == {"epoch": 3}
    same = {"segment_frames": voice.config.segment_frames}
    assert voice.config == network.config.model_copy(update=same)
    facts = describe(tmp_path / "G_9.pth")
    assert facts["kind"] == "training checkpoint of a generator" and facts["version"] == family
    with pytest.raises(CheckpointError, match=r"not (a )?40000 Hz"):
        extract(tmp_path / "G_9.pth", sample_rate=40_000)


def test_of_an_averaged_training_the_average_is_extracted(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "G_9.pth", tiny_family("lite", "24k").synthesizer)
    last = extract(tmp_path / "G_9.pth")
    content = raw(tmp_path / "G_9.pth")
    torch.save(content | {"average": {key: 2 * value for key, value in content["model"].items()}}, tmp_path / "G_9.pth")
    for key, value in extract(tmp_path / "G_9.pth").weights.items():
        torch.testing.assert_close(value, 2 * last.weights[key], atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_bare_tensors_are_extracted_where_the_rate_is_known(tmp_path: Path) -> None:
    voice = small_voice("v1", "48k", has_f0=False)
    torch.save(voice.weights, tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="32k / 48k"):
        extract(tmp_path / "bare.pth")
    assert extract(tmp_path / "bare.pth", sample_rate=48_000).config.hop_length == voice.config.hop_length == 480


def test_files_without_a_generator_are_not_extracted(tmp_path: Path) -> None:
    save_voice(tmp_path / "voice.pth", small_voice())
    torch.save({"model": {"discriminators.0.convs.0.bias": torch.zeros(3)}}, tmp_path / "D_1.pth")
    torch.save({"model": {"x": torch.zeros(3)}}, tmp_path / "other.pth")
    torch.save([1], tmp_path / "list.pth")
    for name, pattern in (
        ("voice", "finished voice"), ("D_1", "a discriminator"), ("other", "lacks the tensor"),
        ("list", "no state dict"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=pattern):
            extract(tmp_path / f"{name}.pth")


def test_editing_keeps_what_is_not_named_and_empty_removes() -> None:
    voice = edit(with_encoder("spin"), "new", licence="CC0")
    assert (voice.info, voice.extra) == ("new", {"author": "me", "licence": "CC0"})
    voice = edit(voice, author="")
    assert (voice.info, voice.extra) == ("new", {"licence": "CC0"})


@pytest.mark.slow
def test_converting_there_and_back_is_the_same_file(tmp_path: Path) -> None:
    write_voice_model(tmp_path / "a.pth", with_encoder("spin", "aa"))
    assert convert(tmp_path / "a.pth") == tmp_path / "a.safetensors"
    assert convert(tmp_path / "a.safetensors", tmp_path / "b.pth") == tmp_path / "b.pth"
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
    with pytest.raises(ConfigError, match="exists"):
        convert(tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="no suffix of a voice model"):
        convert(tmp_path / "a.pth", tmp_path / "a.onnx")


def test_new_voices_replace_nothing_by_themselves(tmp_path: Path) -> None:
    write_voice_model(tmp_path / "anna.safetensors", small_voice())
    with pytest.raises(ConfigError, match=r"anna\.safetensors exists"):
        new_voice("anna", weights=tmp_path)
    assert new_voice("anna", overwrite=True, weights=tmp_path) == tmp_path / "anna.pth"
    with pytest.raises(ConfigError, match="cannot be used as a voice name"):
        new_voice("../anna", weights=tmp_path)


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Voices of these tests are found and made in the test's folder."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(library.list_voices, "__defaults__", ((folder,),))
    monkeypatch.setattr(library.find_voice, "__defaults__", ((folder,),))
    defaults = {"overwrite": False, "suffix": ".pth", "weights": folder}
    monkeypatch.setattr(checkpoint_tools.new_voice, "__kwdefaults__", defaults)
    return folder


def run(*words: str | Path) -> int:
    try:
        return cli.main(["ckpt", *map(str, words)])
    except SystemExit as leaving:
        return int(leaving.code or 0)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_editing_a_file_keeps_precision_and_foreign_entries(
    weights: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = save_voice(weights / "anna.pth", small_voice())
    content["weight"] = {name: value.float() + 1e-5 for name, value in content["weight"].items()}
    content["weight"]["enc_q.pre.bias"] = torch.ones(3)
    content |= {"info": "x" * 5000, "author": "somebody", "theirs": {"a": [1.5, None]}}
    if suffix == ".pth":
        content["table"] = torch.arange(3)
        torch.save(content, weights / "anna.pth")
    else:
        (weights / "anna.pth").unlink()
        facts = {key: value for key, value in content.items() if key != "weight"} | {"tensors": list(content["weight"])}
        save_file(content["weight"], weights / "anna.safetensors", {METADATA: json.dumps(facts), "format": "pt"})
    path = weights / f"anna{suffix}"
    before = path.read_bytes()
    monkeypatch.setattr(edit_file, "_read_back", lambda path: None)
    assert run("edit", "anna", "--author", "me") == 1 and path.read_bytes() == before
    monkeypatch.undo()
    edit_file.edit_voice_file(path, path, {"author": "me", "theirs": None})
    if suffix == ".pth":
        got = raw(path)
        assert torch.equal(got.pop("table"), torch.arange(3))
        tensors = got["weight"]
    else:
        tensors, metadata = read_safetensors(path)
        got = json.loads(metadata[METADATA])
        assert metadata["format"] == "pt"
    assert got["author"] == "me" and got["info"] == "x" * 5000 and "theirs" not in got
    assert list(tensors if suffix == ".pth" else got["tensors"]) == list(content["weight"])
    for name, value in content["weight"].items():
        assert tensors[name].dtype == torch.float32 and torch.equal(tensors[name], value)
    assert read_voice_model(path).info == "x" * MAX_TEXT  # readers take a part


@pytest.mark.slow
def test_a_shipped_voice_is_edited_as_a_copy(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = tmp_path / "shipped" / "demo.pth"
    shipped.parent.mkdir()
    save_voice(shipped, small_voice())
    before = shipped.read_bytes()
    monkeypatch.setattr(checkpoint_tools, "PRETRAINED", shipped.parent)
    monkeypatch.setattr(library.find_voice, "__defaults__", ([weights, shipped.parent],))
    for author in ("me", "you"):
        assert run("edit", "demo", "--author", author) == 0
        assert f"wrote {weights / 'demo.pth'}" in capsys.readouterr().out
        assert read_voice_model(weights / "demo.pth").extra["author"] == author and shipped.read_bytes() == before


@pytest.mark.slow
def test_texts_that_no_reader_accepts_are_not_written(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_voice(weights / "anna.pth", small_voice())
    before = (weights / "anna.pth").read_bytes()
    long = "x" * (MAX_TEXT + 1)
    for words in (
        ("edit", "anna", "--info", long), ("edit", "anna", "--author", long),
        ("edit", "anna", "--speakers", "a," + long), ("merge", "anna", "anna", "--name", "both", "--info", long),
    ):  # fmt: skip
        assert run(*words) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert "is too long (2001 characters; " in lines[-1] and len(lines[-1]) < 200
    assert (weights / "anna.pth").read_bytes() == before and len(list(weights.iterdir())) == 1


@pytest.mark.slow
def test_the_tools_from_the_command_line(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = tmp_path / "logs" / "anna 声"
    logs.mkdir(parents=True)
    save_checkpoint(logs / "G_5.pth", tiny_family("v2", "40k").synthesizer)
    shutil.copy(logs / "G_5.pth", logs / "D_5.pth")
    assert run("extract", logs) == 0
    assert "v2 at 40k with F0, 3 speakers" in capsys.readouterr().out
    assert run("merge", "anna 声", "anna 声", "--alpha", "0.25", "--name", "both") == 0
    assert run("edit", "both", "--author", "me", "--licence", "CC0") == 0
    assert run("convert", "both") == 0
    assert run("info", weights / "both.safetensors") == 0
    output = capsys.readouterr().out
    for line in (
        "info: Merged: 0.25 of anna 声, 0.75 of anna 声.",
        "sample rate: 40000 Hz",
        "pitch: yes",
        "version: v2",
    ):
        assert line in output
    assert "author: me" in output and sorted(path.name for path in weights.iterdir()) == [
        "anna 声.pth", "both.pth", "both.safetensors",
    ]  # fmt: skip


@pytest.mark.slow
def test_mistakes_are_one_sentence(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_voice(weights / "anna.pth", small_voice())
    save_voice(weights / "bob.pth", small_voice("v1", "32k"))
    for words, pattern in (
        (("merge", "anna", "bob", "--name", "x"), "cannot be merged"),
        (("merge", "anna", "anna", "--name", "bob"), "exists"),
        (("merge", "anna", "anna", "--name", "x", "--alpha", "2"), "--alpha cannot be 2"),
        (("info", "carl"), "no voice 'carl'"), (("edit", "anna"), "Nothing to change"), ((), "Expected one of"),
        (("extract", weights / "anna.pth", "--name", "x"), "finished voice"),
        (("extract", weights, "--name", "x"), "contains no pair"), (("import", tmp_path / "no.zip"), "no.zip"),
    ):  # fmt: skip
        assert run(*words) in (1, 2)
        output = capsys.readouterr().err.strip()
        assert pattern in output and "Traceback" not in output and len(output.splitlines()) == 1, output
    assert sorted(path.name for path in weights.iterdir()) == ["anna.pth", "bob.pth"]
