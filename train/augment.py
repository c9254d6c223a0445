"""Audio augmentation: simulated speakers, rooms, noise and bandwidth that leave the phones unchanged.

Spectra are split into envelope and fine structure with the cepstrum, so that formants and pitch change independently of
each other. Every function draws its random numbers from a generator and returns a new tensor.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.models.lite_encoder import SAMPLE_RATE, WINDOW_LENGTH, mel_filter_bank, power_spectrum

N_FFT = 512  # a power of two for the cepstrum; the encoder itself uses its window of 400 samples
BINS = N_FFT // 2 + 1
_LIFTER = 30  # cepstral coefficients that count as envelope: structure wider than 530 Hz
_SPECTRUM_FLOOR = 1e-7
_FORMANTS = (0.80, 1.22)  # vocal tracts from a child's to a large man's, relative to the average
_PITCH = (0.70, 1.45)
DISTORTED, REVERBERATED, NOISY = 0.05, 0.25, 0.4  # shares of the clips
_REVERB_SECONDS = (0.08, 0.5)  # until the sound has decayed by 60 dB


def uniform(count: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    """Draw `count` numbers uniformly between `low` and `high`."""
    return low + (high - low) * torch.rand(count, generator=rng)


def log_uniform(count: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    """Draw `count` numbers whose logarithm is uniform between those of `low` and `high`."""
    return uniform(count, math.log(low), math.log(high), rng).exp()


def chance(count: int, share: float, rng: torch.Generator) -> Tensor:
    """Draw `count` booleans that are true with probability `share`."""
    return torch.rand(count, generator=rng) < share


def reverberate(audio: Tensor, rng: torch.Generator, share: float = 0.45) -> Tensor:
    """Add reverberation to some items of (B, T) audio: decaying noise of random length and strength."""
    count, samples = audio.shape
    length = int(_REVERB_SECONDS[1] * SAMPLE_RATE)
    times = torch.arange(length) / SAMPLE_RATE
    decay = log_uniform(count, *_REVERB_SECONDS, rng)[:, None]
    tail = torch.randn(count, length, generator=rng) * torch.exp(-6.9 * times / decay)
    tail = tail / tail.square().sum(1, keepdim=True).sqrt() * uniform(count, 0.1, 0.8, rng)[:, None]
    tail[:, 0] = 1.0
    size = 1 << (samples + length - 1).bit_length()
    wet = torch.fft.irfft(torch.fft.rfft(audio, size) * torch.fft.rfft(tail, size), size)[:, :samples]
    return torch.where(chance(count, share, rng)[:, None], wet, audio)


def distort(audio: Tensor, rng: torch.Generator, share: float = 0.1) -> Tensor:
    """Apply soft clipping to some items of (B, T) audio, like an overdriven microphone preamplifier."""
    count = len(audio)
    drive = log_uniform(count, 2.0, 8.0, rng)[:, None]
    return torch.where(chance(count, share, rng)[:, None], torch.tanh(drive * audio) / drive, audio)


def random_curves(count: int, frames: int, knots: int, strength: float, rng: torch.Generator) -> Tensor:
    """Draw `count` smooth random curves of `frames` values around 0, each with its own standard deviation up to
    `strength`."""
    heights = torch.randn(count, 1, knots, generator=rng) * uniform(count, 0.0, strength, rng)[:, None, None]
    return F.interpolate(heights, size=frames, mode="linear", align_corners=True)[:, 0]


def warp_frequency(spectrum: Tensor, factor: Tensor) -> Tensor:
    """Stretch the frequency axis of (B, M, BINS) spectra towards higher bins by `factor`, (B, M) or (B, 1).

    The top 15% of the axis is stretched by a different factor, so that the highest bin stays in place.
    """
    bins = torch.arange(BINS, dtype=torch.float32)
    factor = factor[:, :, None]  # [B, M or 1, 1]
    knee = 0.85 * (BINS - 1) * factor.clamp(max=1.0)
    source_knee = knee / factor
    above = source_knee + (bins - knee) * (BINS - 1 - source_knee) / (BINS - 1 - knee)
    source = torch.where(bins < knee, bins / factor, above).clamp(0, BINS - 1)
    low = source.floor().clamp(max=BINS - 2)
    share = source - low
    index = low.long().expand_as(spectrum)
    return torch.lerp(spectrum.gather(2, index), spectrum.gather(2, index + 1), share.expand_as(spectrum))


def revoice(power: Tensor, rng: torch.Generator) -> Tensor:
    """Simulate another speaker for (B, M, BINS) power: formants, F0 contour, breathiness, timbre and stress."""
    count, frames, _ = power.shape
    log_power = torch.log(power + _SPECTRUM_FLOOR)
    cepstrum = torch.fft.irfft(log_power, N_FFT)
    cepstrum[..., _LIFTER : N_FFT - _LIFTER + 1] = 0.0
    envelope = torch.fft.rfft(cepstrum).real
    fine = log_power - envelope
    envelope = warp_frequency(envelope, log_uniform(count, *_FORMANTS, rng)[:, None])
    # The F0 contour changes too, or it would be common to two augmented versions of a crop.
    contour = log_uniform(count, *_PITCH, rng)[:, None] * random_curves(count, frames, frames // 30 + 2, 0.3, rng).exp()
    fine = warp_frequency(fine, contour.clamp(0.5, 2.0))
    depth = torch.where(chance(count, 0.1, rng), uniform(count, 0.0, 0.4, rng), uniform(count, 0.7, 1.1, rng))
    colour = random_curves(count, BINS, 9, 1.2, rng)[:, None]  # natural logarithm of power: about 5 dB
    stress = random_curves(count, frames, frames // 40 + 2, 0.8, rng)[:, :, None]
    return torch.exp(envelope + depth[:, None, None] * fine + colour + stress)


def add_noise(mel: Tensor, rng: torch.Generator, share: float = 0.7) -> Tensor:
    """Add coloured noise, or another item of the batch as background speech, to (B, M, N_MELS) mel power."""
    count, frames, bands = mel.shape
    level = mel.mean(dim=(1, 2), keepdim=True)
    knots = torch.randn(count, 1, 4, generator=rng) * 1.5
    colour = F.interpolate(knots, size=bands, mode="linear", align_corners=True).exp()
    # The power of noise in one mel band and frame is chi-square distributed with about 4 degrees of freedom.
    noise = colour * torch.randn(4, count, frames, bands, generator=rng).square().mean(0)
    noise = torch.where(chance(count, 0.2, rng)[:, None, None], mel.roll(1, 0), noise)
    noise = noise / noise.mean(dim=(1, 2), keepdim=True) * level
    ratio = 10 ** (-uniform(count, 4.0, 35.0, rng) / 10) * chance(count, share, rng)
    return mel + ratio[:, None, None] * noise


def limit_band(mel: Tensor, rng: torch.Generator, share: float = 0.3) -> Tensor:
    """Remove the highest or lowest bands of some items of (B, M, N_MELS) mel power, as MP3 or a telephone does."""
    count, _, bands = mel.shape
    band = torch.arange(bands)
    top = torch.where(chance(count, share, rng), uniform(count, 0.68 * bands, bands, rng), torch.tensor(float(bands)))
    bottom = torch.where(chance(count, share / 2, rng), uniform(count, 0.0, 0.09 * bands, rng), torch.tensor(0.0))
    inside = (band < top[:, None]) & (band >= bottom[:, None])
    return mel * torch.where(inside, 1.0, 1e-5)[:, None]


def augmented_mel(audio: Tensor, rng: torch.Generator) -> Tensor:
    """(B, T) audio at 16 kHz -> (B, T // 160, N_MELS) mel power with simulated speakers and rooms.

    The spectrum has more bins than that of the encoder, so the filters are scaled.
    """
    audio = reverberate(distort(audio, rng, DISTORTED), rng, REVERBERATED)
    filters = mel_filter_bank(N_FFT) * (WINDOW_LENGTH / N_FFT)
    mel = revoice(power_spectrum(audio, N_FFT), rng) @ filters
    return limit_band(add_noise(mel, rng, NOISY), rng)
