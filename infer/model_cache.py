"""Caches loaded networks, indexes and voices, and the F0 and content features of recent recordings.

A key contains everything that its value depends on: for a file, its path, time and size; for F0 and features, a hash of
the audio and the settings of the network that computed them.
"""

import hashlib
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from infer.lru_cache import LruCache
from lib.content import ContentEncoder, load_content_encoder
from lib.index import FeatureIndex
from lib.models.memory import trim_memory
from lib.pitch import WITH_HOP_LENGTH, ExactExtractor, load_pitch_extractor
from lib.pitch.rmvpe import is_installed as rmvpe_is_installed
from lib.typing import FloatArray

Value = TypeVar("Value")

NETWORK_BYTES = 2_000_000_000  # e.g. encoder and F0 network of v2, and five voices with their indexes
ANALYSIS_BYTES = 64_000_000  # seven minutes of v2, twenty of lite
ENCODER_BYTES, PITCH_BYTES = 400_000_000, 200_000_000  # of the largest networks; assumed for each


class ModelCache:
    """Networks, indexes and voices, keyed by file; F0 and content features, keyed by the content of the audio."""

    def __init__(self, network_bytes: int = NETWORK_BYTES, analysis_bytes: int = ANALYSIS_BYTES) -> None:
        self._networks = LruCache(network_bytes)
        self._analyses = LruCache(analysis_bytes)

    def get(self, key: Hashable, load: Callable[[], Value], size: Callable[[Value], int]) -> Value:
        """Return the value of `key`; `load` loads a missing one, `size` returns its size in memory in bytes."""
        return self._networks.get(key, load, size)

    def encoder(self, family: str, device: torch.device, name: str | None, dtype: torch.dtype) -> ContentEncoder:
        """Return the content encoder of a family, or the one called `name`, computing in `dtype`."""
        return self.get(
            ("encoder", family, name, str(device), dtype),
            lambda: load_content_encoder(family, device, name, dtype),
            lambda _: ENCODER_BYTES * dtype.itemsize // 4,
        )

    def index(self, path: Path) -> FeatureIndex:
        """Return the index stored in a file."""
        return self.get(
            ("index", file_stamp(path)), lambda: FeatureIndex.load(path), lambda index: 4 * index.width * len(index)
        )

    def pitch(self, method: str, device: torch.device, crepe_hop_length: int, dtype: torch.dtype) -> ExactExtractor:
        """Return the extractor of a pitch method; `dtype` applies to the methods that can be cast."""
        hop_length = crepe_hop_length if any(name in method for name in WITH_HOP_LENGTH) else 0
        best = rmvpe_is_installed() if method == "auto" else None  # it may have been downloaded since
        return self.get(
            ("pitch", method, best, hop_length, str(device), dtype),
            lambda: load_pitch_extractor(method, device, crepe_hop_length, dtype),
            lambda _: PITCH_BYTES,
        )

    def analysis(self, audio: FloatArray, key: str, compute: Callable[[FloatArray], FloatArray]) -> FloatArray:
        """Return `compute(audio)` for audio (T,), cached under `key` and a hash of the samples; read-only."""

        def make() -> FloatArray:
            result = compute(audio)
            trim_memory()
            result.flags.writeable = False
            return result

        digest = hashlib.blake2b(np.ascontiguousarray(audio).data, digest_size=16).digest()
        return self._analyses.get((key, digest), make, lambda result: result.nbytes)


def file_stamp(path: Path) -> tuple[Path, int, int]:
    """Return path, modification time in ns and size of a file (0 if missing); they change when the file does."""
    stat = path.stat() if path.is_file() else None
    return path.absolute(), stat.st_mtime_ns if stat else 0, stat.st_size if stat else 0
