"""The voice network of the lite family: content, F0 and speaker -> mel spectrogram -> waveform.

The prior is an acoustic model: a stack of non-causal convolutions predicts a log-mel spectrogram; it is trained by
regression. A source-filter vocoder computes the waveform: for each frame it multiplies the spectra of a pulse train at
F0 and of white noise by predicted filters, and an inverse STFT overlap-adds their sum. Both run at 100 frames/s, not at
the sample rate, which makes them fast.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.config import LiteConfig
from lib.models.frames import FrameBlock
from lib.models.noise import normal

MEL_CENTRE, MEL_SCALE = -5.0, 2.0  # of log-mel values: about their mean and standard deviation
MIN_MEL = 1e-5  # amplitude below which a mel band is silent
F0_CENTRE = 200.0  # Hz, where the logarithm of F0 is 0
MIN_F0 = 40.0  # Hz
DILATIONS = (1, 2, 1, 3)  # of the prior's blocks, repeated
# Content features have 50 frames/s and are repeated to 100; their centres lie 12.5 ms after the first of both frames.
# These taps, over a frame and the two before it, interpolate linearly between the centres.
CONTENT_TAPS = (0.375, 0.5, 0.125)
MAX_GAIN = 6.0  # of the logarithm of a filter: 52 dB
UNVOICED_NOISE = 1.5  # nepers by which noise is initially lower in voiced frames than in unvoiced ones
NYQUIST_MARGIN = 0.98  # share of the Nyquist frequency up to which harmonics are generated
# Conversion corrects two differences between the features of other speakers and those that a voice is trained on, to
# which noise is added: see docs/experiments.md for what this gains.
CODE_GAIN = 1.2  # of the content code
LEVEL_SHIFT = -0.3  # of the level


class LiteOutput(NamedTuple):
    """Output of the training forward pass."""

    mel: Tensor  # [B, F, M] predicted log mel
    audio: Tensor | None  # [B, 1, S * hop] of the segments; None while only the prior is trained
    starts: Tensor  # [B] first frame of each segment


@functools.lru_cache(maxsize=4)
def mel_filters(config: LiteConfig) -> Tensor:
    """Return (n_fft // 2 + 1, n_mels) triangular filters of equal area on Slaney's mel scale, 0 to sample_rate / 2."""
    import torchaudio.functional as audio_functional

    with torch.device("cpu"):  # even while a network is built on the meta device
        bank: Tensor = audio_functional.melscale_fbanks(
            config.n_fft // 2 + 1, 0.0, config.sample_rate / 2, config.n_mels, config.sample_rate, "slaney", "slaney"
        )
    return bank


def usable_bands(config: LiteConfig, cutoff: float) -> int:
    """Return the number of mel bands below a frequency in Hz."""
    edges = (mel_filters(config) > 0) * torch.linspace(0.0, config.sample_rate / 2, config.n_fft // 2 + 1)[:, None]
    return int((edges.amax(0) <= cutoff).sum())


def band_shares(bank: Tensor) -> Tensor:
    """(bins, M) mel filters -> (M, bins): weight of each band in the envelope at each bin; columns sum to 1."""
    total = bank.sum(1, keepdim=True)
    shares = bank / total.clamp(min=1e-8)
    first, last = (int(bin_) for bin_ in (total[:, 0] > 0).nonzero()[[0, -1], 0])
    shares[:first, 0] = 1.0
    shares[last + 1 :, -1] = 1.0
    return shares.T.contiguous()


def log_mel(audio: Tensor, config: LiteConfig) -> Tensor:
    """Audio [B, T] -> log mel amplitude [B, T // hop, M]; frame i is centred on sample i * hop."""
    window = torch.hann_window(config.n_fft, device=audio.device)
    spectrum = torch.stft(audio.float(), config.n_fft, config.hop_length, window=window, return_complex=True).abs()
    mel = spectrum.transpose(1, 2) @ mel_filters(config).to(audio.device)
    return torch.log(mel.clamp(min=MIN_MEL))[:, : audio.shape[1] // config.hop_length]


def scaled_f0(f0: Tensor) -> Tensor:
    """F0 (B, F) Hz, 0 where unvoiced -> (B, F, 2): octaves relative to F0_CENTRE, and 1 where voiced."""
    voiced = (f0 > 0).to(f0.dtype)
    return torch.stack([voiced * torch.log2(f0.clamp(min=MIN_F0) / F0_CENTRE), voiced], 2)


def pulse_train(f0: Tensor, sample_rate: int, hop_length: int) -> Tensor:
    """F0 (B, F) Hz -> (B, F * hop): all harmonics as cosines of amplitude 1, band-limited; 0 where unvoiced.

    With the Dirichlet kernel D, the sum of the cosines is (D - 1) / 2 in closed form.
    """
    rate = f0.repeat_interleave(hop_length, 1).double()
    phase = math.pi * (torch.cumsum(rate / sample_rate, 1) % 1.0)
    harmonics = torch.floor(NYQUIST_MARGIN * sample_rate / 2 / rate.clamp(min=30.0)).clamp(min=1.0)
    sine = torch.sin(phase)
    near = sine.abs() < 1e-4
    kernel = torch.sin((2 * harmonics + 1) * phase) / torch.where(near, torch.ones_like(sine), sine)
    kernel = torch.where(near, 2 * harmonics + 1, kernel)
    return torch.where(rate > 0, (kernel - 1) / 2, torch.zeros_like(rate)).to(f0.dtype)


class LitePrior(nn.Module):
    """Predicts a log-mel spectrogram from content and F0."""

    def __init__(self, config: LiteConfig) -> None:
        super().__init__()
        width = config.prior_channels
        self.first = nn.Linear(config.content_width + 2, width)
        self.cond = nn.Linear(config.gin_channels, width)
        self.film = nn.Linear(config.gin_channels, 2 * width * config.prior_blocks)  # of all blocks
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        self.blocks = nn.ModuleList(
            FrameBlock(width, 7, 2, DILATIONS[i % len(DILATIONS)]) for i in range(config.prior_blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, config.n_mels)

    def forward(self, content: Tensor, f0: Tensor, speaker: Tensor) -> Tensor:
        """Content [B, F, C] at 100 frames/s, F0 [B, F] Hz, speaker [B, gin] -> log mel [B, F, M]."""
        before = F.pad(content.transpose(1, 2), (2, 0), mode="replicate").transpose(1, 2)
        frames = content.shape[1]
        now, last, older = (before[:, lag : lag + frames] for lag in (2, 1, 0))
        smooth = CONTENT_TAPS[0] * now + CONTENT_TAPS[1] * last + CONTENT_TAPS[2] * older
        x = self.first(torch.cat([smooth, scaled_f0(f0)], 2)) + self.cond(speaker)[:, None]
        films = self.film(speaker)[:, None].chunk(2 * len(self.blocks), 2)
        for block, scale, shift in zip(self.blocks, films[::2], films[1::2], strict=True):
            x = block(x, (scale, shift))
        mel: Tensor = self.last(self.norm(x)).float() * MEL_SCALE + MEL_CENTRE
        return mel


class SpectralVocoder(nn.Module):
    """Synthesises a waveform from log mel and F0: filters a pulse train and white noise in the STFT domain."""

    def __init__(self, config: LiteConfig) -> None:
        super().__init__()
        self.config = config
        width, bins = config.vocoder_channels, config.n_fft // 2 + 1
        self.first = nn.Conv1d(config.n_mels + 2, width, 7, padding=3)
        self.blocks = nn.ModuleList(FrameBlock(width, 7, 3) for _ in range(config.vocoder_blocks))
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, 3 * bins)  # log gain of harmonics, of noise, and phase of harmonics
        nn.init.normal_(self.last.weight, 0.0, 0.005)
        nn.init.zeros_(self.last.bias)
        self.envelope: Tensor
        self.area: Tensor
        self.window: Tensor
        with torch.device("cpu"):  # not in the state dict; computed even on the meta device
            bank = mel_filters(config)
            self.register_buffer("envelope", band_shares(bank), persistent=False)  # [M, bins]
            self.register_buffer("area", torch.log(bank.sum(0).clamp(min=1e-8)), persistent=False)  # [M]
            self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)

    def filters(self, mel: Tensor, f0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log mel [B, F, M], F0 [B, F] -> log gains of harmonics and noise, phase: each [B, bins, F].

        Gains are the mel envelope plus a residual predicted by the network.
        """
        n_fft, voicing = self.config.n_fft, scaled_f0(f0)
        x = torch.cat([(mel - MEL_CENTRE) / MEL_SCALE, voicing], 2)
        x = self.first(x.transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        harmonic, noise, phase = self.last(self.norm(x)).float().chunk(3, 2)
        envelope = (mel.float() - self.area) @ self.envelope
        spacing = f0.clamp(min=60.0)[..., None] * n_fft / self.config.sample_rate  # bins between harmonics
        harmonic = envelope - math.log(n_fft / 4) + torch.log(spacing.clamp(min=1.0) / 2) + harmonic
        noise = envelope - math.log(math.sqrt(0.375 * n_fft)) - UNVOICED_NOISE * voicing[..., 1:] + noise
        return harmonic.transpose(1, 2), noise.transpose(1, 2), phase.transpose(1, 2)

    def forward(self, mel: Tensor, f0: Tensor, noise: Tensor) -> Tensor:
        """Log mel [B, F, M], F0 [B, F] Hz, white noise [B, F * hop] of variance 1 -> [B, 1, F * hop]."""
        frames = mel.shape[1]
        log_harmonic, log_noise, phase = self.filters(mel, f0)
        pulses = pulse_train(f0.float(), self.config.sample_rate, self.config.hop_length)
        voiced, unvoiced = (self._stft(source, frames) for source in (pulses, noise.float()))
        shaped = voiced * torch.polar(log_harmonic.clamp(max=MAX_GAIN).exp(), phase)
        return self._inverse(shaped + unvoiced * log_noise.clamp(max=MAX_GAIN).exp())

    def _stft(self, source: Tensor, frames: int) -> Tensor:
        """[B, F * hop] -> [B, bins, F]; frame i is centred on sample i * hop."""
        n_fft, hop = self.config.n_fft, self.config.hop_length
        padded = F.pad(source, (n_fft // 2, n_fft // 2))
        spectrum = torch.stft(padded, n_fft, hop, window=self.window, center=False, return_complex=True)
        return spectrum[..., :frames]

    def _inverse(self, spectrum: Tensor) -> Tensor:
        """[B, bins, F] -> [B, 1, F * hop]: inverse STFT by overlap-add of windowed frames."""
        n_fft, hop = self.config.n_fft, self.config.hop_length
        frames = spectrum.shape[2]
        pieces = torch.fft.irfft(spectrum, n_fft, dim=1) * self.window[:, None]  # [B, n_fft, F]
        size, parts = (1, (frames - 1) * hop + n_fft), ((1, n_fft), (1, hop))
        total = F.fold(pieces, size, parts[0], stride=parts[1])[:, 0, 0]
        weight = self.window.square()[None, :, None].expand(1, -1, frames)
        weight = F.fold(weight, size, parts[0], stride=parts[1])[:, 0, 0]
        audio = (total / weight.clamp(min=0.1))[:, None, n_fft // 2 : n_fft // 2 + frames * hop]
        return F.pad(audio, (0, frames * hop - audio.shape[2]))


class LiteSynthesizer(nn.Module):
    """Prior, vocoder and speaker embedding; the attribute names are state-dict keys."""

    supports_int8 = False

    def __init__(self, config: LiteConfig) -> None:
        super().__init__()
        self.config = config
        self.enc_p = LitePrior(config)
        self.dec = SpectralVocoder(config)
        self.emb_g = nn.Embedding(config.n_speakers, config.gin_channels)

    def forward(
        self,
        content: Tensor,
        f0: Tensor,
        lengths: Tensor,
        speaker_id: Tensor,
        starts: Tensor | None = None,
        temperature: float = 1.0,
        *,
        prior_only: bool = False,
    ) -> LiteOutput:
        """Training: content [B, F, C], F0 [B, F], lengths [B], speaker_id [B] -> LiteOutput.

        Segments start at `starts` [B]; if None, they are drawn at random on the CPU, so that a seed gives the same
        segments on every device. If `prior_only`, only the prior and the speaker embedding get gradients. Otherwise the
        prior runs without gradients and the vocoder is trained on the mel spectrogram that the prior predicts.
        """
        frames, hop = self.config.segment_frames, self.config.hop_length
        if starts is None:
            starts = (torch.rand(len(lengths)) * (lengths.cpu() - frames + 1).clamp(min=0)).long()
        with torch.set_grad_enabled(prior_only and torch.is_grad_enabled()):
            mel = self.enc_p(content, f0, self.emb_g(speaker_id))
        if prior_only:
            return LiteOutput(mel, None, starts)
        rows = [slice(begin, begin + frames) for begin in starts.tolist()]
        cut = torch.stack([item[row] for item, row in zip(mel.detach(), rows, strict=True)])
        cut_f0 = torch.stack([item[row] for item, row in zip(f0, rows, strict=True)])
        noise = normal((len(rows), frames * hop), cut) * temperature
        return LiteOutput(mel, self.dec(cut, cut_f0, noise), starts)

    def predict_mel(self, content: Tensor, f0: Tensor, speaker_id: Tensor) -> Tensor:
        """Conversion: content [B, F, C], whose last channel is the level, F0 [B, F] Hz, speaker_id [B] -> log mel [B,
        F, M]."""
        code, level = content[..., :-1], content[..., -1:]
        corrected = torch.cat([CODE_GAIN * code, level + LEVEL_SHIFT], 2)
        mel: Tensor = self.enc_p(corrected, f0, self.emb_g(speaker_id))
        return mel

    @property
    def receptive_frames(self) -> int:
        """One-sided receptive field of the vocoder, in frames."""
        return 3 + 3 * self.config.vocoder_blocks + self.config.n_fft // self.config.hop_length + 1

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
        """Content [B, F, C] at 100 frames/s, speaker_id [B], F0 [B, F] Hz -> audio [B, 1, F * hop] in float32.

        `generator` makes the noise reproducible; `temperature` scales it (0 = none). `keep` is the half-open range
        (start, stop) of frames whose samples are returned. `lengths` and `pitch_bins` belong to the interface of
        VoiceSynthesizer and are not used here.
        """
        assert f0 is not None, "the lite family has no voices without F0"
        first, last = keep or (0, content.shape[1])
        begin = max(first - self.receptive_frames, 0)
        mel = self.predict_mel(content, f0, speaker_id)
        cut = slice(begin, min(last + self.receptive_frames, mel.shape[1]))
        mel, f0 = mel[:, cut], f0[:, cut]
        samples = mel.shape[1] * self.config.hop_length
        noise = normal((len(mel), samples), mel, generator) * temperature
        audio: Tensor = self.dec(mel, f0, noise)
        return audio[..., (first - begin) * self.config.hop_length : (last - begin) * self.config.hop_length]

    def fold_weight_norm(self) -> "LiteSynthesizer":
        """Return self: the network has no weight norm."""
        return self

    def cast(self, generator: torch.dtype, prior: torch.dtype) -> "LiteSynthesizer":
        """Return self: the network is so small that a lower-precision dtype saves no time."""
        return self

    @property
    def n_bytes(self) -> int:
        """Size of the weights in bytes."""
        return sum(weight.nbytes for weight in self.parameters())
