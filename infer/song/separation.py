"""The protocol of separation engines, which split a song into stems."""

from pathlib import Path
from typing import Protocol

from lib.paths import PRETRAINED
from lib.progress import Progress
from lib.typing import FloatArray

MODELS = PRETRAINED / "separation"


class Separator(Protocol):
    """Returns the stem that its model extracts from audio (C, T) at any rate: (C, T).

    The `what` of its progress reports is empty.
    """

    def __call__(self, audio: FloatArray, sample_rate: int, progress: Progress) -> FloatArray: ...


class LoadSeparator(Protocol):
    """Loads the model with the given name onto the given device.

    Raises ConfigError or MissingFileError if it cannot be loaded.
    """

    def __call__(self, name: str, device: str) -> Separator: ...


def load_separator(name: str, device: str, models: Path = MODELS) -> Separator:
    """Load a pymss model from `models`; nothing is downloaded."""
    from infer.song.pymss_engine import PymssSeparator

    return PymssSeparator(name, device, models)
