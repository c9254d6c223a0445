"""The two encoders of the synthesizer: content -> prior, spectrogram -> posterior (VITS, Kim et al. 2021, section 2.1).

The prior encoder is the text encoder of VITS with content features and pitch bins in place of phonemes. Attribute names
are RVC's state-dict keys.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.config import SynthesizerConfig
from lib.models.attention import RelativeAttention
from lib.models.wavenet import WaveNet

LRELU_SLOPE = 0.1
POSTERIOR_LAYERS = 16
POSTERIOR_KERNEL = 5  # frames


def frame_mask(lengths: Tensor, frames: int, dtype: torch.dtype) -> Tensor:
    """[B] lengths -> [B, 1, frames]: 1 inside an item, 0 in its padding."""
    return (torch.arange(frames, device=lengths.device) < lengths[:, None]).unsqueeze(1).to(dtype)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of [B, C, F]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F] -> [B, C, F]."""
        return F.layer_norm(x.transpose(1, 2), self.gamma.shape, self.gamma, self.beta).transpose(1, 2)


class FeedForward(nn.Module):
    """Two convolutions over time with a ReLU in between; an even kernel covers one more frame on the right."""

    def __init__(self, channels: int, filter_channels: int, kernel_size: int, p_dropout: float) -> None:
        super().__init__()
        self.conv_1 = nn.Conv1d(channels, filter_channels, kernel_size)
        self.conv_2 = nn.Conv1d(filter_channels, channels, kernel_size)
        self.padding = ((kernel_size - 1) // 2, kernel_size // 2)  # frames left, right
        self.dropout = nn.Dropout(p_dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, C, F], mask [B, 1, F] -> [B, C, F]."""
        dtype = self.conv_1.weight.dtype
        hidden = self.dropout(torch.relu(self.conv_1(F.pad((x * mask).to(dtype), self.padding))))
        return self.conv_2(F.pad((hidden * mask).to(dtype), self.padding)) * mask  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Post-norm transformer over frames."""

    def __init__(self, config: SynthesizerConfig) -> None:
        super().__init__()
        width, dropout = config.hidden_channels, config.p_dropout
        layers = range(config.n_layers)
        self.attn_layers = nn.ModuleList(RelativeAttention(width, config.n_heads, dropout) for _ in layers)
        self.norm_layers_1 = nn.ModuleList(ChannelNorm(width) for _ in layers)
        self.ffn_layers = nn.ModuleList(
            FeedForward(width, config.filter_channels, config.kernel_size, dropout) for _ in layers
        )
        self.norm_layers_2 = nn.ModuleList(ChannelNorm(width) for _ in layers)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, C, F], mask [B, 1, F] -> [B, C, F]."""
        x = x * mask
        parts = zip(self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True)
        for attention, norm_1, feed_forward, norm_2 in parts:
            x = norm_1(x + self.dropout(attention(x, mask)))
            x = norm_2(x + self.dropout(feed_forward(x, mask)))
        return x * mask


class ContentPrior(nn.Module):
    """Computes mean and log standard deviation of the prior from content features and pitch bins."""

    def __init__(self, config: SynthesizerConfig) -> None:
        super().__init__()
        self.emb_phone = nn.Linear(config.content_width, config.hidden_channels)
        self.emb_pitch = nn.Embedding(256, config.hidden_channels) if config.has_f0 else None
        self.encoder = Transformer(config)
        self.proj = nn.Conv1d(config.hidden_channels, 2 * config.inter_channels, 1)

    def forward(self, content: Tensor, pitch_bins: Tensor | None, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Content [B, F, C], bins [B, F] or None, lengths [B] -> mean, log std. deviation [B, Z, F], mask [B, 1, F]."""
        x = self.emb_phone(content)
        if self.emb_pitch is not None:
            x = x + self.emb_pitch(pitch_bins)
        x = F.leaky_relu(x * math.sqrt(x.shape[2]), LRELU_SLOPE).transpose(1, 2)  # [B, C, F]
        mask = frame_mask(lengths, x.shape[2], x.dtype)
        mean, log_scale = (self.proj(self.encoder(x, mask)) * mask).chunk(2, dim=1)
        return mean, log_scale, mask


class Posterior(nn.Module):
    """Computes mean and log standard deviation of the posterior from a linear spectrogram; needed in training only."""

    def __init__(self, config: SynthesizerConfig) -> None:
        super().__init__()
        width = config.hidden_channels
        self.pre = nn.Conv1d(config.spec_channels, width, 1)
        self.enc = WaveNet(width, POSTERIOR_KERNEL, POSTERIOR_LAYERS, config.gin_channels)
        self.proj = nn.Conv1d(width, 2 * config.inter_channels, 1)

    def forward(self, spec: Tensor, mask: Tensor, speaker: Tensor) -> tuple[Tensor, Tensor]:
        """Spectrogram [B, bins, F], mask [B, 1, F], speaker [B, gin, 1] -> mean, log standard deviation [B, Z, F]."""
        hidden = self.enc(self.pre(spec) * mask, mask, speaker)
        mean, log_scale = (self.proj(hidden) * mask).chunk(2, dim=1)
        return mean, log_scale
