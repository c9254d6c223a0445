"""The adversarial training step, and the state around it: two networks, two optimisers, one Accelerator.

Spec: training, "Training step". Accelerate decides device, precision and processes; nothing else here does.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn

from lib import mel
from lib.checkpoint import (
    TrainingState,
    Weights,
    ecosystem_weights,
    load_weights,
    optimizer_for,
    read_training_state,
    write_training_state,
)
from lib.config import FamilyConfig
from lib.devices import has_fast_bfloat16
from lib.errors import CheckpointError, ConfigError
from lib.models.discriminators import Discriminator, Judgement
from lib.models.synthesizer import Synthesizer, slice_frames
from train import losses
from train.dataset import Batch

logger = logging.getLogger(__name__)

EARLIER = "Go back to an earlier checkpoint."
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass
class Position:
    """How far a run is; everything the loop changes besides weights and optimisers."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # batches done in the epoch after them
    step: int = 0  # optimiser steps in all
    seconds: float = 0.0  # training time in all


@dataclass(frozen=True)
class SpectrumConstants:
    """Guards of the mel spectrogram; the published base models were trained with these (spec: README, decisions)."""

    epsilon: float = mel.MAGNITUDE_EPSILON
    floor: float = mel.MEL_FLOOR


def choose_precision(wanted: Precision, device: torch.device) -> tuple[Literal["no", "bf16", "fp16"], str]:
    """Return Accelerate's name of the precision to train in, and why."""
    if wanted == "fp32":
        return "no", "asked for"
    if wanted == "fp16" and device.type == "cpu":
        raise ConfigError("A CPU cannot train in fp16. Use --precision bf16, fp32 or auto.")
    if wanted != "auto":
        return wanted, "asked for"
    if has_fast_bfloat16(device):
        return "bf16", f"this {device.type} computes in bfloat16"
    return "no", f"no fast bfloat16 on this {device.type}"


