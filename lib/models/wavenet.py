"""Gated convolution stack with skip connections and speaker conditioning (WaveNet, as used in VITS).

All dilations are 1. Attribute names are RVC's state-dict keys.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class WaveNet(nn.Module):
    """Gated convolutions [B, C, F] -> [B, C, F], conditioned on one vector per item."""

    def __init__(self, channels: int, kernel_size: int, n_layers: int, gin_channels: int) -> None:
        super().__init__()
        self.channels = channels
        last = n_layers - 1
        self.in_layers = nn.ModuleList(
            weight_norm(nn.Conv1d(channels, 2 * channels, kernel_size, padding=kernel_size // 2))
            for _ in range(n_layers)
        )
        # Each layer yields a residual and a skip part; the last one only the skip part.
        self.res_skip_layers = nn.ModuleList(
            weight_norm(nn.Conv1d(channels, channels if layer == last else 2 * channels, 1))
            for layer in range(n_layers)
        )
        self.cond_layer = weight_norm(nn.Conv1d(gin_channels, 2 * channels * n_layers, 1))

    def forward(self, x: Tensor, mask: Tensor, speaker: Tensor) -> Tensor:
        """[B, C, F], mask [B, 1, F], speaker [B, gin, 1] -> [B, C, F]."""
        dtype = self.cond_layer.weight.dtype
        conditions = self.cond_layer(speaker.to(dtype)).split(2 * self.channels, dim=1)
        skips = torch.zeros_like(x)
        last = len(self.in_layers) - 1
        layers = zip(self.in_layers, self.res_skip_layers, conditions, strict=True)
        for layer, (in_layer, res_skip_layer, condition) in enumerate(layers):
            tanh_part, gate_part = (in_layer(x.to(dtype)) + condition).chunk(2, dim=1)
            out = res_skip_layer(torch.tanh(tanh_part) * torch.sigmoid(gate_part))
            if layer == last:
                skips = skips + out
            else:
                residual, skip = out.chunk(2, dim=1)
                x = (x + residual) * mask
                skips = skips + skip
        return skips * mask
