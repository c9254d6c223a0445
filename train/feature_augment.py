"""Feature augmentation: content features of a clip with simulated changes of speaker and room.

The features of a small encoder keep some information about the speaker. A small voice trained only on the features of
its own speaker depends on it and fails for other speakers; one trained on augmented features does not.
"""

import zlib

import numpy as np
import numpy.typing as npt
import torch

from lib.content import content_frames
from lib.content.lite import LiteContentEncoder
from train.augment import changed_mel

ORIGINALS = 2  # the original features are chosen as often as this many augmented versions


@torch.inference_mode()
def augment_features(
    encoder: LiteContentEncoder, audio: npt.NDArray[np.float32], count: int, name: str
) -> npt.NDArray[np.float16]:
    """(T,) at 16 kHz -> (count, (T - 80) // 320, 256); seeded by the clip's name, so repeatable."""
    if content_frames(len(audio)) == 0:
        return np.zeros((count, 0, encoder.width), np.float16)
    rng = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    network = encoder.network
    clip = torch.from_numpy(np.ascontiguousarray(audio, np.float32))[None].expand(count, -1)
    log_mel = changed_mel(clip, network.filters.cpu(), rng)
    features = network.features(log_mel.to(network.filters.device))
    augmented: npt.NDArray[np.float16] = features.cpu().numpy().astype(np.float16)
    return augmented


def choose_features(
    original: npt.NDArray[np.float32], augmented: npt.NDArray[np.float16] | None, rng: np.random.Generator
) -> npt.NDArray[np.floating]:
    """The original features (N, C) of a clip, or one of its augmented versions (K, N, C)."""
    if augmented is None:
        return original
    chosen = int(rng.integers(len(augmented) + ORIGINALS))
    return augmented[chosen] if chosen < len(augmented) else original
