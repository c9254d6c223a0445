"""A disk cache of the steps of a cover, keyed by the content of their inputs."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from lib.audio.decode import load_stereo
from lib.audio.encode import save_array
from lib.errors import RevoiceError, WriteError
from lib.files import write_json
from lib.json_reader import read_json_table
from lib.paths import LOGS
from lib.progress import Progress, no_progress, part_of, pieces
from lib.typing import FloatArray

logger = logging.getLogger(__name__)

FOLDER = LOGS / ".songs"
MAX_BYTES = 8 << 30  # of all results; the least recently used are deleted
VERSION = 3  # of the steps; increase it when their computation changes

Made = tuple[FloatArray, dict[str, float]]  # audio (C, T), and numbers that belong to it


class StepCache:
    """Reads and writes results; a result that cannot be read or written is computed again."""

    def __init__(self, folder: Path = FOLDER, max_bytes: int = MAX_BYTES) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self.reused: list[str] = []  # names of the steps whose results were cached
        self.computed: list[str] = []

    def get(
        self,
        step: str,
        inputs: Mapping[str, object],
        sample_rate: int,
        make: Callable[[Progress], Made],
        progress: Progress = no_progress,
    ) -> Made:
        """Return the result of a step for these inputs; `make` computes it.

        Arrays (C, T) are keyed by their content, all other inputs by their representation (repr).
        """
        name = _key(step, inputs, sample_rate, part_of(progress, 0, 20))
        found = self._read(name, part_of(progress, 1, 20, 19))
        if found is not None:
            self.reused.append(step)
            return found
        made = make(part_of(progress, 1, 20, 18))
        self.computed.append(step)
        self._write(name, made, sample_rate, part_of(progress, 19, 20))
        return made

    def _read(self, name: str, progress: Progress) -> Made | None:
        audio, about = self._folder / f"{name}.wav", self._folder / f"{name}.json"
        try:
            numbers = {key: float(value) for key, value in read_json_table(about).items()}
            samples = load_stereo(audio, progress)[0]
            audio.touch()
        except (OSError, ValueError, TypeError, RevoiceError):
            return None
        return samples, numbers

    def _write(self, name: str, made: Made, sample_rate: int, progress: Progress) -> None:
        try:
            self._make_room(made[0].nbytes)
            save_array(self._folder / f"{name}.wav", made[0], sample_rate, "FLOAT", progress=progress)
            write_json(self._folder / f"{name}.json", made[1])
        except (WriteError, OSError) as error:
            logger.warning("The result of a step cannot be kept for the next cover: %s", error)

    def _make_room(self, n_bytes: int) -> None:
        """Delete the least recently used results until `n_bytes` more fit."""
        results = sorted(self._folder.glob("*.wav"), key=lambda path: path.stat().st_mtime)
        used = sum(path.stat().st_size for path in results)
        for path in results:
            if used + n_bytes <= self._max_bytes:
                return
            used -= path.stat().st_size
            path.unlink()
            path.with_suffix(".json").unlink(missing_ok=True)


def _key(step: str, inputs: Mapping[str, object], sample_rate: int, progress: Progress) -> str:
    digest = hashlib.sha256(f"{VERSION} {step} {sample_rate}".encode())
    for name, value in sorted(inputs.items()):
        digest.update(f"\n{name}=".encode())
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype}{value.shape}".encode())
            for piece in pieces(value.shape[-1], sample_rate, progress):
                digest.update(np.ascontiguousarray(value[..., piece]).data)
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()
