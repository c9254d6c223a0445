"""The HuBERT content encoder: frame counts, the network against others, and v1 and v2 voices."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from infer.load import load_converter, recorded_encoder
from infer.options import ConvertOptions
from lib.config import DiscriminatorConfig, Family, FamilyConfig, load_family
from lib.content import find_content_encoder, hubert, load_content_encoder
from lib.content.fairseq_reader import hugging_face_name
from lib.content.hubert import HubertContentEncoder, build
from lib.content.hubert_weights import HubertWeights, assemble
from lib.errors import AudioError, CheckpointError, ConfigError, MissingFileError
from lib.models import hubert as hubert_network
from lib.models.hubert import Hubert
from lib.voice.model_file import ContentEncoderId, VoiceModel, read_voice_model
from tests.helpers import closed_form, error, tiny_config
from tests.tiny_hubert import TINY, fairseq_content, tensors_of, write_folder
from train.experiment import Experiment
from train.extract import extract
from train.index import index_stage
from train.loop import fit
from train.options import ExtractOptions, FitOptions, IndexOptions, PrepareOptions
from train.preprocess import prepare_stage

CPU = torch.device("cpu")
Floats = npt.NDArray[np.float32]


def noise(samples: int, seed: int = 0) -> Floats:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="module")
def small() -> HubertContentEncoder:
    return build(assemble(tensors_of(TINY), Path("tiny"), heads=4), "v1", CPU, "tiny", Path("tiny"))


@pytest.mark.slow
@given(samples=st.integers(0, 4000))
@settings(max_examples=40)
def test_every_length_gives_the_promised_frames(small: HubertContentEncoder, samples: int) -> None:
    content = small(noise(samples))
    assert content.shape == (max((samples - 80) // 320, 0), 6)
    assert content.dtype == np.float32
    assert np.isfinite(content).all()


@pytest.mark.parametrize("other_kind", [False, True])
@pytest.mark.parametrize("family", ["v1", "v2"])
def test_clips_in_a_batch_equal_single_clips(family: Family, other_kind: bool) -> None:
    shape = replace(TINY, pre_norm=other_kind, norm_every_conv=other_kind)
    encoder = build(HubertWeights(shape, tensors_of(shape)), family, CPU, "tiny", Path("tiny"))
    clips = [noise(samples, seed) for seed, samples in enumerate((9000, 399, 16000, 9000, 0, 401, 12345))]
    for clip, content in zip(clips, encoder.batch(clips), strict=True):
        alone = encoder(clip)
        assert content.shape == alone.shape and content.dtype == np.float32
        assert not len(alone) or error(content, alone) < 1e-5
    equal = encoder.batch(clips[:1] * 3)
    assert all(error(content, encoder(clips[0])) < 1e-5 for content in equal) and encoder.batch([]) == []


@pytest.mark.parametrize("norm_every_conv", [False, True])
def test_long_audio_in_blocks_is_the_same_as_at_once(monkeypatch: pytest.MonkeyPatch, norm_every_conv: bool) -> None:
    shape = replace(TINY, norm_every_conv=norm_every_conv)
    encoder = build(assemble(tensors_of(shape), Path("tiny"), heads=4), "v2", CPU, "tiny", Path("tiny"))
    audio = noise(16_000) + np.float32(0.3)  # an offset, which the norm must take out
    at_once = encoder(audio)
    monkeypatch.setattr(hubert_network, "BLOCK_FRAMES", 7)
    np.testing.assert_allclose(encoder(audio), at_once, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("other_kind", [False, True])
@pytest.mark.parametrize("family", ["v1", "v2"])
def test_in_bfloat16_features_differ_by_rounding_and_float32_weights_are_freed(
    family: Family, other_kind: bool
) -> None:
    shape = replace(TINY, pre_norm=other_kind, norm_every_conv=other_kind)
    exact, narrow = (build(HubertWeights(shape, tensors_of(shape)), family, CPU, "tiny", Path("tiny")) for _ in "ab")
    narrow.cast(torch.bfloat16)
    assert narrow.sha256 == exact.sha256  # it is the same encoder, for a voice that names it
    clips = [noise(16_000), noise(50_000, 1)]  # the second is longer than a block of the convolutions
    for clip, content in zip(clips, narrow.batch(clips), strict=True):
        for got in (content, narrow(clip)):
            assert got.dtype == np.float32 and 1e-5 < error(got, exact(clip)) < 0.05
    weights = dict(narrow.network.named_parameters())
    held = {name for name, weight in weights.items() if weight.dtype == torch.float32 and weight.dim() > 1}
    assert held == {"feature_extractor.conv_layers.0.conv.weight", *(n for n in weights if "pos_conv_embed" in n)} - {
        "encoder.pos_conv_embed.conv.bias"
    }


def test_audio_is_not_changed_and_stereo_is_refused(small: HubertContentEncoder) -> None:
    audio = noise(2000)
    before = audio.copy()
    np.testing.assert_array_equal(small(audio), small(audio))
    np.testing.assert_array_equal(audio, before)
    with pytest.raises(AudioError, match="mono"):
        small(np.zeros((2, 8000), np.float32))


def test_level_and_offset_hardly_matter(small: HubertContentEncoder) -> None:
    """Why audio is never normalised for the encoder: the norm after the first convolution does it."""
    audio = noise(8000) * 3
    normalised = (audio * 0.2 + 0.1).astype(np.float32)
    np.testing.assert_allclose(small(normalised), small(audio), atol=0.02)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of transformers and what it imports, about themselves
@pytest.mark.parametrize(("norm", "stable"), [("group", False), ("layer", True)])
def test_network_agrees_with_transformers(norm: str, stable: bool) -> None:
    from transformers import HubertConfig, HubertModel

    config = HubertConfig(
        hidden_size=24, num_hidden_layers=12, num_attention_heads=4, intermediate_size=40, conv_dim=(16,) * 7,
        conv_bias=norm == "layer", feat_extract_norm=norm, do_stable_layer_norm=stable,
        num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = HubertModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    weights = assemble(dict(model.state_dict()), Path("x"), heads=4, pre_norm=stable)
    audio = noise(9000)
    with torch.inference_mode():
        outputs = model(torch.from_numpy(audio)[None], output_hidden_states=True)
    got = build(weights, "v2", CPU, "x", Path("x"))(audio)
    assert error(got, outputs.last_hidden_state[0]) < 1e-4
    # v1 takes what leaves layer 9, which is not normalised once more.
    network = Hubert(weights.shape, 9, project=False).eval()
    state = {key: value for key, value in weights.tensors.items() if key in network.state_dict()}
    network.load_state_dict(state)
    with torch.inference_mode():
        assert error(network(torch.from_numpy(audio)[None])[0], outputs.hidden_states[9][0]) < 1e-4


@pytest.mark.slow
def test_golden_full_size_network(golden: Path) -> None:
    table = json.loads((golden / "hubert" / "hubert_base.fill.json").read_text(encoding="utf-8"))
    tensors = {
        new: closed_form(name, shape, offset, scale, table["salt"])
        for name, shape, offset, scale, _ in table["tensors"]
        if (new := hugging_face_name(name)) is not None
    }
    weights = assemble(tensors, Path("hubert_base.fill.json"), heads=12)
    stored = load_file(golden / "hubert" / "hubert_base_1s.safetensors")
    audio = stored["in.wav_int16"].numpy().astype(np.float32) / np.float32(32768)
    for family, key in (("v1", "out.layer9_final_proj"), ("v2", "out.layer12")):
        encoder = build(weights, family, CPU, "contentvec", Path("hubert_base.fill.json"))
        assert error(encoder(audio), stored[key][0]) < 1e-3
        assert encoder.width == {"v1": 256, "v2": 768}[family]


@pytest.mark.parametrize(
    ("recorded", "extra", "wanted"),
    [
        (None, {}, None),
        (ContentEncoderId("contentvec", "ab"), {"embedder_model": "spin"}, ContentEncoderId("contentvec", "ab")),
        (ContentEncoderId("hubert_base", ""), {}, ContentEncoderId("contentvec", "")),
        (None, {"embedder_model": "spin"}, ContentEncoderId("spin", "")),
        (None, {"embedder_model": "contentvec"}, ContentEncoderId("contentvec", "")),
        (None, {"embedder_model": None}, None),
    ],
)
def test_voice_names_its_encoder(
    recorded: ContentEncoderId | None, extra: dict[str, Any], wanted: ContentEncoderId | None
) -> None:
    voice = VoiceModel("v2", tiny_config(), {}, content_encoder=recorded, extra=extra)
    assert recorded_encoder(voice) == wanted


# --- whole voices --------------------------------------------------------------------------------------------------


def tiny_family(family: Family) -> FamilyConfig:
    """v1 or v2 at 40 kHz with a network of a few thousand parameters."""
    config = load_family(family)
    small = {"inter_channels": 8, "hidden_channels": 8, "filter_channels": 16, "n_layers": 1, "gin_channels": 8}
    network = config.synthesizer.model_copy(update=small | {"upsample_initial_channel": 16})
    judge = DiscriminatorConfig(periods=(2,), scale_channels=(4,) * 6, period_channels=(4,) * 5)
    return config.model_copy(update={"synthesizer": network, "discriminator": judge})


@pytest.fixture
def pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of pretrained/."""
    monkeypatch.setattr(hubert, "PRETRAINED", tmp_path / "pretrained")
    monkeypatch.setattr(hubert, "ROOT", tmp_path)
    (tmp_path / "pretrained").mkdir()
    return tmp_path / "pretrained"


