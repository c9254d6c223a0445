"""Content encoders: output shapes, determinism, invariances, and the shipped file."""

import hashlib
import re
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lib.content import FAMILIES, content_frames, load_content_encoder
from lib.content.lite import SCALE, WEIGHTS_FILE, LiteContentEncoder, code_sha256, dequantized, load, quantized
from lib.errors import AudioError, CheckpointError, ConfigError, MissingFileError
from lib.models.lite_encoder import (
    CODE,
    WIDTH,
    Bottleneck,
    LiteEncoder,
    frame_levels,
    mel_filter_bank,
    normalised_over_time,
    power_spectrum,
    shifted,
    sinusoids,
    whisper_log_mel,
)

CPU = torch.device("cpu")
CARD = WEIGHTS_FILE.with_name("README.md")
Floats = npt.NDArray[np.float32]


def noise(samples: int, seed: int = 0) -> Floats:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="module")
def small() -> LiteContentEncoder:
    """An encoder with random weights: every law here holds before training."""
    torch.manual_seed(0)
    return LiteContentEncoder(LiteEncoder(channels=16), Path("unused"))


@pytest.fixture(scope="module")
def shipped() -> LiteContentEncoder:
    return load("lite", CPU)


@pytest.mark.slow
@given(samples=st.integers(0, 6000))
@settings(deadline=None, max_examples=60)
def test_every_length_gives_the_promised_frames(small: LiteContentEncoder, samples: int) -> None:
    content = small(noise(samples))
    assert content.shape == (max((samples - 80) // 320, 0), 129)
    assert content.shape[0] == content_frames(samples)
    assert content.dtype == np.float32
    assert np.isfinite(content).all()


def test_same_audio_gives_the_same_content(shipped: LiteContentEncoder) -> None:
    audio = noise(20_000)
    before = audio.copy()
    np.testing.assert_array_equal(shipped(audio), shipped(audio))
    np.testing.assert_array_equal(audio, before)


@pytest.mark.parametrize("audio", [np.zeros(8000, np.float32), np.ones(8000, np.float32), noise(8000) * 1e-6])
def test_odd_audio_stays_finite(shipped: LiteContentEncoder, audio: Floats) -> None:
    content = shipped(audio)
    assert np.isfinite(content).all()
    assert np.abs(content).max() < 50


def test_stereo_is_refused(small: LiteContentEncoder) -> None:
    with pytest.raises(AudioError, match="mono"):
        small(np.zeros((2, 8000), np.float32))


# --- spectra ----------------------------------------------------------------------------------------------------------


def test_frames_are_centred_as_stated() -> None:
    """A click at sample 320 i + 200 is loudest in mel frame 2 i of the shifted audio, the centre of content frame i."""
    audio = torch.zeros(1, 6400)
    audio[0, 320 * 7 + 200] = 1.0
    energy = power_spectrum(shifted(audio)).sum(-1)[0]
    assert int(energy.argmax()) == 14
    assert len(energy) == (6400 + 1200) // 160
    levels = frame_levels(power_spectrum(shifted(audio)) @ mel_filter_bank(), 19)[0]
    assert int(levels.argmax()) == 7


def test_filters_equal_those_of_whisper() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchaudio, about itself
        functional = pytest.importorskip("torchaudio.functional")
    expected = functional.melscale_fbanks(201, 0.0, 8000.0, 80, 16_000, norm="slaney", mel_scale="slaney")
    torch.testing.assert_close(mel_filter_bank(), expected, atol=2e-6, rtol=0)


def test_log_mel_spans_80_db() -> None:
    mel = torch.tensor([1e-12, 1e-3, 10.0]).expand(80, 3).T[None]  # [1, 3, 80]
    torch.testing.assert_close(whisper_log_mel(mel)[0, 0], torch.tensor([-0.75, 0.25, 1.25]))


def test_positions_are_sines_then_cosines() -> None:
    encodings = sinusoids(50, 16)
    assert encodings.shape == (50, 16)
    frames = torch.arange(50.0)
    torch.testing.assert_close(encodings[:, 0], frames.sin())
    torch.testing.assert_close(encodings[:, 8], frames.cos())
    torch.testing.assert_close(encodings[:, 7], (frames / 10_000).sin())


# --- what the features ignore -----------------------------------------------------------------------------------------


def test_layers_have_mean_zero_and_deviation_one() -> None:
    layers = normalised_over_time(torch.randn(2, 400, 5, generator=torch.Generator().manual_seed(0)) * 7 + 3)
    torch.testing.assert_close(layers.mean(1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(layers.std(1, unbiased=False), torch.ones(2, 5), atol=1e-4, rtol=0)
    assert not normalised_over_time(torch.full((1, 30, 5), 4.0)).any()


def test_every_code_has_mean_zero_and_variance_one() -> None:
    torch.manual_seed(0)
    code = Bottleneck(24, channels=16, blocks=1)(torch.randn(2, 30, 24))
    assert code.shape == (2, 30, CODE)
    torch.testing.assert_close(code.mean(2), torch.zeros(2, 30), atol=1e-5, rtol=0)
    torch.testing.assert_close(code.var(2, unbiased=False), torch.ones(2, 30), atol=1e-3, rtol=0)


def test_the_level_is_relative_to_the_utterance(small: LiteContentEncoder) -> None:
    audio = noise(32_000)
    audio[16_000:] *= 0.1
    level = small(audio)[:, CODE]
    loud, quiet = level[5:45].mean(), level[55:95].mean()
    assert loud - quiet == pytest.approx(np.log(10) / 1.5, abs=0.05)  # 20 dB are ln(10) nepers
    np.testing.assert_allclose(small(audio * np.float32(0.05))[:, CODE], level, atol=1e-4)


def likeness(first: Floats, second: Floats) -> float:
    """Mean cosine of the codes of frames, less their mean over the recordings."""
    count = min(len(first), len(second))
    a, b = (x[:count, :CODE] - x[:, :CODE].mean(0) for x in (first, second))
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean())


def speech(path: Path) -> Floats:
    """Ten seconds at 16 kHz."""
    soundfile, soxr = pytest.importorskip("soundfile"), pytest.importorskip("soxr")
    audio, rate = soundfile.read(path, dtype="float32", frames=480_000)
    resampled: Floats = soxr.resample(audio, rate, 16_000)[:160_000]
    return resampled


@pytest.mark.slow
def test_level_does_not_matter(shipped: LiteContentEncoder) -> None:
    audio = speech(WEIGHTS_FILE.with_name("demo") / "source.flac")
    usual, quiet = shipped(audio), shipped(audio * np.float32(0.05))
    assert likeness(usual, quiet) > 0.97
    np.testing.assert_allclose(quiet[:, CODE], usual[:, CODE], atol=1e-3)


# --- long recordings --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@torch.inference_mode()
def test_long_recordings_are_joined_from_windows_of_26_s(small: LiteContentEncoder) -> None:
    network, frames = small.network, 3000  # 60 s: windows of 1300, 1300 and 400 frames
    mel = torch.rand(1, 2 * frames + 8, 80, generator=torch.Generator().manual_seed(0))
    windows = [  # with a second of context on either side
        network.whisper(whisper_log_mel(mel[:, :2700]))[:, :1300],
        network.whisper(whisper_log_mel(mel[:, 2500:5300]))[:, 50:1350],
        network.whisper(whisper_log_mel(mel[:, 5100:]))[:, 50:450],
    ]
    code = network.bottleneck(normalised_over_time(torch.cat(windows, 1)))
    features = network.features(mel, frames)
    assert features.shape == (1, frames, WIDTH)
    torch.testing.assert_close(features[..., :CODE], code, atol=1e-5, rtol=0)
    torch.testing.assert_close(features[..., CODE], frame_levels(mel, frames))


@pytest.mark.slow
@torch.inference_mode()
def test_short_recordings_are_one_window(small: LiteContentEncoder) -> None:
    mel = torch.rand(1, 2608, 80, generator=torch.Generator().manual_seed(0))
    layers = small.network.whisper(whisper_log_mel(mel))[:, :1300]
    torch.testing.assert_close(
        small.network.features(mel, 1300)[..., :CODE],
        small.network.bottleneck(normalised_over_time(layers)),
        atol=1e-5,
        rtol=0,
    )


# --- files ------------------------------------------------------------------------------------------------------------


def test_int8_weights_come_back_within_half_a_step() -> None:
    rng = torch.Generator().manual_seed(0)
    weights = {
        "a.weight": torch.randn(5, 7, generator=rng) * torch.logspace(-3, 2, 5)[:, None],
        "b.weight": torch.randn(4, 3, 2, generator=rng),
        "c.bias": torch.randn(6, generator=rng),
        "d.weight": torch.zeros(2, 3),
    }
    stored = quantized(weights)
    assert stored["a.weight"].dtype == stored["b.weight"].dtype == torch.int8
    assert stored["a.weight" + SCALE].shape == (5,) and "c.bias" + SCALE not in stored
    back = dequantized(stored)
    assert back.keys() == weights.keys()
    for name, value in weights.items():
        assert back[name].shape == value.shape and back[name].dtype == torch.float32
        rows, other = value.reshape(len(value), -1), back[name].reshape(len(value), -1)
        step = rows.abs().amax(1, keepdim=True) / 127
        assert ((rows - other).abs() <= 0.57 * step + 1e-3 * rows.abs() + 1e-8).all(), name  # the scale is in fp16
    again = quantized(back)
    assert torch.equal(again["b.weight"], stored["b.weight"])


def test_unknown_family_names_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"v9.*lite"):
        load_content_encoder("v9", CPU)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"encoder\.safetensors"):
        load("lite", CPU, tmp_path / "encoder.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0, 7, 1000, -1000])
def test_damaged_weights_are_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(WEIGHTS_FILE.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged"):
        load("lite", CPU, path)


@pytest.mark.parametrize(
    "content", [{"x": torch.zeros(2)}, {"whisper.conv_1.weight": torch.zeros(2, 2, dtype=torch.int8)}]
)
def test_weights_of_something_else_are_refused(tmp_path: Path, content: dict[str, torch.Tensor]) -> None:
    save_file(content, tmp_path / "encoder.safetensors")
    with pytest.raises(CheckpointError, match="not a lite content encoder"):
        load("lite", CPU, tmp_path / "encoder.safetensors")


def test_shipped_encoder_is_the_one_on_its_card(shipped: LiteContentEncoder) -> None:
    data, card = WEIGHTS_FILE.read_bytes(), CARD.read_text(encoding="utf-8")
    assert shipped.sha256 == code_sha256(WEIGHTS_FILE) != hashlib.sha256(data).hexdigest()
    assert shipped.sha256 in card and hashlib.sha256(data).hexdigest() in card
    sizes = re.findall(r"([\d,]+) bytes", card)
    assert f"{len(data):,}" in sizes
    parameters = sum(tensor.numel() for tensor in shipped.network.parameters())
    assert f"{parameters:,} parameters" in card
    assert parameters <= 25_000_000


@pytest.mark.slow
def test_shipped_encoder_through_the_table(shipped: LiteContentEncoder) -> None:
    encoder = load_content_encoder("lite", CPU)
    assert (encoder.name, encoder.width) == ("lite", 129)
    assert set(FAMILIES) == {"v1", "v2", "lite"}
    np.testing.assert_array_equal(encoder(noise(9000)), shipped(noise(9000)))


@pytest.mark.slow
def test_real_speech_in_another_voice_keeps_its_content(shipped: LiteContentEncoder, shared_data: Path) -> None:
    """A clip is much nearer to itself in a lower voice (resampled) than to other speech."""
    soxr = pytest.importorskip("soxr")
    clip, stranger = (speech(shared_data / "sources" / f"librivox_{name}.flac") for name in ("0880", "0930"))
    lower = soxr.resample(clip, 16_000, 17_000)  # another, larger speaker: pitch and formants 6 % lower
    content, changed, wrong = (shipped(item) for item in (clip, lower, stranger))
    frames = np.arange(len(content))
    match = changed[np.minimum(np.round(frames * 17 / 16).astype(int), len(changed) - 1)]
    assert likeness(content, match) > 0.9
    assert likeness(content, wrong) < 0.3
