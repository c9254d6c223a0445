"""The networks against golden data, and their invariants."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.config import FAMILIES, DiscriminatorConfig, Family, SynthesizerConfig, load_family
from lib.models import attention
from lib.models.attention import RelativeAttention, skew, unskew
from lib.models.discriminators import Discriminator
from lib.models.generator import Generator
from lib.models.source import SineSource, sine_wave
from lib.models.synthesizer import Synthesizer, slice_frames
from lib.voice.model_file import VoiceModel, load_synthesizer, read_voice_model, write_voice_model
from lib.voice.weights import load_weights, rvc_state_dict
from tests.helpers import (
    closed_form,
    error,
    golden_metadata,
    golden_names,
    golden_training_model,
    read_golden,
    tiny_config,
    vits_config,
)
from tests.tiny_files import save_checkpoint, small_voice, tiny_family
from train.networks import build_networks

LATENT_TOLERANCE = 1e-4
SOURCE_TOLERANCE = 2e-4
AUDIO_TOLERANCE = 5e-4
INFER_FILES = golden_names("synth/small_*.infer*.safetensors")
FULL_MODELS = golden_names("synth/full_*.fill.json")
FORWARD_FILES = golden_names("synth/G_*.forward.safetensors")


class Inference(NamedTuple):
    """What inference without noise computes step by step, for some of the frames."""

    mean: Tensor  # [B, Z, F] of the prior, all frames
    log_scale: Tensor  # [B, Z, F] of the prior, all frames
    mask: Tensor  # [B, 1, W]
    latent: Tensor  # [B, Z, W]
    audio: Tensor  # [B, 1, W * hop]; the generator gets the frames of the window alone


@torch.inference_mode()
def infer_steps(
    model: Synthesizer, content: Tensor, lengths: Tensor, speaker_id: Tensor, pitch_bins: Tensor | None,
    f0: Tensor | None, window: tuple[int, int] | None = None,
) -> Inference:  # fmt: skip
    first, count = window or (0, content.shape[1])
    speaker, part = model.speaker(speaker_id), slice(first, first + count)
    mean, log_scale, mask = model.enc_p(content, pitch_bins, lengths)
    latent = model.flow(mean * mask, mask, speaker, reverse=True)[..., part]
    audio = model.dec.in_blocks(latent * mask[..., part], None if f0 is None else f0[:, part], speaker, None, 0.0)
    return Inference(mean, log_scale, mask[..., part], latent, audio)


def check_infer(model: Synthesizer, data: dict[str, Tensor], window: tuple[int, int] | None = None) -> None:
    inputs = (
        data["in.phone"], data["in.phone_lengths"], data["in.sid"], data.get("in.pitch"), data.get("in.nsff0"),
    )  # fmt: skip
    out = infer_steps(model, *inputs, window)
    frames = data["out.m_p"].shape[2]  # a windowed reference gives the prior from some frame on
    for name, got in (("m_p", out.mean[..., -frames:]), ("logs_p", out.log_scale[..., -frames:]), ("z", out.latent)):
        assert error(got, data[f"out.{name}"]) <= LATENT_TOLERANCE, name
    assert torch.equal(out.mask, data["out.x_mask"])
    assert error(out.audio, data["out.audio"]) <= AUDIO_TOLERANCE
    if window is None:
        with torch.inference_mode():
            assert error(model.infer(*inputs, temperature=0.0), data["out.audio"]) <= AUDIO_TOLERANCE
    if "out.har_source" in data:
        assert model.dec.m_source is not None
        first, count = window or (0, data["in.nsff0"].shape[1])
        f0 = data["in.nsff0"][:, first : first + count]
        excitation = model.dec.m_source(f0, temperature=0.0).transpose(1, 2)
        assert error(excitation, data["out.har_source"]) <= SOURCE_TOLERANCE
        if "out.sine" in data:
            assert error(model.dec.m_source.sine(f0, temperature=0.0), data["out.sine"]) <= SOURCE_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", INFER_FILES)
def test_golden_small_voice_models(golden: Path, name: str) -> None:
    voice = read_voice_model(golden / f"{name.split('.')[0]}.pth")
    data = read_golden(golden / name)
    facts = golden_metadata(golden / name)
    window = (int(facts["skip_head"]), int(facts["return_length"])) if "skip_head" in facts else None
    model = load_synthesizer(voice)
    assert isinstance(model, Synthesizer)
    check_infer(model, data, window)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_MODELS)
def test_golden_full_size_models(golden: Path, name: str) -> None:
    spec = json.loads((golden / name).read_text())
    _, family, rate, kind = name.split("/")[1].split(".")[0].split("_")
    weights = {
        key: closed_form(key, shape, rest[0], rest[1], spec["salt"])
        for key, shape, *rest in spec["tensors"]
        if not key.startswith("enc_q.")
    }
    config = load_family(family, rate, has_f0=kind == "f0").synthesizer  # type: ignore[arg-type]
    model = load_synthesizer(VoiceModel(family, config, weights))  # type: ignore[arg-type]
    assert isinstance(model, Synthesizer)
    check_infer(model, read_golden(golden / name.replace(".fill.json", ".infer.safetensors")))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORWARD_FILES)
def test_golden_training_forward(golden: Path, name: str) -> None:
    model = golden_training_model(golden, name.split("/")[1].split(".")[0])
    data = read_golden(golden / name)
    with torch.no_grad():
        out = model(
            data["in.phone"], data.get("in.pitch"), data.get("in.nsff0"), data["in.spec_lengths"], data["in.spec"],
            data["in.sid"], data["in.ids_slice"], temperature=0.0,
        )  # fmt: skip
    z = out.latents
    got = {
        "z": z.latent, "m_q": z.mean_posterior, "logs_q": z.log_scale_posterior, "z_p": z.latent_prior,
        "m_p": z.mean_prior, "logs_p": z.log_scale_prior,
    }  # fmt: skip
    for key, value in got.items():
        assert error(value, data[f"out.{key}"]) <= LATENT_TOLERANCE, key
    assert torch.equal(z.mask, data["out.y_mask"])
    assert error(out.audio, data["out.audio"]) <= AUDIO_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(("family", "rate", "frames"), [("v1", "32k", 40), ("v1", "48k", 24), ("v2", "48k", 36)])
def test_training_segments_have_the_length_of_the_configuration(
    tmp_path: Path, family: Family, rate: str, frames: int
) -> None:
    """The voice beside a checkpoint claims 32 frames, as every published one does."""
    config = tiny_family(family, rate, has_f0=False).synthesizer
    (tmp_path / "synth").mkdir()
    save_checkpoint(tmp_path / "synth" / f"G_{family}_{rate}_nof0.pth", config)
    write_voice_model(tmp_path / "synth" / f"small_{family}_{rate}_nof0.pth", small_voice(family, rate, has_f0=False))
    model = golden_training_model(tmp_path, f"G_{family}_{rate}_nof0")
    assert model.config == config and config.segment_frames == frames


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["v1_f0", "v1_nof0", "v2_f0", "v2_nof0"])
def test_golden_functions_09_tiny_synthesizer(golden: Path, kind: str) -> None:
    data = {
        k: torch.from_numpy(v)
        for k, v in np.load(golden / "functions" / f"09_tiny_{kind}.npz").items()
        if k != "config"
    }
    raw = json.loads(str(np.load(golden / "functions" / f"09_tiny_{kind}.npz")["config"]))
    weights = {k[3:]: v for k, v in data.items() if k.startswith("sd/")}
    config = SynthesizerConfig(
        spec_channels=raw[0], segment_frames=raw[1], inter_channels=raw[2], hidden_channels=raw[3],
        filter_channels=raw[4], n_heads=raw[5], n_layers=raw[6], kernel_size=raw[7], p_dropout=raw[8], resblock=raw[9],
        resblock_kernel_sizes=raw[10], resblock_dilation_sizes=raw[11], upsample_rates=raw[12],
        upsample_initial_channel=raw[13], upsample_kernel_sizes=raw[14], n_speakers=weights["emb_g.weight"].shape[0],
        gin_channels=raw[16], sample_rate=raw[17], content_width=data["phone"].shape[2], has_f0=kind.endswith("_f0"),
    )  # fmt: skip
    model = Synthesizer(config, posterior=True)
    load_weights(model, weights, kind)
    # The names of the results say how they were made.
    noisy_name, seed = next((key, m[1]) for key in data if (m := re.fullmatch(r"seed(\d+)_audio", key)))
    window_name, head, length = next(
        (key, m[1], m[2]) for key in data if (m := re.fullmatch(r"rt_audio_head(\d+)_len(\d+)", key))
    )
    inputs = (data["phone"], data["lengths"], data["sid"], data.get("pitch"), data.get("pitchf"))
    with torch.no_grad():
        out, whole = infer_steps(model, *inputs), model.infer(*inputs, temperature=0.0)
        noisy = model.infer(*inputs, torch.Generator().manual_seed(int(seed)))
        content, lengths, speaker_id, *rest = (None if x is None else x[:1] for x in inputs)
        assert content is not None and lengths is not None and speaker_id is not None
        window = infer_steps(model, content, lengths, speaker_id, rest[0], rest[1], (int(head), int(length)))
        torch.manual_seed(99)
        train = model(data["phone"], data.get("pitch"), data.get("pitchf"), data["y_lengths"], data["y"], data["sid"])
    assert error(out.mean, data["enc_m"]) <= LATENT_TOLERANCE
    assert error(out.log_scale, data["enc_logs"]) <= LATENT_TOLERANCE
    assert error(out.latent, data["zero_noise_z"]) <= LATENT_TOLERANCE
    assert error(out.audio, data["zero_noise_audio"]) <= AUDIO_TOLERANCE
    assert error(whole, data["zero_noise_audio"]) <= AUDIO_TOLERANCE
    assert error(noisy, data[noisy_name]) <= AUDIO_TOLERANCE
    assert error(window.audio, data[window_name]) <= AUDIO_TOLERANCE
    assert torch.equal(train.starts, data["train_ids"])
    pairs = {
        "train_yhat": train.audio, "train_z": train.latents.latent, "train_zp": train.latents.latent_prior,
        "train_mq": train.latents.mean_posterior, "train_logsq": train.latents.log_scale_posterior,
    }  # fmt: skip
    for key, got in pairs.items():
        assert error(got, data[key]) <= AUDIO_TOLERANCE, key


def test_golden_functions_05_sine_source(golden: Path) -> None:
    data = np.load(golden / "functions" / "05_sine_source.npz")
    source = SineSource(int(data["upp"]), int(data["sr"]))
    f0 = torch.from_numpy(data["f0"])
    quiet = sine_wave(f0, int(data["upp"]), int(data["sr"])).unsqueeze(2) * torch.from_numpy(data["uv"])
    assert error(quiet, data["sine_no_noise"]) <= 1e-5
    assert error(source.sine(f0, torch.Generator().manual_seed(7)), data["sine_seed7"]) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_golden_discriminators(golden: Path, version: str) -> None:
    spec = json.loads((golden / "disc" / f"mpd_{version}.fill.json").read_text())
    data = read_golden(golden / "disc" / f"mpd_{version}.safetensors")
    rows = json.loads((golden / "disc" / f"mpd_{version}.fmaps.json").read_text())
    steps = {(row["sub"], row["layer"]): row["sample_step"] for row in rows}
    model = Discriminator(load_family(version).discriminator)  # type: ignore[arg-type]
    weights = {key: closed_form(key, shape, rest[0], rest[1], spec["salt"]) for key, shape, *rest in spec["tensors"]}
    load_weights(model, weights, "fill")
    with torch.no_grad():
        for kind, audio in (("real", data["in.y"]), ("gen", data["in.y_hat"])):
            for i, judgement in enumerate(model(audio)):
                assert error(judgement.score, data[f"out.{kind}.{i}"]) <= 1e-4
                stats = torch.stack(
                    [torch.stack([m.mean(), m.abs().mean(), m.square().mean().sqrt()]) for m in judgement.features]
                )
                assert error(stats, data[f"out.fmap_{kind}.{i}.stats"]) <= 1e-4
                for layer, fmap in enumerate(judgement.features):
                    want = data[f"out.fmap_{kind}.{i}.{layer}.sample"]
                    step = steps[i, layer]
                    assert error(fmap.flatten()[::step][:48], want) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("family", ["v1", "v2"])
@pytest.mark.parametrize("kind", ["f0", "nof0"])
def test_keys_shapes_and_order_are_those_of_rvc(specification: Path, family: Family, kind: str) -> None:
    for rate in FAMILIES[family]:
        listing = json.loads((specification / "state_dict" / f"{family}_{rate}_{kind}.json").read_text())
        with torch.device("meta"):
            model = Synthesizer(vits_config(load_family(family, rate, has_f0=kind == "f0")), posterior=True)
        got = rvc_state_dict(model)
        assert list(got) == listing["parameter_order_2023"]
        assert {k: list(v.shape) for k, v in got.items()} == {k: v["shape"] for k, v in listing["tensors"].items()}


def test_lite_is_small() -> None:
    config = load_family("lite")
    with torch.device("meta"):
        model, discriminator = build_networks(config)
    assert sum(p.numel() for p in model.parameters()) * 2 <= 11_000_000
    assert sum(p.numel() for p in discriminator.parameters()) * 4 <= 10_000_000


@given(st.integers(1, 40), st.integers(0, 2**31))
def test_skew_and_unskew_are_inverse_readings(rows: int, seed: int) -> None:
    band = torch.randn(2, rows, 7, generator=torch.Generator().manual_seed(seed))
    wide = skew(band)
    assert wide.shape == (2, rows, rows + 6)
    assert all(torch.equal(wide[:, i, i : i + 7], band[:, i]) for i in range(rows))
    assert torch.equal(wide.count_nonzero(), band.count_nonzero())
    assert torch.equal(unskew(wide), band)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 70), st.integers(1, 40), st.booleans())
def test_attention_in_blocks_is_attention(frames: int, block: int, padded: bool) -> None:
    torch.manual_seed(frames)
    layer, x = RelativeAttention(8, 2), torch.randn(2, 8, frames)
    mask = torch.ones(2, 1, frames)
    if padded:
        mask[1, :, frames // 2 :] = 0
    whole = layer(x, mask)  # with gradients it is done at once
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BLOCK_FRAMES", block)
        torch.testing.assert_close(layer(x, mask), whole.detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(st.integers(1, 50), st.integers(0, 2**31))
def test_flow_forward_then_reverse_is_the_identity(frames: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = Synthesizer(tiny_config())
    for part in model.flow.flows[::2]:
        torch.nn.init.normal_(part.post.weight)  # type: ignore[union-attr, arg-type]
    x, mask, speaker = torch.randn(1, 8, frames), torch.ones(1, 1, frames), torch.randn(1, 8, 1)
    with torch.no_grad():
        back = model.flow(model.flow(x, mask, speaker), mask, speaker, reverse=True)
    torch.testing.assert_close(back, x, atol=1e-4, rtol=1e-4)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 60))
def test_output_has_exactly_hop_samples_per_frame_and_is_finite(frames: int) -> None:
    model = Synthesizer(tiny_config()).eval()
    content, f0 = torch.randn(1, frames, 12), torch.full((1, frames), 220.0)
    with torch.inference_mode():
        audio = model.infer(content, torch.tensor([frames]), torch.tensor([1]), torch.ones(1, frames).long(), f0)
    assert audio.shape == (1, 1, frames * 8)
    assert bool(audio.isfinite().all())


def test_same_seed_gives_identical_samples_and_another_seed_does_not() -> None:
    model = Synthesizer(tiny_config()).eval()
    args = (torch.randn(1, 20, 12), torch.tensor([20]), torch.tensor([0]), torch.ones(1, 20).long(), torch.ones(1, 20))
    with torch.inference_mode():
        first, again, other = (model.infer(*args, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_folding_weight_norm_changes_only_rounding() -> None:
    model = Synthesizer(tiny_config()).eval()
    args = (torch.randn(1, 20, 12), torch.tensor([20]), torch.tensor([0]), torch.ones(1, 20).long(), torch.ones(1, 20))
    with torch.inference_mode():
        before = model.infer(*args, temperature=0.0)
        after = model.fold_weight_norm().infer(*args, temperature=0.0)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_sine_phase_does_not_drift_over_an_hour() -> None:
    frames = 360_000  # one hour; checked at its end only
    f0 = torch.full((1, frames), 220.5)
    tail = sine_wave(f0, 8, 800)[0, -800:]
    n = np.arange(frames * 8 - 800, frames * 8, dtype=np.float64) + 1
    want = 0.1 * np.sin(2 * np.pi * (n * (np.float64(np.float32(220.5) / np.float32(800))) % 1.0))
    assert np.abs(tail.numpy() - want).max() < 1e-4


def test_slice_frames_cuts_each_item_at_its_own_start() -> None:
    x = torch.arange(20).reshape(2, 1, 10)
    assert slice_frames(x, torch.tensor([0, 3]), 2, 2).tolist() == [[[0, 1, 2, 3]], [[16, 17, 18, 19]]]


def test_period_discriminator_pads_any_length() -> None:
    config = DiscriminatorConfig(periods=(2, 3), scale_channels=(4,) * 6, period_channels=(4,) * 5)
    for length in (64, 65, 67):
        scores = [judgement.score for judgement in Discriminator(config)(torch.randn(1, 1, length))]
        assert len(scores) == 3
        assert all(bool(score.isfinite().all()) for score in scores)


FAMILY_RATES = [(family, rate) for family, rates in FAMILIES.items() for rate in rates if family != "lite"]


@pytest.mark.slow
@pytest.mark.parametrize("has_f0", [True, False])
@pytest.mark.parametrize(("family", "rate"), FAMILY_RATES)
def test_blocks_equal_the_whole(family: Family, rate: str, has_f0: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernels and rates of every family, few channels, and weights that let every sample's reach be felt."""
    config = vits_config(load_family(family, rate, has_f0=has_f0))
    narrow = config.model_copy(update={"upsample_initial_channel": 2 ** len(config.upsample_rates) * 2})
    torch.manual_seed(0)
    dec = Generator(narrow.model_copy(update={"inter_channels": 4, "gin_channels": 4})).eval()
    for name, weight in dec.named_parameters():
        if name.endswith("original0"):
            torch.nn.init.ones_(weight)  # the norm of each kernel
        elif weight.dim() > 1:
            torch.nn.init.normal_(weight, 0, weight[0].numel() ** -0.5)
    frames = 5 * dec.receptive_field
    latent, speaker = torch.randn(1, 4, frames), torch.randn(1, 4, 1)
    f0 = torch.linspace(100, 300, frames)[None] if has_f0 else None
    with torch.inference_mode():
        whole = dec(latent, f0, speaker, torch.Generator().manual_seed(1))
        blocks = dec.in_blocks(latent, f0, speaker, torch.Generator().manual_seed(1), block_frames=dec.receptive_field)
        keep, hop = (7, frames - 3), dec.hop_length
        kept = dec.in_blocks(
            latent, f0, speaker, torch.Generator().manual_seed(1), keep=keep, block_frames=dec.receptive_field
        )
        careless = []
        for stage in range(len(dec.rates)):
            with monkeypatch.context() as patch:
                patch.setattr(
                    dec, "_receptive_fields", [1 if i == stage else n for i, n in enumerate(dec._receptive_fields)]
                )
                careless.append(dec.in_blocks(latent, f0, speaker, torch.Generator().manual_seed(1), block_frames=12))
    with torch.enable_grad():
        trained = dec(latent, f0, speaker, torch.Generator().manual_seed(1))
    assert whole.std() > 1e-3
    assert error(blocks, whole) <= 1e-5
    assert error(kept, whole[..., keep[0] * hop : keep[1] * hop]) <= 1e-5
    assert error(trained.detach(), whole) <= 1e-5
    assert min(error(made, whole) for made in careless) > 1e-4, "the test must notice a reach that is too short"


def test_a_generator_in_another_dtype_sounds_the_same() -> None:
    model = Synthesizer(tiny_config()).eval().fold_weight_norm()
    args = (torch.randn(1, 20, 12), torch.tensor([20]), torch.tensor([0]), torch.ones(1, 20).long(), torch.ones(1, 20))
    other = model.cast(torch.bfloat16, torch.bfloat16)
    with torch.inference_mode():
        exact, rough = (network.infer(*args, temperature=0.0) for network in (model, other))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert other.dec.dtype == torch.bfloat16 and other.emb_g is model.emb_g
    assert rough.dtype == torch.float32 and not torch.equal(exact, rough)
    assert error(rough, exact) < 0.02