def make_accelerator(precision: Precision, device: torch.device) -> Accelerator:
    """The Accelerator of this process: on a CPU if `device` is one, else on the current GPU."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if PartialState._shared_state and PartialState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)  # else a second training here keeps the first's choice
    chosen, reason = choose_precision(precision, device)
    logger.info("training on %s in precision %s (%s)", device, chosen, reason)
    return Accelerator(cpu=device.type == "cpu", mixed_precision=chosen)


def _own_entry(state: TrainingState, path: Path) -> dict[str, Any]:
    """What `save` added to a training state; empty in files of other programs. CheckpointError if it is damaged."""
    own = state.extra.get("revoice")
    if own is None:
        return {}
    numbers = [own.get(name) for name in ("epoch", "batch", "step", "seconds")] if isinstance(own, dict) else []
    counts = all(type(number) is int and number >= 0 for number in numbers[:3])
    if not (numbers and counts and isinstance(numbers[3], int | float) and 0 <= numbers[3] < float("inf")):
        raise CheckpointError(f"{path} has a damaged entry 'revoice': it does not say how far the run is. {EARLIER}")
    return dict(own)


class Trainer:
    """Owns what is trained. `train_step` is a function of this state and a batch."""

    def __init__(
        self,
        config: FamilyConfig,
        accelerator: Accelerator,
        learning_rate: float | None = None,
        spectrum: SpectrumConstants | None = None,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.spectrum = spectrum or SpectrumConstants()
        self.learning_rate = learning_rate or config.train.learning_rate
        self.position = Position()
        generator = Synthesizer(config.synthesizer, posterior=config.has_posterior)
        discriminator = Discriminator(config.discriminator)
        self._fix_source(generator)
        self._begin_prior(generator)
        settings: dict[str, Any] = {
            "lr": self.learning_rate, "betas": config.train.betas, "eps": config.train.eps, "fused": True,
        }  # fmt: skip
        self.optimizer_g, self.optimizer_d = (
            accelerator.prepare(torch.optim.AdamW(network.to(accelerator.device).parameters(), **settings))
            for network in (generator, discriminator)
        )
        self.generator, self.discriminator = accelerator.prepare(generator, discriminator)

    def _fix_source(self, generator: Synthesizer) -> None:
        """Give the sine source its fixed weight, where the family has one."""
        source, weight = generator.dec.m_source, self.config.source.weight
        if source is not None and weight is not None:
            nn.init.constant_(source.l_linear.weight, weight)
            nn.init.zeros_(source.l_linear.bias)
            source.requires_grad_(False)

    def _begin_prior(self, generator: Synthesizer) -> None:
        """Let the prior begin with little noise, and leave the posterior as it is, where the family says so."""
        assert generator.enc_p.proj.bias is not None
        if self.config.prior.log_scale is not None:
            with torch.no_grad():
                generator.enc_p.proj.bias[self.config.synthesizer.inter_channels :] = self.config.prior.log_scale
        if generator.enc_q is not None:
            generator.enc_q.requires_grad_(not self.config.prior.only)

    @property
    def synthesizer(self) -> Synthesizer:
        """The generator without the wrapping of Accelerate."""
        return self.accelerator.unwrap_model(self.generator)  # type: ignore[no-any-return]

    @property
    def plain_discriminator(self) -> Discriminator:
        """The discriminator without the wrapping of Accelerate."""
        return self.accelerator.unwrap_model(self.discriminator)  # type: ignore[no-any-return]

    def begin_epoch(self) -> float:
        """Set the learning rate of the epoch that begins (falling by `lr_decay` per epoch) and return it."""
        rate = self.learning_rate * self.config.train.lr_decay**self.position.epoch
        for optimizer in (self.optimizer_g, self.optimizer_d):
            for group in optimizer.param_groups:
                group["lr"], group["initial_lr"] = rate, self.learning_rate
        return rate

    # --- the step --------------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch, starts: Tensor | None = None, temperature: float = 1.0) -> dict[str, float]:
        """One step of both optimisers -> losses and gradient norms by their TensorBoard names.

        `starts` [B] fixes the segments and `temperature` 0 removes the noise; the golden steps need both.
        """
        hop, frames = self.config.audio.hop_length, self.config.synthesizer.segment_frames
        pitch = (batch.pitch_bins, batch.f0) if self.config.synthesizer.has_f0 else (None, None)
        with self.accelerator.autocast():
            out = self.generator(
                batch.content, *pitch, batch.lengths, None if self.config.prior.only else batch.spec, batch.speaker_id,
                starts, temperature,
            )  # fmt: skip
        real = slice_frames(batch.audio, out.starts, frames, hop)  # [B, 1, S * hop]
        found = self._step_discriminator(real, out.audio.detach())

        # The discriminator only passes gradients on in this half: its own would be thrown away.
        self.plain_discriminator.requires_grad_(False)
        with self.accelerator.autocast():
            generated = self.plain_discriminator(out.audio)
            with torch.no_grad():
                judged = self.plain_discriminator(real)
        spec = slice_frames(batch.spec, out.starts, frames)
        made = mel.linear_spectrogram(out.audio.float().squeeze(1), self.config.audio.n_fft, hop, self.spectrum.epsilon)
        parts = {
            "gen": losses.generator_loss(generated),
            "fm": losses.feature_loss(judged, generated),
            "mel": self.config.train.c_mel * self._mel_distance(spec, made),
        }
        if out.latents is not None:
            z = out.latents
            kl = losses.kl_loss(z.latent_prior, z.log_scale_posterior, z.mean_prior, z.log_scale_prior, z.mask)
            parts["kl"] = self.config.train.c_kl * kl
        if self.config.source.c_harmonic:
            bins = round(self.config.source.harmonic_max * self.config.audio.n_fft / self.config.audio.sample_rate)
            parts["harmonic"] = self.config.source.c_harmonic * losses.spectral_l1(spec, made, bins)
        total = torch.stack(list(parts.values())).sum()
        norm = self._update(self.optimizer_g, self.generator, total)
        self.plain_discriminator.requires_grad_(True)
        found |= {"loss/g/total": total, "grad_norm_g": norm} | {f"loss/g/{name}": v for name, v in parts.items()}
        self.position.step += 1
        values = torch.stack([value.detach().float() for value in found.values()]).tolist()  # one wait for the device
        return dict(zip(found, values, strict=True))

    def _step_discriminator(self, real: Tensor, generated: Tensor) -> dict[str, Tensor]:
        """Update the discriminator on segments [B, 1, T]; real and generated go through it as one batch."""
        with self.accelerator.autocast():
            both = self.discriminator(torch.cat([real, generated.to(real.dtype)]))
        judged = [self._half(judgement, slice(None, len(real))) for judgement in both]
        doubted = [self._half(judgement, slice(len(real), None)) for judgement in both]
        parts_real, parts_generated = losses.discriminator_parts(judged, doubted)
        total = torch.stack([*parts_real, *parts_generated]).sum()
        norm = self._update(self.optimizer_d, self.discriminator, total)
        named = {f"loss/d_r/{i}": part for i, part in enumerate(parts_real)}
        named |= {f"loss/d_g/{i}": part for i, part in enumerate(parts_generated)}
        return {"loss/d/total": total, "grad_norm_d": norm} | named

    @staticmethod
    def _half(judgement: Judgement, rows: slice) -> Judgement:
        return Judgement(judgement.score[rows], [features[rows] for features in judgement.features])

    def _mel_distance(self, spec: Tensor, made: Tensor) -> Tensor:
        """Mean |log-mel difference| of two linear spectrograms [B, bins, S]."""
        real_mel, made_mel = (mel.mel_from_linear(x, self.config.audio, self.spectrum.floor) for x in (spec, made))
        return (real_mel - made_mel).abs().mean()

    def _update(self, optimizer: Any, network: nn.Module, loss: Tensor) -> Tensor:
        """Backward and step; returns the 2-norm of all gradients, which are not clipped."""
        optimizer.zero_grad()
        self.accelerator.backward(loss)
        if self.accelerator.scaler is not None:
            self.accelerator.unscale_gradients(optimizer)
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        optimizer.step()
        return norm

    # --- what is kept ----------------------------------------------------------------------------------------------

    def load_base(self, generator: Weights | None, discriminator: Weights | None, where: str) -> None:
        """Start from the weights of base models, strictly; the sine source keeps its fixed weight."""
        if generator is not None:
            load_weights(self.synthesizer, generator, f"The base generator in {where}")
            self._fix_source(self.synthesizer)
        if discriminator is not None:
            load_weights(self.plain_discriminator, discriminator, f"The base discriminator in {where}")

    def save(self, generator: Path, discriminator: Path) -> None:
        """Write both training states; the pair carries the same position and the random state."""
        own = {**vars(self.position), "rng": torch.get_rng_state()}
        if self.accelerator.device.type == "cuda":
            own["cuda_rng"] = torch.cuda.get_rng_state(self.accelerator.device)
        networks = (
            (generator, self.synthesizer, self.optimizer_g),
            (discriminator, self.plain_discriminator, self.optimizer_d),
        )
        for path, network, optimizer in networks:
            state = TrainingState(
                weights=ecosystem_weights(network),
                epoch=self.position.epoch,
                optimizer=optimizer.state_dict(),
                learning_rate=self.learning_rate,
                extra={"revoice": own},
            )
            write_training_state(path, state)

    def resume(self, generator: Path, discriminator: Path) -> None:
        """Continue from a pair of training states; CheckpointError if they do not belong together or do not fit."""
        states = [read_training_state(path) for path in (generator, discriminator)]
        own, other = (_own_entry(state, path) for state, path in zip(states, (generator, discriminator), strict=True))
        if states[0].epoch != states[1].epoch or own.get("step") != other.get("step"):
            raise CheckpointError(
                f"{generator.name} and {discriminator.name} are from different moments of the training. Move the "
                "older of them out of the folder."
            )
        networks = (
            (generator, states[0], self.synthesizer, self.optimizer_g),
            (discriminator, states[1], self.plain_discriminator, self.optimizer_d),
        )
        for path, state, network, optimizer in networks:
            load_weights(network, state.weights, path.name)
            if state.optimizer:
                optimizer.load_state_dict(optimizer_for(network, state, path.name))
        if not own:  # written by another program, at the end of an epoch
            self.position = Position(epoch=states[0].epoch)
            return
        try:
            torch.set_rng_state(own["rng"])
            if "cuda_rng" in own and self.accelerator.device.type == "cuda":
                torch.cuda.set_rng_state(own["cuda_rng"], self.accelerator.device)
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{generator} has a damaged random state. {EARLIER}") from error
        self.position = Position(own["epoch"], own["batch"], own["step"], float(own["seconds"]))
