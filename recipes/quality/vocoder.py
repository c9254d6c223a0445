"""Resynthesis with the vocoder of a lite voice, from the mel spectrogram and F0 of a recording."""

from pathlib import Path

import torch

from lib.models.lite_synthesizer import LiteSynthesizer, log_mel
from lib.pitch import PitchExtractor
from lib.pitch.scale import fit_length
from lib.typing import FloatArray
from lib.voice.model_file import load_synthesizer, read_voice_model
from recipes.quality.clips import Clip


class LiteVocoder:
    """Analyses and resynthesises clips from their own log mel and F0; the noise depends on the seed."""

    def __init__(self, synthesizer: LiteSynthesizer, pitch: PitchExtractor) -> None:
        self._synthesizer = synthesizer
        self._pitch = pitch

    @torch.inference_mode()
    def __call__(self, clip: Clip, seed: int) -> FloatArray:
        """Resynthesise (T,) at the voice's sample rate; T is a multiple of the hop length."""
        config = self._synthesizer.config
        mel = log_mel(torch.from_numpy(clip.clean(config.sample_rate))[None], config)  # [1, F, M]
        frames = mel.shape[1]
        f0 = torch.from_numpy(fit_length(self._pitch(clip.clean()), frames))[None]  # [1, F]
        noise = torch.randn(1, frames * config.hop_length, generator=torch.Generator().manual_seed(seed))
        audio: FloatArray = self._synthesizer.dec(mel, f0, noise)[0, 0].numpy()
        return audio


def load_vocoder(path: Path, pitch: PitchExtractor) -> LiteVocoder | None:
    """Load the vocoder of a voice model; None if the voice is not of the lite family."""
    synthesizer = load_synthesizer(read_voice_model(path), str(path))
    return LiteVocoder(synthesizer, pitch) if isinstance(synthesizer, LiteSynthesizer) else None
