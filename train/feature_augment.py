"""Content features of a clip as other speakers in other rooms would have given it: what a small voice must not hear.

A small encoder leaves some of the speaker in its features. A voice that has heard only its own takes the rest for
content, and stumbles over every other speaker's; one that has heard its clips in many guises does not.
"""

import zlib

import numpy as np
import numpy.typing as npt
import torch

from lib.content import content_frames
from lib.content.lite import LiteContentEncoder
from train.augment import changed_mel

ORIGINALS = 2  # the features themselves are served as often as so many views


@torch.inference_mode()
def make_views(
    encoder: LiteContentEncoder, audio: npt.NDArray[np.float32], count: int, name: str
) -> npt.NDArray[np.float16]:
    """(T,) at 16 kHz -> (count, (T - 80) // 320, 256), drawn from the clip's name: the same for each extraction."""
    if content_frames(len(audio)) == 0:
        return np.zeros((count, 0, encoder.width), np.float16)
    rng = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    network = encoder.network
    clip = torch.from_numpy(np.ascontiguousarray(audio, np.float32))[None].expand(count, -1)
    log_mel = changed_mel(clip, network.filters.cpu(), rng)
    views: npt.NDArray[np.float16] = (
        network.features(log_mel.to(network.filters.device)).cpu().numpy().astype(np.float16)
    )
    return views


def choose_view(
    own: npt.NDArray[np.float32], views: npt.NDArray[np.float16] | None, rng: np.random.Generator
) -> npt.NDArray[np.floating]:
    """The clip's own features (N, C), or one of its views (K, N, C)."""
    if views is None:
        return own
    chosen = int(rng.integers(len(views) + ORIGINALS))
    return views[chosen] if chosen < len(views) else own
