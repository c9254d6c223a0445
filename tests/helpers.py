"""Readers for the golden files, its error measure, and tiny networks; imported by tests as tests.helpers."""

import contextlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from lib.config import FamilyConfig, SynthesizerConfig, load_family
from lib.models.synthesizer import Synthesizer
from lib.voice.model_file import read_voice_model
from lib.voice.training_state import read_training_state
from lib.voice.weights import load_weights

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
SMALL_SET = ROOT / "tests" / "data" / "golden"
SHARED_DATA = Path(os.environ.get("REVOICE_DATA_DIR", SHARED / "data"))
Floats = npt.NDArray[np.float32]


def golden_folder() -> Path:
    """GOLDEN_DIR, else the full set in ../shared/golden, else the small set of the repository."""
    full = SHARED / "golden"
    chosen = os.environ.get("GOLDEN_DIR") or (full if (full / "manifest.json").is_file() else SMALL_SET)
    return Path(chosen).resolve()


GOLDEN = golden_folder()
# The listings of tensors belong to the specification, not to the golden data; they may lie beside another set.
SPECIFICATION = next((s for s in (GOLDEN.parent / "spec", SHARED / "spec") if s.is_dir()), SHARED / "spec")


class SmallSet(Path if TYPE_CHECKING else type(Path())):  # type: ignore[misc]  # the Path of this system
    """The folder of the small set: joining the name of a file that it does not hold skips the test."""

    def __truediv__(self, name: str | os.PathLike[str]) -> "SmallSet":
        path: SmallSet = super().__truediv__(name)
        if not path.exists():
            pytest.skip(f"{path.relative_to(SMALL_SET)} is not in the small set; set GOLDEN_DIR to a full one")
        return path


def golden_names(pattern: str) -> list[str]:
    """The golden files that match a glob, for parametrize; where there is none one name, whose test then skips."""
    found = sorted(path.relative_to(GOLDEN).as_posix() for path in GOLDEN.glob(pattern))
    return found or [pattern.replace("*", "absent")]


def golden_metadata(path: Path) -> dict[str, str]:
    """The metadata of a golden .safetensors file."""
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def read_golden(path: Path) -> dict[str, Tensor]:
    """Read a golden .safetensors file; half-precision tensors are widened to float32."""
    return {k: v.float() if v.dtype == torch.float16 else v for k, v in load_file(path).items()}


def error(got: Tensor | Floats, want: Tensor | Floats) -> float:
    """The golden data's measure: max |got - want| / max |want|; shapes must agree."""
    a, b = (np.asarray(x.detach() if isinstance(x, Tensor) else x, np.float64) for x in (got, want))
    assert a.shape == b.shape, f"shape {a.shape}, expected {b.shape}"
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12))


def closed_form_f64(salted_name: str, n: int) -> npt.NDArray[np.float64]:
    """The golden data's hash of a name and the numbers 0 .. n - 1, in -1 .. 1 (its README, "Fill"): (n,)."""
    x = np.arange(n, dtype=np.uint32)  # whose arithmetic is modulo 2^32
    x *= np.uint32(0x9E3779B1)
    x += np.uint32(zlib.crc32(salted_name.encode()))
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    h: npt.NDArray[np.float64] = x.astype(np.float64) * 2.0**-31 - 1.0
    return h


def closed_form(name: str, shape: list[int], offset: float, scale: float, salt: str) -> Tensor:
    """The golden data's closed-form weights (README of the golden data, "Fill")."""
    h = closed_form_f64(salt + name, int(np.prod(shape)))
    return torch.from_numpy((offset + scale * h).astype(np.float32).reshape(shape))


def tiny_config(**changes: object) -> SynthesizerConfig:
    """A synthesizer of a few thousand parameters at 40 kHz."""
    values: dict[str, object] = {
        "sample_rate": 40000, "spec_channels": 17, "segment_frames": 8, "inter_channels": 8, "hidden_channels": 8,
        "filter_channels": 16, "n_layers": 2, "upsample_rates": (4, 2), "upsample_initial_channel": 16,
        "upsample_kernel_sizes": (8, 4), "n_speakers": 3, "gin_channels": 8, "content_width": 12,
    }  # fmt: skip
    return SynthesizerConfig.model_validate(values | changes)


def vits_config(config: FamilyConfig) -> SynthesizerConfig:
    """The network of a family that is a Synthesizer."""
    assert isinstance(config.synthesizer, SynthesizerConfig)
    return config.synthesizer


def golden_training_model(golden: Path, name: str) -> Synthesizer:
    """The small-width synthesizer of a golden G checkpoint, such as G_v1_32k_nof0.

    Its widths are read from its tensors; the length of its training segments is that of the family's configuration,
    because every exported voice claims 32 frames.
    """
    state = read_training_state(golden / "synth" / f"{name}.pth")
    voice = read_voice_model(golden / "synth" / f"small_{name[2:]}.pth")
    family, rate = name.split("_")[1:3]
    segment_frames = load_family(family, rate).synthesizer.segment_frames  # type: ignore[arg-type]
    rows = state.weights["emb_g.weight"].shape[0]
    config = voice.config.model_copy(update={"n_speakers": rows, "segment_frames": segment_frames})
    assert isinstance(config, SynthesizerConfig)
    model = Synthesizer(config, posterior=True)
    load_weights(model, state.weights, name)
    return model


@contextlib.contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file can become longer than `limit` bytes: the system refuses with "File too large"."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
