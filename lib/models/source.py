"""Sine source of the neural source-filter generator (Wang, Takaki & Yamagishi 2019).

A single sine at F0, without harmonics, plus noise.
"""

import torch
from torch import Tensor, nn

from lib.models.noise import normal

SINE_AMPLITUDE = 0.1
VOICED_NOISE = 0.003  # standard deviation of the noise added to voiced samples
UNVOICED_NOISE = SINE_AMPLITUDE / 3  # and of the noise that stands alone in unvoiced samples


def sine_wave(f0: Tensor, hop_length: int, sample_rate: int) -> Tensor:
    """F0 [B, F] in Hz, 0 = unvoiced -> sine [B, F * hop_length] of amplitude 0.1 with continuous phase.

    The running sum of f0 / sample_rate includes the current sample. It is kept per frame, in float64 and modulo 1
    cycle, so that the phase does not drift in long audio.
    """
    step = torch.remainder(f0 / sample_rate, 1.0)  # [B, F] cycles per sample
    exact = step.cpu() if step.device.type == "mps" else step  # Apple GPUs have no float64
    frame_cycles = torch.remainder(exact.double() * hop_length, 1.0)
    start = torch.remainder(frame_cycles.cumsum(1) - frame_cycles, 1.0).to(step)  # [B, F] phase before the frame
    inside = torch.arange(1, hop_length + 1, device=f0.device, dtype=step.dtype)  # 1 .. hop_length samples
    phase = start.unsqueeze(2) + step.unsqueeze(2) * inside  # [B, F, hop]
    return SINE_AMPLITUDE * torch.sin(2 * torch.pi * phase).flatten(1)


class SineSource(nn.Module):
    """Computes the excitation at the output rate from F0."""

    def __init__(self, hop_length: int, sample_rate: int) -> None:
        super().__init__()
        self.hop_length = hop_length
        self.sample_rate = sample_rate
        self.l_linear = nn.Linear(1, 1)

    @torch.no_grad()
    def sine(self, f0: Tensor, generator: torch.Generator | None = None, temperature: float = 1.0) -> Tensor:
        """F0 [B, F] in Hz -> sine and noise [B, F * hop, 1], always float32.

        `temperature` scales the noise. Random numbers are drawn in RVC's order: an unused number per item, then the
        noise.
        """
        f0 = f0.float()
        voiced = (f0 > 0).float().repeat_interleave(self.hop_length, dim=1)  # [B, T]
        torch.rand(f0.shape[0], 1, generator=generator)
        noise = normal((*voiced.shape, 1), voiced, generator).squeeze(2)
        level = voiced * VOICED_NOISE + (1 - voiced) * UNVOICED_NOISE
        sine = sine_wave(f0, self.hop_length, self.sample_rate)
        return (voiced * sine + temperature * level * noise).unsqueeze(2)

    def forward(self, f0: Tensor, generator: torch.Generator | None = None, temperature: float = 1.0) -> Tensor:
        """F0 [B, F] in Hz -> excitation [B, 1, F * hop] in the dtype of the weights."""
        sine = self.sine(f0, generator, temperature).to(self.l_linear.weight.dtype)
        return torch.tanh(self.l_linear(sine)).transpose(1, 2)
