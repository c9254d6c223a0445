"""Content encoders: what is said, without who says it. One file per encoder, imported when asked for."""

import importlib
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch

from lib.errors import ConfigError

Floats = npt.NDArray[np.float32]
SAMPLE_RATE = 16_000  # Hz
HOP_LENGTH = 320  # samples, 20 ms: 50 frames per second
WINDOW_LENGTH = 400  # samples, 25 ms


class ContentEncoder(Protocol):
    """Content features of 16 kHz mono audio: (T,) float32 -> ((T - 80) // 320, width) float32.

    Every encoder, for every length exactly; 0 frames for audio shorter than one window. Frame i covers the samples
    [320 i, 320 i + 400).
    """

    width: int
    name: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights file in hexadecimal; a voice model records it."""
        ...

    def __call__(self, audio: Floats) -> Floats: ...


FAMILIES: dict[str, str] = {"v1": "lib.content.hubert", "v2": "lib.content.hubert", "lite": "lib.content.lite"}


def content_frames(samples: int) -> int:
    """Content frames of `samples` samples at 16 kHz: (T - 80) // 320, never negative."""
    return max((samples - (WINDOW_LENGTH - HOP_LENGTH)) // HOP_LENGTH, 0)


def load_content_encoder(family: str, device: torch.device) -> ContentEncoder:
    """The content encoder that models of `family` ("v1", "v2" or "lite") were trained with, on `device`."""
    if family not in FAMILIES:
        raise ConfigError(f"The model family {family!r} does not exist. Choose one of {', '.join(FAMILIES)}.")
    try:
        module = importlib.import_module(FAMILIES[family])
    except ModuleNotFoundError as error:
        if error.name != FAMILIES[family]:
            raise
        raise ConfigError(
            f"The family {family!r} needs the HuBERT content encoder, which this version does not have yet. "
            "Use the family lite."
        ) from error
    return cast(ContentEncoder, module.load(family, device))
