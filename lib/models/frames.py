"""The residual block of the lite networks: a depth-wise convolution over time, then a feed-forward layer per frame.

Liu et al. 2022 (ConvNeXt), in one dimension.
"""

from torch import Tensor, nn
from torch.nn import functional as F

INITIAL_SCALE = 0.02  # of the last layer's weights: a new block is nearly the identity


class FrameBlock(nn.Module):
    """Residual block (B, F, C) -> (B, F, C).

    A frame depends on `dilation * (kernel_size // 2)` frames on either side.
    """

    def __init__(self, channels: int, kernel_size: int = 7, expansion: int = 2, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel_size // 2)
        self.depthwise = nn.Conv1d(channels, channels, kernel_size, padding=padding, groups=channels, dilation=dilation)
        self.norm = nn.LayerNorm(channels)
        self.up = nn.Linear(channels, expansion * channels)
        self.down = nn.Linear(expansion * channels, channels)
        nn.init.normal_(self.down.weight, 0.0, INITIAL_SCALE)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor, film: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(B, F, C) -> (B, F, C); `film` modulates the normalised output of the depth-wise convolution.

        It is a pair of tensors (B, 1, C): the scale minus 1, and the shift (FiLM, Perez et al. 2018).
        """
        context = self.norm(self.depthwise(x.transpose(1, 2)).transpose(1, 2))
        if film is not None:
            context = context * (1 + film[0]) + film[1]
        total: Tensor = x + self.down(F.gelu(self.up(context)))
        return total
