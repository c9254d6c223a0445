"""Volume-preserving residual coupling flow between posterior and prior (VITS, Kim et al. 2021).

Attribute names are RVC's state-dict keys.
"""

import torch
from torch import Tensor, nn

from lib.config import SynthesizerConfig
from lib.models.wavenet import WaveNet

COUPLING_LAYERS = 3
COUPLING_KERNEL = 5  # frames


class Coupling(nn.Module):
    """Shifts the second half of the channels by an offset computed from the first half."""

    def __init__(self, config: SynthesizerConfig) -> None:
        super().__init__()
        half, width = config.inter_channels // 2, config.hidden_channels
        self.pre = nn.Conv1d(half, width, 1)
        self.enc = WaveNet(width, COUPLING_KERNEL, COUPLING_LAYERS, config.gin_channels)
        self.post = nn.Conv1d(width, half, 1)
        nn.init.zeros_(self.post.weight)
        assert self.post.bias is not None
        nn.init.zeros_(self.post.bias)

    def forward(self, x: Tensor, mask: Tensor, speaker: Tensor, reverse: bool) -> Tensor:
        """[B, Z, F] -> [B, Z, F]; `reverse` inverts the forward direction."""
        first, second = x.chunk(2, dim=1)
        dtype = self.pre.weight.dtype
        hidden = self.enc(self.pre(first.to(dtype)) * mask, mask, speaker)
        shift = self.post(hidden.to(dtype)) * mask
        second = (second - shift) * mask if reverse else shift + second * mask
        return torch.cat([first, second], dim=1)


class Flip(nn.Module):
    """Reverses the channel order, so that the next coupling changes the other half; it is its own inverse."""

    def forward(self, x: Tensor, mask: Tensor, speaker: Tensor, reverse: bool) -> Tensor:
        """[B, Z, F] -> [B, Z, F]."""
        return x.flip(1)


class Flow(nn.Module):
    """Couplings (four in every published model), each followed by a flip; the identity if there are none."""

    def __init__(self, config: SynthesizerConfig) -> None:
        super().__init__()
        self.flows = nn.ModuleList(
            part for _ in range(config.n_flows) for part in (Coupling(config), Flip())
        )  # couplings at 0, 2, 4, 6: the indices are part of the state-dict keys

    def forward(self, x: Tensor, mask: Tensor, speaker: Tensor, reverse: bool = False) -> Tensor:
        """[B, Z, F], mask [B, 1, F], speaker [B, gin, 1] -> [B, Z, F]; reverse is prior -> posterior."""
        for part in reversed(self.flows) if reverse else self.flows:
            x = part(x, mask, speaker, reverse)
        return x
