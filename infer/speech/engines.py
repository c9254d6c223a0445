"""Speech engines, which synthesise one sentence at a time. Both are optional packages."""

import importlib.util
import io
from typing import Protocol

import numpy as np

from infer.speech.options import SpeechOptions
from lib.errors import ConfigError
from lib.typing import FloatArray

HIBARI_RATE = 24_000  # Hz
EDGE_SECONDS = 60  # timeout of the service


class Engine(Protocol):
    """Synthesises one sentence at a given speed: (T,) at `sample_rate`."""

    sample_rate: int

    def __call__(self, text: str, speed: float) -> FloatArray: ...


def load_engine(options: SpeechOptions) -> Engine:
    """Load the engine chosen in the options. Raises ConfigError if its package is not installed."""
    return Hibari() if options.engine == "hibari" else Edge(options.edge_voice)


class Hibari:
    """hibari-tts (Apache-2.0): English, offline; the package contains its model."""

    sample_rate = HIBARI_RATE

    def __init__(self) -> None:
        if importlib.util.find_spec("hibari") is None:
            raise ConfigError(
                "Text to speech requires the hibari-tts package. Install it (pip install hibari-tts), or choose the "
                "online edge engine."
            )
        import hibari

        self._speak = hibari.Hibari()

    def __call__(self, text: str, speed: float) -> FloatArray:
        """Synthesise a sentence."""
        return np.asarray(self._speak(text, speed=speed, seed=0), np.float32)


class Edge:
    """edge-tts (LGPL-3): Microsoft's online service. The text is sent over the internet."""

    sample_rate = 24_000

    def __init__(self, voice: str) -> None:
        if importlib.util.find_spec("edge_tts") is None:
            raise ConfigError(
                "The edge engine requires the edge-tts package. Install it (pip install edge-tts), or choose the "
                "offline hibari engine."
            )
        self._voice = voice

    def __call__(self, text: str, speed: float) -> FloatArray:
        """Synthesise a sentence. Raises ConfigError if the service refuses the request or cannot be reached."""
        import edge_tts

        rate = f"{round(100 * (speed - 1)):+d}%"
        try:
            speech = edge_tts.Communicate(
                text, self._voice, rate=rate, connect_timeout=EDGE_SECONDS, receive_timeout=EDGE_SECONDS
            )
            mp3 = b"".join(part["data"] for part in speech.stream_sync() if part["type"] == "audio")
        except Exception as error:  # edge-tts raises its own errors and those of aiohttp, asyncio and ssl
            raise ConfigError(
                "The edge speech service refused the request or could not be reached ({reason}). Try again later, "
                "check the voice name ({voice}), or choose the offline hibari engine.",
                reason=f"{type(error).__name__}: {error}"[:200],
                voice=self._voice,
            ) from error
        return _decode(mp3, self.sample_rate)


def _decode(mp3: bytes, sample_rate: int) -> FloatArray:
    import av

    with av.open(io.BytesIO(mp3)) as container:
        resampler = av.AudioResampler("fltp", "mono", sample_rate)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
    audio: FloatArray = np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32)
    return audio
