"""The protocol of separation engines, which split a song into stems."""

from pathlib import Path
from typing import Protocol

from lib.paths import PRETRAINED
from lib.progress import Progress
from lib.typing import FloatArray

MODELS = PRETRAINED / "separation"


class Separator(Protocol):
    """Splits audio (C, T) at any rate into two parts of the same shape: what its model extracts, and the rest."""

    def __call__(self, audio: FloatArray, sample_rate: int, progress: Progress) -> tuple[FloatArray, FloatArray]: ...


class LoadSeparator(Protocol):
    """Loads a model by name, for the device of that name.

    Raises ConfigError or MissingFileError if that is impossible.
    """

    def __call__(self, name: str, device: str) -> Separator: ...


def load_separator(name: str, device: str, models: Path = MODELS) -> Separator:
    """Load a model of pymss from `models`; nothing is downloaded."""
    from infer.song.pymss_engine import PymssSeparator

    return PymssSeparator(name, device, models)
