"""The generator's residual blocks with weights and inputs of eight bits, for processors that multiply those fastest.

Every output channel's weights have a scale of their own, every input the one that its largest and smallest value need
just then (Jacob et al. 2018). Products are summed exactly; what runs past the convolutions stays float32.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LRELU_SLOPE = 0.1  # of the generator
USUAL_SAMPLES = 3000  # weights are laid out for inputs about so long


class Quantized(NamedTuple):
    """(values - zero) * scale is what was rounded; values [B, C, d, T] uint8, the channels last in memory."""

    values: Tensor
    scale: float
    zero: int


def quantize(x: Tensor) -> Quantized:
    """[B, C, d, T] float32, the channels last in memory, to 255 steps from its smallest to its largest value."""
    low, high = (float(end) for end in torch.aminmax(x.permute(0, 2, 3, 1).view(-1)))
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    if not math.isfinite(scale):
        return Quantized(torch.zeros_like(x, dtype=torch.uint8), math.nan, 0)  # whoever converts looks for that
    zero = round(-low / scale)
    steps = torch.quantize_per_tensor(x, scale, zero, torch.quint8)
    # The same bytes as a plain tensor, which int_repr would copy.
    values = torch.empty(0, dtype=torch.uint8).set_(steps.untyped_storage(), 0, steps.shape, steps.stride())
    return Quantized(values, scale, zero)


def space_to_batch(x: Quantized, count: int) -> Quantized:
    """[B, C, 1, T] -> [B, C, count, ceil(T / count)]: every `count`-th sample becomes neighbour of the next."""
    batch, channels, _, samples = x.values.shape
    if count == 1:
        return x
    columns = math.ceil(samples / count)
    padded = F.pad(x.values.permute(0, 2, 3, 1), (0, 0, 0, columns * count - samples), value=x.zero)
    rows = padded.view(batch, columns, count, channels).transpose(1, 2).contiguous()
    return x._replace(values=rows.permute(0, 3, 1, 2))


def batch_to_space(x: Tensor, samples: int) -> Tensor:
    """What `space_to_batch` made, of any number type -> [B, C, 1, samples]."""
    batch, channels, count, columns = x.shape
    if count == 1:
        return x
    joined = x.permute(0, 3, 2, 1).reshape(batch, 1, columns * count, channels)
    return joined[:, :, :samples].contiguous().permute(0, 3, 1, 2)


class Int8Conv:
    """A convolution that keeps the length, its weights rounded to 127 steps on either side of zero."""

    def __init__(self, conv: nn.Conv1d) -> None:
        weight = conv.weight.detach().float().unsqueeze(2)  # [C, C, 1, K]
        self.dilation = conv.dilation[0]
        self.scales = weight.abs().amax((1, 2, 3)).clamp(min=torch.finfo(torch.float32).tiny) / 127
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        self.bias = None if conv.bias is None else conv.bias.detach().float()
        self.about = ([1, 1], [0, weight.shape[3] // 2], [1, 1], 1)  # stride, padding, dilation, groups
        steps = torch.round(weight / self.scales[:, None, None, None]).to(torch.int8)
        usual = [1, weight.shape[1], self.dilation, USUAL_SAMPLES]
        self.weight = torch.ops.onednn.qconv_prepack(steps, self.scales, 1.0, 0, *self.about, usual)
        self.n_bytes = steps.nbytes

    def __call__(self, x: Quantized) -> Tensor:
        """Eight bits in as many rows as the dilation -> float32 in the same: plain convolutions are twice as fast."""
        weight = (self.weight, self.scales, self.zeros, self.bias)
        made: Tensor = torch.ops.onednn.qconv_pointwise(*x, *weight, *self.about, 1.0, 0, torch.float32, "none", [], "")
        return made

    def add(self, x: Quantized, total: Tensor) -> None:
        """Add what calling it gives to `total` [B, C, d, T], float32 with the channels last in memory."""
        weight = (self.weight, self.scales, self.zeros, total, self.bias)
        torch.ops.onednn.qconv2d_pointwise.binary(
            *x, *weight, *self.about, 1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, None, [], None
        )


class Int8Block(nn.Module):
    """A residual block of either kind: per dilation an activation, a dilated convolution, perhaps both again, a sum."""

    def __init__(self, dilated: Iterable[nn.Module], plain: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.dilated = [Int8Conv(conv) for conv in dilated if isinstance(conv, nn.Conv1d)]
        self.plain = [Int8Conv(conv) for conv in plain if isinstance(conv, nn.Conv1d)]

    @property
    def n_bytes(self) -> int:
        """Memory of the weights."""
        return sum(conv.n_bytes for conv in (*self.dilated, *self.plain))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 1, T] with the channels last in memory -> the same in float32."""
        x = x.to(torch.float32, copy=True)
        for i, dilated in enumerate(self.dilated):
            values = space_to_batch(quantize(F.leaky_relu(x, LRELU_SLOPE)), dilated.dilation)
            if not self.plain:
                x += batch_to_space(dilated(values), x.shape[3])
                continue
            hidden = quantize(F.leaky_relu_(dilated(values), LRELU_SLOPE))
            self.plain[i].add(hidden._replace(values=batch_to_space(hidden.values, x.shape[3])), x)
        return x
