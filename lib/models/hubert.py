"""The HuBERT network (Hsu et al. 2021) as used by ContentVec and similar models, with Hugging Face's tensor names.

    samples -> convolutions, 50 frames/s -> projection -> + positions -> transformer layers -> content features

Variants differ in their norms. HuBERT base has a group norm (one group per channel) after the first convolution only,
and post-norm transformer layers; other models have a layer norm after every convolution, pre-norm transformer layers,
or both. `HubertShape` describes the variant.

After `cast`, matrix products and attention run in another dtype; norms and residual connections stay in float32.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.models.memory import release_mapped_weights, trim_memory

BLOCK_FRAMES = 100  # frames of 20 ms that the convolutions compute at a time
ATTENTION_ROWS = 256  # rows of the score matrix computed at a time
LONG_FRAMES = 500  # frames from which on weights are released during the computation
HELD_LAYERS = 4  # transformer layers whose weights are then in memory together


@dataclass(frozen=True)
class HubertShape:
    """The architecture of the network."""

    width: int
    heads: int
    feed_forward: int
    layers: int
    conv_channels: tuple[int, ...]
    conv_kernels: tuple[int, ...]
    conv_strides: tuple[int, ...]
    conv_bias: bool
    norm_every_conv: bool  # LayerNorm after each convolution, instead of GroupNorm after the first
    pre_norm: bool  # normalise before each sublayer instead of after it
    position_kernel: int
    position_groups: int
    projection: int | None  # width of `final_proj`, which v1 needs; None: absent


class ChannelStatistics(nn.GroupNorm):
    """Normalises each channel over time, with the statistics of this input, or of a longer one measured before."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def apply_measured(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T], normalised with mean and variance [B, C, 1] of a longer signal."""
        scale = self.weight[:, None] / (variance + self.eps).sqrt()
        return x * scale + (self.bias[:, None] - mean * scale)


