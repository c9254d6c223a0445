"""One spoken sentence with its phone times."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
SILENCE = "pau"


@dataclass(frozen=True)
class Utterance:
    """(T,) float32 audio at `sample_rate` and its phones in order, each with its end in seconds."""

    audio: Floats
    sample_rate: int
    phones: list[tuple[str, float]]

    @property
    def seconds(self) -> float:
        """Length of the audio."""
        return len(self.audio) / self.sample_rate
