"""The "hybrid[a+b+...]" method: the median of several methods, voiced where most of them are."""

from collections.abc import Sequence

import numpy as np

from lib.pitch import PitchExtractor
from lib.typing import FloatArray


def combine(extractors: Sequence[PitchExtractor]) -> PitchExtractor:
    """Combine several ExactExtractors, whose curves are aligned in time, into one method."""

    def extract(audio: FloatArray) -> FloatArray:
        return vote(np.stack([extractor(audio) for extractor in extractors]))

    return extract


def vote(curves: FloatArray) -> FloatArray:
    """Combine the curves of M methods: (M, F) Hz -> (F,) Hz.

    A frame is voiced if more than half of the methods classify it as voiced; its F0 is the median of their values. Of
    two methods, both must therefore classify the frame as voiced.
    """
    voiced = curves > 0
    hertz = np.where(voiced, curves, np.nan)
    agreed = 2 * voiced.sum(axis=0) > len(curves)
    out = np.zeros(curves.shape[1], dtype=np.float32)
    out[agreed] = np.nanmedian(hertz[:, agreed], axis=0)
    return out