def install(family: str, pretrained: Path, seed: int = 0) -> None:
    """Put an encoder of the width that `family` needs there: for v1 as fairseq's file, for v2 as a folder."""
    if family == "v1":
        weights = tensors_of(replace(TINY, projection=256), seed)
        torch.save(fairseq_content(weights), pretrained / "hubert_base.pt")
    else:
        wide = tensors_of(replace(TINY, width=768, position_groups=16), seed)
        write_folder(pretrained / "hubert_base", {name: tensor.half() for name, tensor in wide.items()})


@pytest.mark.parametrize("family", ["v1", pytest.param("v2", marks=pytest.mark.slow)])
def test_recordings_become_a_voice_that_converts(
    tmp_path: Path, pretrained: Path, family: Family, tone: Callable[..., Floats]
) -> None:
    install(family, pretrained)
    harmonics = sum(tone(200.0 * h, 3.0, 40_000, 0.3 / h) for h in range(1, 8))
    soundfile.write(tmp_path / "take.wav", harmonics, 40_000)
    experiment = Experiment("x", tmp_path / "logs", tmp_path / "weights")
    prepare_stage(experiment, tmp_path / "take.wav", tiny_family(family), PrepareOptions())
    extract(experiment, ExtractOptions(pitch_method="pm", device="cpu"))
    index_stage(experiment, IndexOptions())
    options = {"epochs": 1, "precision": "fp32", "device": "cpu", "batch_size": 2, "base": False}
    report = fit(experiment, FitOptions.model_validate(options))
    assert len(list(experiment.folder.glob(f"added_*_{family}.index"))) == 1
    converter = load_converter(report.voice, next(experiment.folder.glob("added_*.index")))
    converted = converter.convert(noise(8000) + tone(220.0, 0.5), ConvertOptions(pitch_method="pm", device="cpu"))
    assert len(converted) == 20_000 and bool(np.isfinite(converted).all())
    if family == "v1":  # another encoder in the same place is noticed, and so is that there is none
        install(family, pretrained, seed=1)
        with pytest.raises(CheckpointError, match="a different version of the content encoder 'contentvec'"):
            load_converter(report.voice)
        (pretrained / "hubert_base.pt").unlink()
        with pytest.raises(MissingFileError, match="download hubert_base"):
            load_converter(report.voice)


