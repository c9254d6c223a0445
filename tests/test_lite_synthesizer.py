"""The lite networks: content and F0 -> mel -> waveform."""

import math

import numpy as np
import pytest
import torch

from lib.config import LiteConfig, LiteDiscriminatorConfig
from lib.models.lite_discriminator import LiteDiscriminator
from lib.models.lite_synthesizer import LiteSynthesizer, log_mel, pulse_train, usable_bands
from train import lite_losses

CONFIG = LiteConfig(
    sample_rate=24_000, n_fft=1024, hop_length=240, segment_frames=16, n_mels=20, prior_channels=16, prior_blocks=2,
    vocoder_channels=16, vocoder_blocks=2, n_speakers=3, gin_channels=4, content_width=9,
)  # fmt: skip


@pytest.fixture(scope="module")
def network() -> LiteSynthesizer:
    torch.manual_seed(0)
    return LiteSynthesizer(CONFIG).eval()


def content(frames: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(frames)
    return torch.randn(1, (frames + 1) // 2, CONFIG.content_width, generator=rng).repeat_interleave(2, 1)[:, :frames]


@pytest.mark.parametrize("f0", [110.0, 220.0, 431.7])
def test_pulse_train_has_all_harmonics_with_amplitude_one(f0: float) -> None:
    seconds, rate = 1.0, 24_000
    pulses = pulse_train(torch.full((1, int(100 * seconds)), f0), rate, 240)[0]
    times = torch.arange(1, len(pulses) + 1, dtype=torch.float64) / rate
    for number in (1, 2, 5, 20):
        wave = torch.exp(-2j * math.pi * number * f0 * times)
        assert abs(2 * (pulses.double() * wave).mean().abs().item() - 1) < 0.02
    spectrum = torch.fft.rfft(pulses * torch.hann_window(len(pulses))).abs()
    above = spectrum[round(0.99 * rate / 2) :]
    assert above.max() < 1e-2 * spectrum.max()  # band-limited


def test_pulse_train_is_silent_where_unvoiced() -> None:
    f0 = torch.full((1, 30), 150.0)
    f0[:, 10:20] = 0
    pulses = pulse_train(f0, 24_000, 240)[0]
    assert not pulses[2400:4800].any()
    assert pulses[:2400].abs().max() > 10
    assert pulses[4800:].abs().max() > 10


@pytest.mark.parametrize("frames", [1, 2, 17, 40])
def test_output_has_one_hop_per_frame(network: LiteSynthesizer, frames: int) -> None:
    f0 = torch.full((1, frames), 200.0)
    audio = network.infer(content(frames), torch.tensor([frames]), torch.tensor([0]), None, f0)
    assert audio.shape == (1, 1, frames * 240)
    assert torch.isfinite(audio).all()


def test_kept_frames_are_those_of_the_whole(network: LiteSynthesizer) -> None:
    frames = 90
    x, lengths, speaker = content(frames), torch.tensor([frames]), torch.tensor([1])
    f0 = torch.zeros(1, frames)  # a pulse train's phase depends on where it begins
    whole = network.infer(x, lengths, speaker, None, f0, temperature=0.0)
    part = network.infer(x, lengths, speaker, None, f0, temperature=0.0, keep=(40, 60))
    torch.testing.assert_close(part, whole[..., 40 * 240 : 60 * 240], atol=1e-5, rtol=0)


def test_noise_follows_the_generator(network: LiteSynthesizer) -> None:
    f0, x, lengths, speaker = torch.zeros(1, 20), content(20), torch.tensor([20]), torch.tensor([0])
    first, again, other = (
        network.infer(x, lengths, speaker, None, f0, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_output_follows_f0(network: LiteSynthesizer) -> None:
    x, lengths, speaker = content(100), torch.tensor([100]), torch.tensor([0])
    for hz in (120.0, 330.0):
        audio = network.infer(x, lengths, speaker, None, torch.full((1, 100), hz), temperature=0.0)[0, 0]
        spectrum = torch.fft.rfft(audio * torch.hann_window(len(audio))).abs()
        peak = int(spectrum[60:].argmax()) + 60  # above 60 Hz; 1 Hz per bin
        assert abs(peak / hz - round(peak / hz)) < 0.02, f"the strongest partial, {peak} Hz, is no harmonic of {hz} Hz"


def test_untrained_vocoder_keeps_the_spectral_envelope() -> None:
    """The filters begin at the mel spectrogram's own envelope: even untrained, formants are where they should be."""
    torch.manual_seed(0)
    config = CONFIG.model_copy(update={"n_mels": 80})
    network = LiteSynthesizer(config).eval()
    rng = torch.Generator().manual_seed(3)
    noise = torch.randn(1, 24_000, generator=rng)
    spectrum = torch.fft.rfft(noise)
    hertz = torch.fft.rfftfreq(24_000, 1 / 24_000)
    shaped = torch.fft.irfft(spectrum * (0.05 + torch.exp(-(((hertz - 2000) / 300) ** 2))), 24_000)
    mel = log_mel(shaped, config)
    made = network.dec(mel, torch.zeros(1, mel.shape[1]), torch.randn(1, mel.shape[1] * 240, generator=rng))
    difference = (log_mel(made[:, 0], config) - mel)[:, 5:-5].mean(1)
    assert difference.abs().mean() < 0.35


def test_speakers_differ(network: LiteSynthesizer) -> None:
    f0, x = torch.full((1, 30), 200.0), content(30)
    a, b = (network.enc_p(x, f0, network.emb_g(torch.tensor([speaker]))) for speaker in (0, 1))
    assert (a - b).abs().max() > 1e-3


def test_content_is_interpolated_between_its_centres(network: LiteSynthesizer) -> None:
    """Repeating a row twice and the taps of the prior give linear interpolation at the centres of the frames."""
    rows = torch.randn(1, 10, CONFIG.content_width, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    handle = network.enc_p.first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network.enc_p(rows.repeat_interleave(2, 1), torch.zeros(1, 20), network.emb_g(torch.tensor([0])))
    handle.remove()
    places = np.arange(20) * 10.0  # ms; row i is centred on 12.5 ms + 20 ms * i
    centres = 12.5 + 20 * np.arange(10)
    for column in range(3):
        wanted = np.interp(places, centres, rows[0, :, column].numpy())
        np.testing.assert_allclose(seen[0][0, :, column].detach().numpy(), wanted, atol=1e-5)


# --- losses -----------------------------------------------------------------------------------------------------------


def test_spectral_loss_ignores_what_is_above_the_cutoff() -> None:
    rng = torch.Generator().manual_seed(0)
    low, high = torch.randn(1, 9600, generator=rng), torch.randn(1, 9600, generator=rng)
    cutoffs = torch.tensor([4000.0])
    limited = lite_losses.band_limited(low, cutoffs, 24_000)
    more = limited + (high - lite_losses.band_limited(high, torch.tensor([5000.0]), 24_000))
    assert lite_losses.spectral_loss(more, limited, cutoffs) < 0.05
    assert lite_losses.spectral_loss(more, limited) > 1.0


def test_spectral_loss_of_equal_signals_is_zero() -> None:
    x = torch.randn(2, 9600, generator=torch.Generator().manual_seed(0))
    assert lite_losses.spectral_loss(x, x).item() == 0


@pytest.mark.slow
def test_hinge_losses_push_in_opposite_directions() -> None:
    torch.manual_seed(0)
    discriminator = LiteDiscriminator(LiteDiscriminatorConfig(resolutions=(256, 512), channels=8))
    real, made = torch.randn(2, 1, 4800), 0.1 * torch.randn(2, 1, 4800)
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-2)
    first = lite_losses.discriminator_hinge(discriminator(real), discriminator(made)).item()
    for _ in range(20):
        loss = lite_losses.discriminator_hinge(discriminator(real), discriminator(made))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < 0.5 * first
    of_real, of_made = discriminator(real), discriminator(made)
    assert lite_losses.generator_hinge(of_made) > lite_losses.generator_hinge(of_real)
    assert lite_losses.feature_distance(of_real, of_made) > 0
    assert lite_losses.feature_distance(of_real, of_real) == 0


# --- recordings without high frequencies ------------------------------------------------------------------------------


@pytest.mark.parametrize("cutoff", [4000.0, 6000.0, 8000.0])
def test_bandwidth_is_where_the_spectrum_of_the_recordings_ends(cutoff: float) -> None:
    noise = 0.1 * torch.randn(3, 48_000, generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.rfft(noise)
    spectrum[:, torch.fft.rfftfreq(48_000, 1 / 24_000) > cutoff] = 0
    limited = torch.fft.irfft(spectrum, 48_000)
    assert 0 <= lite_losses.bandwidth(limited, 24_000) - cutoff < 600  # a Hann window leaks
    assert lite_losses.bandwidth(noise, 24_000) == pytest.approx(12_000, abs=30)
    assert lite_losses.bandwidth(torch.zeros(1, 48_000), 24_000) == 12_000


def test_one_recording_with_high_frequencies_decides_for_the_batch() -> None:
    noise = 0.1 * torch.randn(2, 48_000, generator=torch.Generator().manual_seed(0))
    dull = lite_losses.band_limited(noise[:1], torch.tensor([3000.0]), 24_000)
    assert lite_losses.bandwidth(torch.cat([dull, noise[1:]]), 24_000) > 11_900


def test_usable_bands_lie_below_the_cutoff() -> None:
    config = CONFIG.model_copy(update={"n_mels": 100})
    assert usable_bands(config, 12_000) == 100
    assert usable_bands(config, 6000) < usable_bands(config, 8000) < 100
    tones = torch.sin(2 * torch.pi * 7000 * torch.arange(24_000) / 24_000)[None]
    mel = log_mel(tones, config)[0, 50]
    assert int(mel.argmax()) >= usable_bands(config, 6000)
    assert int(mel.argmax()) < usable_bands(config, 8000)