class ConvLayer(nn.Module):
    """Convolution without padding, optional norm, GELU: [B, C, T] -> [B, D, (T - kernel) // stride + 1]."""

    def __init__(self, shape: HubertShape, i: int) -> None:
        super().__init__()
        channels_in = shape.conv_channels[i - 1] if i else 1
        channels, kernel, stride = shape.conv_channels[i], shape.conv_kernels[i], shape.conv_strides[i]
        self.conv = nn.Conv1d(channels_in, channels, kernel, stride, bias=shape.conv_bias)
        self.norm_frames = shape.norm_every_conv
        if shape.norm_every_conv:
            self.layer_norm: nn.Module = nn.LayerNorm(channels)
        elif i == 0:
            self.layer_norm = ChannelStatistics(channels)
        else:
            self.layer_norm = nn.Identity()

    def forward(self, x: Tensor, measured: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """[B, C, T] -> [B, D, T']; `measured` is the mean and variance for the norm over time, if the layer has one."""
        x = self.conv(x.to(self.conv.weight.dtype))
        if self.norm_frames:
            x = self.layer_norm(x.transpose(1, 2).float()).transpose(1, 2)
        elif isinstance(self.layer_norm, ChannelStatistics) and measured is not None:
            x = self.layer_norm.apply_measured(x, *measured)
        else:
            x = self.layer_norm(x)
        return functional.gelu(x)


class FeatureExtractor(nn.Module):
    """The convolutions: [B, 1, T] -> [B, D, N] at 50 frames/s.

    Apart from the norm over time, a frame depends only on its own samples, so long audio is computed in blocks of
    frames: the output of the first layers for 40 s takes 800 MB. Mean and variance for the norm over time are measured
    first.
    """

    def __init__(self, shape: HubertShape) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList(ConvLayer(shape, i) for i in range(len(shape.conv_channels)))
        self.hop, self.window = 1, 1  # samples between frames, samples of one
        for kernel, stride in zip(shape.conv_kernels, shape.conv_strides, strict=True):
            self.window += (kernel - 1) * self.hop
            self.hop *= stride

    def forward(self, samples: Tensor) -> Tensor:
        """[B, 1, T] -> [B, D, N]."""
        frames = (samples.shape[2] - self.window) // self.hop + 1
        if frames <= BLOCK_FRAMES:
            return self._convolve(samples, None)
        measured = self._measure(samples)
        trim_memory()
        features = torch.cat([self._convolve(block, measured) for block in self._blocks(samples, frames)], dim=2)
        trim_memory()
        return features

    def _blocks(self, samples: Tensor, frames: int) -> Iterator[Tensor]:
        for first in range(0, frames, BLOCK_FRAMES):
            last = min(first + BLOCK_FRAMES, frames)
            yield samples[..., first * self.hop : (last - 1) * self.hop + self.window]

    def _convolve(self, samples: Tensor, measured: tuple[Tensor, Tensor] | None) -> Tensor:
        x = samples
        for i, layer in enumerate(self.conv_layers):
            x = layer(x, measured if i == 0 else None)
        return x

    def _measure(self, samples: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and variance [B, D, 1] of the first convolution's output over all samples; None without that norm.

        They follow from the mean and covariance of its input windows, without computing that output, which would take
        more memory than anything else.
        """
        first = self.conv_layers[0]
        assert isinstance(first, ConvLayer)
        if not isinstance(first.layer_norm, ChannelStatistics):
            return None
        audio = samples[:, 0].cpu().double()  # not every device has doubles
        windows = audio.unfold(1, first.conv.kernel_size[0], first.conv.stride[0])  # [B, N, K]
        mean = windows.mean(1)  # [B, K]
        covariance = (
            windows.transpose(1, 2) @ windows / windows.shape[1] - mean[:, :, None] * mean[:, None]
        )  # [B, K, K]
        weight = first.conv.weight[:, 0].cpu().double()  # [D, K]
        offset = 0 if first.conv.bias is None else first.conv.bias[:, None].cpu()
        variance = ((weight @ covariance) * weight).sum(2, keepdim=True).clamp(min=0)  # [B, D, 1]
        both = weight @ mean[:, :, None] + offset, variance
        return both[0].float().to(samples.device), both[1].float().to(samples.device)


class FeatureProjection(nn.Module):
    """Norm and projection to the transformer's width: [B, N, D] -> [B, N, W]."""

    def __init__(self, shape: HubertShape) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(shape.conv_channels[-1])
        self.projection = nn.Linear(shape.conv_channels[-1], shape.width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, W]."""
        projected: Tensor = self.projection(self.layer_norm(x.float()).to(self.projection.weight.dtype))
        return projected.float()


class WeightNormConv(nn.Module):
    """A grouped convolution with weight g * v / |v|, normalised over both channel axes for each kernel tap.

    It is implemented here because torch's weight norm imports torch's compiler when it is built on the meta device. Its
    parameters are uninitialised until weights are loaded.
    """

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight_g = nn.Parameter(torch.empty(1, 1, kernel))
        self.weight_v = nn.Parameter(torch.empty(width, width // groups, kernel))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, N] -> [B, W, N + 1], or N frames for an odd kernel."""
        scale = self.weight_g / self.weight_v.norm(dim=(0, 1), keepdim=True)
        padding = self.weight_v.shape[2] // 2
        return functional.conv1d(x, self.weight_v * scale, self.bias, padding=padding, groups=self.groups)


class PositionalConvolution(nn.Module):
    """Positional embedding with a wide grouped convolution: [B, N, W] -> [B, N, W]."""

    def __init__(self, shape: HubertShape) -> None:
        super().__init__()
        self.conv = WeightNormConv(shape.width, shape.position_kernel, shape.position_groups)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, W] -> [B, N, W]; an even kernel gives one frame too many, which is dropped."""
        positions: Tensor = self.conv(x.transpose(1, 2))[..., : x.shape[1]]
        return functional.gelu(positions).transpose(1, 2)


def _attend_in_rows(query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None) -> Tensor:
    """scaled_dot_product_attention as matrix products; torch's own is slow for bfloat16 on a CPU."""
    query, key, value = query * query.shape[3] ** -0.5, key.transpose(2, 3).contiguous(), value.contiguous()
    padding = None if valid is None else ~valid
    parts = []
    for first in range(0, query.shape[2], ATTENTION_ROWS):
        scores = query[:, :, first : first + ATTENTION_ROWS] @ key  # [B, H, rows, N]
        if padding is not None:
            scores = scores.masked_fill(padding, -torch.inf)
        parts.append(scores.softmax(-1) @ value)
    return torch.cat(parts, dim=2)


class Attention(nn.Module):
    """Multi-head self-attention: [B, N, W] -> [B, N, W]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """[B, N, W] -> [B, N, W]; `valid` [B, 1, 1, N] is true where a frame is not padding."""
        x = x.to(self.q_proj.weight.dtype)
        query, key, value = (
            projection(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, H, N, W / H]
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        bfloat16_on_cpu = x.dtype == torch.bfloat16 and x.device.type == "cpu"
        attend = _attend_in_rows if bfloat16_on_cpu else functional.scaled_dot_product_attention
        mixed = attend(query, key, value, valid)
        projected: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return projected


class FeedForward(nn.Module):
    """Two linear layers with a GELU in between: [B, N, W] -> [B, N, W]."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(width, inner)
        self.output_dense = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, W] -> [B, N, W]."""
        hidden = self.intermediate_dense(x.to(self.intermediate_dense.weight.dtype))
        changed: Tensor = self.output_dense(functional.gelu(hidden))
        return changed


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each added to its input: [B, N, W] -> [B, N, W]."""

    def __init__(self, shape: HubertShape) -> None:
        super().__init__()
        self.pre_norm = shape.pre_norm
        self.attention = Attention(shape.width, shape.heads)
        self.layer_norm = nn.LayerNorm(shape.width)
        self.feed_forward = FeedForward(shape.width, shape.feed_forward)
        self.final_layer_norm = nn.LayerNorm(shape.width)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """[B, N, W] -> [B, N, W]; `valid` [B, 1, 1, N] is true where a frame is not padding."""
        if self.pre_norm:
            x = x + self.attention(self.layer_norm(x), valid)
            x = x + self.feed_forward(self.final_layer_norm(x))
        else:
            x = self.layer_norm(x + self.attention(x, valid))
            x = self.final_layer_norm(x + self.feed_forward(x))
        return x


