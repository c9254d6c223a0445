"""Augmented content features of a clip, which a small voice is trained on."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lib.config import load_family
from lib.content import load_content_encoder
from lib.content.lite import LiteContentEncoder
from lib.models.lite_encoder import CODE, LEVEL_SCALE, mel_filter_bank, power_spectrum
from tests.test_loop import recordings as recordings
from tests.test_loop import template as template
from train import augment
from train.augment import augmented_mel
from train.dataset import ClipDataset
from train.experiment import Experiment
from train.extract import extract
from train.feature_augment import NOISE_FLOOR, augment_features, choose_features, with_noise_floor
from train.options import ExtractOptions, PrepareOptions
from train.preprocess import prepare_stage


def voice() -> npt.NDArray[np.float32]:
    times = np.arange(32_000) / 16_000
    harmonics = sum(np.sin(2 * np.pi * 150 * k * times) / k for k in range(1, 12))
    return (0.1 * harmonics * (1 + np.sin(2 * np.pi * 3 * times))).astype(np.float32)


def encoder() -> LiteContentEncoder:
    found = load_content_encoder("lite", torch.device("cpu"))
    assert isinstance(found, LiteContentEncoder)
    return found


# --- audio ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "place"), [(1.2, 60), (0.8, 40), (1.0, 50)])
def test_warp_moves_a_peak(factor: float, place: int) -> None:
    spectrum = torch.zeros(1, 2, augment.BINS)
    spectrum[:, :, 50] = 1.0
    assert augment.warp_frequency(spectrum, torch.tensor([[factor]])).argmax(2).tolist() == [[place, place]]


def test_no_warp_changes_nothing() -> None:
    spectrum = torch.rand(2, 3, augment.BINS)
    torch.testing.assert_close(augment.warp_frequency(spectrum, torch.ones(2, 3)), spectrum)


def test_augmented_spectra_depend_on_the_seed_alone() -> None:
    audio = torch.randn(3, 16_080, generator=torch.Generator().manual_seed(0)) * 0.1
    before = audio.clone()
    first, same, other = (augmented_mel(audio, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.shape == (3, 100, 80)
    assert torch.isfinite(first).all() and (first >= 0).all()
    assert torch.equal(first, same) and torch.equal(audio, before)
    assert (first.clamp(min=1e-10).log() - other.clamp(min=1e-10).log()).abs().mean() > 0.1


def test_spectra_without_augmentation_have_the_power_of_the_encoders() -> None:
    """The larger transform is scaled so that the encoder gets the power it was trained on."""
    audio = torch.randn(1, 32_000, generator=torch.Generator().manual_seed(0)) * 0.1
    wide = power_spectrum(audio, augment.N_FFT) @ (mel_filter_bank(augment.N_FFT) * (400 / augment.N_FFT))
    usual = power_spectrum(audio) @ mel_filter_bank()
    ratio = (wide.mean((0, 1)) / usual.mean((0, 1)))[5:]
    assert 0.85 < ratio.mean() < 1.15


# --- levels -----------------------------------------------------------------------------------------------------------


def test_noise_raises_the_quiet_frames_only() -> None:
    level = torch.tensor([[0.3, 0.0, -3.0, -3.8]])
    rng = torch.Generator().manual_seed(0)
    drawn = [with_noise_floor(level, rng) for _ in range(400)]
    raised = [found for found in drawn if not torch.equal(found, level)]
    assert 0.4 < len(raised) / len(drawn) < 0.6
    for found in raised:
        assert (found >= level).all()
        assert float(found[0, 0] - level[0, 0]) < 0.1
        assert float(found.min()) >= NOISE_FLOOR[0] / LEVEL_SCALE - 1e-4
    assert max(float(found[0, 3] - level[0, 3]) for found in raised) > 1.0


# --- features ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("samples", [32_000, 24_123, 400, 320, 0])
def test_augmented_features_have_the_frames_of_the_features_and_depend_on_the_name_only(samples: int) -> None:
    audio = voice()[:samples]
    made = augment_features(encoder(), audio, 2, "a.wav")
    own = encoder()(audio)
    assert made.shape == (2, *own.shape) and made.dtype == np.float16
    assert np.isfinite(made).all()
    np.testing.assert_array_equal(made, augment_features(encoder(), audio, 2, "a.wav"))
    if made.shape[1] > 1:
        assert not np.array_equal(made, augment_features(encoder(), audio, 2, "b.wav"))
        assert not np.array_equal(made[0, :, :CODE], made[1, :, :CODE])
        assert (made[..., CODE] >= own[:, CODE] - 5e-3).all(), "the level is the clip's, perhaps above a floor"


def test_original_features_are_chosen_as_often_as_two_augmented_versions() -> None:
    own, made = np.zeros((4, 2), np.float32), np.arange(1, 7, dtype=np.float16)[:, None, None] * np.ones((4, 2))
    rng = np.random.default_rng(0)
    drawn = [float(choose_features(own, made.astype(np.float16), rng)[0, 0]) for _ in range(4000)]
    shares = [drawn.count(float(i)) / 4000 for i in range(7)]
    np.testing.assert_allclose(shares, [2 / 8, *[1 / 8] * 6], atol=0.03)
    assert choose_features(own, None, rng) is own


@pytest.mark.slow
def test_extraction_augments_and_training_reads_all_versions(tmp_path: Path, recordings: Path) -> None:
    experiment = Experiment("x", tmp_path / "logs", tmp_path / "weights")
    family = load_family("lite").model_copy(update={"augmentations": 3, "max_frames": 900})  # no crops
    prepare_stage(experiment, recordings, family, PrepareOptions())
    extract(experiment, ExtractOptions(pitch_method="pm"))
    clips = experiment.clips()
    assert all(clip.augmented is not None and len(np.load(clip.augmented)) == 3 for clip in clips)
    dataset = ClipDataset(clips[:1], family, seed=1)
    read = set()
    for dataset.epoch in range(40):
        read.add(dataset[0].content.sum().item())
    assert len(read) == 3 + 1
    assert clips[0].augmented is not None
    clips[0].augmented.unlink()
    assert not extract(experiment, ExtractOptions(pitch_method="pm")).skipped
    assert clips[0].augmented.is_file()
