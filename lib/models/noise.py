"""Random numbers of the networks: drawn on the CPU, so that a seed gives the same on every device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def normal(shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal noise on the device and in the dtype of `like`.

    `generator` is a CPU torch.Generator; None: the default one. The numbers are drawn in float32 unless `like` is
    float64. They depend on the shape as a whole: noise of a shorter shape is not the beginning of noise of a longer
    one.
    """
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    drawn = torch.randn(*shape, generator=generator, dtype=dtype, pin_memory=like.is_cuda)
    return drawn.to(like.device, non_blocking=like.is_cuda).to(like.dtype)  # pinned, so that the copy does not wait
