"""Speaker embeddings, which measure how similar two voices are. They need resemblyzer, an optional package."""

from typing import Any, Protocol

import numpy as np

from lib.typing import FloatArray


class SpeakerEncoder(Protocol):
    """Computes the speaker embedding of a recording."""

    def __call__(self, audio: FloatArray) -> FloatArray:
        """Return the unit vector (E,) of 16 kHz audio (T,)."""
        ...


class Resemblyzer:
    """resemblyzer's speaker encoder, with its own preprocessing: level normalisation, and long silences shortened."""

    def __init__(self) -> None:
        """Raise ImportError if the package is not installed; it is listed in requirements-quality.txt."""
        import resemblyzer

        self._preprocess: Any = resemblyzer.preprocess_wav
        self._encoder: Any = resemblyzer.VoiceEncoder("cpu", verbose=False)

    def __call__(self, audio: FloatArray) -> FloatArray:
        """Return the unit vector (256,) of 16 kHz audio (T,)."""
        with np.errstate(all="ignore"):  # the level of silence
            embedding: FloatArray = self._encoder.embed_utterance(self._preprocess(audio))
        return embedding
