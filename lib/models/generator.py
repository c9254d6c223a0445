"""HiFi-GAN generator (Kong et al. 2020), with or without a sine source added at every stage (NSF-HiFi-GAN).

Attribute names are RVC's state-dict keys.
"""

import copy
import logging
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from lib.config import SynthesizerConfig
from lib.models.int8 import LRELU_SLOPE, Int8Block
from lib.models.memory import trim_memory
from lib.models.source import SineSource

logger = logging.getLogger(__name__)

LAST_LRELU_SLOPE = 0.01  # the default of the function, which the published models were trained with
INIT_STD = 0.01
BLOCK_FRAMES = 170  # 1.7 s: longer blocks are no faster and take more memory; shorter ones overlap more
MAX_GPU_FRAMES = 6000  # a minute; on a GPU a block is at most this long
TENSORS_AT_ONCE = 16  # of the largest stage that a block holds on a GPU, with convolution workspaces; measured: 12
BLOCK_STEP = 10  # frames; block lengths are multiples of it, because oneDNN caches memory for each length


def _convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """Apply a one-dimensional convolution to [B, C, T], or to [B, C, 1, T] with the channels last in memory.

    The latter is faster on CPUs and GPUs; with few channels twice as fast.
    """
    if x.dim() == 3:
        return conv(x)  # type: ignore[no-any-return]
    assert isinstance(conv, nn.Conv1d | nn.ConvTranspose1d) and not isinstance(conv.padding, str)
    weight, stride, padding = conv.weight.unsqueeze(2), (1, *conv.stride), (0, *conv.padding)
    if isinstance(conv, nn.ConvTranspose1d):
        return F.conv_transpose2d(x, weight, conv.bias, stride, padding)
    return F.conv2d(x, weight, conv.bias, stride, padding, (1, *conv.dilation))


def _add(change: Tensor, x: Tensor) -> Tensor:
    """Return the sum, in place of the first tensor unless autograd needs it."""
    return x + change if torch.is_grad_enabled() else change.add_(x)


def _mean(parts: Iterator[Tensor], dtype: torch.dtype) -> Tensor:
    """The mean of tensors, summed in float32. Without autograd only one of them exists at a time."""
    if torch.is_grad_enabled():
        return torch.stack([*parts]).mean(0)
    total, n = next(parts).float(), 1
    for part in parts:
        total, n = total.add_(part), n + 1
    return total.div_(n).to(dtype)


def _conv(channels: int, kernel_size: int, dilation: int) -> nn.Module:
    """Return a weight-normed convolution that keeps the length."""
    padding = dilation * (kernel_size - 1) // 2
    conv = nn.Conv1d(channels, channels, kernel_size, dilation=dilation, padding=padding)
    nn.init.normal_(conv.weight, 0.0, INIT_STD)
    return weight_norm(conv)  # type: ignore[no-any-return]


