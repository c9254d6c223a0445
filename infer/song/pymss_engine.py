"""Separation with pymss (MIT), an optional package with many models. The user downloads the weights.

Files of the older model types (Demucs, Apollo, VR) are pickles that can execute code; they are refused.
"""

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from infer.between_layers import between_layers
from lib.audio.filters import resample
from lib.errors import CheckpointError, ConfigError, MissingFileError, RevoiceError
from lib.machine import machine_error
from lib.progress import Cancelled, Progress, part_of
from lib.typing import FloatArray

logger = logging.getLogger(__name__)

UNSAFE_TYPES = ("htdemucs", "legacy_demucs", "legacy_tasnet", "apollo", "vr")
EXTRACTED = ("vocals", "Vocals", "karaoke", "dry", "noreverb", "No Reverb", "dereverb", "lead")  # of stems, best first
USUAL_RATE = 44_100  # Hz, where a model's configuration names none
MIN_SEGMENT = 120.0  # s separated at a time; shorter songs are one segment, and the last one is up to twice as long


class PymssSeparator:
    """A Separator that runs a pymss model."""

    def __init__(self, name: str, device: str, models: Path) -> None:
        """Raise ConfigError if pymss is not installed or the model is unknown or unsafe.

        Raises MissingFileError if weights are missing.
        """
        if importlib.util.find_spec("pymss") is None:
            raise ConfigError(
                "Separating a song requires the pymss package. Install it (pip install pymss), or provide your own "
                "stem: the instrumental or the vocals."
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
        self._stem = _extracted(self._model.config.training)
        self._segment, self._margin = _segment_sizes(self._model.config, self._rate)

    def __call__(self, audio: FloatArray, sample_rate: int, progress: Progress) -> FloatArray:
        """Return the stem (C, T) of (C, T)."""
        if sample_rate == self._rate:
            return self._separate(audio, progress)
        mixed = resample(audio, sample_rate, self._rate, part_of(progress, 0, 20))
        stem = self._separate(mixed, part_of(progress, 1, 20, 18))
        stem = resample(stem, self._rate, sample_rate, part_of(progress, 19, 20))[:, : audio.shape[1]]
        return np.pad(stem, ((0, 0), (0, audio.shape[1] - stem.shape[1])))

    def _separate(self, mixed: FloatArray, progress: Progress) -> FloatArray:
        stem, total = np.empty_like(mixed), mixed.shape[1]
        for first, last in _segments(total, self._segment):
            start, stop = max(first - self._margin, 0), min(last + self._margin, total)
            with translated_errors(self._name), between_layers(progress) as report:
                report(first, total, "")
                self._model.progress_callback = partial(_report, report, first, last, total)
                stems = self._model.separate(mixed[:, start:stop], pbar=False, stems=[self._stem])
            stem[:, first:last] = stems[self._stem].T[:, first - start : last - start]
        return stem


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
    """Raise MachineError or CheckpointError in place of pymss's errors in the `with` block.

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


def _extracted(training: Any) -> str:
    """Return the name of the stem that a model extracts: a known one, otherwise the first."""
    names, target = [*training.instruments], training.target_instrument
    if target:  # pymss computes this stem, and the first of the others as the rest
        others = [name for name in names if name != target][:1]
        names = [target, *others] if target in names else others
    return next((name for name in EXTRACTED if name in names), names[0])


def _segment_sizes(config: Any, sample_rate: int) -> tuple[int, int]:
    """Return the length of a segment and of its margins in samples: multiples of the step between chunks.

    pymss computes chunks that overlap. The chunks of a segment are those of the whole song, so that the joined segments
    equal the whole song separated at once. A model whose input is standardised needs the whole song: (0, 0).
    """
    if config.inference.get("normalize", False):
        return 0, 0
    chunk = int(config.audio.chunk_size)
    step = chunk - int(config.inference.get("overlap_size", chunk // 2))
    return -(-round(MIN_SEGMENT * sample_rate) // step) * step, -(-chunk // step) * step


def _segments(samples: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of `size` samples that cover all samples; the last one is longer. Size 0 yields one range."""
    count = max(samples // size, 1) if size else 1
    for i in range(count):
        yield i * size, samples if i == count - 1 else (i + 1) * size


def _report(progress: Progress, first: int, last: int, total: int, done: float, of: float, _: object = None) -> None:
    """Report the progress of a segment of the samples from `first` to `last`; pymss calls this after every chunk."""
    share = min(done / max(of, 1e-9), 1.0)
    progress(round(first + share * (last - first)), total, "")
