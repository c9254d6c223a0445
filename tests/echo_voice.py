"""A voice that returns its input, band-limited to 8 kHz, to measure the effect of a cover on time and level."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infer.convert import VoiceConverter, VoiceParts
from tests.helpers import Floats

WIDTH = 320  # samples of 20 ms at 16 kHz, as content features


class EchoEncoder:
    """Content features that are the samples themselves."""

    width, name, sha256 = WIDTH, "echo", "cd" * 32

    def __call__(self, audio: Floats) -> Floats:
        frames = max((len(audio) - 80) // WIDTH, 0)
        return audio[: frames * WIDTH].reshape(frames, WIDTH).astype(np.float32)


class EchoSynthesizer:
    """Samples from such features: the first half of a row for even frames of 10 ms, the second for odd ones."""

    supports_int8, n_bytes = False, 0

    def __init__(self, *, has_f0: bool = False) -> None:
        self.config: Any = SimpleNamespace(
            sample_rate=16_000, hop_length=160, content_width=WIDTH, has_f0=has_f0, n_speakers=1
        )

    def infer(self, content: Tensor, *positional: Any) -> Tensor:
        first, last = positional[-1]
        halves = content[0].reshape(-1, 2, WIDTH // 2)  # [F, 2, 160]
        frames = torch.arange(len(halves))
        return halves[frames, frames % 2][first:last].reshape(1, 1, -1)

    def cast(self, *_: Any) -> "EchoSynthesizer":
        return self

    def to(self, _: Any) -> "EchoSynthesizer":
        return self

    fold_weight_norm = cast


def echo_converter(*, has_f0: bool = False, **parts: Any) -> VoiceConverter:
    return VoiceConverter(VoiceParts(EchoSynthesizer(has_f0=has_f0), EchoEncoder(), identity="echo", **parts))
