"""Voice models of every program, in both file formats, and training states whose optimiser fits by name."""

import json
import logging
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lib.config import FAMILIES, Family, SynthesizerConfig, load_family
from lib.errors import CheckpointError, MissingFileError
from lib.models.synthesizer import Synthesizer
from lib.voice.infer_config import config_list, derive_config, kind_of
from lib.voice.model_file import (
    ContentEncoderId,
    VoiceModel,
    load_synthesizer,
    read_voice_model,
    recommended_index_rate,
    write_voice_model,
)
from lib.voice.rvc_config import parse_config_list
from lib.voice.training_state import read_training_state
from lib.voice.weights import Weights, rvc_state_dict
from tests.helpers import golden_names
from tests.tiny_files import save_checkpoint, save_voice, small_voice, tiny_family, tiny_network

VOICES = golden_names("synth/small_*.pth")


def raw(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def same_weights(one: Weights, other: Weights) -> bool:
    return list(one) == list(other) and all(
        value.dtype == other[key].dtype and torch.equal(value, other[key]) for key, value in one.items()
    )


# --- reading and writing ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", VOICES)
def test_golden_voices_are_written_as_they_were_and_survive_safetensors(
    golden: Path, tmp_path: Path, name: str
) -> None:
    voice, want = read_voice_model(golden / name), raw(golden / name)
    assert (voice.family, voice.rate_name, voice.config.has_f0) == (want["version"], want["sr"], bool(want["f0"]))
    assert config_list(voice.config) == [
        *want["config"][:15],
        want["weight"]["emb_g.weight"].shape[0],
        *want["config"][16:],
    ]
    write_voice_model(tmp_path / "a.pth", voice)
    got = raw(tmp_path / "a.pth")
    assert list(got) == ["weight", "config", "info", "sr", "f0", "version"]
    assert same_weights(got["weight"], dict(want["weight"])) and got["info"] == want["info"]
    assert [type(got[key]) for key in got if key != "weight"] == [type(want[key]) for key in got if key != "weight"]
    write_voice_model(tmp_path / "b.safetensors", read_voice_model(tmp_path / "a.pth"))
    write_voice_model(tmp_path / "c.pth", read_voice_model(tmp_path / "b.safetensors"))
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "c.pth").read_bytes()


@pytest.mark.parametrize("name", VOICES)
def test_golden_voices_with_any_wrong_metadata_are_what_their_tensors_are(golden: Path, name: str) -> None:
    lists = json.loads((golden / "ckpt" / "ckpt.json").read_text())["config_lists_written_by_extraction"]
    voice = read_voice_model(golden / name)
    for declared in lists.values():
        if voice.config.has_f0 or len(voice.config.upsample_rates) == 4:
            got = derive_config(voice.weights, parse_config_list(declared, name), name)
            assert got.model_copy(update={"segment_frames": voice.config.segment_frames}) == voice.config


@pytest.mark.slow
@pytest.mark.parametrize("listing", ["v2_40k_f0", "v1_48k_nof0"])
def test_a_written_full_size_voice_has_exactly_the_tensors_of_the_spec(
    specification: Path, tmp_path: Path, listing: str
) -> None:
    spec = json.loads((specification / "state_dict" / f"{listing}.json").read_text())
    version, rate, f0 = listing.split("_")
    config = load_family(version, rate, has_f0=f0 == "f0").synthesizer  # type: ignore[arg-type]
    shapes = {key: value["shape"] for key, value in spec["tensors"].items() if not key.startswith("enc_q.")}
    voice = VoiceModel(version, config, {key: torch.ones(shape) for key, shape in shapes.items()})  # type: ignore[arg-type]
    write_voice_model(tmp_path / "voice.pth", voice)
    got = raw(tmp_path / "voice.pth")
    assert {key: list(value.shape) for key, value in got["weight"].items()} == shapes
    assert all(value.dtype == torch.float16 for value in got["weight"].values())
    assert got["config"] == spec["meta"]["small_model_config_list"]
    assert (got["sr"], got["f0"], got["version"]) == (rate, int(f0 == "f0"), version)
    assert read_voice_model(tmp_path / "voice.pth").family == version


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
SURROGATES = st.characters(exclude_categories=["Cs"])


