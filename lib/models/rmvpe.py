"""The RMVPE pitch network: a U-Net over the log-mel spectrogram, then a recurrent layer over time.

Attribute names are the keys of the published `rmvpe.pt`; weights are loaded elsewhere.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from lib.models.memory import release_mapped_weights, trim_memory

N_MELS = 128
N_PITCHES = 360  # classes of 20 cents
LEVELS = 5  # of the U-Net, each of half the resolution
FRAME_MULTIPLE = 2**LEVELS  # the network takes multiples of this many frames
BLOCKS = 4  # residual blocks per level
RECEPTIVE_FIELD = 2 * BLOCKS  # frames on either side, of the blocks of a level
BAND_FRAMES = 512  # frames of a level that its blocks compute at a time
LONG_FRAMES = 1000  # frames from which on weights are released during the computation
OUT_CHANNELS = 3  # of the U-Net, input of the recurrent layer
MOMENTUM = 0.01


class ConvBlock(nn.Module):
    """Two 3 x 3 convolutions with a residual connection: [B, a, T, M] -> [B, b, T, M]."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out, momentum=MOMENTUM),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out, momentum=MOMENTUM),
            nn.ReLU(inplace=True),
        )
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x) + self.shortcut(x)
        return out


def _blocks(channels_in: int, channels_out: int) -> nn.Sequential:
    """A level's residual blocks, the first of which changes the number of channels."""
    return nn.Sequential(*(ConvBlock(channels_in if i == 0 else channels_out, channels_out) for i in range(BLOCKS)))


def _in_bands(compute: Callable[[int, int], Tensor], frames: int) -> Tensor:
    """Join `compute(first, last)` over all frames of a level: the same result, in a fraction of the memory."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return compute(0, frames)
    out: Tensor | None = None
    for first in range(0, frames, BAND_FRAMES):
        last = min(first + BAND_FRAMES, frames)
        band = compute(first, last)
        if last - first == frames:
            return band
        if out is None:
            out = band.new_empty(*band.shape[:2], frames, band.shape[3])
        out[:, :, first:last] = band
    assert out is not None, "there is no frame to compute"
    trim_memory()
    return out


class Stage(nn.Module):
    """The residual blocks of one level, at its resolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = _blocks(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        def compute(first: int, last: int) -> Tensor:
            low = max(first - RECEPTIVE_FIELD, 0)
            band: Tensor = self.conv(x[:, :, low : last + RECEPTIVE_FIELD])
            return band[:, :, first - low : last - low]

        return _in_bands(compute, x.shape[2])


class Encoder(nn.Module):
    """Halves time and mel five times: [B, 1, T, M] -> [B, 16 c, T / 32, M / 32], and the output of each level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(1, momentum=MOMENTUM)
        widths = [1, *(channels * 2**level for level in range(LEVELS))]
        self.layers = nn.ModuleList(Stage(a, b) for a, b in pairwise(widths))
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = self.bn(x)
        skips = []
        for layer in self.layers:
            skips.append(layer(x))
            x = self.pool(skips[-1])
        return x, skips


class Intermediate(nn.Module):
    """Four stages at the lowest resolution: [B, a, T / 32, M / 32] -> [B, 2 a, T / 32, M / 32]."""

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        width = 2 * channels_in
        self.layers = nn.ModuleList(Stage(channels_in if i == 0 else width, width) for i in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class DecoderLevel(nn.Module):
    """Doubles time and mel and appends the encoder's output of the same level: [B, a, T, M] -> [B, a / 2, 2 T, 2 M]."""

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        width = channels_in // 2
        self.conv1 = nn.Sequential(
            nn.ConvTranspose2d(channels_in, width, 3, stride=2, padding=1, output_padding=1, bias=False),
            nn.BatchNorm2d(width, momentum=MOMENTUM),
            nn.ReLU(inplace=True),
        )
        self.conv2 = _blocks(channels_in, width)

    def forward(self, x: Tensor, skips: Tensor) -> Tensor:
        def compute(first: int, last: int) -> Tensor:
            low, high = max(first - RECEPTIVE_FIELD, 0), min(last + RECEPTIVE_FIELD, skips.shape[2])
            doubled = self.conv1(x[:, :, low // 2 : high // 2 + 1])[:, :, : high - low]
            band: Tensor = self.conv2(torch.cat([doubled, skips[:, :, low:high]], dim=1))
            return band[:, :, first - low : last - low]

        return _in_bands(compute, skips.shape[2])


class Decoder(nn.Module):
    """Restores the full resolution: [B, 32 c, T / 32, M / 32] -> [B, c, T, M]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLevel(channels * 2**level) for level in range(LEVELS, 0, -1))

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        for layer in self.layers:
            x = layer(x, skips.pop())  # popped, so that its memory is freed right after use
        return x


def _release_after_long(network: nn.Module, x: Tensor) -> None:
    """Release mapped weights if x [B, C, T, M] is long; short audio needs little memory besides them."""
    if not torch.jit.is_tracing() and x.shape[2] >= LONG_FRAMES:  # type: ignore[attr-defined, no-untyped-call]
        release_mapped_weights(network)


class UNet(nn.Module):
    """The whole U-Net: [B, 1, T, M] -> [B, c, T, M]; T and M are multiples of FRAME_MULTIPLE."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoder = Encoder(channels)
        self.intermediate = Intermediate(channels * 2 ** (LEVELS - 1))
        self.decoder = Decoder(channels)

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.encoder(x)
        x = self.intermediate(x)
        _release_after_long(self, skips[0])
        out: Tensor = self.decoder(x, skips)
        _release_after_long(self, out)
        return out


class BiGRU(nn.Module):
    """One bidirectional recurrent layer: [B, T, D] -> [B, T, 2 H]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, hidden, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.gru(x)[0]
        return out


class Rmvpe(nn.Module):
    """Computes the salience of 360 pitch bins: log-mel [B, 128, T] -> [B, T, 360] in 0..1.

    T is a multiple of FRAME_MULTIPLE. The published network has channels=16 and hidden=256. The convolutions can be
    cast to another dtype; the recurrent layer and everything after it stay in float32.
    """

    def __init__(self, channels: int = 16, hidden: int = 256) -> None:
        super().__init__()
        self.unet = UNet(channels)
        self.cnn = nn.Conv2d(channels, OUT_CHANNELS, 3, padding=1)
        self.fc = nn.Sequential(
            BiGRU(OUT_CHANNELS * N_MELS, hidden), nn.Linear(2 * hidden, N_PITCHES), nn.Dropout(0.25), nn.Sigmoid()
        )

    def forward(self, mel: Tensor) -> Tensor:
        assert self.cnn.bias is not None
        cast = mel.to(self.cnn.bias.dtype)
        image = self.unet(cast.transpose(1, 2)[:, None])  # [B, c, T, 128]
        rows = self.cnn(image).float().transpose(1, 2).flatten(-2)  # [B, T, 384], channel by channel
        salience: Tensor = self.fc(rows)
        return salience
