"""Content encoders: the shape law, determinism, what the features ignore, and the shipped file."""

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

from lib.content import FAMILIES, content_frames, load_content_encoder
from lib.content.lite import WEIGHTS_FILE, LiteContentEncoder, load
from lib.errors import AudioError, CheckpointError, ConfigError, MissingFileError
from lib.models import lite_encoder
from lib.models.lite_encoder import LiteEncoder, mel_filter_bank, normalised_over_time, power_spectrum

CPU = torch.device("cpu")
CARD = WEIGHTS_FILE.with_name("README.md")
Floats = npt.NDArray[np.float32]


def noise(samples: int, seed: int = 0) -> Floats:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="module")
def small() -> LiteContentEncoder:
    """An encoder with random weights: every law here holds before training."""
    torch.manual_seed(0)
    return LiteContentEncoder(LiteEncoder(channels=16, blocks=2, kernel_size=3), Path("unused"))


@pytest.fixture(scope="module")
def shipped() -> LiteContentEncoder:
    return load("lite", CPU)


@given(samples=st.integers(0, 6000))
@settings(deadline=None, max_examples=60)
def test_every_length_gives_the_promised_frames(small: LiteContentEncoder, samples: int) -> None:
    content = small(noise(samples))
    assert content.shape == (max((samples - 80) // 320, 0), 256)
    assert content.shape[0] == content_frames(samples)
    assert content.dtype == np.float32
    assert np.isfinite(content).all()


def test_same_audio_gives_the_same_content(shipped: LiteContentEncoder) -> None:
    audio = noise(20_000)
    before = audio.copy()
    np.testing.assert_array_equal(shipped(audio), shipped(audio))
    np.testing.assert_array_equal(audio, before)


def test_level_does_not_matter(shipped: LiteContentEncoder) -> None:
    audio = noise(16_000) * np.sin(np.arange(16_000) / 900).astype(np.float32)
    np.testing.assert_allclose(shipped(audio), shipped(audio * np.float32(0.05)), atol=0.02)


@pytest.mark.parametrize("audio", [np.zeros(8000, np.float32), np.ones(8000, np.float32), noise(8000) * 1e-6])
def test_odd_audio_stays_finite(shipped: LiteContentEncoder, audio: Floats) -> None:
    content = shipped(audio)
    assert np.isfinite(content).all()
    assert np.abs(content).max() < 50


def test_stereo_is_refused(small: LiteContentEncoder) -> None:
    with pytest.raises(AudioError, match="mono"):
        small(np.zeros((2, 8000), np.float32))


def test_frame_sees_its_samples() -> None:
    """A click at sample 320 i + 200 is loudest in spectrum frame 2 i, of which content frame i is the centre."""
    audio = torch.zeros(1, 6400)
    audio[0, 320 * 7 + 200] = 1.0
    energy = power_spectrum(audio).sum(-1)[0]
    assert int(energy.argmax()) == 14
    assert energy.shape == ((6400 - 400) // 160 + 1,)


def test_receptive_field_is_as_stated() -> None:
    torch.manual_seed(0)
    network = LiteEncoder(channels=8, blocks=2, kernel_size=3).eval()
    log_mel = torch.randn(1, 80, 101, requires_grad=True)
    blocks = network.stem(log_mel)
    for block in network.blocks:
        blocks = block(blocks)
    blocks[0, :, 25].square().sum().backward()
    assert log_mel.grad is not None
    touched = log_mel.grad.abs().sum(1)[0].nonzero()[:, 0]
    reach = max(50 - int(touched.min()), int(touched.max()) - 50)  # in spectrum frames of 10 ms
    assert network.receptive_seconds == pytest.approx(reach * 0.01 + 0.0125)


def test_features_have_mean_zero_and_deviation_one() -> None:
    features = normalised_over_time(torch.randn(2, 5, 400) * 7 + 3)
    torch.testing.assert_close(features.mean(2), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.std(2), torch.ones(2, 5), atol=1e-2, rtol=0)


def test_filters_are_slaneys() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchaudio, about itself
        functional = pytest.importorskip("torchaudio.functional")
    expected = functional.melscale_fbanks(
        257, lite_encoder.MEL_FMIN, lite_encoder.MEL_FMAX, 80, 16_000, norm="slaney", mel_scale="slaney"
    )
    torch.testing.assert_close(mel_filter_bank(), expected, atol=2e-6, rtol=0)


def test_unknown_family_names_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"v9.*lite"):
        load_content_encoder("v9", CPU)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"encoder\.safetensors"):
        load("lite", CPU, tmp_path / "encoder.safetensors")


@pytest.mark.parametrize("keep", [0, 7, 1000, -1000])
def test_damaged_weights_are_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(WEIGHTS_FILE.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged"):
        load("lite", CPU, path)


def test_shipped_encoder_is_the_one_on_its_card(shipped: LiteContentEncoder) -> None:
    data, card = WEIGHTS_FILE.read_bytes(), CARD.read_text(encoding="utf-8")
    assert shipped.sha256 == hashlib.sha256(data).hexdigest()
    assert shipped.sha256 in card
    sizes = re.findall(r"([\d,]+) bytes", card)
    assert f"{len(data):,}" in sizes
    parameters = sum(tensor.numel() for tensor in shipped.network.parameters())
    assert f"{parameters:,} parameters" in card
    assert parameters <= 5_000_000
    assert f"{shipped.network.receptive_seconds:.4f} s" in card


def test_shipped_encoder_through_the_table(shipped: LiteContentEncoder) -> None:
    encoder = load_content_encoder("lite", CPU)
    assert (encoder.name, encoder.width) == ("lite", 256)
    assert set(FAMILIES) == {"v1", "v2", "lite"}
    np.testing.assert_array_equal(encoder(noise(9000)), shipped(noise(9000)))


def test_real_speech_in_another_voice_keeps_its_content(shipped: LiteContentEncoder, shared_data: Path) -> None:
    """A clip is much nearer to itself in a lower voice (resampled) than to what the same reader says elsewhere."""
    soundfile = pytest.importorskip("soundfile")
    soxr = pytest.importorskip("soxr")
    audio, rate = soundfile.read(shared_data / "sources" / "librivox_0880.flac", dtype="float32")
    other, other_rate = soundfile.read(shared_data / "sources" / "librivox_0930.flac", dtype="float32")
    clip, stranger = soxr.resample(audio, rate, 16_000), soxr.resample(other, other_rate, 16_000)
    lower = soxr.resample(clip, 16_000, 17_000)  # another, larger speaker: pitch and formants 6 % lower
    content, changed, wrong = (shipped(item) for item in (clip, lower, stranger))
    frames = np.arange(len(content))
    match = changed[np.minimum(np.round(frames * 17 / 16).astype(int), len(changed) - 1)]
    count = min(len(content), len(wrong))

    def likeness(first: Floats, second: Floats) -> float:
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        return float((np.sum(first * second, axis=1) / lengths).mean())

    assert likeness(content, match) > 0.6
    assert likeness(content[:count], wrong[:count]) < 0.3
