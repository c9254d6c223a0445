"""The voice network: content, pitch and speaker -> waveform. One class for v1, v2 and lite, with and without F0.

A conditional VAE with a flow and an adversarially trained generator (VITS, Kim et al. 2021). Spec: synthesizer.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lib.config import SynthesizerConfig
from lib.models.eight_bit import EightBitBlock
from lib.models.encoders import ContentPrior, Posterior, frame_mask
from lib.models.flow import COUPLING_REACH, Flow
from lib.models.generator import Generator
from lib.models.memory import give_back

NOISE_SCALE = 0.66666  # of the prior's standard deviation, at inference; five sixes, as in every published model
PROBE_FRAMES = 20  # that number types are compared by


class InferOutput(NamedTuple):
    """What inference computes on the way; `audio` is the result."""

    audio: Tensor  # [B, 1, F * hop]
    mask: Tensor  # [B, 1, F]
    latent: Tensor  # [B, Z, F] after the reversed flow
    mean: Tensor  # [B, Z, F] of the prior
    log_scale: Tensor  # [B, Z, F] of the prior


class LatentOutput(NamedTuple):
    """What the KL loss needs; F is the length of the batch."""

    mask: Tensor  # [B, 1, F] of the spectrogram
    latent: Tensor  # [B, Z, F] drawn from the posterior
    latent_prior: Tensor  # [B, Z, F] the same after the flow
    mean_prior: Tensor
    log_scale_prior: Tensor
    mean_posterior: Tensor
    log_scale_posterior: Tensor


class TrainOutput(NamedTuple):
    """What the losses need; S is the length of the random segments."""

    audio: Tensor  # [B, 1, S * hop]
    starts: Tensor  # [B] first frame of each segment
    latents: LatentOutput | None  # None where the training does without the posterior


def slice_frames(x: Tensor, starts: Tensor, frames: int, samples_per_frame: int = 1) -> Tensor:
    """Cut `frames` frames at `starts` [B] out of the last axis of [B, ..., T]."""
    width = frames * samples_per_frame
    first = (starts * samples_per_frame).tolist()
    return torch.stack([item[..., begin : begin + width] for item, begin in zip(x, first, strict=True)])


@torch.inference_mode()
def agreement_in_db(exact: "Synthesizer", other: "Synthesizer") -> float:
    """How far below the sound the difference of two generators lies, for latents like a posterior's, a rising tone."""
    rng = torch.Generator().manual_seed(0)
    latent = torch.randn(1, exact.config.inter_channels, PROBE_FRAMES, generator=rng)
    f0 = torch.linspace(100.0, 400.0, PROBE_FRAMES)[None]
    speaker = exact.speaker(torch.tensor([0]))
    wanted, made = (network.dec(latent, f0, speaker, None, 0.0).double() for network in (exact, other))
    return float(10 * torch.log10(wanted.square().sum() / (made - wanted).square().sum()))


