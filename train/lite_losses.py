"""Losses of the lite family: multi-resolution spectral loss, and hinge losses of the discriminators."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.models.discriminators import DiscriminatorOutput

RESOLUTIONS = (512, 1024, 2048)  # samples of an STFT
MIN_MAGNITUDE = 1e-3
CONVERGENCE = 0.5  # weight of the spectral convergence beside the log magnitudes
MAX_CONVERGENCE = 2.0  # it is relative to the level of the recording, which may be silent
USABLE = 0.96  # share of the cutoff up to which spectra are compared
EDGE = 60.0  # Hz, width of the filter that `band_limited` applies
FULL_BAND = 10_000  # Hz; from here on nothing is filtered
BANDWIDTH_FFT = 1024  # samples
LOUD_FRAMES = 0.95  # quantile of a frequency's power over the frames
MAX_DROP_DB = 75.0  # below the loudest frequency; lower levels count as empty


def spectral_loss(generated: Tensor, real: Tensor, cutoffs: Tensor | None = None, sample_rate: int = 24_000) -> Tensor:
    """Return the spectral distance of two signals [B, T], below the `cutoffs` [B] in Hz.

    It is the mean absolute difference of log STFT magnitudes plus half the spectral convergence, averaged over the
    resolutions: a variant of the multi-resolution STFT loss of Yamamoto et al. (2020).
    """
    losses = []
    for n_fft in RESOLUTIONS:
        window = torch.hann_window(n_fft, device=generated.device)
        a, b = (
            torch.stft(x.float(), n_fft, n_fft // 4, window=window, return_complex=True).abs()
            for x in (generated, real)
        )
        bins = torch.ones(len(a), a.shape[1], 1, device=a.device)
        if cutoffs is not None:
            hertz = torch.arange(a.shape[1], device=a.device) * sample_rate / n_fft
            bins = (hertz < USABLE * cutoffs[:, None]).float()[..., None]
        distance = ((a + MIN_MAGNITUDE).log() - (b + MIN_MAGNITUDE).log()).abs() * bins
        level = (b * bins).sum((1, 2)).clamp(min=MIN_MAGNITUDE)
        convergence = (((a - b).abs() * bins).sum((1, 2)) / level).clamp(max=MAX_CONVERGENCE)
        losses.append(distance.sum() / (bins.sum() * a.shape[2]) + CONVERGENCE * convergence.mean())
    return torch.stack(losses).mean()


def bandwidth(audio: Tensor, sample_rate: int) -> float:
    """Return the bandwidth in Hz of recordings [B, T]: the highest frequency with content in any of them.

    MP3 encoders and low sample rates remove everything above a cutoff.
    """
    window = torch.hann_window(BANDWIDTH_FFT, device=audio.device)
    spectrum = torch.stft(
        audio.float(), BANDWIDTH_FFT, BANDWIDTH_FFT // 2, window=window, center=False, return_complex=True
    )
    # Not the mean: where a crop begins or ends within speech, single frames contain all frequencies.
    power = spectrum.abs().square().quantile(LOUD_FRAMES, dim=2).amax(0)  # [bins]
    loud = (power > power.max() * 10 ** (-MAX_DROP_DB / 10)).nonzero()
    if len(loud) == 0:
        return sample_rate / 2
    return (int(loud[-1]) + 1) * sample_rate / BANDWIDTH_FFT


def band_limited(audio: Tensor, cutoffs: Tensor, sample_rate: int) -> Tensor:
    """Low-pass filter [B, T] at the cutoff [B] in Hz of each item."""
    hertz = torch.fft.rfftfreq(audio.shape[1], 1 / sample_rate, device=audio.device)
    gains = torch.sigmoid((cutoffs[:, None] - hertz) / EDGE)
    gains = torch.where(cutoffs[:, None] >= FULL_BAND, torch.ones_like(gains), gains)
    limited: Tensor = torch.fft.irfft(torch.fft.rfft(audio) * gains, audio.shape[1])
    return limited


def discriminator_hinge(real: Sequence[DiscriminatorOutput], generated: Sequence[DiscriminatorOutput]) -> Tensor:
    """Hinge loss of the discriminators, averaged over them (Lim & Ye 2017)."""
    parts = [
        F.relu(1 - a.score.float()).mean() + F.relu(1 + b.score.float()).mean()
        for a, b in zip(real, generated, strict=True)
    ]
    return torch.stack(parts).mean()


def generator_hinge(generated: Sequence[DiscriminatorOutput]) -> Tensor:
    """Hinge loss of the generator, averaged over the discriminators."""
    return torch.stack([-output.score.float().mean() for output in generated]).mean()


def feature_distance(real: Sequence[DiscriminatorOutput], generated: Sequence[DiscriminatorOutput]) -> Tensor:
    """Feature-matching loss (Larsen et al. 2016): the mean absolute difference between hidden features of the
    discriminators for real and generated audio."""
    pairs = [
        (a.float() - b.float()).abs().mean()
        for one, other in zip(real, generated, strict=True)
        for a, b in zip(one.features, other.features, strict=True)
    ]
    return torch.stack(pairs).mean()
