"""The "fcpe" method: the convolutional network of torchfcpe, whose package contains its weights."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.audio import ANALYSIS_RATE
from lib.pitch import PitchExtractor, missing_package
from lib.pitch.scale import HOP_LENGTH, frame_windows
from lib.typing import FloatArray
from lib.voice.safe_load import safe_load

WEIGHTS = "assets/fcpe_c_v001.pt"  # within the package
THRESHOLD = 0.006  # confidence below which a frame is unvoiced
# The receptive field is 92 frames on either side, and the network normalises over its input: windows of minutes.
CORE_FRAMES, MARGIN_FRAMES = 12_000, 400


def load(method: str, device: torch.device) -> PitchExtractor:
    """Return fcpe on `device`."""
    network = _load_network(method).to(device)

    @torch.inference_mode()
    def extract(audio: FloatArray) -> FloatArray:
        audio = audio / np.float32(max(1.0, np.abs(audio).max()))  # the package prints a warning for louder audio
        parts = []
        for window in frame_windows(len(audio) // HOP_LENGTH, CORE_FRAMES, MARGIN_FRAMES):
            samples = torch.from_numpy(audio[window.start * HOP_LENGTH : window.stop * HOP_LENGTH]).to(device)
            f0 = network(samples[None, :, None], ANALYSIS_RATE, "local_argmax", THRESHOLD)  # [1, F + 1, 1]
            parts.append(f0[0, window.keep, 0].float().cpu().numpy())
        return np.concatenate(parts)

    return extract


def _load_network(method: str) -> Any:
    """Build the package's network with its own weights.

    Its own loader is not used: it prints messages, and whether the file may run code depends on PyTorch's version.
    """
    try:
        import torchfcpe
        from torchfcpe.models_infer import InferCFNaiveMelPE
        from torchfcpe.tools import DotDict
    except ImportError as error:
        raise missing_package(method, "torchfcpe") from error
    file = safe_load(Path(torchfcpe.__file__).parent / WEIGHTS)
    config = file["config_dict"]
    # These are missing in the file. They are the package's defaults, which it would print a warning for.
    config["model"] |= {"conv_dropout": 0.0, "atten_dropout": 0.0, "use_harmonic_emb": False}
    return InferCFNaiveMelPE(DotDict(config), file["model"]).eval().requires_grad_(False)
