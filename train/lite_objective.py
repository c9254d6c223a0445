"""Objective of the lite family: the prior is trained first, by regression, then frozen to train the vocoder.

The prior predicts the log-mel spectrogram of whole crops. The vocoder is trained on these predictions with spectral,
adversarial and feature-matching losses on segments.
"""

import torch
from torch import Tensor, nn

from lib.config import FamilyConfig, LiteConfig
from lib.models.lite_encoder import CODE
from lib.models.lite_synthesizer import LiteOutput, log_mel, usable_bands
from lib.models.noise import normal
from train import lite_losses
from train.dataset import Batch
from train.objective import Discriminate, Losses

ADAPTATION_RATE = 12.5  # times the learning rate, while the speaker embedding is adapted
VOCODER_RATE = 0.5  # times the learning rate, for a vocoder that starts from a base
LAST_RATE = 0.05  # share of that at the last step
WARM_UP = 20  # steps


class LiteObjective:
    """Losses of the lite family."""

    has_phases = True

    def __init__(self, config: FamilyConfig) -> None:
        assert isinstance(config.synthesizer, LiteConfig) and config.lite is not None
        self.network = config.synthesizer
        self.settings = config.lite
        self.from_base = False

    def uses_discriminator(self, step: int) -> bool:
        """Whether a step trains the vocoder; the first `prior_steps` steps train only the prior, by regression."""
        return step >= self.settings.prior_steps

    def forward(
        self, generator: nn.Module, batch: Batch, starts: Tensor | None, temperature: float, step: int
    ) -> LiteOutput:
        """Run the generator on the batch, with noise on the content code."""
        noise = normal((*batch.content.shape[:2], CODE), batch.content)
        code = batch.content[..., :CODE] + self.settings.content_noise * temperature * noise
        content = torch.cat([code, batch.content[..., CODE:]], 2)
        output: LiteOutput = generator(
            content, batch.f0, batch.lengths, batch.speaker_id, starts, temperature,
            prior_only=not self.uses_discriminator(step),
        )  # fmt: skip
        return output

    def learning_rate_factor(self, step: int) -> float:
        """Return the learning rate multiplier for a step.

        When training starts from a base model, it is high for the speaker embedding, with a warm-up and a linear decay,
        and then low for the vocoder. Otherwise it is 1.
        """
        if not self.from_base:
            return 1.0
        if self.uses_discriminator(step):
            return VOCODER_RATE
        return ADAPTATION_RATE * min(1.0, (step + 1) / WARM_UP) * max(LAST_RATE, 1 - step / self.settings.prior_steps)

    def start_from_base(self, generator: nn.Module) -> None:
        """Freeze the prior of a base model, so that only its speaker embedding is adapted.

        A prior that is trained on a few minutes overfits to the sequences of codes in its training data, and other
        speakers become unintelligible.
        """
        self.from_base = True
        generator.enc_p.requires_grad_(False)

    def finish_step(self, generator: nn.Module, averaged: nn.Module | None, step: int) -> None:
        """After the last regression step, copy the EMA weights into the prior, which is frozen from then on."""
        if step == self.settings.prior_steps and averaged is not None:
            for name in ("enc_p", "emb_g"):
                getattr(generator, name).load_state_dict(getattr(averaged, name).state_dict())

    def discriminator_losses(self, discriminate: Discriminate, batch: Batch, output: LiteOutput) -> Losses:
        """Hinge loss of all discriminators."""
        real, generated = self._compared(batch, output)
        return {"d": lite_losses.discriminator_hinge(discriminate(real), discriminate(generated.detach()))}

    def generator_losses(
        self, discriminate: Discriminate | None, batch: Batch, output: LiteOutput, frames: Tensor
    ) -> Losses:
        """Mel spectrogram distance of the prior; in adversarial steps, the losses of the vocoder as well."""
        losses = {"mel": self._mel_distance(batch, output) / frames}
        if discriminate is None:
            return losses
        losses = {"mel": losses["mel"].detach()}  # reported only: the prior is frozen
        real, generated = self._compared(batch, output)
        of_generated = discriminate(generated)
        with torch.no_grad():
            of_real = discriminate(real)
        return losses | {
            "spectral": self.settings.c_spectral * self._spectral_loss(batch, generated, real),
            "gen": self.settings.c_adversarial * lite_losses.generator_hinge(of_generated),
            "fm": self.settings.c_matching * lite_losses.feature_distance(of_real, of_generated),
        }

    def _mel_distance(self, batch: Batch, output: LiteOutput) -> Tensor:
        """Sum over the frames of all clips of the mean |difference| over the bands."""
        bands = usable_bands(self.network, self._bandwidth(batch))
        distance = (output.mel - log_mel(batch.audio[:, 0], self.network))[..., :bands].abs().mean(2)
        inside = torch.arange(distance.shape[1], device=distance.device) < batch.lengths[:, None]
        return (distance * inside).sum()

    def _bandwidth(self, batch: Batch) -> float:
        """The frequency in Hz up to which recordings and generated audio are compared."""
        found = lite_losses.bandwidth(batch.audio[:, 0], self.network.sample_rate)
        return found if found < lite_losses.FULL_BAND else self.network.sample_rate / 2

    def _compared(self, batch: Batch, output: LiteOutput) -> tuple[Tensor, Tensor]:
        """Return the recordings of the segments, and the generated ones limited to the bandwidth of the recordings."""
        assert output.audio is not None
        cutoffs = torch.full((len(output.audio),), self._bandwidth(batch), device=output.audio.device)
        limited = lite_losses.band_limited(output.audio[:, 0].float(), cutoffs, self.network.sample_rate)
        return self._real(batch, output), limited[:, None]

    def _spectral_loss(self, batch: Batch, generated: Tensor, real: Tensor) -> Tensor:
        cutoffs = torch.full((len(real),), self._bandwidth(batch) + 1.0, device=real.device)
        return lite_losses.spectral_loss(generated[:, 0], real[:, 0], cutoffs, self.network.sample_rate)

    def _real(self, batch: Batch, output: LiteOutput) -> Tensor:
        """The recordings of the generated segments: [B, 1, S * hop]."""
        hop, width = self.network.hop_length, self.network.segment_frames * self.network.hop_length
        pairs = zip(batch.audio, output.starts.tolist(), strict=True)
        return torch.stack([audio[:, begin * hop : begin * hop + width] for audio, begin in pairs])
