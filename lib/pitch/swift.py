"""The "swift" method: the SwiftF0 network, whose package contains its weights."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lib.audio import ANALYSIS_RATE
from lib.pitch import PitchExtractor, missing_package
from lib.pitch.scale import F0_MAX, F0_MIN, FRAMES_PER_SECOND, HOP_LENGTH, frame_windows
from lib.typing import FloatArray

if TYPE_CHECKING:
    import torch

VOICING_THRESHOLD = 0.5  # confidence from which a frame is voiced
STEP = 256  # samples between the network's frames
# The receptive field is below half a second: windows of 16 s give the same numbers in a tenth of the memory.
CORE_STEPS, MARGIN_STEPS = 1024, 64
THREADS = 2  # more threads hardly help this small network


def load(method: str, device: "torch.device") -> PitchExtractor:
    """Return swift; the network always runs on the CPU."""
    try:
        from swift_f0 import SwiftF0
    except ImportError as error:
        raise missing_package(method, "swift-f0") from error
    detector = SwiftF0(threads=THREADS, spin=False)

    def extract(audio: FloatArray) -> FloatArray:
        steps, parts = len(audio) // STEP, []
        for window in frame_windows(steps, CORE_STEPS, MARGIN_STEPS):
            samples = audio[window.start * STEP : None if window.stop == steps else window.stop * STEP]
            found = detector.detect(samples, ANALYSIS_RATE, fmin=F0_MIN, fmax=F0_MAX)
            times = found.timestamps + window.start * STEP / ANALYSIS_RATE
            parts.append([values[window.keep] for values in (times, found.pitch_hz, found.confidence)])
        times, f0, confidence = (np.concatenate(values) for values in zip(*parts, strict=True))
        return _to_frames(times, f0, confidence, len(audio) // HOP_LENGTH)

    return extract


def _to_frames(
    times: npt.NDArray[np.float64],
    f0: npt.NDArray[np.float64],
    confidence: npt.NDArray[np.float64],
    frames: int,
) -> FloatArray:
    """Resample from the network's frames of 16 ms to ours of 10 ms: (N,) seconds, Hz, 0..1 -> (frames,) Hz.

    The confidence is interpolated linearly and decides which frames are voiced; their F0 is interpolated between the
    network's voiced frames on a logarithmic scale, so that a glide stays a glide.
    """
    voiced = confidence >= VOICING_THRESHOLD
    if not voiced.any():
        return np.zeros(frames, dtype=np.float32)
    ours = np.arange(frames) / FRAMES_PER_SECOND  # seconds
    hertz = np.exp(np.interp(ours, times[voiced], np.log(f0[voiced])))
    return np.where(np.interp(ours, times, confidence) >= VOICING_THRESHOLD, hertz, 0.0).astype(np.float32)
