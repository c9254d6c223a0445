"""The "harvest" and "dio" methods of the WORLD vocoder, both refined with StoneMask."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lib.audio import ANALYSIS_RATE
from lib.pitch import PitchExtractor, missing_package
from lib.pitch.scale import F0_MAX, F0_MIN, HOP_LENGTH
from lib.typing import FloatArray

if TYPE_CHECKING:
    import torch

FRAME_PERIOD = 1000.0 * HOP_LENGTH / ANALYSIS_RATE  # ms


def load(method: str, device: "torch.device") -> PitchExtractor:
    """Return harvest or dio; WORLD always runs on the CPU."""
    try:
        import pyworld
    except ImportError as error:
        raise missing_package(method, "pyworld-prebuilt") from error
    estimate: Callable[..., Any] = pyworld.harvest if method == "harvest" else pyworld.dio

    def extract(audio: FloatArray) -> FloatArray:
        wide = audio.astype(np.float64)
        coarse, times = estimate(wide, ANALYSIS_RATE, f0_floor=F0_MIN, f0_ceil=F0_MAX, frame_period=FRAME_PERIOD)
        f0: FloatArray = pyworld.stonemask(wide, coarse, times, ANALYSIS_RATE).astype(np.float32)
        return f0

    return extract