class Transformer(nn.Module):
    """Positional embedding and the first `depth` layers: [B, N, W] -> [B, N, W]."""

    def __init__(self, shape: HubertShape, depth: int) -> None:
        super().__init__()
        self.pos_conv_embed = PositionalConvolution(shape)
        self.layer_norm = nn.LayerNorm(shape.width)
        self.layers = nn.Sequential(*(TransformerLayer(shape) for _ in range(depth)))
        self.norm_input = not shape.pre_norm
        self.norm_output = shape.pre_norm and depth == shape.layers  # not normalised between layers

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """[B, N, W] -> [B, N, W]; padding frames, where `valid` [B, 1, 1, N] is false, are set to 0."""
        x = x + self.pos_conv_embed(x)
        x = self.layer_norm(x) if self.norm_input else x
        for i, layer in enumerate(self.layers, 1):
            x = layer(x, valid)
            if i % HELD_LAYERS == 0:
                _release_after_long(self, x)
        return self.layer_norm(x) if self.norm_output else x


def _release_after_long(network: nn.Module, x: Tensor) -> None:
    """Release mapped weights if x [B, N, W] is long; short audio needs little memory besides them."""
    if not torch.jit.is_tracing() and x.shape[1] >= LONG_FRAMES:  # type: ignore[attr-defined, no-untyped-call]
        release_mapped_weights(network)


class Hubert(nn.Module):
    """Computes the output of transformer layer `depth` from 16 kHz samples, projected if `project` is set."""

    def __init__(self, shape: HubertShape, depth: int, *, project: bool) -> None:
        super().__init__()
        self.feature_extractor = FeatureExtractor(shape)
        self.feature_projection = FeatureProjection(shape)
        self.encoder = Transformer(shape, depth)
        self.final_proj = nn.Linear(shape.width, shape.projection) if project and shape.projection else None

    def forward(self, samples: Tensor) -> Tensor:
        """[B, T] -> [B, (T - 80) // 320, W], or the width of the projection; T at least 400."""
        features = self.feature_extractor(samples[:, None]).transpose(1, 2)  # [B, N, D]
        return self._project(self.encoder(self.feature_projection(features)))

    def batch(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Compute `forward` for several clips (T,): (N, W) each.

        The convolutions, whose norm needs the statistics of a whole clip, process one clip at a time; the transformer
        processes all clips as one padded batch.
        """
        features = [self.feature_projection(self.feature_extractor(x[None, None]).transpose(1, 2))[0] for x in clips]
        frames = [len(x) for x in features]
        if len(set(frames)) == 1:
            return list(self._project(self.encoder(torch.stack(features))))
        padded = nn.utils.rnn.pad_sequence(features, batch_first=True)  # [B, N, W]
        places = torch.arange(padded.shape[1], device=padded.device)
        valid = places < torch.tensor(frames, device=padded.device)[:, None]  # [B, N]
        content = self._project(self.encoder(padded, valid[:, None, None]))
        return [x[:n] for x, n in zip(content, frames, strict=True)]

    def _project(self, content: Tensor) -> Tensor:
        if self.final_proj is None:
            return content
        projected: Tensor = self.final_proj(content.to(self.final_proj.weight.dtype))
        return projected.float()

    def cast(self, dtype: torch.dtype) -> None:
        """Cast linear layers and convolutions in place to `dtype`.

        The first convolution and the positional one stay in float32: both take little time.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv1d) and module.in_channels > 1):
                module.to(dtype)
