"""HuBERT weights: places, formats, the cache of converted ones, and refusals."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lib.content import hubert, load_content_encoder
from lib.content.hubert import build, load
from lib.content.hubert_weights import assemble, read_directory
from lib.errors import CheckpointError, ConfigError, MissingFileError
from tests.tiny_hubert import TINY, fairseq_content, tensors_of, write_folder
from tests.tiny_voice import voice_like

CPU = torch.device("cpu")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of pretrained/ and of the project's root."""
    monkeypatch.setattr(hubert, "PRETRAINED", tmp_path / "pretrained")
    monkeypatch.setattr(hubert, "ROOT", tmp_path)
    (tmp_path / "pretrained").mkdir()
    return tmp_path / "pretrained"


@pytest.mark.parametrize("family", ["v1", "v2"])
def test_missing_encoder_names_file_folder_and_command(places: Path, family: str) -> None:
    with pytest.raises(MissingFileError, match=r"hubert_base.*python -m lib\.assets download hubert_base") as raised:
        load_content_encoder(family, CPU)
    assert str(raised.value.path) == str(places / "hubert_base")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_folder_is_read_in_either_format(places: Path, file: str) -> None:
    tensors = tensors_of(TINY)
    write_folder(places / "spin", tensors, file)
    encoder = load_content_encoder("v1", CPU, "spin")
    assert (encoder.name, encoder.width) == ("spin", 6)
    wanted = build(assemble(tensors, Path("x"), heads=4), "v1", CPU, "x", Path("x"))
    np.testing.assert_array_equal(encoder(voice_like(0.25)), wanted(voice_like(0.25)))
    assert encoder.sha256 == wanted.sha256


def test_other_spellings_and_heads_of_pre_training_are_accepted(places: Path) -> None:
    tensors = tensors_of(TINY)
    old = {
        "hubert."
        + key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for key, value in tensors.items()
    }
    old |= {"hubert.masked_spec_embed": torch.zeros(16), "lm_head.weight": torch.zeros(3, 16)}
    write_folder(places / "old", old, "pytorch_model.bin")
    assert read_directory(places / "old").tensors.keys() == tensors.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    "place", ["pretrained/hubert_base.pt", "hubert_base.pt", "assets/hubert/hubert_base.pt", "pretrained/contentvec.pt"]
)
def test_fairseq_file_is_found_converted_once_and_cached(
    places: Path, place: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = places.parent / place
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(fairseq_content(tensors_of(TINY)), path)
    with caplog.at_level(logging.WARNING):
        first = load("v1", CPU, "hubert_base")
    assert first.name == "contentvec"
    assert "is not the hubert_base.pt that published voices were trained on" in caplog.text
    cached = list((places / "cache").iterdir())
    assert [file.suffix for file in cached] == [".safetensors"]
    monkeypatch.setattr(hubert, "read_fairseq", None)  # the second time only the cache is read
    second = load("v1", CPU)
    assert second.sha256 == first.sha256
    np.testing.assert_array_equal(second(voice_like(0.25)), first(voice_like(0.25)))


@pytest.mark.slow
def test_damaged_cache_is_rebuilt(places: Path) -> None:
    torch.save(fairseq_content(tensors_of(TINY)), places / "hubert_base.pt")
    first = load("v2", CPU)
    (cached,) = (places / "cache").iterdir()
    cached.write_bytes(cached.read_bytes()[:500])
    assert load("v2", CPU).sha256 == first.sha256
    assert load_file(cached)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_costs_only_the_cache(places: Path) -> None:
    torch.save(fairseq_content(tensors_of(TINY)), places / "hubert_base.pt")
    places.chmod(0o500)
    try:
        assert load("v1", CPU).width == 6
    finally:
        places.chmod(0o700)


def test_missing_named_encoder_says_what_to_put_where(places: Path) -> None:
    with pytest.raises(MissingFileError, match=r"'spin'.*Hugging Face folder"):
        load_content_encoder("v2", CPU, "spin")
    with pytest.raises(ConfigError, match="cannot be used as a content encoder name"):
        load_content_encoder("v2", CPU, "../../etc")


@pytest.mark.parametrize("keep", [0, 5, 3000, -2000])
def test_damaged_files_are_refused(places: Path, keep: int) -> None:
    path = places / "hubert_base.pt"
    torch.save({"model": tensors_of(TINY)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError):
        load("v1", CPU)
    assert not (places / "cache").exists()


CONVS = "conv_feature_layers"
BREAKAGES: dict[str, Callable[[dict[str, Any]], object]] = {  # what is done to the model or its settings
    "no model": lambda content: content.pop("model"),
    "no tensors": lambda content: content.update(model={"a": 1}),
    "foreign": lambda content: content["model"].update({"encoder.layers.0.adapter.weight": torch.zeros(3)}),
    "missing": lambda content: content["model"].pop("encoder.layers.3.fc1.bias"),
    "misshapen": lambda content: content["model"].update({"encoder.layers.3.fc1.bias": torch.zeros(3)}),
    "flat": lambda content: content["model"].update({"encoder.pos_conv.0.weight_v": torch.zeros(3)}),
    "nan": lambda content: content["model"].update({"post_extract_proj.bias": torch.full((16,), float("nan"))}),
    "heads": lambda content: content["cfg"]["model"].update(encoder_attention_heads=5),
    "no heads": lambda content: content.pop("cfg"),
    "frames": lambda content: content["cfg"]["model"].update({CONVS: "[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 3"}),
    "many": lambda content: content["cfg"]["model"].update({CONVS: "[(8,10,5)] * 999999999"}),
    "code": lambda content: content["cfg"]["model"].update({CONVS: "__import__('os').system('true')"}),
    "shallow": lambda content: [
        content["model"].pop(name)
        for name in list(content["model"])
        if name.startswith("encoder.layers.") and int(name.split(".")[2]) >= 8
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BREAKAGES)
def test_other_models_are_refused_as_encoders(places: Path, kind: str) -> None:
    content = fairseq_content(tensors_of(TINY))
    BREAKAGES[kind](content)
    torch.save(content, places / "hubert_base.pt")
    with pytest.raises(CheckpointError, match=r"hubert_base\.pt"):
        load("v1", CPU)


@pytest.mark.parametrize(
    "config",
    [{"model_type": "wavlm"}, {"hidden_act": "relu"}, {"num_attention_heads": "many"}, {"conv_stride": [5, 2]},
     {"num_attention_heads": float("inf")}, {"conv_stride": None}],
)  # fmt: skip
def test_unusable_folders_are_refused(places: Path, config: dict[str, Any]) -> None:
    write_folder(places / "spin", tensors_of(TINY), **config)
    with pytest.raises(CheckpointError, match="spin"):
        load("v2", CPU, "spin")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_broken_configurations_are_refused(places: Path, text: str) -> None:
    write_folder(places / "spin", tensors_of(TINY))
    (places / "spin" / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load("v2", CPU, "spin")


def test_folder_without_weights_says_so(places: Path) -> None:
    write_folder(places / "spin", tensors_of(TINY))
    (places / "spin" / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"model\.safetensors"):
        load("v2", CPU, "spin")


@pytest.mark.slow
def test_v1_needs_the_projection_and_v2_does_not(places: Path) -> None:
    tensors = {key: value for key, value in tensors_of(TINY).items() if not key.startswith("final_proj")}
    write_folder(places / "spin", tensors)
    assert load("v2", CPU, "spin").width == 16
    with pytest.raises(CheckpointError, match="final_proj"):
        load("v1", CPU, "spin")
