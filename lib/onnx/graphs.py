"""The networks in the form required by ONNX: tensor inputs and outputs, variable length, noise as an input.

Few ONNX operators accept complex tensors, and its runtimes lack some operators, so short-time spectra are computed as
convolutions with cosines and sines. Everything else is the PyTorch network itself.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.audio import ANALYSIS_RATE
from lib.models.hubert import Hubert
from lib.models.lite_encoder import (
    CONTEXT_FRAMES,
    MEL_HOP_LENGTH,
    WINDOW_LENGTH,
    LiteEncoder,
    frame_levels,
    normalised_over_time,
    shifted,
    whisper_log_mel,
)
from lib.models.lite_synthesizer import MAX_GAIN, MEL_CENTRE, LiteSynthesizer, SpectralVocoder, pulse_train
from lib.models.noise import normal
from lib.models.rmvpe import FRAME_MULTIPLE, Rmvpe
from lib.models.source import UNVOICED_NOISE, VOICED_NOISE, sine_wave
from lib.models.synthesizer import NOISE_SCALE, Synthesizer
from lib.pitch import rmvpe
from lib.pitch.scale import HOP_LENGTH


def fourier_basis(n_fft: int, window: Tensor) -> Tensor:
    """Return kernels [2 * bins, 1, n_fft] of a convolution that computes the windowed DFT.

    The first half contains the real parts, the second half the imaginary parts.
    """
    bins = n_fft // 2 + 1
    turns = torch.arange(bins)[:, None] * torch.arange(n_fft) % n_fft  # exact in integers
    angles = turns.double() * (2 * math.pi / n_fft)
    return (torch.cat([angles.cos(), -angles.sin()]) * window).float()[:, None]


def _melody(frames: int) -> Tensor:
    """F0 [1, F] Hz with an unvoiced part."""
    f0 = 220 * 2 ** (0.5 * torch.sin(torch.arange(frames) / 9))[None]
    f0[:, frames // 3 : frames // 2] = 0
    return f0


class LitePriorGraph(nn.Module):
    """The prior of a lite voice: content [1, F, C], F0 [1, F] Hz, speaker [1] -> log mel [1, F, M]."""

    axes: ClassVar = {"content": 1, "f0": 1, "speaker": None}  # of each input, the one of any length
    outputs = ("mel",)

    def __init__(self, network: LiteSynthesizer) -> None:
        super().__init__()
        self.network = network

    def example(self, frames: int) -> tuple[Tensor, ...]:
        """Return random inputs of `frames` frames."""
        content = torch.randn(1, frames, self.network.config.content_width)
        return content, _melody(frames), torch.tensor([0])

    def forward(self, content: Tensor, f0: Tensor, speaker: Tensor) -> Tensor:
        """Compute the outputs given in the class docstring."""
        return self.network.predict_mel(content, f0, speaker)


class LiteVocoderGraph(nn.Module):
    """The vocoder of a lite voice: log mel [1, F, M], F0 [1, F] Hz, noise [1, F * hop] -> audio [1, F * hop].

    The noise is standard normal; zeros synthesise only the harmonics.
    """

    axes: ClassVar = {"mel": 1, "f0": 1, "noise": 1}
    outputs = ("audio",)
    basis: Tensor

    def __init__(self, network: SpectralVocoder) -> None:
        super().__init__()
        self.network = network
        self.n_fft, self.hop = network.config.n_fft, network.config.hop_length
        self.register_buffer("basis", fourier_basis(self.n_fft, network.window), persistent=False)

    def example(self, frames: int) -> tuple[Tensor, ...]:
        """Return random inputs of `frames` frames."""
        mel = MEL_CENTRE + torch.randn(1, frames, self.network.config.n_mels)
        return mel, _melody(frames), torch.randn(1, frames * self.hop)

    def exact(self, mel: Tensor, f0: Tensor, noise: Tensor) -> Tensor:
        """Return the output of the original PyTorch network."""
        audio: Tensor = self.network(mel, f0, noise)[:, 0]
        return audio

    def forward(self, mel: Tensor, f0: Tensor, noise: Tensor) -> Tensor:
        """Compute the output given in the class docstring."""
        half = self.n_fft // 2
        log_harmonic, log_noise, phase = self.network.filters(mel, f0)
        frames = log_harmonic.shape[2]
        pulses = pulse_train(f0, self.network.config.sample_rate, self.hop)
        voiced, unvoiced = (
            F.conv1d(F.pad(source, (half, half))[:, None], self.basis, stride=self.hop)[..., :frames]
            for source in (pulses, noise)
        )
        bins = half + 1
        gain, quiet = log_harmonic.clamp(max=MAX_GAIN).exp(), log_noise.clamp(max=MAX_GAIN).exp()
        cosine, sine = gain * phase.cos(), gain * phase.sin()
        real = voiced[:, :bins] * cosine - voiced[:, bins:] * sine + unvoiced[:, :bins] * quiet
        imaginary = voiced[:, :bins] * sine + voiced[:, bins:] * cosine + unvoiced[:, bins:] * quiet
        return self._overlap_add(torch.cat([real, imaginary], 1))

    def _overlap_add(self, spectrum: Tensor) -> Tensor:
        """Windowed inverse DFT of every frame, added up: [1, 2 * bins, F] -> [1, F * hop]."""
        half = self.n_fft // 2
        mirrored = torch.full((half + 1, 1), 2.0 / self.n_fft)
        mirrored[0] = mirrored[-1] = 1.0 / self.n_fft  # 0 Hz and half the sample rate have no mirror image
        inverse = self.basis * torch.cat([mirrored, mirrored])[:, None]
        total = F.conv_transpose1d(spectrum, inverse, stride=self.hop)
        square = self.network.window.square()[None, None]
        weight = F.conv_transpose1d(torch.ones_like(spectrum[:, :1]), square, stride=self.hop)
        audio = (total / weight.clamp(min=0.1))[:, 0, half:]
        return F.pad(audio, (0, self.hop))[:, : spectrum.shape[2] * self.hop]


class LiteVoiceGraph(nn.Module):
    """A lite voice: content [1, F, C], F0 [1, F] Hz, speaker [1], noise [1, F * hop] -> audio [1, F * hop]."""

    axes: ClassVar = {"content": 1, "f0": 1, "speaker": None, "noise": 1}
    outputs = ("audio",)

    def __init__(self, network: LiteSynthesizer) -> None:
        super().__init__()
        self.network = network
        self.prior, self.vocoder = LitePriorGraph(network), LiteVocoderGraph(network.dec)

    def example(self, frames: int) -> tuple[Tensor, ...]:
        """Return random inputs, with the noise that `infer` draws for seed 0."""
        content, f0, speaker = self.prior.example(frames)
        noise = normal((1, frames * self.vocoder.hop), content, torch.Generator().manual_seed(0))
        return content, f0, speaker, noise

    def exact(self, content: Tensor, f0: Tensor, speaker: Tensor, noise: Tensor) -> Tensor:
        """Return the output of the original PyTorch network."""
        lengths = torch.tensor([content.shape[1]])
        return self.network.infer(content, lengths, speaker, None, f0, torch.Generator().manual_seed(0))[:, 0]

    def forward(self, content: Tensor, f0: Tensor, speaker: Tensor, noise: Tensor) -> Tensor:
        """Compute the output given in the class docstring."""
        audio: Tensor = self.vocoder(self.prior(content, f0, speaker), f0, noise)
        return audio


class VoiceGraph(nn.Module):
    """A v1 or v2 voice: content [1, F, C], pitch bins [1, F], F0 [1, F] Hz, speaker [1], two noise inputs -> audio.

    The noise is standard normal: `noise` [1, Z, F] for the latent, `source_noise` [1, F * hop] for the excitation. The
    audio is [1, F * hop].
    """

    axes: ClassVar = {"content": 1, "pitch_bins": 1, "f0": 1, "speaker": None, "noise": 2, "source_noise": 1}
    outputs = ("audio",)

    def __init__(self, network: Synthesizer) -> None:
        super().__init__()
        self.network = network

    def example(self, frames: int) -> tuple[Tensor, ...]:
        """Return random inputs, with the noise that `infer` draws for seed 0."""
        config, f0, rng = self.network.config, _melody(frames), torch.Generator().manual_seed(0)
        content, bins = torch.randn(1, frames, config.content_width), (f0 / 5).long().clamp(1, 255)
        noise = normal((1, config.inter_channels, frames), content, rng)
        torch.rand(1, 1, generator=rng)  # as SineSource draws
        source_noise = normal((1, frames * config.hop_length, 1), content, rng)[..., 0]
        return content, bins, f0, torch.tensor([0]), noise, source_noise

    def exact(self, content: Tensor, *rest: Tensor) -> Tensor:
        """Return the output of the original PyTorch network."""
        given = dict(zip(list(self.axes)[1:], rest, strict=True))
        lengths, rng = torch.tensor([content.shape[1]]), torch.Generator().manual_seed(0)
        bins, f0 = given.get("pitch_bins"), given.get("f0")
        return self.network.infer(content, lengths, given["speaker"], bins, f0, rng)[:, 0]

    def forward(
        self, content: Tensor, pitch_bins: Tensor, f0: Tensor, speaker: Tensor, noise: Tensor, source_noise: Tensor
    ) -> Tensor:
        """Compute the output given in the class docstring."""
        source = self.network.dec.m_source
        assert source is not None
        voiced = (f0 > 0).float()[..., None].expand(-1, -1, source.hop_length).flatten(1)
        level = voiced * VOICED_NOISE + (1 - voiced) * UNVOICED_NOISE
        sine = voiced * sine_wave(f0, source.hop_length, source.sample_rate) + level * source_noise
        excitation = torch.tanh(source.l_linear(sine.unsqueeze(2))).transpose(1, 2)
        return self._generate(content, pitch_bins, speaker, noise, excitation)

    def _generate(
        self, content: Tensor, pitch_bins: Tensor | None, speaker: Tensor, noise: Tensor, excitation: Tensor | None
    ) -> Tensor:
        network = self.network
        conditions = network.speaker(speaker)
        lengths = torch.ones_like(content[:, :, 0]).sum(1)  # all frames count
        mean, log_scale, mask = network.enc_p(content, pitch_bins, lengths)
        prior = mean + log_scale.exp() * noise * NOISE_SCALE
        latent = network.flow(prior, mask, conditions, reverse=True)
        audio: Tensor = network.dec.synthesize(latent, excitation, conditions)
        return audio[:, 0]


class VoiceWithoutF0Graph(VoiceGraph):
    """A v1 or v2 voice without F0: content [1, F, C], speaker [1], noise [1, Z, F] -> audio [1, F * hop]."""

    axes: ClassVar = {"content": 1, "speaker": None, "noise": 2}

    def example(self, frames: int) -> tuple[Tensor, ...]:
        """Return random inputs of `frames` frames."""
        content, _, _, speaker, noise, _ = super().example(frames)
        return content, speaker, noise

    def forward(self, content: Tensor, speaker: Tensor, noise: Tensor) -> Tensor:  # type: ignore[override]
        """Compute the output given in the class docstring."""
        return self._generate(content, None, speaker, noise, None)


class EncoderGraph(nn.Module):
    """A content encoder: audio [1, T] at 16 kHz -> content [1, (T - 80) // 320, C]."""

    axes: ClassVar = {"audio": 1}
    outputs = ("content",)

    def __init__(self, network: LiteEncoder | Hubert) -> None:
        super().__init__()
        self.network = network

    def example(self, frames: int) -> tuple[Tensor, ...]:
        """Return random inputs of `frames` frames."""
        return (0.1 * torch.randn(1, HOP_LENGTH * frames + 401),)

    def exact(self, audio: Tensor) -> Tensor:
        """Return the output of the original PyTorch network."""
        exact: Tensor = self.network(audio)
        return exact


class LiteEncoderGraph(EncoderGraph):
    """The lite content encoder, for up to 26 s of audio."""

    network: LiteEncoder
    basis: Tensor

    def __init__(self, network: LiteEncoder) -> None:
        super().__init__(network)
        window = torch.hann_window(WINDOW_LENGTH)
        self.register_buffer("basis", fourier_basis(WINDOW_LENGTH, window), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Compute the output given in the docstring of EncoderGraph."""
        network, half = self.network, WINDOW_LENGTH // 2
        frames = (audio.shape[1] - 80) // 320
        padded = F.pad(shifted(audio)[:, None], (half, half), mode="reflect")
        spectrum = F.conv1d(padded, self.basis, stride=MEL_HOP_LENGTH)
        bins = half + 1
        power = (spectrum[:, :bins].square() + spectrum[:, bins:].square()).transpose(1, 2)
        mel = (power @ network.filters)[:, : (audio.shape[1] + 1200) // MEL_HOP_LENGTH]
        layers = network.whisper(whisper_log_mel(mel[:, : 2 * (frames + CONTEXT_FRAMES)]))[:, :frames]
        code = network.bottleneck(normalised_over_time(layers))
        return torch.cat([code, frame_levels(mel, frames)[..., None]], 2)


class HubertGraph(EncoderGraph):
    """A HuBERT content encoder."""

    def forward(self, audio: Tensor) -> Tensor:
        """Compute the output given in the docstring of EncoderGraph."""
        content: Tensor = self.network(audio)
        return content


class RmvpeGraph(nn.Module):
    """RMVPE: audio [1, T] at 16 kHz, T at least 4096 -> salience [1, F, 360] and F0 [1, F] Hz, 0 where unvoiced.

    F is T // 160.
    """

    axes: ClassVar = {"audio": 1}
    outputs = ("salience", "f0")

    def __init__(self, network: Rmvpe) -> None:
        super().__init__()
        self.network = network
        self.filters = rmvpe.mel_matrix(torch.device("cpu"))

    def example(self, frames: int) -> tuple[Tensor, ...]:
        """Return a tone in noise."""
        time = torch.arange(HOP_LENGTH * frames + 4103) / ANALYSIS_RATE
        return ((0.3 * torch.sin(2 * math.pi * 220 * time) + 0.05 * torch.randn(len(time)))[None],)

    def exact(self, audio: Tensor) -> Tensor:
        """Return the salience computed by the original PyTorch network."""
        return rmvpe.salience(self.network, audio[0])[None]

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the outputs given in the class docstring."""
        frames = audio.shape[1] // HOP_LENGTH
        total = (frames + FRAME_MULTIPLE - 1) // FRAME_MULTIPLE * FRAME_MULTIPLE
        padded = F.pad(audio, (rmvpe.N_FFT // 2, 0), mode="reflect")
        padded = F.pad(padded, (0, FRAME_MULTIPLE * HOP_LENGTH + rmvpe.N_FFT))
        samples = padded[:, None, : (total - 1) * HOP_LENGTH + rmvpe.N_FFT]
        spectrum = F.conv1d(samples, fourier_basis(rmvpe.N_FFT, torch.hann_window(rmvpe.N_FFT)), stride=HOP_LENGTH)
        bins = rmvpe.N_FFT // 2 + 1
        magnitude = (spectrum[:, :bins].square() + spectrum[:, bins:].square()).sqrt()
        mel = torch.log((self.filters @ magnitude).clamp(min=rmvpe.MEL_FLOOR))
        salience = self.network(mel)[:, :frames]
        return salience, rmvpe.decode(salience[0])[None]