def _receptive_fields(config: SynthesizerConfig) -> list[int]:
    """Samples on either side, at the input of each upsampling stage, that an output sample depends on."""
    plain = config.resblock == "1"  # whether a plain convolution follows each dilated one
    shapes = zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
    block = max(
        sum((dilation + plain) * (kernel_size // 2) for dilation in dilations) for kernel_size, dilations in shapes
    )
    fields = [3]  # of the last convolution
    for kernel_size, rate in reversed(list(zip(config.upsample_kernel_sizes, config.upsample_rates, strict=True))):
        fields.insert(0, math.ceil((fields[0] + block + (kernel_size + rate) // 2) / rate))
    return fields[:-1]


class ResidualBlock1(nn.Module):
    """Per dilation: activation, dilated convolution, activation, plain convolution, sum."""

    def __init__(self, channels: int, kernel_size: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_conv(channels, kernel_size, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_conv(channels, kernel_size, 1) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] or [B, C, 1, T] -> the same shape."""
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            hidden = F.leaky_relu_(_convolve(dilated, F.leaky_relu(x, LRELU_SLOPE)), LRELU_SLOPE)
            x = _add(_convolve(plain, hidden), x)
        return x

    def quantize(self) -> Int8Block:
        """Return the same block in int8."""
        return Int8Block(self.convs1, self.convs2)


class ResidualBlock2(nn.Module):
    """Per dilation: activation, dilated convolution, sum."""

    def __init__(self, channels: int, kernel_size: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(channels, kernel_size, dilation) for dilation in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] or [B, C, 1, T] -> the same shape."""
        for conv in self.convs:
            x = _add(_convolve(conv, F.leaky_relu(x, LRELU_SLOPE)), x)
        return x

    def quantize(self) -> Int8Block:
        """Return the same block in int8."""
        return Int8Block(self.convs)


class Generator(nn.Module):
    """Generates a waveform in (-1, 1) from latent frames, and from F0 if the model uses it."""

    def __init__(self, config: SynthesizerConfig) -> None:
        super().__init__()
        self.n_kernels = len(config.resblock_kernel_sizes)
        rates, first = config.upsample_rates, config.upsample_initial_channel
        widths = [first // 2 ** (stage + 1) for stage in range(len(rates))]
        self.m_source = SineSource(config.hop_length, config.sample_rate) if config.has_f0 else None
        if config.has_f0:
            self.noise_convs = nn.ModuleList(self._noise_convs(widths, rates))
        self.conv_pre = nn.Conv1d(config.inter_channels, first, 7, padding=3)
        self.ups = nn.ModuleList(
            self._upsample(2 * width, width, kernel_size, rate)
            for width, kernel_size, rate in zip(widths, config.upsample_kernel_sizes, rates, strict=True)
        )
        block = ResidualBlock1 if config.resblock == "1" else ResidualBlock2
        shapes = list(zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True))
        self.resblocks = nn.ModuleList(
            block(width, kernel_size, dilations) for width in widths for kernel_size, dilations in shapes
        )
        self.conv_post = nn.Conv1d(widths[-1], 1, 7, padding=3, bias=False)
        self.hop_length = config.hop_length
        self.rates, self._receptive_fields = rates, _receptive_fields(config)
        self._values_per_frame = max(width * math.prod(rates[: stage + 1]) for stage, width in enumerate(widths))
        self.receptive_field = self._receptive_fields[0] + 3  # frames on either side; the first convolution adds three
        self.cond = nn.Conv1d(config.gin_channels, first, 1)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the computation; int8 if the residual blocks compute in int8."""
        return torch.int8 if isinstance(self.resblocks[0], Int8Block) else self.conv_pre.weight.dtype

    def cast(self, dtype: torch.dtype) -> "Generator":
        """Return a copy in another dtype. For int8 only the residual blocks are copied; everything else is shared."""
        if dtype != torch.int8:
            return copy.deepcopy(self).to(dtype)
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.resblocks = nn.ModuleList(
            block.quantize() for block in self.resblocks if isinstance(block, ResidualBlock1 | ResidualBlock2)
        )
        return other

    @staticmethod
    def _upsample(channels_in: int, channels_out: int, kernel_size: int, rate: int) -> nn.Module:
        """A weight-normed transposed convolution that multiplies the length by `rate`."""
        conv = nn.ConvTranspose1d(channels_in, channels_out, kernel_size, rate, padding=(kernel_size - rate) // 2)
        nn.init.normal_(conv.weight, 0.0, INIT_STD)
        return weight_norm(conv)  # type: ignore[no-any-return]

    @staticmethod
    def _noise_convs(widths: list[int], rates: tuple[int, ...]) -> Iterator[nn.Conv1d]:
        """Per stage a convolution that brings the excitation down to the rate of that stage."""
        for stage, width in enumerate(widths):
            stride = math.prod(rates[stage + 1 :])
            if stride == 1:
                yield nn.Conv1d(1, width, 1)
            else:
                yield nn.Conv1d(1, width, 2 * stride, stride, padding=stride // 2)

    def forward(
        self,
        latent: Tensor,
        f0: Tensor | None,
        speaker: Tensor,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Latent [B, Z, F], F0 [B, F] in Hz or None, speaker [B, gin, 1] -> waveform [B, 1, F * hop]."""
        return self.synthesize(latent, self._excite(f0, generator, temperature), speaker)

    def in_blocks(
        self,
        latent: Tensor,
        f0: Tensor | None,
        speaker: Tensor,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        keep: tuple[int, int] | None = None,
        block_frames: int | None = None,
    ) -> Tensor:
        """Compute the result of `forward`, up to rounding error, block by block, with the receptive field as context.

        On a CPU this takes much less time and memory, because a block fits into the CPU's caches. On a GPU, long
        blocks are fast; if `block_frames` is None, `blocks_for` determines their length. If memory runs out, blocks
        become shorter. `keep` is the half-open range (start, stop) of frames whose samples are returned; the
        other frames are context.
        """
        excitation = self._excite(f0, generator, temperature)  # for the whole input, so that its phase is continuous
        begin, end = keep or (0, latent.shape[2])
        block_frames = _block_length(end - begin, block_frames or self._longest_block(latent))
        trim_memory()
        parts, first = [], begin
        while first < end:
            last = min(first + block_frames, end)
            start = max(min(first, last - block_frames), begin)  # equal lengths: oneDNN caches memory for each length
            audio = self._block(latent, excitation, speaker, (start, last), may_fail=block_frames > BLOCK_STEP)
            if audio is None:
                block_frames = _block_length(end - begin, max(block_frames // 2, BLOCK_STEP))
                logger.info("out of memory on %s: from now on in blocks of %d frames", latent.device, block_frames)
                continue
            parts.append(audio[..., (first - start) * self.hop_length :])
            first = last
        return torch.cat(parts, dim=2)

    def _block(
        self, latent: Tensor, excitation: Tensor | None, speaker: Tensor, block: tuple[int, int], *, may_fail: bool
    ) -> Tensor | None:
        """Audio [B, 1, T] of the half-open range of frames (start, stop) of the whole latents; None if memory ran
        out."""
        hop, (start, last) = self.hop_length, block
        low, high = max(start - self.receptive_field, 0), min(last + self.receptive_field, latent.shape[2])
        context = None if excitation is None else excitation[..., low * hop : high * hop]
        try:
            return self.synthesize(latent[..., low:high], context, speaker, (start - low, high - last))
        except torch.OutOfMemoryError:
            if not may_fail:
                raise
        if latent.device.type == "cuda":  # not above: the exception refers to the tensors to be freed
            torch.cuda.empty_cache()
        return None

    def _longest_block(self, latent: Tensor) -> int:
        """Frames of a block on the device of the latents [B, Z, F]."""
        if latent.device.type != "cuda":
            return BLOCK_FRAMES
        free, _ = torch.cuda.mem_get_info(latent.device)
        free += torch.cuda.memory_reserved(latent.device) - torch.cuda.memory_allocated(latent.device)
        return blocks_for(free, TENSORS_AT_ONCE * self._values_per_frame * latent.element_size() * len(latent))

    def _excite(self, f0: Tensor | None, generator: torch.Generator | None, temperature: float) -> Tensor | None:
        """F0 [B, F] -> excitation [B, 1, F * hop]; None for a model without F0."""
        if self.m_source is None:
            return None
        assert f0 is not None, "a model with F0 needs F0"
        excitation: Tensor = self.m_source(f0, generator, temperature)
        return excitation

    def synthesize(
        self, latent: Tensor, excitation: Tensor | None, speaker: Tensor, around: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """Latent [B, Z, F], excitation [B, 1, F * hop] -> audio [B, 1, T].

        The `around` frames are context and are not part of the result. The first stage has nearly all of the receptive
        field; context that later stages do not need is dropped early.
        """
        x = self.conv_pre(latent) + self.cond(speaker)
        if not torch.is_grad_enabled():
            x = _channels_last(x)
            excitation = None if excitation is None else _channels_last(excitation)
        for stage, upsample in enumerate(self.ups):
            dropped = [max(frames - self._receptive_fields[stage], 0) for frames in around]
            x = _without(x, dropped)
            if excitation is not None:
                excitation = _without(excitation, [n * math.prod(self.rates[stage:]) for n in dropped])
            around = ((around[0] - dropped[0]) * self.rates[stage], (around[1] - dropped[1]) * self.rates[stage])
            x = _convolve(upsample, F.leaky_relu(x, LRELU_SLOPE))
            if excitation is not None:
                x = x + _convolve(self.noise_convs[stage], excitation)
            blocks = self.resblocks[stage * self.n_kernels : (stage + 1) * self.n_kernels]
            x = _mean((block(x) for block in blocks), latent.dtype)
        x = torch.tanh(_convolve(self.conv_post, F.leaky_relu(x, LAST_LRELU_SLOPE)))
        return _without(x, around).flatten(2)


def blocks_for(free_bytes: int, bytes_per_frame: int) -> int:
    """Return the block length in frames for a GPU: the largest multiple of BLOCK_FRAMES that fits into half of the free
    memory, at least BLOCK_FRAMES and at most MAX_GPU_FRAMES."""
    return max(BLOCK_FRAMES, min(free_bytes // 2 // bytes_per_frame, MAX_GPU_FRAMES) // BLOCK_FRAMES * BLOCK_FRAMES)


def _block_length(frames: int, longest: int) -> int:
    """A block length that divides `frames` almost evenly and is one of a few lengths."""
    even = math.ceil(frames / max(1, math.ceil(frames / longest)))
    return min(longest, math.ceil(even / BLOCK_STEP) * BLOCK_STEP)


def _without(x: Tensor, ends: Sequence[int]) -> Tensor:
    """[..., T] without `ends` samples at its beginning and end."""
    return x[..., ends[0] : x.shape[-1] - ends[1]]


def _channels_last(x: Tensor) -> Tensor:
    """[B, C, T] -> [B, C, 1, T], channels last in memory."""
    return x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
