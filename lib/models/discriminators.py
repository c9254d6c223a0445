"""Scale and period discriminators of adversarial training (HiFi-GAN, Kong et al. 2020).

Periods and channel counts are parameters. Attribute names are RVC's state-dict keys.
"""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from lib.config import DiscriminatorConfig

LRELU_SLOPE = 0.1
SCALE_KERNELS = ((15, 1), (41, 4), (41, 4), (41, 4), (41, 4), (5, 1))  # kernel size, stride in samples
CHANNELS_PER_GROUP = 4  # input channels of each group in the strided scale convolutions
PERIOD_STRIDES = (3, 3, 3, 3, 1)


class DiscriminatorOutput(NamedTuple):
    """The output of one sub-discriminator."""

    score: Tensor  # [B, n]
    features: list[Tensor]  # every activated layer output, and the raw score map


class _SubDiscriminator(nn.Module):
    convs: nn.ModuleList
    conv_post: nn.Module

    def _layers(self, x: Tensor) -> DiscriminatorOutput:
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), LRELU_SLOPE)
            features.append(x)
        x = self.conv_post(x)
        features.append(x)
        return DiscriminatorOutput(x.flatten(1), features)


class ScaleDiscriminator(_SubDiscriminator):
    """Strided convolutions over the waveform."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        convs, before = [], 1
        for after, (kernel_size, stride) in zip(channels, SCALE_KERNELS, strict=True):
            groups = before // CHANNELS_PER_GROUP if stride > 1 else 1
            convs.append(
                weight_norm(nn.Conv1d(before, after, kernel_size, stride, padding=kernel_size // 2, groups=groups))
            )
            before = after
        self.convs = nn.ModuleList(convs)
        self.conv_post = weight_norm(nn.Conv1d(before, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        """[B, 1, T] -> DiscriminatorOutput."""
        return self._layers(audio)


class PeriodDiscriminator(_SubDiscriminator):
    """2-D convolutions over the waveform, folded into rows of one period."""

    def __init__(self, period: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.period = period
        convs, before = [], 1
        for after, stride in zip(channels, PERIOD_STRIDES, strict=True):
            convs.append(weight_norm(nn.Conv2d(before, after, (5, 1), (stride, 1), padding=(2, 0))))
            before = after
        self.convs = nn.ModuleList(convs)
        self.conv_post = weight_norm(nn.Conv2d(before, 1, (3, 1), padding=(1, 0)))

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        """[B, 1, T] -> DiscriminatorOutput."""
        audio = F.pad(audio, (0, -audio.shape[2] % self.period), "reflect")
        return self._layers(audio.reshape(len(audio), 1, -1, self.period))  # [B, 1, T / period, period]


class Discriminator(nn.Module):
    """A scale discriminator and one period discriminator per period."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList([ScaleDiscriminator(config.scale_channels)])
        self.discriminators.extend(PeriodDiscriminator(period, config.period_channels) for period in config.periods)

    def forward(self, audio: Tensor) -> list[DiscriminatorOutput]:
        """[B, 1, T] -> one DiscriminatorOutput per sub-discriminator."""
        return [discriminator(audio) for discriminator in self.discriminators]
