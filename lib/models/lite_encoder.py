"""Network of the lite content encoder: 16 kHz audio -> 256 content features at 50 frames per second."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SAMPLE_RATE = 16_000  # Hz
WINDOW_LENGTH = 400  # samples, 25 ms
MEL_HOP_LENGTH = 160  # samples, 10 ms
N_FFT = 512
N_MELS = 80
MEL_FMIN = 40.0  # Hz
MEL_FMAX = 7600.0  # Hz
POWER_FLOOR = 1e-5  # of the utterance's mean mel power: 50 dB below it
SILENCE = 1e-9  # mean power of digital silence, to divide by
WIDTH = 256  # content features per frame


def mel_filter_bank() -> Tensor:
    """(N_FFT // 2 + 1, N_MELS) triangular filters of equal area on Slaney's mel scale, MEL_FMIN to MEL_FMAX.

    Written out, because torchaudio (where the same bank exists) need not be installed to convert.
    """
    low, high = (_hz_to_mel(torch.tensor(hz)) for hz in (MEL_FMIN, MEL_FMAX))
    corners = _mel_to_hz(torch.linspace(float(low), float(high), N_MELS + 2))  # [C + 2]
    bins = torch.linspace(0.0, SAMPLE_RATE / 2, N_FFT // 2 + 1)[:, None]  # [bins, 1]
    widths = corners[1:] - corners[:-1]
    rising = (bins - corners[:-2]) / widths[:-1]
    falling = (corners[2:] - bins) / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0.0) * (2.0 / (corners[2:] - corners[:-2]))


def _hz_to_mel(hz: Tensor) -> Tensor:
    # Slaney: linear below 1 kHz, then logarithmic with 27 mels to a factor of 6.4.
    return torch.where(hz < 1000.0, hz * 3 / 200, 15 + torch.log(hz.clamp(min=1.0) / 1000) * 27 / math.log(6.4))


def _mel_to_hz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))


def power_spectrum(audio: Tensor) -> Tensor:
    """(B, T) audio at 16 kHz -> (B, M, N_FFT // 2 + 1) power, M = (T - 400) // 160 + 1; frame m starts at 160 m."""
    frames = audio.unfold(-1, WINDOW_LENGTH, MEL_HOP_LENGTH)  # [B, M, window]
    window = torch.hann_window(WINDOW_LENGTH, device=audio.device, dtype=audio.dtype)
    power: Tensor = torch.fft.rfft(frames * window, n=N_FFT).abs().square()
    return power


def normalised_log_mel(mel: Tensor) -> Tensor:
    """(B, M, N_MELS) mel power -> (B, N_MELS, M) log mel without level, channel and long-term spectrum.

    Level is the utterance's mean power; then every band gets mean 0 and all bands together variance 1.
    """
    level = mel.mean(dim=(1, 2), keepdim=True) + SILENCE
    log_mel = torch.log(mel / level + POWER_FLOOR)
    log_mel = log_mel - log_mel.mean(dim=1, keepdim=True)
    deviation = log_mel.square().mean(dim=(1, 2), keepdim=True).sqrt()
    return (log_mel / (deviation + 0.1)).transpose(1, 2)  # [B, C, M]


def normalised_over_time(features: Tensor) -> Tensor:
    """(B, C, F) -> the same with mean 0 and deviation 1 of every feature over the utterance.

    This takes most of the speaker out: what is constant over an utterance says who speaks, not what is said.
    """
    features = features - features.mean(dim=2, keepdim=True)
    return features / (features.square().mean(dim=2, keepdim=True) + 1e-3).sqrt()


class _Block(nn.Module):
    """Depth-wise convolution over time, then a feed-forward layer per frame, added to the input."""

    def __init__(self, channels: int, kernel_size: int, expansion: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, expansion * channels)
        self.reduce = nn.Linear(expansion * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F) -> (B, C, F)."""
        frames = self.norm(self.depthwise(x).transpose(1, 2))  # [B, F, C]
        frames = self.reduce(F.gelu(self.expand(frames)))
        total: Tensor = x + frames.transpose(1, 2)
        return total


class LiteEncoder(nn.Module):
    """Content features of 16 kHz audio, frame i centred on the samples [320 i, 320 i + 400).

    A frame depends on `receptive_seconds` of audio around it through the convolutions, and on the whole utterance
    through its level, its long-term spectrum and the mean and deviation of every feature.
    """

    def __init__(self, channels: int = 256, blocks: int = 6, kernel_size: int = 7) -> None:
        super().__init__()
        self.stem = nn.Conv1d(N_MELS, channels, 5, stride=2, padding=2)  # 10 ms -> 20 ms
        self.blocks = nn.ModuleList(_Block(channels, kernel_size, 2) for _ in range(blocks))
        self.norm = nn.LayerNorm(channels)
        self.bottleneck = nn.Linear(channels, WIDTH)
        self.filters: Tensor
        # Computed, not stored: it follows from the constants above.
        self.register_buffer("filters", mel_filter_bank(), persistent=False)

    @property
    def receptive_seconds(self) -> float:
        """Seconds of audio before and after the centre of a frame that the convolutions see."""
        frames = sum(block.depthwise.kernel_size[0] // 2 for block in self.blocks if isinstance(block, _Block))
        return (frames * 2 + 2) * MEL_HOP_LENGTH / SAMPLE_RATE + WINDOW_LENGTH / 2 / SAMPLE_RATE

    def forward(self, audio: Tensor) -> Tensor:
        """(B, T) audio at 16 kHz, T >= 400 -> (B, (T - 80) // 320, 256) content features."""
        mel = power_spectrum(audio) @ self.filters
        return self.features(normalised_log_mel(mel))

    def features(self, log_mel: Tensor) -> Tensor:
        """(B, N_MELS, M) normalised log mel -> (B, (M + 1) // 2, 256) content features."""
        x: Tensor = self.stem(log_mel)
        for block in self.blocks:
            x = block(x)
        x = self.bottleneck(self.norm(x.transpose(1, 2)))  # [B, F, C]
        return normalised_over_time(x.float().transpose(1, 2)).transpose(1, 2)