class Synthesizer(nn.Module):
    """The attribute names enc_p, enc_q, flow, dec and emb_g are state-dict keys of the ecosystem and must stay.

    `posterior` builds the posterior encoder, which only training needs and voice models do not contain.
    """

    def __init__(self, config: SynthesizerConfig, *, posterior: bool = False) -> None:
        super().__init__()
        self.config = config
        self.enc_p = ContentPrior(config)
        self.dec = Generator(config)
        self.enc_q = Posterior(config) if posterior else None
        self.flow = Flow(config)
        self.emb_g = nn.Embedding(config.n_speakers, config.gin_channels)

    def speaker(self, speaker_id: Tensor) -> Tensor:
        """[B] -> conditioning vectors [B, gin, 1]."""
        return self.emb_g(speaker_id).unsqueeze(2)  # type: ignore[no-any-return]

    def forward(
        self,
        content: Tensor,
        pitch_bins: Tensor | None,
        f0: Tensor | None,
        lengths: Tensor,
        spec: Tensor | None,
        speaker_id: Tensor,
        starts: Tensor | None = None,
        temperature: float = 1.0,
    ) -> TrainOutput:
        """Training: content [B, F, C], pitch bins and F0 [B, F], lengths [B], spec [B, bins, F], speaker_id [B].

        Segments start at `starts` [B]; None draws them, on the CPU, so that a seed gives the same on every device.
        Without `spec` they are made as a conversion makes them, and the posterior is left aside.
        """
        speaker = self.speaker(speaker_id)
        mean_prior, log_scale_prior, mask = self.enc_p(content, pitch_bins, lengths)
        latents = None
        if spec is None:
            latent = self._converted_latent(mean_prior, log_scale_prior, mask, speaker, temperature)
        else:
            assert self.enc_q is not None, "training needs a Synthesizer with posterior=True"
            mask = frame_mask(lengths, spec.shape[2], mean_prior.dtype)
            mean, log_scale = self.enc_q(spec, mask, speaker)
            noise = torch.randn_like(mean) * temperature
            latent = (mean + noise * log_scale.exp()) * mask
            latent_prior = self.flow(latent, mask, speaker)
            latents = LatentOutput(mask, latent, latent_prior, mean_prior, log_scale_prior, mean, log_scale)
        frames = self.config.segment_frames
        if starts is None:
            room = (lengths.cpu() - frames + 1).clamp(min=0)  # places stay on the CPU, which cuts the slices
            starts = (torch.rand(len(lengths)) * room).long()
        segment_f0 = None if f0 is None else slice_frames(f0, starts, frames)
        audio = self.dec(slice_frames(latent, starts, frames), segment_f0, speaker, None, temperature)
        return TrainOutput(audio, starts, latents)

    def _converted_latent(
        self, mean: Tensor, log_scale: Tensor, mask: Tensor, speaker: Tensor, temperature: float
    ) -> Tensor:
        """Draw from the prior [B, Z, F] and take it back through the flow."""
        prior = mean + log_scale.exp() * torch.randn_like(mean) * (NOISE_SCALE * temperature)
        return self.flow(prior * mask, mask, speaker, reverse=True)  # type: ignore[no-any-return]

    def infer(
        self,
        content: Tensor,
        lengths: Tensor,
        speaker_id: Tensor,
        pitch_bins: Tensor | None = None,
        f0: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        keep: tuple[int, int] | None = None,
    ) -> Tensor:
        """Content [B, F, C] at 100 frames/s, lengths [B], speaker_id [B], pitch bins and F0 [B, F] -> [B, 1, F * hop].

        `generator` makes the noise reproducible; `temperature` scales every random draw (0 = none). `keep` is
        (first, last + 1) of the frames whose samples are wanted; they are the same samples.
        """
        speaker = self.speaker(speaker_id)
        mean, log_scale, mask = self.enc_p(content, pitch_bins, lengths)
        latent = self._infer_latent(mean, log_scale, mask, speaker, generator, temperature)
        return self._generate(latent * mask, f0, speaker, generator, temperature, keep)

    def infer_window(
        self,
        content: Tensor,
        lengths: Tensor,
        speaker_id: Tensor,
        pitch_bins: Tensor | None = None,
        f0: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        window: tuple[int, int] | None = None,
    ) -> InferOutput:
        """Like `infer`, for the frames [first, first + count) of `window` only, and with what is computed on the way.

        Everything before the window is seen by the prior's transformer, and as much of it by the flow as can reach in.
        """
        first, count = window or (0, content.shape[1])
        skip = max(first - COUPLING_REACH * self.config.n_flows, 0)
        speaker = self.speaker(speaker_id)
        mean, log_scale, mask = self.enc_p(content, pitch_bins, lengths, skip)
        cut = slice(first - skip, first - skip + count)
        latent = self._infer_latent(mean, log_scale, mask, speaker, generator, temperature)[..., cut]
        window_f0 = None if f0 is None else f0[:, first : first + count]
        audio = self._generate(latent * mask[..., cut], window_f0, speaker, generator, temperature)
        return InferOutput(audio, mask[..., cut], latent, mean, log_scale)

    def _infer_latent(
        self,
        mean: Tensor,
        log_scale: Tensor,
        mask: Tensor,
        speaker: Tensor,
        generator: torch.Generator | None,
        temperature: float,
    ) -> Tensor:
        """Draw from the prior [B, Z, F] with a generator of its own, and take it back through the flow."""
        give_back()
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        prior = (mean + log_scale.exp() * noise * (NOISE_SCALE * temperature)) * mask
        return self.flow(prior, mask, speaker, reverse=True)  # type: ignore[no-any-return]

    def _generate(
        self,
        latent: Tensor,
        f0: Tensor | None,
        speaker: Tensor,
        generator: torch.Generator | None,
        temperature: float,
        keep: tuple[int, int] | None = None,
    ) -> Tensor:
        """Latent [B, Z, F], F0 [B, F], speaker [B, gin, 1] -> [B, 1, F * hop] in float32, in the generator's type."""
        dtype = self.dec.conv_pre.weight.dtype
        return self.dec.in_blocks(latent.to(dtype), f0, speaker.to(dtype), generator, temperature, keep).float()

    def copy_in(self, dtype: torch.dtype, prior_dtype: torch.dtype) -> "Synthesizer":
        """The same network with its generator in another number type, and most of prior and flow in theirs.

        What decides where attention looks stays float32: scores in bfloat16 moved the prior of random weights by 3 %.
        """
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.dec = self.dec.copy_in(dtype)
        if prior_dtype != torch.float32:
            other.enc_p, other.flow = copy.deepcopy(self.enc_p), copy.deepcopy(self.flow)
            for module in (*other.enc_p.encoder.ffn_layers.modules(), *other.flow.modules()):
                if isinstance(module, nn.Conv1d):
                    module.to(prior_dtype)
        return other

    @property
    def n_bytes(self) -> int:
        """Memory of all weights."""
        blocks = (block for block in self.dec.resblocks if isinstance(block, EightBitBlock))
        return sum(weight.nbytes for weight in self.parameters()) + sum(block.n_bytes for block in blocks)

    def fold_weight_norm(self) -> "Synthesizer":
        """Replace each weight-normed weight by its value: the same results to rounding, faster. Returns self."""
        for module in list(self.modules()):
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
        return self
