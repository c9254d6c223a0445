"""Network of the lite content encoder: Whisper's encoder, then a bottleneck trained to remove speaker information.

The first part is the encoder of Whisper base (Radford et al. 2022), which was trained on 99 languages. The outputs of
its layers 3 to 6 are normalised over the utterance and projected to a code of 128 features per frame. The energy of the
frame relative to the utterance is appended as one more feature.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.models.frames import FrameBlock

SAMPLE_RATE = 16_000  # Hz
WINDOW_LENGTH = 400  # samples, 25 ms
MEL_HOP_LENGTH = 160  # samples, 10 ms
N_MELS = 80
N_LAYERS = 6
FIRST_LAYER = 3  # the bottleneck's input is the output of layers 3, 4, 5 and 6
CHANNELS = 512  # of Whisper base
N_HEADS = 8
CODE = 128
WIDTH = CODE + 1  # content features per frame: the code, and the level of the frame
OFFSET = 200  # samples from the start of a content frame to its centre
MIN_DEVIATION = 0.1  # of a layer's value over an utterance, so that silence is not amplified
MIN_POWER = 1e-10
LEVEL_FLOOR = 1e-5  # power below the utterance's mean that counts as silence: 50 dB
LEVEL_SCALE = 1.5  # nepers; divides the level, so that it varies about as much as the code
WINDOW_FRAMES = 1300  # content frames, 26 s, encoded by Whisper at a time; it was trained on 30 s
CONTEXT_FRAMES = 50  # content frames of the neighbouring windows on either side of such a window


def mel_filter_bank(n_fft: int = WINDOW_LENGTH) -> Tensor:
    """Return (n_fft // 2 + 1, N_MELS) triangular filters of equal area on Slaney's mel scale, 0 to 8 kHz."""
    low, high = (_hz_to_mel(torch.tensor(hz)) for hz in (0.0, SAMPLE_RATE / 2))
    corners = _mel_to_hz(torch.linspace(float(low), float(high), N_MELS + 2))  # [C + 2]
    bins = torch.linspace(0.0, SAMPLE_RATE / 2, n_fft // 2 + 1)[:, None]  # [bins, 1]
    widths = corners[1:] - corners[:-1]
    rising = (bins - corners[:-2]) / widths[:-1]
    falling = (corners[2:] - bins) / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0.0) * (2.0 / (corners[2:] - corners[:-2]))


def _hz_to_mel(hz: Tensor) -> Tensor:
    # Slaney: linear below 1 kHz, then logarithmic with 27 mels to a factor of 6.4.
    return torch.where(hz < 1000.0, hz * 3 / 200, 15 + torch.log(hz.clamp(min=1.0) / 1000) * 27 / math.log(6.4))


def _mel_to_hz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))


