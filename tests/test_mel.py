"""Spectrograms for training: golden data with both sets of constants, shape, gradient, precision."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.audio.mel import MAGNITUDE_EPSILON, MEL_FLOOR, linear_spectrogram, log_mel, mel_from_linear
from lib.config import AudioConfig
from lib.errors import AudioError
from tests.helpers import error, read_golden

CONFIGS = {
    "32k": AudioConfig(sample_rate=32000, n_fft=1024, hop_length=320, n_mels=80),
    "40k": AudioConfig(sample_rate=40000, n_fft=2048, hop_length=400, n_mels=125),
    "48k": AudioConfig(sample_rate=48000, n_fft=2048, hop_length=480, n_mels=128),
}
CONSTANTS = {"classic2023": (MAGNITUDE_EPSILON, MEL_FLOOR), "upstream2026": (2e-7, 2e-6)}


@pytest.mark.parametrize("rate", CONFIGS)
@pytest.mark.parametrize("variant", CONSTANTS)
def test_golden_mel(golden: Path, rate: str, variant: str) -> None:
    data = read_golden(golden / f"loss_mel/mel_{rate}.safetensors")
    config, (epsilon, floor) = CONFIGS[rate], CONSTANTS[variant]
    spec = linear_spectrogram(data["in.wave"], config.n_fft, config.hop_length, epsilon)
    assert error(spec[..., ::6], data[f"out.{variant}.spec_every6"]) < 1e-5
    mel = mel_from_linear(spec, config, floor)
    assert (mel - data[f"out.{variant}.mel"]).abs().max() < 2e-3
    assert torch.equal(mel, log_mel(data["in.wave"], config, epsilon, floor))


@pytest.mark.parametrize(("variant", "year"), [("classic2023", 2023), ("upstream2026", 2026)])
def test_golden_function_vectors(golden: Path, variant: str, year: int) -> None:
    data = np.load(golden / "functions/04_spec_mel_40k.npz")
    epsilon, floor = CONSTANTS[variant]
    audio = torch.from_numpy(data["x"])
    assert error(linear_spectrogram(audio, 2048, 400, epsilon), data[f"spec_{year}"]) < 1e-5
    assert (log_mel(audio, CONFIGS["40k"], epsilon, floor) - torch.from_numpy(data[f"mel_{year}"])).abs().max() < 2e-3


@settings(deadline=None, max_examples=20)
@given(frames=st.integers(4, 40), batch=st.integers(1, 3), name=st.sampled_from(sorted(CONFIGS)))
def test_one_frame_per_hop(frames: int, batch: int, name: str) -> None:
    config = CONFIGS[name]
    mel = log_mel(torch.zeros(batch, frames * config.hop_length), config)
    assert mel.shape == (batch, config.n_mels, frames)
    assert mel.isfinite().all()


def test_a_tone_lands_in_its_bin() -> None:
    time = torch.arange(40000) / 40000
    spec = linear_spectrogram(torch.sin(2 * torch.pi * 1000 * time)[None], 2048, 400)
    assert spec[0].mean(-1).argmax() == round(1000 * 2048 / 40000)


def test_silence_has_the_magnitudes_of_the_constants() -> None:
    config = CONFIGS["40k"]
    spec = linear_spectrogram(torch.zeros(1, 8000), config.n_fft, config.hop_length)
    torch.testing.assert_close(spec, torch.full_like(spec, 1e-3))  # the square root of 1e-6
    mel = mel_from_linear(torch.zeros_like(spec), config)
    torch.testing.assert_close(mel, torch.full_like(mel, 1e-5).log())


def test_the_gradient_is_finite_even_for_silence() -> None:
    audio = torch.zeros(1, 8000, requires_grad=True)
    (gradient,) = torch.autograd.grad(log_mel(audio, CONFIGS["40k"]).sum(), audio)
    assert gradient.isfinite().all()


def test_mixed_precision_does_not_reach_the_spectrum() -> None:
    audio = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = log_mel(audio, CONFIGS["40k"])
    assert got.dtype == torch.float32
    assert torch.equal(got, log_mel(audio, CONFIGS["40k"]))


def test_a_matrix_cached_in_inference_mode_serves_training() -> None:
    config = AudioConfig(sample_rate=24000, n_fft=1024, hop_length=240, n_mels=33)  # used nowhere else: not cached yet
    audio = torch.randn(1, 4800, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        log_mel(audio, config)
    audio.requires_grad_()
    (gradient,) = torch.autograd.grad(log_mel(audio, config).sum(), audio)
    assert gradient.abs().max() > 0


def test_a_clip_too_short_to_reflect_is_refused() -> None:
    with pytest.raises(AudioError, match="825 are needed"):
        linear_spectrogram(torch.zeros(1, 824), 2048, 400)
    assert linear_spectrogram(torch.zeros(1, 825), 2048, 400).shape[-1] == 2
