"""One adversarial step on one batch: the discriminator's half, then the generator's, in parts where memory is short.

Spec: training, "Training step". When memory runs out, the half that was being computed begins anew on parts of the
batch, whose gradients add up to those of the whole batch; no update is lost or done twice.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from lib.audio import mel
from lib.errors import ConfigError
from lib.models.discriminators import DiscriminatorOutput
from lib.models.synthesizer import TrainOutput, slice_frames
from train import losses
from train.dataset import Batch

if TYPE_CHECKING:
    from train.state import Trainer

logger = logging.getLogger(__name__)

Found = dict[str, Tensor]


class _Part(NamedTuple):
    """Some rows of the batch."""

    batch: Batch
    starts: Tensor | None  # given first frames of the segments
    share: float  # of the batch's rows
    last: bool


class Step:
    """The batch of one step and what its two halves share."""

    def __init__(self, trainer: "Trainer", batch: Batch, starts: Tensor | None, temperature: float) -> None:
        self.trainer = trainer
        self.batch = batch
        self.starts = starts
        self.temperature = temperature
        self.rows = len(batch.lengths)
        # KL is a mean over the frames of the whole batch, which parts and processes only see a share of.
        self.frames = trainer.processes.mean(batch.lengths.sum().float())
        self.random = _random_state(trainer.accelerator.device)
        self.made: TrainOutput | None = None  # of the whole batch, with its graph

    def run(self) -> dict[str, float]:
        """Update both networks -> losses and gradient norms by their TensorBoard names."""
        trainer = self.trainer
        try:
            found = self._half(self._judge, trainer.discriminator)
            found |= {"grad_norm_d": trainer.update(trainer.optimizer_d, trainer.discriminator)}
            # The discriminator only passes gradients on in this half: its own would be thrown away.
            trainer.plain_discriminator.requires_grad_(False)
            found |= self._half(self._make, trainer.generator)
            found |= {"grad_norm_g": trainer.update(trainer.optimizer_g, trainer.generator)}
        finally:
            trainer.plain_discriminator.requires_grad_(True)
        if trainer.accelerator.scaler is not None:
            trainer.accelerator.scaler.update()  # once per step, for both optimisers
        values = torch.stack([value.detach().float() for value in found.values()])
        numbers = trainer.processes.mean(values).tolist()  # the one wait for the device
        return dict(zip(found, numbers, strict=True))

    # --- parts -----------------------------------------------------------------------------------------------------

    def _half(self, work: Callable[[_Part], Found], network: nn.Module) -> Found:
        """Gradients of one half for `network`, and its losses; begins anew on smaller parts when memory runs out."""
        while True:
            try:
                return self._all_parts(work, network)
            except torch.OutOfMemoryError:
                pass  # dealt with outside, because the exception holds what is to be freed
            self.made = None
            network.zero_grad(set_to_none=True)
            if self.trainer.accelerator.device.type == "cuda":
                torch.cuda.empty_cache()
            self._use_smaller_parts()

    def _all_parts(self, work: Callable[[_Part], Found], network: nn.Module) -> Found:
        network.zero_grad(set_to_none=True)
        if self.made is None:
            _set_random_state(self.random, self.trainer.accelerator.device)  # both halves hear the same noise
        found: Found = {}
        for part in self._parts():
            alone = contextlib.nullcontext() if part.last else self.trainer.accelerator.no_sync(network)
            with alone:
                for name, value in work(part).items():
                    found[name] = found.get(name, 0) + part.share * value.detach()
        return found

    def _parts(self) -> Iterator[_Part]:
        size = min(self.trainer.part_rows or self.rows, self.rows)
        for first in range(0, self.rows, size):
            rows = slice(first, min(first + size, self.rows))
            starts = None if self.starts is None else self.starts[rows]
            batch = self.batch if size == self.rows else Batch(*(tensor[rows] for tensor in self.batch))
            yield _Part(batch, starts, (rows.stop - first) / self.rows, rows.stop == self.rows)

    def _use_smaller_parts(self) -> None:
        """Halve the number of clips that are computed at once, for the rest of the run. ConfigError if it is one."""
        trainer = self.trainer
        size = min(trainer.part_rows or self.rows, self.rows)
        where, fewer = trainer.accelerator.device, max(1, size // 2)
        if trainer.processes.count > 1:
            raise ConfigError(
                f"A batch of {self.rows} clips does not fit into the memory of {where} ({trainer.processes}). "
                f"Continue with --batch-size {fewer}."
            )
        if size == 1:
            raise ConfigError(
                f"Not even one clip at a time fits into the memory of {where}. Close other programs, or train a "
                "smaller family (lite) or on another device."
            )
        trainer.part_rows = -(-size // 2)
        logger.warning(
            "memory ran out on %s: the batch of %d clips is computed in parts of %d from here on, with equal results",
            where, self.rows, trainer.part_rows,
        )  # fmt: skip

    # --- the halves ------------------------------------------------------------------------------------------------

    def _generated(self, part: _Part, *, with_graph: bool) -> TrainOutput:
        """What the generator makes of a part; of a whole batch it is made once and kept for both halves."""
        if self.made is not None:
            return self.made
        trainer, batch, whole = self.trainer, part.batch, part.last and part.share == 1
        pitch = (batch.pitch_bins, batch.f0) if trainer.config.synthesizer.has_f0 else (None, None)
        spec = None if trainer.config.prior.only else batch.spec
        network = trainer.generator if with_graph or whole else trainer.synthesizer
        with torch.set_grad_enabled(with_graph or whole), trainer.accelerator.autocast():
            out: TrainOutput = network(
                batch.content, *pitch, batch.lengths, spec, batch.speaker_id, part.starts, self.temperature
            )
        if whole:
            self.made = out
        return out

    def _real(self, part: _Part, out: TrainOutput) -> Tensor:
        """The recordings of the segments: [B, 1, S * hop]."""
        frames, hop = self.trainer.config.synthesizer.segment_frames, self.trainer.config.audio.hop_length
        return slice_frames(part.batch.audio, out.starts, frames, hop)

    def _judge(self, part: _Part) -> Found:
        """The discriminator's losses and gradients; real and generated go through it as one batch."""
        trainer = self.trainer
        out = self._generated(part, with_graph=False)
        real = self._real(part, out)
        with trainer.accelerator.autocast():
            both = trainer.discriminator(torch.cat([real, out.audio.detach().to(real.dtype)]))
        judged = [_rows(judgement, slice(None, len(real))) for judgement in both]
        doubted = [_rows(judgement, slice(len(real), None)) for judgement in both]
        parts_real, parts_generated = losses.discriminator_parts(judged, doubted)
        total = torch.stack([*parts_real, *parts_generated]).sum()
        trainer.accelerator.backward(total * part.share)
        named = {f"loss/d_r/{i}": loss for i, loss in enumerate(parts_real)}
        return {"loss/d/total": total} | named | {f"loss/d_g/{i}": loss for i, loss in enumerate(parts_generated)}

    def _make(self, part: _Part) -> Found:
        """The generator's losses and gradients."""
        trainer, config = self.trainer, self.trainer.config
        out = self._generated(part, with_graph=True)
        real = self._real(part, out)
        with trainer.accelerator.autocast():
            generated = trainer.plain_discriminator(out.audio)
            with torch.no_grad():
                judged = trainer.plain_discriminator(real)
        spec = slice_frames(part.batch.spec, out.starts, config.synthesizer.segment_frames)
        audio, hop = out.audio.float().squeeze(1), config.audio.hop_length
        made = mel.linear_spectrogram(audio, config.audio.n_fft, hop, trainer.spectrum.epsilon)
        parts = {
            "gen": losses.generator_loss(generated),
            "fm": losses.feature_loss(judged, generated),
            "mel": config.train.c_mel * self._mel_distance(spec, made),
        }
        if (z := out.latents) is not None:
            kl = losses.kl_sum(z.latent_prior, z.log_scale_posterior, z.mean_prior, z.log_scale_prior, z.mask)
            parts["kl"] = config.train.c_kl * kl / (self.frames * part.share)
        if config.source.c_harmonic:
            bins = round(config.source.harmonic_max * config.audio.n_fft / config.audio.sample_rate)
            parts["harmonic"] = config.source.c_harmonic * losses.spectral_l1(spec, made, bins)
        total = torch.stack(list(parts.values())).sum()
        trainer.accelerator.backward(total * part.share)
        return {"loss/g/total": total} | {f"loss/g/{name}": value for name, value in parts.items()}

    def _mel_distance(self, spec: Tensor, made: Tensor) -> Tensor:
        """Mean |log-mel difference| of two linear spectrograms [B, bins, S]."""
        audio, floor = self.trainer.config.audio, self.trainer.spectrum.floor
        real_mel, made_mel = (mel.mel_from_linear(x, audio, floor) for x in (spec, made))
        return (real_mel - made_mel).abs().mean()


def _rows(judgement: DiscriminatorOutput, rows: slice) -> DiscriminatorOutput:
    return DiscriminatorOutput(judgement.score[rows], [features[rows] for features in judgement.features])


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The random state of the CPU, and of the GPU where one is used."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Any], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
