"""Feature augmentation for the lite family: content features of a clip with simulated changes of speaker and room.

The features contain some information about the speaker. A small voice trained only on the features of its own speaker
relies on it and fails for other speakers; one trained on augmented features does not.
"""

import math
import zlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lib.content import content_frames
from lib.content.lite import LiteContentEncoder
from lib.models.lite_encoder import CODE, LEVEL_SCALE, shifted
from train.augment import augmented_mel, uniform

ORIGINALS = 2  # the original features are drawn as often as this many augmented versions
NOISE_FLOOR = (-5.2, -1.8)  # nepers below the mean level
FLOOR_SHARE = 0.5  # share of the versions whose level has a noise floor


@torch.inference_mode()
def augment_features(
    encoder: LiteContentEncoder, audio: npt.NDArray[np.float32], count: int, name: str
) -> npt.NDArray[np.float16]:
    """(T,) at 16 kHz -> (count, (T - 80) // 320, C) augmented features; the clip's name is the seed."""
    frames = content_frames(len(audio))
    if frames == 0:
        return np.zeros((count, 0, encoder.width), np.float16)
    rng = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    network, device = encoder.network, encoder.network.filters.device
    clip = torch.from_numpy(np.ascontiguousarray(audio, np.float32))[None]
    level = network(clip.to(device))[..., CODE].cpu()  # [1, N]; that of the clip itself
    versions = []
    for _ in range(count):  # one after the other: whole clips at once would take gigabytes
        mel = augmented_mel(shifted(clip), rng)
        features = network.features(mel.to(device), frames).cpu()
        features[..., CODE] = with_noise_floor(level, rng)
        versions.append(features[0])
    result: npt.NDArray[np.float16] = torch.stack(versions).numpy().astype(np.float16)
    return result


def with_noise_floor(level: Tensor, rng: torch.Generator) -> Tensor:
    """Raise the levels (B, N), as returned by `frame_levels`, to a noise floor in a random fraction of calls."""
    if float(torch.rand(1, generator=rng)) >= FLOOR_SHARE:
        return level
    floor = float(uniform(1, *NOISE_FLOOR, rng))
    power = torch.exp(2 * LEVEL_SCALE * level) + math.exp(2 * floor)
    return torch.log(power) / (2 * LEVEL_SCALE)


def choose_features(
    original: npt.NDArray[np.float32], augmented: npt.NDArray[np.float16] | None, rng: np.random.Generator
) -> npt.NDArray[np.floating]:
    """Choose the original features (N, C) of a clip or one of its augmented versions (K, N, C) at random."""
    if augmented is None:
        return original
    chosen = int(rng.integers(len(augmented) + ORIGINALS))
    return augmented[chosen] if chosen < len(augmented) else original
