"""Discriminators of the lite family: log-magnitude spectra at several resolutions, frequencies as channels.

They follow UnivNet (Jang et al. 2021), with one-dimensional convolutions, and are much cheaper on a CPU than waveform
discriminators.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.config import LiteDiscriminatorConfig
from lib.models.discriminators import DiscriminatorOutput

LRELU_SLOPE = 0.1
GROUPS = 4
MIN_MAGNITUDE = 1e-3


class SpectrumDiscriminator(nn.Module):
    """Discriminator on one STFT: window `n_fft`, hop `n_fft // 4`."""

    def __init__(self, n_fft: int, channels: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.window: Tensor
        with torch.device("cpu"):
            self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.layers = nn.ModuleList([
            nn.Conv1d(n_fft // 2 + 1, channels, 3, padding=1),
            nn.Conv1d(channels, channels, 5, 2, padding=2, groups=GROUPS),
            nn.Conv1d(channels, channels, 5, padding=2, groups=GROUPS),
        ])  # fmt: skip
        self.last = nn.Conv1d(channels, 1, 3, padding=1)

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        """[B, 1, T] -> DiscriminatorOutput."""
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(
                audio[:, 0].float(), self.n_fft, self.n_fft // 4, window=self.window, return_complex=True
            )
            x = torch.log(spectrum.abs() + MIN_MAGNITUDE)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), LRELU_SLOPE)
            features.append(x)
        return DiscriminatorOutput(self.last(x).flatten(1), features)


class LiteDiscriminator(nn.Module):
    """One SpectrumDiscriminator for each resolution."""

    def __init__(self, config: LiteDiscriminatorConfig) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(
            SpectrumDiscriminator(n_fft, config.channels) for n_fft in config.resolutions
        )

    def forward(self, audio: Tensor) -> list[DiscriminatorOutput]:
        """[B, 1, T] -> one DiscriminatorOutput per resolution."""
        return [discriminator(audio) for discriminator in self.discriminators]
