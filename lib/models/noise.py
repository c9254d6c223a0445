"""Random numbers of the networks, drawn on the CPU, so that a seed gives the same numbers on every device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def normal(shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw standard normal noise with the device and dtype of `like`.

    `generator` is a CPU torch.Generator; if None, torch's default generator is used. The numbers are drawn in float32
    unless `like` is float64. They depend on the whole shape: noise of a shorter shape is not a prefix of noise of a
    longer one.
    """
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    drawn = torch.randn(*shape, generator=generator, dtype=dtype, pin_memory=like.is_cuda)
    return drawn.to(like.device, non_blocking=like.is_cuda).to(like.dtype)  # pinned, so that the copy does not wait
