"""The training objective of each family: forward pass of the generator and losses of both networks.

`train_step` contains no losses: it calls the objective of the family, sums the losses, and updates the networks. A new
kind of network needs a class here and an entry in `train.networks.make_objective`. v1 and v2 use the losses of VITS
(Kim et al. 2021).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lib.audio import mel
from lib.config import FamilyConfig
from lib.models.discriminators import DiscriminatorOutput
from lib.models.synthesizer import TrainOutput, slice_frames
from train import losses
from train.dataset import Batch

Losses = dict[str, Tensor]  # weighted scalars by name; gradients are computed of their sum
Discriminate = Callable[[Tensor], list[DiscriminatorOutput]]  # audio [B, 1, T] -> one output per sub-discriminator


class Objective(Protocol):
    """The losses of one model family.

    A step calls `forward` and `discriminator_losses`, updates the discriminator, calls `generator_losses`, and updates
    the generator; if memory is short, it does so for one micro-batch after another. The result of `forward` is passed
    to the two loss functions unchanged; nothing else reads it.
    """

    has_phases: bool  # whether some steps compute gradients for a part of the generator only

    def uses_discriminator(self, step: int) -> bool:
        """Whether a step (counted from 0) is adversarial; otherwise it updates only the generator."""
        ...

    def learning_rate_factor(self, step: int) -> float:
        """Factor of the generator's learning rate in a step, counted from 0."""
        ...

    def start_from_base(self, generator: nn.Module) -> None:
        """Called if the generator has a base model's weights, or is resumed from a run that started with them."""
        ...

    def forward(self, generator: nn.Module, batch: Batch, starts: Tensor | None, temperature: float, step: int) -> Any:
        """Run the generator on the batch.

        `starts` [B] are the first frames of the segments; if None, they are drawn at random. A `temperature` of 0
        removes the noise.
        """
        ...

    def finish_step(self, generator: nn.Module, averaged: nn.Module | None, step: int) -> None:
        """Called after each step; `averaged` has the EMA weights, if any; `step` is the number of finished steps."""
        ...

    def discriminator_losses(self, discriminate: Discriminate, batch: Batch, output: Any) -> Losses:
        """Losses of the discriminator; must not compute gradients for the generator."""
        ...

    def generator_losses(self, discriminate: Discriminate | None, batch: Batch, output: Any, frames: Tensor) -> Losses:
        """Losses of the generator; `discriminate` is None in a step that is not adversarial.

        `frames` is the divisor for means over frames. For a micro-batch it is not the micro-batch's own number of
        frames but its share of the whole batch's, so that the losses of the micro-batches add up to those of the batch.
        """
        ...


@dataclass(frozen=True)
class SpectrumConstants:
    """Constants that keep roots and logarithms of spectra finite; the published base models were trained with them."""

    epsilon: float = mel.MAGNITUDE_EPSILON
    floor: float = mel.MEL_FLOOR


class VitsObjective:
    """Adversarial, feature-matching, mel and KL losses of VITS (v1, v2)."""

    has_phases = False

    def __init__(self, config: FamilyConfig, spectrum: SpectrumConstants | None = None) -> None:
        self.config = config
        self.spectrum = spectrum or SpectrumConstants()

    def uses_discriminator(self, step: int) -> bool:
        """Return True: every step is adversarial."""
        return True

    def learning_rate_factor(self, step: int) -> float:
        """Return 1: all steps of an epoch have the same learning rate."""
        return 1.0

    def start_from_base(self, generator: nn.Module) -> None:
        """Do nothing: all weights are trained."""

    def finish_step(self, generator: nn.Module, averaged: nn.Module | None, step: int) -> None:
        """Do nothing."""

    def forward(
        self, generator: nn.Module, batch: Batch, starts: Tensor | None, temperature: float, step: int
    ) -> TrainOutput:
        """Run the generator on the batch."""
        pitch = (batch.pitch_bins, batch.f0) if self.config.synthesizer.has_f0 else (None, None)
        out: TrainOutput = generator(
            batch.content, *pitch, batch.lengths, batch.spec, batch.speaker_id, starts, temperature
        )
        return out

    def discriminator_losses(self, discriminate: Discriminate, batch: Batch, output: TrainOutput) -> Losses:
        """Least-squares losses per sub-discriminator; real and generated audio pass through it as one batch."""
        real = self._real(batch, output)
        both = discriminate(torch.cat([real, output.audio.detach().to(real.dtype)]))
        of_real = [_rows(out, slice(None, len(real))) for out in both]
        of_generated = [_rows(out, slice(len(real), None)) for out in both]
        parts_real, parts_generated = losses.discriminator_parts(of_real, of_generated)
        named = {f"d_r/{i}": loss for i, loss in enumerate(parts_real)}
        return named | {f"d_g/{i}": loss for i, loss in enumerate(parts_generated)}

    def generator_losses(
        self, discriminate: Discriminate | None, batch: Batch, output: TrainOutput, frames: Tensor
    ) -> Losses:
        """Adversarial, feature-matching, mel and KL losses."""
        assert discriminate is not None
        config = self.config
        of_generated = discriminate(output.audio)
        with torch.no_grad():
            of_real = discriminate(self._real(batch, output))
        spec = slice_frames(batch.spec, output.starts, config.synthesizer.segment_frames)
        audio, hop = output.audio.float().squeeze(1), config.audio.hop_length
        generated = mel.linear_spectrogram(audio, config.audio.n_fft, hop, self.spectrum.epsilon)
        parts = {
            "gen": losses.generator_loss(of_generated),
            "fm": losses.feature_loss(of_real, of_generated),
            "mel": config.train.c_mel * self._mel_distance(spec, generated),
        }
        if (z := output.latents) is not None:
            kl = losses.kl_sum(z.latent_prior, z.log_scale_posterior, z.mean_prior, z.log_scale_prior, z.mask)
            parts["kl"] = config.train.c_kl * kl / frames
        return parts

    def _real(self, batch: Batch, output: TrainOutput) -> Tensor:
        """The recordings of the generated segments: [B, 1, S * hop]."""
        frames, hop = self.config.synthesizer.segment_frames, self.config.audio.hop_length
        return slice_frames(batch.audio, output.starts, frames, hop)

    def _mel_distance(self, spec: Tensor, generated: Tensor) -> Tensor:
        """Mean |log-mel difference| of two linear spectrograms [B, bins, S]."""
        audio, floor = self.config.audio, self.spectrum.floor
        real_mel, generated_mel = (mel.mel_from_linear(x, audio, floor) for x in (spec, generated))
        return (real_mel - generated_mel).abs().mean()


def _rows(output: DiscriminatorOutput, rows: slice) -> DiscriminatorOutput:
    return DiscriminatorOutput(output.score[rows], [features[rows] for features in output.features])
