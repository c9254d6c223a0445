"""Extracts the training features, one file per clip: Whisper layer outputs, level, F0 and mel spectrogram.

The layer outputs are those of the clip and of augmented versions of it.
"""

import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lib.audio import ANALYSIS_RATE
from lib.config import LiteConfig, load_family
from lib.content import content_frames
from lib.files import replacing
from lib.models.lite_encoder import (
    WhisperEncoder,
    frame_levels,
    mel_filter_bank,
    normalised_over_time,
    power_spectrum,
    shifted,
    whisper_log_mel,
)
from lib.models.lite_synthesizer import log_mel
from lib.paths import LOGS
from lib.pitch import ExactExtractor, load_pitch_extractor
from lib.progress import Progress, no_progress
from lib.typing import FloatArray
from recipes.pretrain_lite.options import FeatureOptions
from recipes.pretrain_lite.recordings import Recording, read_audio, training_recordings
from train.augment import augmented_mel

FOLDER = LOGS / "pretrain_lite"
MAX_SECONDS = 29  # of a clip; Whisper was trained on 30 s


class Features(NamedTuple):
    """Network inputs and targets of one clip."""

    layers: list[npt.NDArray[np.float16]]  # of the clip and its augmented versions, each (N, 2048), normalised
    level: FloatArray  # (N,)
    f0: FloatArray  # (F,) Hz, 0 where unvoiced
    mel: npt.NDArray[np.float16]  # (F, M) log amplitude
    cutoff: int  # Hz


def lite_config() -> LiteConfig:
    """Return the configuration of the lite networks."""
    config = load_family("lite").synthesizer
    assert isinstance(config, LiteConfig)
    return config


def whisper_weights(path: Path) -> dict[str, Tensor]:
    """Load the weights of a WhisperEncoder from an `.npz` with CTranslate2's names."""
    arrays = np.load(path)
    names = {"norm_1": "self_attention.layer_norm", "norm_2": "ffn.layer_norm"}
    linears = {
        "qkv": "self_attention.linear_0", "out": "self_attention.linear_1",
        "up": "ffn.linear_0", "down": "ffn.linear_1",
    }  # fmt: skip
    found: dict[str, str] = {}
    for number in (1, 2):
        found |= {f"conv_{number}.{part}": f"conv{number}.{part}" for part in ("weight", "bias")}
    for layer in range(6):
        for own, other in names.items():
            found[f"layers.{layer}.{own}.weight"] = f"layer_{layer}.{other}.gamma"
            found[f"layers.{layer}.{own}.bias"] = f"layer_{layer}.{other}.beta"
        for own, other in linears.items():
            found |= {f"layers.{layer}.{own}.{part}": f"layer_{layer}.{other}.{part}" for part in ("weight", "bias")}
    return {own: torch.from_numpy(arrays[other].astype(np.float32)) for own, other in found.items()}


def make_features(options: FeatureOptions, folder: Path = FOLDER, progress: Progress = no_progress) -> Path:
    """Write folder/features/SPEAKER__CLIP.npz for each training recording that has none yet."""
    torch.set_num_threads(options.threads)
    weights = whisper_weights(options.whisper)
    whisper = WhisperEncoder(len(weights["conv_1.weight"])).eval()
    whisper.load_state_dict(weights)
    pitch = load_pitch_extractor("swift", torch.device("cpu"))
    recordings = training_recordings(options.data, folder / "speech")[options.part :: options.parts]
    for done, recording in enumerate(recordings):
        progress(done, len(recordings), "features")
        target = folder / "features" / f"{recording.name}.npz"
        if not target.exists():
            arrays = clip_features(recording, whisper, pitch)
            with replacing(target) as temporary:
                np.savez(temporary, **arrays)  # type: ignore[arg-type]
    return folder / "features"


@torch.inference_mode()
def clip_features(
    recording: Recording, whisper: WhisperEncoder, pitch: ExactExtractor
) -> dict[str, npt.NDArray[np.generic]]:
    """Compute the arrays for the file of one clip."""
    config = lite_config()
    audio = read_audio(recording.path, ANALYSIS_RATE)[: ANALYSIS_RATE * MAX_SECONDS]
    own_rate = read_audio(recording.path, config.sample_rate)[: config.sample_rate * MAX_SECONDS]
    frames = content_frames(len(audio))
    clip = shifted(torch.from_numpy(audio)[None])
    power = power_spectrum(clip) @ mel_filter_bank()
    rng = torch.Generator().manual_seed(zlib.crc32(recording.name.encode()))
    mels = [power, *(augmented_mel(clip, rng) for _ in range(recording.versions))]
    layers = [normalised_over_time(whisper(whisper_log_mel(mel))[:, :frames])[0].half().numpy() for mel in mels]
    return {
        "layers": np.stack(layers),
        "level": frame_levels(power, frames)[0].numpy(),
        "f0": pitch(audio),
        "mel": log_mel(torch.from_numpy(own_rate)[None], config)[0].half().numpy(),
        "cutoff": np.array(recording.cutoff),
    }


def read_features(path: Path) -> Features:
    """Read the features of one clip from a file that `make_features` wrote."""
    with np.load(path) as arrays:
        return Features(list(arrays["layers"]), arrays["level"], arrays["f0"], arrays["mel"], int(arrays["cutoff"]))
