"""Phone times of a sentence from another voice's rendering of it, by dynamic time warping (Sakoe and Chiba 1978)."""

import numpy as np
import numpy.typing as npt
import soxr
import torch

from lib.models.lite_encoder import MEL_HOP_LENGTH, SAMPLE_RATE, mel_filter_bank, normalised_log_mel, power_spectrum
from recipes.pretrain_lite.utterance import Floats, Utterance

Array = npt.NDArray[np.float32]
_CEPSTRA = 13  # of 80 mel bands: the envelope, in which two voices are most alike


def cepstra(audio: Floats, sample_rate: int) -> Array:
    """(T,) audio -> (M, 26): normalised mel cepstra every 10 ms and how fast they change."""
    samples = torch.from_numpy(soxr.resample(audio, sample_rate, SAMPLE_RATE))[None]
    log_mel = normalised_log_mel(power_spectrum(samples) @ mel_filter_bank())[0].T  # [M, C]
    bands = torch.arange(log_mel.shape[1]) + 0.5
    orders = torch.arange(1, _CEPSTRA + 1)[:, None]
    static = log_mel @ torch.cos(torch.pi / log_mel.shape[1] * orders * bands).T
    padded = torch.nn.functional.pad(static.T[None], (2, 2), mode="replicate")[0].T
    change = (padded[4:] - padded[:-4]) * 0.5 + (padded[3:-1] - padded[1:-3]) * 0.25
    both = torch.cat([static, change], 1)
    result: Array = ((both - both.mean(0)) / (both.std(0) + 1e-5)).numpy()
    return result


def warping_path(distance: Array) -> list[tuple[int, int]]:
    """(M, N) distances -> the pairs of the cheapest path from corner to corner, in order."""
    rows, columns = distance.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    # Along an anti-diagonal no cell depends on another.
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        j = diagonal - i
        before = np.minimum(total[i, j], np.minimum(total[i, j + 1], total[i + 1, j]))
        total[i + 1, j + 1] = distance[i, j] + before
    row, column = rows - 1, columns - 1
    path = [(row, column)]
    while row or column:
        steps = [(row - 1, column - 1), (row - 1, column), (row, column - 1)]
        row, column = min((s for s in steps if min(s) >= 0), key=lambda s: float(total[s[0] + 1, s[1] + 1]))
        path.append((row, column))
    return path[::-1]


def moved_times(reference: Utterance, audio: Floats, sample_rate: int) -> list[tuple[str, float]]:
    """The phones of `reference` with the ends they have in `audio`, which says the same."""
    ours, theirs = cepstra(audio, sample_rate), cepstra(reference.audio, reference.sample_rate)
    distance = np.sqrt(np.maximum((ours**2).sum(1)[:, None] + (theirs**2).sum(1) - 2 * ours @ theirs.T, 0))
    place = np.zeros(len(theirs), dtype=np.int64)
    for mine, other in warping_path(distance):
        place[other] = mine  # the last of ours that belongs to it
    hop = MEL_HOP_LENGTH / SAMPLE_RATE
    frames = [min(max(round(end / hop), 0), len(place) - 1) for _, end in reference.phones]
    return [(name, float(place[frame]) * hop) for (name, _), frame in zip(reference.phones, frames, strict=True)]
