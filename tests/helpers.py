"""Readers for the golden files, its error measure, and tiny networks; imported by tests as tests.helpers."""

import os
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor

from lib.checkpoint import load_weights, read_training_state, read_voice_model
from lib.config import SynthesizerConfig
from lib.models.synthesizer import Synthesizer

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(os.environ.get("GOLDEN_DIR", ROOT.parent / "shared" / "golden"))
SHARED_DATA = Path(os.environ.get("REVOICE_DATA_DIR", ROOT.parent / "shared" / "data"))
Floats = npt.NDArray[np.float32]


def golden_names(pattern: str) -> list[str]:
    """The golden files that match a glob, for parametrize; without golden data one name, whose test then skips."""
    return sorted(path.relative_to(GOLDEN).as_posix() for path in GOLDEN.glob(pattern)) or ["absent"]


def read_golden(path: Path) -> dict[str, Tensor]:
    """Read a golden .safetensors file; half-precision tensors are widened to float32."""
    return {k: v.float() if v.dtype == torch.float16 else v for k, v in load_file(path).items()}


def error(got: Tensor | Floats, want: Tensor | Floats) -> float:
    """The golden data's measure: max |got - want| / max |want|; shapes must agree."""
    a, b = (np.asarray(x.detach() if isinstance(x, Tensor) else x, np.float64) for x in (got, want))
    assert a.shape == b.shape, f"shape {a.shape}, expected {b.shape}"
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12))


def closed_form(name: str, shape: list[int], offset: float, scale: float, salt: str) -> Tensor:
    """The golden data's closed-form weights (README of the golden data, "Fill")."""
    mask = np.uint64(0xFFFFFFFF)
    x = np.arange(int(np.prod(shape)), dtype=np.uint64) * np.uint64(0x9E3779B1)
    x = (x + np.uint64(zlib.crc32((salt + name).encode()))) & mask
    x ^= x >> np.uint64(16)
    x = (x * np.uint64(0x85EBCA6B)) & mask
    x ^= x >> np.uint64(13)
    x = (x * np.uint64(0xC2B2AE35)) & mask
    x ^= x >> np.uint64(16)
    h = 2.0 * (x.astype(np.float64) / 2.0**32) - 1.0
    return torch.from_numpy((offset + scale * h).astype(np.float32).reshape(shape))


def tiny_config(**changes: object) -> SynthesizerConfig:
    """A synthesizer of a few thousand parameters at 40 kHz."""
    values: dict[str, object] = {
        "sample_rate": 40000, "spec_channels": 17, "segment_frames": 8, "inter_channels": 8, "hidden_channels": 8,
        "filter_channels": 16, "n_layers": 2, "upsample_rates": (4, 2), "upsample_initial_channel": 16,
        "upsample_kernel_sizes": (8, 4), "n_speakers": 3, "gin_channels": 8, "content_width": 12,
    }  # fmt: skip
    return SynthesizerConfig.model_validate(values | changes)


def golden_training_model(golden: Path, name: str) -> Synthesizer:
    """The small-width synthesizer of a golden G checkpoint; its widths are read from its tensors."""
    state = read_training_state(golden / "synth" / f"{name}.pth")
    voice = read_voice_model(golden / "synth" / f"small_{name[2:]}.pth")
    rows = state.weights["emb_g.weight"].shape[0]
    config = voice.config.model_copy(update={"n_speakers": rows})
    model = Synthesizer(config, posterior=True)
    load_weights(model, state.weights, name)
    return model
