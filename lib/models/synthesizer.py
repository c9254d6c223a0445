"""The voice network of v1 and v2: content, pitch and speaker -> waveform, with and without F0.

A conditional VAE with a flow and an adversarially trained generator (VITS, Kim et al. 2021).
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lib.config import SynthesizerConfig
from lib.models.encoders import ContentPrior, Posterior, frame_mask
from lib.models.flow import Flow
from lib.models.generator import Generator
from lib.models.int8 import Int8Block
from lib.models.memory import trim_memory
from lib.models.noise import normal

NOISE_SCALE = 0.66666  # of the prior's standard deviation, at inference; five sixes, as in every published model
PROBE_FRAMES = 20  # over which dtypes are compared


class LatentOutput(NamedTuple):
    """Inputs of the KL loss; F is the padded length of the batch in frames."""

    mask: Tensor  # [B, 1, F] of the spectrogram
    latent: Tensor  # [B, Z, F] drawn from the posterior
    latent_prior: Tensor  # [B, Z, F] the same after the flow
    mean_prior: Tensor
    log_scale_prior: Tensor
    mean_posterior: Tensor
    log_scale_posterior: Tensor


class TrainOutput(NamedTuple):
    """Output of the training forward pass; S is the length of the random segments."""

    audio: Tensor  # [B, 1, S * hop]
    starts: Tensor  # [B] first frame of each segment
    latents: LatentOutput | None  # None without a spectrogram: the posterior was not used


def slice_frames(x: Tensor, starts: Tensor, frames: int, samples_per_frame: int = 1) -> Tensor:
    """Cut `frames` frames, beginning at `starts` [B], out of the last axis of [B, ..., T]."""
    width = frames * samples_per_frame
    first = (starts * samples_per_frame).tolist()
    return torch.stack([item[..., begin : begin + width] for item, begin in zip(x, first, strict=True)])


@torch.inference_mode()
def snr_db(exact: "Synthesizer", cast: "Synthesizer") -> float:
    """Return the SNR in dB of a cast generator against the float32 one, for random latents and a rising F0."""
    rng = torch.Generator().manual_seed(0)
    latent = torch.randn(1, exact.config.inter_channels, PROBE_FRAMES, generator=rng)
    f0 = torch.linspace(100.0, 400.0, PROBE_FRAMES)[None]
    speaker = exact.speaker(torch.tensor([0]))
    signal, approximation = (network.dec(latent, f0, speaker, None, 0.0).double() for network in (exact, cast))
    return float(10 * torch.log10(signal.square().sum() / (approximation - signal).square().sum()))


class Synthesizer(nn.Module):
    """A VoiceSynthesizer. The attribute names enc_p, enc_q, flow, dec and emb_g are state-dict keys of RVC.

    `posterior` builds the posterior encoder, which only training needs and voice models do not contain.
    """

    supports_int8 = True

    def __init__(self, config: SynthesizerConfig, *, posterior: bool = False) -> None:
        super().__init__()
        self.config = config
        self.enc_p = ContentPrior(config)
        self.dec = Generator(config)
        self.enc_q = Posterior(config) if posterior else None
        self.flow = Flow(config)
        self.emb_g = nn.Embedding(config.n_speakers, config.gin_channels)

    def speaker(self, speaker_id: Tensor) -> Tensor:
        """Speaker numbers [B] -> conditioning vectors [B, gin, 1]."""
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
        """Training: content [B, F, C], bins and F0 [B, F], lengths, speaker_id [B], spec [B, bins, F] -> TrainOutput.

        Segments start at `starts` [B]; if None, they are drawn at random on the CPU, so that a seed gives the same
        segments on every device. If `spec` is None, the latent comes from the prior, as in a conversion, and the
        posterior is not used.
        """
        speaker = self.speaker(speaker_id)
        mean_prior, log_scale_prior, mask = self.enc_p(content, pitch_bins, lengths)
        latents = None
        if spec is None:
            latent = self._prior_latent(mean_prior, log_scale_prior, mask, speaker, temperature)
        else:
            assert self.enc_q is not None, "training needs a Synthesizer with posterior=True"
            mask = frame_mask(lengths, spec.shape[2], mean_prior.dtype)
            mean, log_scale = self.enc_q(spec, mask, speaker)
            noise = normal(mean.shape, mean) * temperature
            latent = (mean + noise * log_scale.exp()) * mask
            latent_prior = self.flow(latent, mask, speaker)
            latents = LatentOutput(mask, latent, latent_prior, mean_prior, log_scale_prior, mean, log_scale)
        frames = self.config.segment_frames
        if starts is None:
            room = (lengths.cpu() - frames + 1).clamp(min=0)  # on the CPU, which cuts the slices
            starts = (torch.rand(len(lengths)) * room).long()
        segment_f0 = None if f0 is None else slice_frames(f0, starts, frames)
        audio = self.dec(slice_frames(latent, starts, frames), segment_f0, speaker, None, temperature)
        return TrainOutput(audio, starts, latents)

    def _prior_latent(
        self, mean: Tensor, log_scale: Tensor, mask: Tensor, speaker: Tensor, temperature: float
    ) -> Tensor:
        """Sample the prior [B, Z, F] and apply the reversed flow."""
        prior = mean + log_scale.exp() * normal(mean.shape, mean) * (NOISE_SCALE * temperature)
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
        """Content [B, F, C] at 100 frames/s, lengths, speaker_id [B], bins and F0 [B, F] -> audio [B, 1, F * hop].

        `generator`, a CPU torch.Generator, makes the noise reproducible; `temperature` scales all random numbers (0 =
        none). `keep` is the half-open range (start, stop) of frames whose samples are returned; it does not change the
        samples.
        """
        speaker = self.speaker(speaker_id)
        mean, log_scale, mask = self.enc_p(content, pitch_bins, lengths)
        latent = self._infer_latent(mean, log_scale, mask, speaker, generator, temperature) * mask
        dtype = self.dec.conv_pre.weight.dtype
        return self.dec.in_blocks(latent.to(dtype), f0, speaker.to(dtype), generator, temperature, keep).float()

    def _infer_latent(
        self,
        mean: Tensor,
        log_scale: Tensor,
        mask: Tensor,
        speaker: Tensor,
        generator: torch.Generator | None,
        temperature: float,
    ) -> Tensor:
        """Sample the prior [B, Z, F] with `generator` and apply the reversed flow."""
        trim_memory()
        noise = normal(mean.shape, mean, generator)
        prior = (mean + log_scale.exp() * noise * (NOISE_SCALE * temperature)) * mask
        return self.flow(prior, mask, speaker, reverse=True)  # type: ignore[no-any-return]

    def cast(self, generator: torch.dtype, prior: torch.dtype) -> "Synthesizer":
        """Return a copy with one dtype for the generator and another for most of prior and flow.

        Attention stays in float32: with random weights, scores in bfloat16 changed the prior by 3%.
        """
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.dec = self.dec.cast(generator)
        if prior != torch.float32:
            other.enc_p, other.flow = copy.deepcopy(self.enc_p), copy.deepcopy(self.flow)
            for module in (*other.enc_p.encoder.ffn_layers.modules(), *other.flow.modules()):
                if isinstance(module, nn.Conv1d):
                    module.to(prior)
        return other

    @property
    def n_bytes(self) -> int:
        """Size of the weights in bytes."""
        blocks = (block for block in self.dec.resblocks if isinstance(block, Int8Block))
        return sum(weight.nbytes for weight in self.parameters()) + sum(block.n_bytes for block in blocks)

    def fold_weight_norm(self) -> "Synthesizer":
        """Fold weight norm into the weights. Returns self.

        The network becomes faster; its results are the same up to rounding error.
        """
        for module in list(self.modules()):
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
        return self