@pytest.mark.slow
def test_encoder_of_the_wrong_width_is_refused_before_anything_is_computed(
    tmp_path: Path, pretrained: Path, tone: Callable[..., Floats]
) -> None:
    torch.save(fairseq_content(tensors_of(TINY)), pretrained / "hubert_base.pt")
    soundfile.write(tmp_path / "take.wav", tone(200.0, 2.0, 40_000), 40_000)
    experiment = Experiment("x", tmp_path / "logs", tmp_path / "weights")
    prepare_stage(experiment, tmp_path / "take.wav", tiny_family("v2"), PrepareOptions())
    with pytest.raises(ConfigError, match=r"16 features.*768"):
        extract(experiment, ExtractOptions(pitch_method="pm", device="cpu"))
    assert not experiment.content_folder(16).exists()


@pytest.mark.slow
def test_training_takes_an_encoder_by_name_and_the_voice_records_it(
    tmp_path: Path, pretrained: Path, tone: Callable[..., Floats]
) -> None:
    write_folder(pretrained / "spin", tensors_of(replace(TINY, projection=256)))
    soundfile.write(tmp_path / "take.wav", tone(200.0, 2.0, 40_000), 40_000)
    experiment = Experiment("x", tmp_path / "logs", tmp_path / "weights")
    prepare_stage(experiment, tmp_path / "take.wav", tiny_family("v1"), PrepareOptions())
    with pytest.raises(MissingFileError, match="download hubert_base"):
        extract(experiment, ExtractOptions(pitch_method="pm", device="cpu"))
    extract(experiment, ExtractOptions(pitch_method="pm", device="cpu", content_encoder="spin"))
    options = {"epochs": 1, "precision": "fp32", "device": "cpu", "batch_size": 2, "base": False}
    path = fit(experiment, FitOptions.model_validate(options)).voice
    voice = read_voice_model(path)
    assert voice.content_encoder is not None and voice.content_encoder.name == "spin"
    assert (tmp_path / "logs/mute/3_feature_spin/mute.npy").is_file()
    assert not (tmp_path / "logs/mute/3_feature256").exists()
    load_converter(path)  # finds spin by the name in the voice
    (pretrained / "spin").rename(pretrained / "hubert_base")
    with pytest.raises(MissingFileError, match="'spin'"):
        load_converter(path)


def test_lite_has_one_encoder() -> None:
    with pytest.raises(ConfigError, match="spin"):
        load_content_encoder("lite", CPU, "spin")


@pytest.mark.parametrize("written", ["japanese-hubert-base", "japanese_hubert_base", "Japanese-HuBERT-base"])
def test_encoders_that_voices_name_are_found_or_their_repository_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setattr(hubert, "PRETRAINED", tmp_path)
    monkeypatch.setattr(hubert, "ROOT", tmp_path)
    with pytest.raises(MissingFileError, match=r"is the Hugging Face repository rinna/japanese-hubert-base: put") as e:
        find_content_encoder("v2", written)
    assert str(tmp_path / "japanese-hubert-base") in str(e.value)
    for folder in ("japanese_hubert_base", "japanese-hubert-base"):  # the second is the program's own spelling
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text('{"num_hidden_layers": 12}')
        assert find_content_encoder("v2", written) == tmp_path / folder
