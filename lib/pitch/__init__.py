"""How F0 is estimated: one protocol, one file per method, one table. Nothing heavy is imported until asked for."""

import importlib
import logging
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from lib.errors import AudioError, ConfigError, MissingFileError
from lib.pitch.scale import HOP_LENGTH, fit_length

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class PitchExtractor(Protocol):
    """Estimates F0 of 16 kHz mono audio: (T,) float32 -> (T // 160,) float32 Hz, 0.0 where unvoiced."""

    def __call__(self, audio: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]: ...


# A module of this table has a function load(method, device), which returns the method's bare extractor: one that need
# not fit the number of frames exactly, nor cope with silence or clips shorter than SHORTEST.
METHODS: dict[str, str] = {
    "swift": "lib.pitch.swift",
    "pm": "lib.pitch.praat",
    "harvest": "lib.pitch.world",
    "dio": "lib.pitch.world",
}
PitchMethod = Literal["auto", "swift", "pm", "harvest", "dio"]
PITCH_METHODS: tuple[str, ...] = ("auto", *METHODS)  # for choices; "auto" = the best one present
AUTO_ORDER = ("swift", "harvest")  # best first

SHORTEST = 4096  # samples at 16 kHz; shorter clips are extended by silence, as every method needs some periods of 50 Hz
SILENCE_PEAK = 1e-5  # below it (a third of a 16-bit step) there is no voice


def load_pitch_extractor(method: str, device: "torch.device") -> "ExactExtractor":
    """Load a pitch method: one of PITCH_METHODS.

    Raises ConfigError for an unknown method or a package that is not installed, MissingFileError for weights that are
    not there. "auto" takes the first of AUTO_ORDER that loads, and logs which.
    """
    if method == "auto":
        return _load_best(device)
    if method not in METHODS:
        raise ConfigError(f"There is no pitch method {method!r}; choose one of {', '.join(PITCH_METHODS)}.")
    module = importlib.import_module(METHODS[method])
    return ExactExtractor(method, module.load(method, device))


def _load_best(device: "torch.device") -> "ExactExtractor":
    reasons = []
    for method in AUTO_ORDER:
        try:
            extractor = load_pitch_extractor(method, device)
        except (ConfigError, MissingFileError) as error:
            reasons.append(str(error))
            continue
        logger.info("pitch method: auto chose %s", method)
        return extractor
    raise ConfigError(f"No pitch method can be loaded. {' '.join(reasons)}")


class ExactExtractor:
    """Makes any method keep the contract: exact length, float32, zeros for silence, clips of every length.

    `method` tells which one it is, also when "auto" was asked for.
    """

    def __init__(self, method: str, extract: PitchExtractor) -> None:
        self.method = method
        self._extract = extract

    def __call__(self, audio: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if audio.ndim != 1 or not np.isfinite(audio).all():
            raise AudioError(f"F0 needs finite mono audio of shape (T,); got shape {audio.shape}.")
        frames = len(audio) // HOP_LENGTH
        if frames == 0 or np.abs(audio).max() < SILENCE_PEAK:
            return np.zeros(frames, dtype=np.float32)
        padded = np.pad(audio.astype(np.float32), (0, max(0, SHORTEST - len(audio))))
        return fit_length(self._extract(padded).astype(np.float32), frames)
