"""Separation by pymss: a small BS-RoFormer with computed weights, registered like a user's model; and refusals."""

import errno
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from infer.song.pymss_engine import translated_errors
from infer.song.separation import load_separator
from lib.errors import CheckpointError, ConfigError, MachineError, MissingFileError
from lib.progress import Cancelled, no_progress
from tests.helpers import Floats, closed_form

INSTALLED = importlib.util.find_spec("pymss") is not None
with_pymss = pytest.mark.skipif(not INSTALLED, reason="pymss is not installed")
RATE, CHUNK = 44_100, 44_100
CONFIG = f"""
audio: {{chunk_size: {CHUNK}, num_channels: 2, sample_rate: {RATE}, hop_length: 512, n_fft: 2048}}
model: {{dim: 16, depth: 1, stereo: true, num_stems: 1, time_transformer_depth: 1, freq_transformer_depth: 1,
  dim_head: 8, heads: 2, mask_estimator_depth: 1, flash_attn: false}}
training: {{instruments: [vocals, other], target_instrument: vocals}}
inference: {{batch_size: 1, num_overlap: 2}}
"""


def music(seconds: float) -> Floats:
    time = np.arange(round(seconds * RATE)) / RATE
    tones = np.stack([np.sin(2 * np.pi * 220 * time), np.sin(2 * np.pi * 330 * time)])
    audio: Floats = (0.1 * tones * (1 + np.sin(2 * np.pi * 3 * time))).astype(np.float32)
    return audio


def register(folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.nn.Module], None]) -> str:
    """The name of the small model, registered with computed weights after `change`."""
    import pymss
    from pymss_core import get_model_from_config

    monkeypatch.setattr("pymss.user_models.DEFAULT_USER_MODELS_PATH", folder / "user_models.json")
    config, weights = folder / "small.yaml", folder / "small.ckpt"
    config.write_text(CONFIG, encoding="utf-8")
    network, _ = get_model_from_config("bs_roformer", str(config))
    network.load_state_dict({
        name: closed_form(name, list(value.shape), 0.0, 0.2, "") if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    })  # fmt: skip
    change(network)
    torch.save(network.state_dict(), weights)
    pymss.register_model("small", "bs_roformer", str(weights), str(config))
    return "small"


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the small model."""
    return register(tmp_path, monkeypatch, lambda network: None)


@with_pymss
def test_a_separation_keeps_the_shape_and_repeats(registered: str, tmp_path: Path) -> None:
    separator = load_separator(registered, "cpu", tmp_path)
    audio = music(2.5)
    vocals = separator(audio, RATE, no_progress)
    assert vocals.shape == audio.shape and np.isfinite(vocals).all()
    assert np.abs(vocals).max() > 1e-4
    assert np.array_equal(separator(audio, RATE, no_progress), vocals)
    for other in (audio[:1], audio[:, : RATE // 3]):
        assert separator(other, RATE, no_progress).shape == other.shape
    assert separator(audio, 48_000, no_progress).shape == audio.shape


@with_pymss
def test_progress_is_reported_and_cancels(registered: str, tmp_path: Path) -> None:
    separator = load_separator(registered, "cpu", tmp_path)
    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int, what: str) -> None:
        seen.append((done, total))
        if len(seen) > 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        separator(music(4.0), RATE, stop)
    assert len(seen) == 2 and all(0 <= done <= total for done, total in seen)


@with_pymss
def test_unknown_unsafe_damaged_and_missing_models_are_one_sentence(
    registered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pymss

    with pytest.raises(ConfigError, match="no separation model 'nothing'"):
        load_separator("nothing", "cpu", tmp_path)
    pymss.register_model("pickle", "htdemucs", str(tmp_path / "small.ckpt"), str(tmp_path / "small.yaml"))
    with pytest.raises(ConfigError, match="can execute code"):
        load_separator("pickle", "cpu", tmp_path)
    (tmp_path / "small.ckpt").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="separation model 'small' failed"):
        load_separator(registered, "cpu", tmp_path)
    names = [entry.name for entry in pymss.list_models(supported=True) if entry.model_type == "bs_roformer"]
    with pytest.raises(MissingFileError, match="pymss --model-dir"):
        load_separator(names[0], "cpu", tmp_path)


@pytest.mark.skipif(INSTALLED, reason="pymss is installed")
def test_without_the_package_the_sentence_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pip install pymss"):
        load_separator("small", "cpu", tmp_path)


def test_a_full_disk_is_not_reported_as_a_damaged_model() -> None:
    with pytest.raises(MachineError, match="No space left"), translated_errors("small"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(CheckpointError, match=r"failed \(KeyError: 'stft'\)"), translated_errors("small"):
        raise KeyError("stft")
