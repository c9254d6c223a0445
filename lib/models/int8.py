"""int8 residual blocks of the generator, for CPUs with fast int8 dot products (VNNI).

Weights have one scale per output channel; inputs are quantised dynamically, with scale and zero point from their
minimum and maximum (Jacob et al. 2018). Accumulation is exact; the residual connections stay in float32.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LRELU_SLOPE = 0.1  # of the generator
USUAL_SAMPLES = 3000  # input length that the memory layout of the weights is optimised for


class Quantized(NamedTuple):
    """A quantised tensor: (values - zero) * scale; values [B, C, d, T] uint8, channels last in memory."""

    values: Tensor
    scale: float
    zero: int


def quantize(x: Tensor) -> Quantized:
    """Quantise [B, C, d, T] float32, channels last in memory, to 255 steps between its minimum and its maximum."""
    low, high = (float(end) for end in torch.aminmax(x.permute(0, 2, 3, 1).view(-1)))
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    if not math.isfinite(scale):
        return Quantized(torch.zeros_like(x, dtype=torch.uint8), math.nan, 0)  # the converter refuses NaN
    zero = round(-low / scale)
    steps = torch.quantize_per_tensor(x, scale, zero, torch.quint8)
    # A plain tensor on the same bytes; int_repr would copy them.
    values = torch.empty(0, dtype=torch.uint8).set_(steps.untyped_storage(), 0, steps.shape, steps.stride())
    return Quantized(values, scale, zero)


def space_to_batch(x: Quantized, count: int) -> Quantized:
    """[B, C, 1, T] -> [B, C, count, ceil(T / count)]: row i contains the samples i, i + count, i + 2 * count, ..."""
    batch, channels, _, samples = x.values.shape
    if count == 1:
        return x
    columns = math.ceil(samples / count)
    padded = F.pad(x.values.permute(0, 2, 3, 1), (0, 0, 0, columns * count - samples), value=x.zero)
    rows = padded.view(batch, columns, count, channels).transpose(1, 2).contiguous()
    return x._replace(values=rows.permute(0, 3, 1, 2))


def batch_to_space(x: Tensor, samples: int) -> Tensor:
    """Inverse of `space_to_batch`, for any dtype: [B, C, count, columns] -> [B, C, 1, samples]."""
    batch, channels, count, columns = x.shape
    if count == 1:
        return x
    joined = x.permute(0, 3, 2, 1).reshape(batch, 1, columns * count, channels)
    return joined[:, :, :samples].contiguous().permute(0, 3, 1, 2)


class Int8Conv:
    """A length-preserving convolution, with weights quantised to 127 steps on either side of zero."""

    def __init__(self, conv: nn.Conv1d) -> None:
        weight = conv.weight.detach().float().unsqueeze(2)  # [C, C, 1, K]
        self.dilation = conv.dilation[0]
        self.scales = weight.abs().amax((1, 2, 3)).clamp(min=torch.finfo(torch.float32).tiny) / 127
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        self.bias = None if conv.bias is None else conv.bias.detach().float()
        self.geometry = ([1, 1], [0, weight.shape[3] // 2], [1, 1], 1)  # stride, padding, dilation, groups
        steps = torch.round(weight / self.scales[:, None, None, None]).to(torch.int8)
        usual = [1, weight.shape[1], self.dilation, USUAL_SAMPLES]
        self.weight = torch.ops.onednn.qconv_prepack(steps, self.scales, 1.0, 0, *self.geometry, usual)
        self.n_bytes = steps.nbytes

    def __call__(self, x: Quantized) -> Tensor:
        """Take a Quantized tensor with `dilation` rows and return float32 with the same number of rows.
        The dilation is turned into rows because an undilated convolution is twice as fast."""
        weight = (self.weight, self.scales, self.zeros, self.bias)
        output = (1.0, 0, torch.float32)  # scale, zero point, dtype
        out: Tensor = torch.ops.onednn.qconv_pointwise(*x, *weight, *self.geometry, *output, "none", [], "")
        return out

    def add(self, x: Quantized, total: Tensor) -> None:
        """Add the output to `total` [B, C, d, T], float32 with the channels last in memory."""
        weight = (self.weight, self.scales, self.zeros, total, self.bias)
        torch.ops.onednn.qconv2d_pointwise.binary(
            *x, *weight, *self.geometry, 1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, None, [], None
        )


class Int8Block(nn.Module):
    """ResidualBlock1 (with `plain` convolutions) or ResidualBlock2 (without) in int8."""

    def __init__(self, dilated: Iterable[nn.Module], plain: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.dilated = [Int8Conv(conv) for conv in dilated if isinstance(conv, nn.Conv1d)]
        self.plain = [Int8Conv(conv) for conv in plain if isinstance(conv, nn.Conv1d)]

    @property
    def n_bytes(self) -> int:
        """Size of the weights in bytes."""
        return sum(conv.n_bytes for conv in (*self.dilated, *self.plain))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 1, T] with channels last in memory -> the same shape in float32."""
        x = x.to(torch.float32, copy=True)
        for i, dilated in enumerate(self.dilated):
            values = space_to_batch(quantize(F.leaky_relu(x, LRELU_SLOPE)), dilated.dilation)
            if not self.plain:
                x += batch_to_space(dilated(values), x.shape[3])
                continue
            hidden = quantize(F.leaky_relu_(dilated(values), LRELU_SLOPE))
            self.plain[i].add(hidden._replace(values=batch_to_space(hidden.values, x.shape[3])), x)
        return x
