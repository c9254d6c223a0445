"""Separation with pymss (MIT), an optional package with many models. The user downloads their weights.

Files of the older model types (Demucs, Apollo, VR) are pickles that can execute code; they are refused.
"""

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lib.audio.filters import resample
from lib.errors import CheckpointError, ConfigError, MissingFileError, RevoiceError
from lib.machine import machine_error
from lib.messages import Message
from lib.progress import Cancelled, Progress
from lib.typing import FloatArray

logger = logging.getLogger(__name__)

UNSAFE_TYPES = ("htdemucs", "legacy_demucs", "legacy_tasnet", "apollo", "vr")
EXTRACTED = ("vocals", "Vocals", "karaoke", "dry", "noreverb", "No Reverb", "dereverb", "lead")  # of stems, best first
USUAL_RATE = 44_100  # Hz, where a model's configuration names none


class PymssSeparator:
    """A Separator that runs a pymss model."""

    def __init__(self, name: str, device: str, models: Path) -> None:
        """Raises ConfigError if pymss is not installed or the model is unknown or unsafe.

        Raises MissingFileError if weights are missing.
        """
        if importlib.util.find_spec("pymss") is None:
            raise ConfigError(
                "Separating a song needs the package pymss. Install it (pip install pymss), or provide your "
                "own stem: the instrumental or the vocals."
            )
        import pymss

        try:
            found = pymss.resolve_model(name, model_dir=models, require_exists=False)
        except (KeyError, ValueError) as error:
            raise ConfigError(
                "pymss has no separation model {name!r} that can be used ({reason}). List its models with "
                '"pymss list".',
                name=name,
                reason=str(error).strip("'\""),
            ) from error
        if found["model_type"] in UNSAFE_TYPES:
            raise ConfigError(
                "Files of the separation model {name!r} (type {kind}) can execute code when they are read. Choose a "
                "model of another type, such as bs_roformer.",
                name=name,
                kind=found["model_type"],
            )
        for path in (found["model_path"], found["config_path"]):
            if path and not Path(path).is_file():
                raise MissingFileError(
                    Path(path),
                    'Get it with "pymss --model-dir {folder} download {name}".',
                    folder=models,
                    name=name,
                )
        self._name, self._rate = name, USUAL_RATE
        self._model = _load(pymss, found, device, name)
        self._rate = int(self._model.config.audio.get("sample_rate", USUAL_RATE))

    def __call__(self, audio: FloatArray, sample_rate: int, progress: Progress) -> tuple[FloatArray, FloatArray]:
        """Separate (C, T); the second part is the difference, so that the two parts add up to the input."""

        def report(done: float, total: float, _: object = None) -> None:
            progress(round(done), max(round(total), 1), Message("separating"))

        self._model.progress_callback = report
        with translated_errors(self._name):
            stems = self._model.separate(resample(audio, sample_rate, self._rate), pbar=False)
        stem = np.asarray(stems[_extracted(stems)], np.float32).T  # [C, T]
        part = resample(stem, self._rate, sample_rate)[:, : audio.shape[1]]
        part = np.pad(part, ((0, 0), (0, audio.shape[1] - part.shape[1])))
        return part, audio - part


def _load(pymss: Any, found: dict[str, Any], device: str, name: str) -> Any:
    with translated_errors(name):
        return pymss.MSSeparator(
            model_type=found["model_type"],
            model_path=str(found["model_path"]),
            config_path=str(found["config_path"]) if found["config_path"] else None,
            device=device,
            logger=logger,
            target_instrument_override=found.get("target_instrument_override") or None,
        )


@contextmanager
def translated_errors(name: str) -> Iterator[None]:
    """Raises MachineError or CheckpointError in place of pymss's errors in the `with` block.

    Cancelled and RevoiceError pass unchanged.
    """
    try:
        yield
    except (Cancelled, RevoiceError, MemoryError):
        raise
    except Exception as error:  # pymss and the models it loads raise errors of every kind
        if known := machine_error(error):
            raise known from error
        raise CheckpointError(
            "The separation model {name!r} failed ({reason}). Download its files again, or choose another model.",
            name=name,
            reason=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200],
        ) from error


def _extracted(stems: dict[str, Any]) -> str:
    """Return the name of the stem that a model extracts: a known one, otherwise the first."""
    return next((name for name in EXTRACTED if name in stems), next(iter(stems)))