@pytest.mark.slow
@settings(max_examples=6)
@given(
    family=st.sampled_from(["v1", "v2", "lite"]),
    has_f0=st.booleans(),
    info=st.text(SURROGATES),
    extra=st.dictionaries(st.text(SURROGATES, min_size=1), PLAIN, max_size=3),
    encoder=st.none() | st.builds(ContentEncoderId, st.text(SURROGATES), st.text("0123456789abcdef", max_size=64)),
)
def test_a_written_voice_is_read_in_both_formats(
    tmp_path_factory: pytest.TempPathFactory,
    family: Family,
    has_f0: bool,
    info: str,
    extra: dict[str, Any],
    encoder: ContentEncoderId | None,
) -> None:
    folder = tmp_path_factory.mktemp("voices")
    made = small_voice(family, FAMILIES[family][-1], has_f0=has_f0 or family == "lite")
    known = {"weight", "config", "info", "sr", "f0", "version", "content_encoder", "vocoder", "tensors"}
    extra = {key: value for key, value in extra.items() if key not in known}
    frames = 96 if family == "lite" else 32
    voice = VoiceModel(
        family, made.config.model_copy(update={"segment_frames": frames}), made.weights, info, encoder, extra
    )
    for name in ("v.pth", "v.safetensors"):
        write_voice_model(folder / name, voice)
        got = read_voice_model(folder / name)
        assert same_weights(got.weights, voice.weights)
        assert (got.family, got.config, got.info, got.content_encoder, got.extra) == (
            family, voice.config, info, encoder, extra,
        )  # fmt: skip


# --- files of other programs ------------------------------------------------------------------------------------------


def test_an_applio_voice_opens_and_keeps_its_entries(tmp_path: Path) -> None:
    content = save_voice(tmp_path / "a.pth", small_voice("v2", "48k"))
    del content["info"]
    content["config"][15] = 1
    more = {
        "epoch": 20, "step": 400, "creation_date": "2024-05-01T10:11:12.131415", "model_hash": "ab" * 32,
        "dataset_length": "00:10:00", "model_name": "anna", "author": None, "embedder_model": "contentvec",
        "speakers_id": 1, "vocoder": "HiFi-GAN",
    }  # fmt: skip
    torch.save(content | more | {"sr": 48000, "f0": True}, tmp_path / "b.pth")
    voice = read_voice_model(tmp_path / "b.pth")
    assert voice.extra == more and voice.config.sample_rate == 48000 and voice.config.n_speakers == 3
    assert load_synthesizer(voice).config.has_f0


def test_wrong_metadata_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = save_voice(tmp_path / "a.pth", small_voice("v2", "40k"))
    torch.save(content | {"version": "v1", "f0": 0, "sr": "32k", "odd": {1, 2}}, tmp_path / "b.pth")
    with caplog.at_level(logging.WARNING):
        voice = read_voice_model(tmp_path / "b.pth")
    assert (voice.family, voice.config.has_f0, voice.rate_name, voice.extra) == ("v2", True, "40k", {})
    for text in ("declares the version v1", "declares f0=0", "declares sr=32k", "'odd' is not a plain value"):
        assert text in caplog.text


@pytest.mark.parametrize(
    ("family", "rate", "stored", "recommended"),
    [
        ("v2", "40k", None, 0.75), ("lite", "24k", None, 0.0), ("v2", "40k", 0.3, 0.3), ("lite", "24k", 0.2, 0.2),
        ("v2", "40k", 1.5, 0.75), ("v2", "40k", "0.3", 0.75), ("lite", "24k", True, 0.0),
        ("v1", "40k", float("nan"), 0.75),
    ],
)  # fmt: skip
def test_a_voice_recommends_an_index_rate(family: Family, rate: str, stored: Any, recommended: float) -> None:
    extra = {} if stored is None else {"index_rate": stored}
    assert recommended_index_rate(replace(small_voice(family, rate), extra=extra)) == recommended


