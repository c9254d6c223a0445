"""The noise of the networks is drawn on the CPU and follows its generator."""

import pytest
import torch

from lib.models.noise import normal
from lib.models.source import SineSource


@pytest.mark.parametrize("device", ["meta", "cuda"])
def test_noise_is_drawn_on_the_cpu_whatever_the_device(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")

    def state_after(where: str) -> torch.Tensor:
        rng = torch.Generator().manual_seed(3)
        SineSource(8, 800).sine(torch.full((2, 30), 220.0, device=where), rng)
        drawn = normal((2, 5), torch.empty(0, device=where, dtype=torch.bfloat16), rng)
        assert drawn.device.type == where and drawn.dtype == torch.bfloat16
        return rng.get_state()

    assert torch.equal(state_after(device), state_after("cpu"))


def test_a_shorter_dtype_rounds_the_same_numbers() -> None:
    exact, rounded = (
        normal((50,), torch.empty(0, dtype=dtype), torch.Generator().manual_seed(1))
        for dtype in (torch.float32, torch.float16)
    )
    assert torch.equal(exact.half(), rounded)
