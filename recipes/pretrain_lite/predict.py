"""Predicts the mel spectrogram of a clip with the trained bottleneck and prior."""

from pathlib import Path

import numpy as np
import torch

from lib.config import LiteConfig
from lib.models.lite_encoder import Bottleneck
from lib.models.lite_synthesizer import LitePrior
from lib.typing import FloatArray
from recipes.pretrain_lite.features import Features, lite_config

STATE = "acoustic.pt"


class Predictor:
    """Predicts mel spectrograms with the bottleneck, prior and speaker embedding of folder/acoustic.pt."""

    def __init__(self, folder: Path, config: LiteConfig | None = None) -> None:
        """`config`, that of the prior, defaults to the family's."""
        state = torch.load(folder / STATE, weights_only=True)
        self.speakers: list[str] = state["readers"]
        self.weights: dict[str, dict[str, torch.Tensor]] = {}
        for number, name in enumerate(("bottleneck", "prior", "speakers")):
            prefix = f"{number}."
            self.weights[name] = {
                key.removeprefix(prefix): value for key, value in state["networks"].items() if key.startswith(prefix)
            }
        self.bottleneck = Bottleneck(self.weights["bottleneck"]["first.weight"].shape[1]).eval()
        self.bottleneck.load_state_dict(self.weights["bottleneck"])
        self.prior = LitePrior(config or lite_config()).eval()
        self.prior.load_state_dict(self.weights["prior"])

    @torch.inference_mode()
    def __call__(self, speaker: str, clip: Features) -> FloatArray:
        """(F, M) log mel of the clip, predicted for its own speaker."""
        frames = min(2 * len(clip.level), len(clip.f0))
        code = self.bottleneck(torch.from_numpy(clip.layers[0]).float()[None])
        content = torch.cat([code, torch.from_numpy(clip.level)[None, :, None]], 2).repeat_interleave(2, 1)[:, :frames]
        embedding = self.weights["speakers"]["weight"][self.speakers.index(speaker)][None]
        mel: FloatArray = self.prior(content, torch.from_numpy(clip.f0[:frames])[None].float(), embedding)[0].numpy()
        return np.asarray(mel)