def power_spectrum(audio: Tensor, n_fft: int = WINDOW_LENGTH) -> Tensor:
    """(B, T) audio at 16 kHz -> (B, T // 160, n_fft // 2 + 1) power; frame m is centred on sample 160 m."""
    padded = F.pad(audio[:, None], (WINDOW_LENGTH // 2, WINDOW_LENGTH // 2), mode="reflect")[:, 0]
    frames = padded.unfold(-1, WINDOW_LENGTH, MEL_HOP_LENGTH)[:, : audio.shape[1] // MEL_HOP_LENGTH]
    window = torch.hann_window(WINDOW_LENGTH, device=audio.device, dtype=audio.dtype)
    power: Tensor = torch.fft.rfft(frames * window, n=n_fft).abs().square()
    return power


def whisper_log_mel(mel: Tensor) -> Tensor:
    """(B, M, N_MELS) mel power -> (B, N_MELS, M) input of Whisper's encoder: log10, floored 80 dB below the maximum."""
    log_mel = torch.log10(mel.clamp(min=MIN_POWER)).transpose(1, 2)
    return (torch.maximum(log_mel, log_mel.amax(dim=(1, 2), keepdim=True) - 8.0) + 4.0) / 4.0


def sinusoids(frames: int, channels: int) -> Tensor:
    """Whisper's positional encodings (frames, channels): sines, then cosines."""
    rates = torch.exp(-math.log(10_000) / (channels // 2 - 1) * torch.arange(channels // 2))
    angles = torch.arange(frames)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


class WhisperLayer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, channels: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.norm_2 = nn.LayerNorm(channels)
        self.up = nn.Linear(channels, 4 * channels)
        self.down = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        batch, frames, channels = x.shape
        heads = self.qkv(self.norm_1(x)).view(batch, frames, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(heads[0], heads[1], heads[2])  # [B, H, N, C / H]
        x = x + self.out(attended.transpose(1, 2).reshape(batch, frames, channels))
        total: Tensor = x + self.down(F.gelu(self.up(self.norm_2(x))))
        return total


class WhisperEncoder(nn.Module):
    """Computes the outputs of layers 3 to 6 from a log-mel spectrogram."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        self.channels = channels
        self.conv_1 = nn.Conv1d(N_MELS, channels, 3, padding=1)
        self.conv_2 = nn.Conv1d(channels, channels, 3, padding=1, stride=2)
        self.layers = nn.ModuleList(WhisperLayer(channels, N_HEADS) for _ in range(N_LAYERS))

    def forward(self, log_mel: Tensor) -> Tensor:
        """(B, N_MELS, M) -> (B, (M + 1) // 2, 4 * channels): layers 3 to 6, at 50 frames/s."""
        x = F.gelu(self.conv_2(F.gelu(self.conv_1(log_mel)))).transpose(1, 2)
        x = x + sinusoids(x.shape[1], self.channels).to(x)
        outputs = []
        for number, layer in enumerate(self.layers, 1):
            x = layer(x)
            if number >= FIRST_LAYER:
                outputs.append(x)
        return torch.cat(outputs, 2)


class Bottleneck(nn.Module):
    """Projects the normalised layer outputs to the code."""

    def __init__(self, inputs: int, channels: int = 384, code: int = CODE, blocks: int = 2) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, channels)
        self.norm = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(FrameBlock(channels, 5) for _ in range(blocks))
        self.norm_2 = nn.LayerNorm(channels)
        self.last = nn.Linear(channels, code)

    def forward(self, layers: Tensor) -> Tensor:
        """(B, N, inputs) -> (B, N, code), each frame with mean 0 and variance 1."""
        x = F.gelu(self.norm(self.first(layers)))
        for block in self.blocks:
            x = block(x)
        code = self.last(self.norm_2(x)).float()
        return F.layer_norm(code, (self.last.out_features,))


def normalised_over_time(layers: Tensor) -> Tensor:
    """Normalise (B, N, C) over time to zero mean and unit standard deviation per channel (instance normalisation).

    This removes most information about the speaker and the microphone, which are constant over an utterance.
    """
    deviation = layers.std(dim=1, keepdim=True, unbiased=False) if layers.shape[1] > 1 else torch.ones_like(layers)
    return (layers - layers.mean(dim=1, keepdim=True)) / deviation.clamp(min=MIN_DEVIATION)


def frame_levels(mel: Tensor, frames: int) -> Tensor:
    """(B, M, N_MELS) mel power -> (B, frames): scaled log energy of content frames relative to the utterance."""
    power = mel.mean(dim=2)  # [B, M]
    around = F.pad(power[:, None], (1, 1), mode="replicate")
    kernel = torch.tensor([[[0.25, 0.5, 0.25]]], device=mel.device, dtype=mel.dtype)
    smooth = F.conv1d(around, kernel)[:, 0, : 2 * frames : 2]
    mean = power.mean(dim=1, keepdim=True).clamp(min=MIN_POWER)
    return torch.log(smooth / mean + LEVEL_FLOOR) / (2 * LEVEL_SCALE)


class LiteEncoder(nn.Module):
    """Computes content features of 16 kHz audio; frame i is centred on sample 320 i + 200."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        self.whisper = WhisperEncoder(channels)
        self.bottleneck = Bottleneck((N_LAYERS - FIRST_LAYER + 1) * channels)
        self.filters: Tensor
        # Not in the state dict: it follows from the constants above.
        self.register_buffer("filters", mel_filter_bank(), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """(B, T) audio at 16 kHz, T >= 400 -> (B, (T - 80) // 320, WIDTH) content features."""
        frames = (audio.shape[1] - 80) // 320
        return self.features(power_spectrum(shifted(audio)) @ self.filters, frames)

    def features(self, mel: Tensor, frames: int) -> Tensor:
        """(B, M, N_MELS) mel power, frame m centred on sample 160 m + 200 -> (B, frames, WIDTH)."""
        layers = torch.cat([*self._layers(mel, frames)], 1)
        code = self.bottleneck(normalised_over_time(layers))
        return torch.cat([code, frame_levels(mel, frames)[..., None]], 2)

    def _layers(self, mel: Tensor, frames: int) -> list[Tensor]:
        """(B, M, N_MELS) -> parts (B, N, 4 * channels): Whisper's upper layers, in windows with a second of context."""
        parts = []
        for first in range(0, frames, WINDOW_FRAMES):
            begin, last = max(first - CONTEXT_FRAMES, 0), min(first + WINDOW_FRAMES, frames)
            window = mel[:, 2 * begin : 2 * (last + CONTEXT_FRAMES)]
            parts.append(self.whisper(whisper_log_mel(window))[:, first - begin : last - begin])
        return parts


def shifted(audio: Tensor) -> Tensor:
    """(B, T) -> audio from the centre of the first content frame onwards, padded with silence."""
    return F.pad(audio[:, OFFSET:], (0, OFFSET + 1200))
