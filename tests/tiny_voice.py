"""A complete voice of tiny networks, for tests that convert: about a second of audio in a tenth of a second."""

from typing import Any

import numpy as np
import torch

from infer.convert import VoiceConverter, VoiceParts
from lib.config import LiteConfig
from lib.models.lite_synthesizer import LiteSynthesizer
from lib.models.synthesizer import Synthesizer
from tests.helpers import Floats, tiny_config

WIDTH = 12


class TinyEncoder:
    """A content encoder: fixed random projections of the 25 ms windows."""

    width = WIDTH
    name = "tiny"
    sha256 = "ab" * 32

    def __call__(self, audio: Floats) -> Floats:
        frames = max((len(audio) - 80) // 320, 0)
        windows = np.lib.stride_tricks.sliding_window_view(audio, 400)[::320][:frames]  # [N, 400]
        projection = np.random.default_rng(0).standard_normal((400, WIDTH)).astype(np.float32)
        content: Floats = np.tanh(windows @ projection)
        return content


def tiny_synthesizer(**changes: Any) -> Synthesizer:
    """Random weights, 24 kHz, hop 240."""
    torch.manual_seed(0)
    values = {"sample_rate": 24_000, "upsample_rates": (12, 20), "upsample_kernel_sizes": (24, 40)} | changes
    return Synthesizer(tiny_config(**values)).eval()


def lite_synthesizer(**changes: Any) -> LiteSynthesizer:
    """A lite network of random weights, 24 kHz, hop 240."""
    torch.manual_seed(0)
    values = {
        "sample_rate": 24_000, "n_fft": 512, "hop_length": 240, "segment_frames": 16, "n_mels": 20,
        "prior_channels": 16, "prior_blocks": 2, "vocoder_channels": 16, "vocoder_blocks": 2, "n_speakers": 3,
        "gin_channels": 4, "content_width": WIDTH,
    }  # fmt: skip
    return LiteSynthesizer(LiteConfig.model_validate(values | changes)).eval()


def tiny_converter(**parts: Any) -> VoiceConverter:
    """A converter of tiny parts."""
    synthesizer = parts.pop("synthesizer", None) or tiny_synthesizer()
    return VoiceConverter(VoiceParts(synthesizer, TinyEncoder(), parts.pop("index", None)), **parts)


def voice_like(seconds: float, seed: int = 0) -> Floats:
    """A buzz of 150 Hz with a little noise, (T,) at 16 kHz."""
    time = np.arange(round(seconds * 16_000)) / 16_000
    buzz = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 10))
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.2 * np.asarray(buzz) + 0.01 * noise).astype(np.float32)