@pytest.mark.parametrize("rate", ["32k", "48k"])
def test_v1_without_f0_is_identified_by_its_posterior_or_metadata(rate: str) -> None:
    network = tiny_network(tiny_family("v1", rate, has_f0=False).synthesizer, posterior=True)
    weights = rvc_state_dict(network)
    assert kind_of(weights, "G.pth") == ("v1", int(rate[:2]) * 1000, False)
    voice = {key: value for key, value in weights.items() if not key.startswith("enc_q.")}
    found = derive_config(voice, {"sample_rate": int(rate[:2]) * 1000}, "a.pth")
    assert isinstance(found, SynthesizerConfig) and isinstance(network, Synthesizer)
    assert found.upsample_rates == network.config.upsample_rates
    with pytest.raises(CheckpointError, match=r"a\.pth could be any of 32k / 48k.*--sample-rate"):
        derive_config(voice, {}, "a.pth")


# --- what cannot be used ----------------------------------------------------------------------------------------------


class Bomb:
    """Unpickled with a plain unpickler this makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.slow
@pytest.mark.parametrize("modern", [True, False])
def test_a_voice_with_code_in_it_is_refused_and_nothing_runs(tmp_path: Path, modern: bool) -> None:
    content = save_voice(tmp_path / "a.pth", small_voice())
    content["info"] = Bomb(tmp_path / "ran")
    torch.save(content, tmp_path / "b.pth", _use_new_zipfile_serialization=modern)
    with pytest.raises(CheckpointError, match="could run code"):
        read_voice_model(tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="could run code"):
        read_training_state(tmp_path / "b.pth")
    (tmp_path / "c.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "ran"), protocol=2))
    with pytest.raises(CheckpointError):
        read_voice_model(tmp_path / "c.pth")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "b.pth", weights_only=False)  # the file is as dangerous as this test thinks
    assert (tmp_path / "ran").exists()


def nan(content: dict[str, Any]) -> None:
    content["weight"]["enc_p.proj.bias"][0] = torch.nan


def wrong_shape(content: dict[str, Any]) -> None:
    content["weight"]["enc_p.proj.bias"] = torch.zeros(3)


def missing(content: dict[str, Any]) -> None:
    del content["weight"]["enc_p.emb_phone.weight"]


def foreign(content: dict[str, Any]) -> None:
    content["weight"]["dec.filter.weight"] = torch.zeros(3)


def posing(content: dict[str, Any]) -> None:
    content["weight"]["emb_g.weight"] = torch.zeros(1).expand(100_000_000, 100)


def whole_numbers(content: dict[str, Any]) -> None:
    content["weight"]["emb_g.weight"] = torch.zeros(3, 5, dtype=torch.int32)


def sparse(content: dict[str, Any]) -> None:
    with torch.sparse.check_sparse_tensor_invariants(True):  # type: ignore[no-untyped-call]
        content["weight"]["emb_g.weight"] = torch.eye(3).to_sparse()


def short_list(content: dict[str, Any]) -> None:
    content["config"] = content["config"][:12]


def other_decoder(content: dict[str, Any]) -> None:
    content["weight"] = {key: value for key, value in content["weight"].items() if not key.startswith("dec.")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (nan, "not finite"), (wrong_shape, r"different shape: 1, such as enc_p\.proj\.bias"), (posing, "a larger size"),
        (missing, r"lacks the tensor 'enc_p\.emb_phone\.weight'"),
        (foreign, r"unexpected tensors: 1, such as dec\.filter"),
        (whole_numbers, "not a real-valued tensor"), (sparse, "not a real-valued tensor|could run code"),
        (short_list, "not the usual list"), (other_decoder, "lacks the tensor|another kind"),
        (lambda c: c.update(vocoder="MRF HiFi-GAN"), "made for the vocoder 'MRF HiFi-GAN'"),
        (lambda c: c.update(vocoder="RefineGAN"), "made for the vocoder 'RefineGAN'"),
        (lambda c: c.update(version="voras_beta"), "VoRAS beta"),
        (lambda c: c.update(version="v9"), "declares the version 'v9'"),
        (lambda c: c.update(weight=[1, 2]), "no state dict"),
    ],
)  # fmt: skip
def test_voices_that_cannot_work_are_refused_by_name(tmp_path: Path, change: Any, pattern: str) -> None:
    content = save_voice(tmp_path / "a.pth", small_voice())
    change(content)
    torch.save(content, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=pattern) as caught:
        read_voice_model(tmp_path / "b.pth")
    assert str(tmp_path / "b.pth") in str(caught.value)


@pytest.mark.slow
def test_training_checkpoints_are_refused_with_the_remedy(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "G_100.pth", tiny_family("v2", "40k").synthesizer)
    with pytest.raises(
        CheckpointError, match=r"training checkpoint.*Extract a voice from it: python -m train ckpt extract"
    ):
        read_voice_model(tmp_path / "G_100.pth")
    torch.save(raw(tmp_path / "G_100.pth")["model"], tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="Extract a voice from it"):
        read_voice_model(tmp_path / "bare.pth")
    torch.save({"model": {"discriminators.0.convs.0.bias": torch.zeros(3)}}, tmp_path / "D_100.pth")
    with pytest.raises(CheckpointError, match="of a discriminator"):
        read_voice_model(tmp_path / "D_100.pth")
    torch.save({"something": 1}, tmp_path / "else.pth")
    with pytest.raises(CheckpointError, match="lacks the entries"):
        read_voice_model(tmp_path / "else.pth")
    with pytest.raises(MissingFileError, match="nowhere"):
        read_voice_model(tmp_path / "nowhere.pth")
    save_voice(tmp_path / "voice.pth", small_voice())
    with pytest.raises(CheckpointError, match="finished voice, not a training checkpoint"):
        read_training_state(tmp_path / "voice.pth")


@pytest.mark.slow
def test_damaged_files_are_refused(tmp_path: Path) -> None:
    save_voice(tmp_path / "a.pth", small_voice())
    write_voice_model(tmp_path / "a.safetensors", small_voice())
    for name in ("a.pth", "a.safetensors"):
        data = (tmp_path / name).read_bytes()
        for cut in (0, 1, 9, 1000, len(data) // 2, len(data) - 30):
            (tmp_path / f"cut{name}").write_bytes(data[:cut])
            with pytest.raises(CheckpointError):
                read_voice_model(tmp_path / f"cut{name}")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(300 << 20))
    with pytest.raises(CheckpointError, match="decompression bomb"):
        read_voice_model(tmp_path / "bomb.pth")
    (tmp_path / "header.safetensors").write_bytes((10 << 30).to_bytes(8, "little") + b"{" + bytes(1000))
    with pytest.raises(CheckpointError, match="damaged or not"):
        read_voice_model(tmp_path / "header.safetensors")


@pytest.mark.parametrize("metadata", [None, {}, {"revoice": "{"}, {"revoice": "[" * 100_000}, {"revoice": "[1]"}])
def test_safetensors_without_a_voices_metadata_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file(small_voice().weights, tmp_path / "a.safetensors", metadata)
    with pytest.raises(CheckpointError, match="metadata"):
        read_voice_model(tmp_path / "a.safetensors")


def test_a_voice_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    voice = small_voice()
    write_voice_model(tmp_path / "a.pth", voice)
    before = (tmp_path / "a.pth").read_bytes()
    huge = voice.weights | {"enc_p.proj.bias": torch.full((8,), 1e6)}
    with pytest.raises(CheckpointError, match="not finite"):
        write_voice_model(tmp_path / "a.pth", VoiceModel("v2", voice.config, huge))
    assert (tmp_path / "a.pth").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
