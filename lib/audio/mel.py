"""Linear and mel spectrograms for training; differentiable, always in float32.

The constants are those of RVC as released in 2023, with which the published base models were trained. They are
parameters, because its 2026 version uses 2e-7 for `epsilon` and 2e-6 for `floor`.
"""

from functools import lru_cache

import torch
from torch import Tensor

from lib.config import AudioConfig
from lib.errors import AudioError

MAGNITUDE_EPSILON = 1e-6  # added to the power before the square root
MEL_FLOOR = 1e-5  # mel magnitudes below this are raised to it before the logarithm


def linear_spectrogram(audio: Tensor, n_fft: int, hop_length: int, epsilon: float = MAGNITUDE_EPSILON) -> Tensor:
    """Compute the magnitude spectrogram of [B, T] audio in [-1, 1]: [B, n_fft // 2 + 1, F], F = T // hop_length.

    The signal is reflection-padded by (n_fft - hop_length) // 2 samples on both sides, so that frames are centred on
    their hops; n_fft - hop_length must be even. Raises AudioError if the clip is too short for the padding.
    """
    padding = (n_fft - hop_length) // 2
    if audio.shape[-1] <= padding:
        raise AudioError(
            "A clip of {samples} samples is too short for a spectrum; {needed} are needed.",
            samples=audio.shape[-1],
            needed=padding + 1,
        )
    with torch.autocast(audio.device.type, enabled=False):
        padded = torch.nn.functional.pad(audio.float()[:, None], (padding, padding), mode="reflect")[:, 0]
        window = _hann(n_fft, audio.device)
        spectrum = torch.stft(padded, n_fft, hop_length, n_fft, window, center=False, return_complex=True)
        return torch.sqrt(torch.view_as_real(spectrum).pow(2).sum(-1) + epsilon)


def mel_from_linear(spec: Tensor, config: AudioConfig, floor: float = MEL_FLOOR) -> Tensor:
    """Compute the natural logarithm of the mel magnitudes of a linear spectrogram.

    Takes [B, n_fft // 2 + 1, F], returns [B, n_mels, F].
    """
    with torch.autocast(spec.device.type, enabled=False):
        mel = torch.matmul(_mel_matrix(config, spec.device), spec.float())
        return torch.log(mel.clamp(min=floor))


def log_mel(audio: Tensor, config: AudioConfig, epsilon: float = MAGNITUDE_EPSILON, floor: float = MEL_FLOOR) -> Tensor:
    """Compute the log-mel spectrogram of [B, T] audio at config.sample_rate: [B, n_mels, T // hop_length]."""
    spec = linear_spectrogram(audio, config.n_fft, config.hop_length, epsilon)
    return mel_from_linear(spec, config, floor)


@lru_cache(maxsize=16)
def _hann(length: int, device: torch.device) -> Tensor:
    """Periodic Hann window (length,)."""
    with torch.inference_mode(False):  # a tensor born in inference mode could not be used in training later
        return torch.hann_window(length, device=device)


@lru_cache(maxsize=16)
def _mel_matrix(config: AudioConfig, device: torch.device) -> Tensor:
    """Mel filter bank [n_mels, n_fft // 2 + 1] on the Slaney scale with Slaney's area normalisation."""
    from torchaudio.functional import melscale_fbanks

    fmax = config.sample_rate / 2 if config.fmax is None else config.fmax
    with torch.inference_mode(False):
        bank: Tensor = melscale_fbanks(
            config.n_fft // 2 + 1,
            config.fmin,
            fmax,
            config.n_mels,
            config.sample_rate,
            norm="slaney",
            mel_scale="slaney",
        )
        return bank.T.contiguous().to(device)
