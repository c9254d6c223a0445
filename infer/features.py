"""Processing of content features: blend in retrieved features, upsample to 100 frames/s, protect consonants."""

import numpy as np

from lib.typing import FloatArray

UNVOICED_BELOW = 1.0  # Hz; an F0 below this counts as unvoiced
PROTECT_OFF = 0.5  # from this value on, protection is off
NEAR, FAR = 0.5, 1.2  # squared distance of retrieved lite features: used fully up to NEAR, not at all from FAR


def blend_retrieved(content: FloatArray, retrieved: FloatArray, index_rate: float) -> FloatArray:
    """Blend content features (N, C) with the retrieved ones (N, C); `index_rate` is the weight of the latter."""
    return np.float32(index_rate) * retrieved + np.float32(1.0 - index_rate) * content


def blend_near(content: FloatArray, retrieved: FloatArray, index_rate: float) -> FloatArray:
    """Blend lite content features (N, C) with the retrieved ones (N, C) where the two are close.

    The weight of the retrieved features falls from `index_rate` to 0 between the squared distances NEAR and FAR, so
    that a sound missing from the voice's recordings, such as one of another language, keeps its own features.
    """
    distance = np.square(retrieved - content).sum(axis=1, keepdims=True)
    weight = np.float32(index_rate) * np.clip((FAR - distance) / (FAR - NEAR), 0.0, 1.0)
    blended: FloatArray = content + weight * (retrieved - content)
    return blended


def to_pitch_rate(content: FloatArray, frames: int) -> FloatArray:
    """Upsample content (N, C) from 50 to 100 frames/s by repetition and trim it: (min(frames, 2 * N), C).

    This is the only place where the two frame rates meet: F0 and pitch bins are trimmed to the length of the result.
    """
    return np.repeat(content, 2, axis=0)[:frames]  # [F, C]


def protect_consonants(content: FloatArray, original: FloatArray, f0: FloatArray, protect: float) -> FloatArray:
    """Partly undo the retrieval on unvoiced frames, so that consonants and breaths stay clear.

    content, original (F, C): with and without retrieved features; f0 (F,) in Hz, before unvoiced frames are filled. On
    unvoiced frames `protect` is the weight of `content`; at 0.5 and above nothing is changed.
    """
    if protect >= PROTECT_OFF:
        return content
    share = np.where(f0 < UNVOICED_BELOW, protect, 1.0).astype(np.float32)[:, None]  # [F, 1]
    return share * content + (np.float32(1) - share) * original
