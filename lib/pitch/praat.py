"""The "pm" method: Praat's autocorrelation method, called through parselmouth, which only this module imports."""

from typing import TYPE_CHECKING

import numpy as np

from lib.audio import ANALYSIS_RATE
from lib.pitch import PitchExtractor, missing_package
from lib.pitch.scale import F0_MAX, F0_MIN, HOP_LENGTH
from lib.typing import FloatArray

if TYPE_CHECKING:
    import torch

VOICING_THRESHOLD = 0.6  # of the autocorrelation peak


def load(method: str, device: "torch.device") -> PitchExtractor:
    """Return pm; Praat always runs on the CPU."""
    try:
        import parselmouth
    except ImportError as error:
        raise missing_package(method, "praat-parselmouth") from error

    def extract(audio: FloatArray) -> FloatArray:
        pitch = parselmouth.Sound(audio.astype(np.float64), ANALYSIS_RATE).to_pitch_ac(
            time_step=HOP_LENGTH / ANALYSIS_RATE,
            voicing_threshold=VOICING_THRESHOLD,
            pitch_floor=F0_MIN,
            pitch_ceiling=F0_MAX,
        )
        f0 = np.asarray(pitch.selected_array["frequency"], dtype=np.float32)
        # Praat has no frames where its window of three periods would exceed the signal: pad on both sides.
        missing = max(0, len(audio) // HOP_LENGTH - len(f0))
        return np.pad(f0, ((missing + 1) // 2, missing // 2))

    return extract
