"""Spectral envelope of voiced frames, from the levels of the harmonics: resonances, a spectral tilt and the remainder.

A low formant often lies between two harmonics, where a smoothed spectrum has no peak. The envelope is therefore
modelled by resonances, as in formant tracking by analysis by synthesis (Olive 1971, Automatic Formant Tracking by a
Newton-Raphson Technique), with priors that keep their frequencies and bandwidths in the range of speech. As in
discrete all-pole modelling (El-Jaroudi and Makhoul 1991), it is compared with the spectrum at the harmonics only.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lib.pitch.scale import FRAMES_PER_SECOND

Array = npt.NDArray[np.float64]

TOP = 5500.0  # Hz, of the modelled band
# From the first to the second value, the envelope is cross-faded to a smoothed spectrum: frequencies in Hz, F0 in Hz
# (there are too few harmonics above). From the first to the second error, so is the model.
FADE, HIGH_F0, ERRORS = (3800.0, 5200.0), (350.0, 450.0), (0.25, 0.9)
PERIODS = 6  # in an analysis window: with a Blackman window, the main lobe of a harmonic is then two F0 wide
HALF_WEIGHT = 2000.0  # Hz; a harmonic there has half the weight of the lowest ones
SIDE = 0.375  # of F0; farther from a harmonic is noise
MAX_STEP = 0.7  # of a parameter
EXACT = 0.05**2  # variance of levels below which a model is not improved further
TRIAL_ITERATIONS, ITERATIONS = 4, 12
MAX_REMAINDER = 3.0  # 13 dB

# The parameters of a model: level; curvature per kHz^2, from the resonances above the band; steepness and log corner
# frequency of the tilt; log frequencies and log bandwidths of the resonances. Each has a normal prior.
N_RESONANCES = 5
MEAN = np.concatenate(
    [[0, 0.03, 1, np.log(150)], np.log([500, 1500, 2500, 3500, 4500]), np.log([80, 90, 120, 160, 200])]
)
DEVIATION = np.array([1e3, 0.05, 0.3, 0.7, 0.4, 0.4, 0.25, 0.15, 0.12, 0.4, 0.4, 0.4, 0.4, 0.4])
FREQUENCIES, BANDWIDTHS = slice(4, 4 + N_RESONANCES), slice(4 + N_RESONANCES, None)
STARTS = (  # Hz, resonances of neutral, front, back and open vowels
    (500, 1500, 2500, 3500, 4500), (300, 2200, 3000, 3700, 4600), (350, 800, 2400, 3400, 4500),
    (700, 1100, 2500, 3500, 4500),
)  # fmt: skip


class Harmonics(NamedTuple):
    """Frequencies in Hz, levels and weights of the harmonics of N frames, each (N, K); weight 0 outside the band."""

    hertz: Array
    levels: Array
    weights: Array


class Envelope:
    """The spectral envelope of voiced frames. All levels are natural logarithms of power."""

    def __init__(
        self, smoothed: Array, audio: Array, sample_rate: int, frames: npt.NDArray[np.intp], f0: Array
    ) -> None:
        """Fit `frames` (N,), numbered at 100 frames/s, of audio (T,).

        `smoothed` (N, bins) are the levels of a smoothed spectrum from 0 Hz to half the sample rate, and `f0` (N,) is
        in Hz.
        """
        self._smoothed, self._bins_per_hertz = smoothed, (smoothed.shape[1] - 1) * 2 / sample_rate
        self._f0 = f0[:, None]
        hertz, levels, weights = harmonics = measure_harmonics(audio, sample_rate, frames, f0)
        self._last = (weights > 0).sum(axis=1, keepdims=True) - 1
        self._parameters = fit_resonances(harmonics)
        error = levels - _model(self._parameters, hertz)
        self._trust = share_below(ERRORS, np.sqrt(np.average(np.square(error), axis=1, weights=weights)))[:, None]
        present = _at(smoothed, hertz * self._bins_per_hertz)
        offset = np.average(levels - present, axis=1, weights=weights)[:, None]
        self._parameters[:, :1] -= offset
        remainder = levels - offset - present - self._trust * (levels - error - offset - present)
        self._remainder = np.clip(remainder, -MAX_REMAINDER, MAX_REMAINDER)

    def log_power(self, hertz: Array) -> Array:
        """The levels (N, M) at frequencies (M,) in Hz: the smoothed spectrum for high frequencies and high F0."""
        smoothed = _at(self._smoothed, np.broadcast_to(hertz * self._bins_per_hertz, (len(self._f0), len(hertz))))
        change = self._trust * (_model(self._parameters, hertz[None]) - smoothed)
        change += _at(self._remainder, np.clip(hertz / self._f0 - 1, 0, self._last))
        result: Array = smoothed + share_below(FADE, hertz) * share_below(HIGH_F0, self._f0) * change
        return result


def share_below(fade: tuple[float, float], values: Array) -> Array:
    """1 up to the first value of `fade`, 0 from the second, linear in between."""
    share: Array = np.clip((fade[1] - values) / (fade[1] - fade[0]), 0, 1)
    return share


def measure_harmonics(audio: Array, sample_rate: int, frames: npt.NDArray[np.intp], f0: Array) -> Harmonics:
    """Measure the harmonics below TOP: the power spectrum integrated from half F0 below to half F0 above each.

    Noise, which is measured between them, lowers their weights.
    """
    top = min(TOP, 0.95 * sample_rate / 2)
    numbers = np.arange(1, max(int(top / f0.min()), 1) + 1)
    hop, half = round(sample_rate / FRAMES_PER_SECOND), int(PERIODS / f0.min() * sample_rate / 2) + 1
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(audio, (half, half + hop)), 2 * half + 1)
    phase = 2 * np.pi * np.clip(np.arange(-half, half + 1) * f0[:, None] / (PERIODS * sample_rate), -0.5, 0.5)
    blackman = 0.42 + 0.5 * np.cos(phase) + 0.08 * np.cos(2 * phase)
    size = 4 << int(np.log2(2 * half))
    power = np.square(np.abs(np.fft.rfft(windows[frames * hop] * blackman, size, axis=1)))
    total = np.pad(np.cumsum(power, axis=1), ((0, 0), (1, 0)))
    edges = numbers[:, None] + np.array([-0.5, -SIDE, SIDE, 0.5])  # of harmonics and of the noise beside them, in F0
    parts = _at(total, edges.ravel() * f0[:, None] * size / sample_rate + 0.5).reshape(len(f0), -1, 4)
    below, harmonic, above = np.diff(parts, axis=2).transpose(2, 0, 1)
    noise = (below + above) * SIDE / (0.5 - SIDE)
    levels = np.log(np.maximum(below + harmonic + above, 1e-16))
    clear = np.clip(1 - noise / np.maximum(harmonic, 1e-16), 0.01, 1)
    hertz = f0[:, None] * numbers
    inside = (numbers == 1) | (hertz + f0[:, None] / 2 < top)
    return Harmonics(hertz, levels, inside * clear / (1 + hertz / HALF_WEIGHT))


def _at(rows: Array, places: Array) -> Array:
    """The rows (N, M), interpolated linearly at places (N, K), which are clipped to their length: (N, K)."""
    places = np.clip(places, 0, rows.shape[1] - 1)
    low = places.astype(int)
    first, second = (np.take_along_axis(rows, at, axis=1) for at in (low, np.minimum(low + 1, rows.shape[1] - 1)))
    values: Array = first + (places - low) * (second - first)
    return values


def _model(parameters: Array, hertz: Array) -> Array:
    """The levels (N, K) of models (N, P) at frequencies (N or 1, K) in Hz."""
    level, curvature, steepness, corner = parameters[:, :4].T[:, :, None]
    square = np.square(hertz)
    loss = np.ones((len(parameters), hertz.shape[1]))
    for frequency, width in zip(parameters[:, FREQUENCIES].T, parameters[:, BANDWIDTHS].T, strict=True):
        ratio = square * np.exp(-2 * frequency)[:, None]
        loss *= np.square(1 - ratio) + np.exp(2 * (width - frequency))[:, None] * ratio
    tilt = curvature * square / 1e6 - steepness * np.log1p(square * np.exp(-2 * corner))
    result: Array = level + tilt - np.log(loss)
    return result


def _derivatives(parameters: Array, hertz: Array) -> Array:
    """The derivatives (N, K, P) of the levels by the parameters (N, P) at frequencies (N, K) in Hz."""
    steepness, corner = parameters[:, 2, None], parameters[:, 3, None]
    square = np.square(hertz)
    result = np.empty((*hertz.shape, parameters.shape[1]))
    ratio = square * np.exp(-2 * corner)
    result[:, :, 0], result[:, :, 1], result[:, :, 2] = 1, square / 1e6, -np.log1p(ratio)
    result[:, :, 3] = 2 * steepness * ratio / (1 + ratio)
    frequency, width = parameters[:, None, FREQUENCIES], parameters[:, None, BANDWIDTHS]
    ratios = square[:, :, None] * np.exp(-2 * frequency)
    loss = np.exp(2 * (width - frequency)) * ratios
    share = loss / (np.square(1 - ratios) + loss)
    result[:, :, FREQUENCIES] = 4 * share * (1 + ratios * (ratios - 1) / loss)
    result[:, :, BANDWIDTHS] = -2 * share
    return result


def fit_resonances(harmonics: Harmonics) -> Array:
    """The parameters (N, P) of the most probable models: the best of a few starts, improved."""
    n, n_starts = len(harmonics.levels), len(STARTS)
    starts = np.repeat(MEAN[None], n_starts, axis=0)
    starts[:, FREQUENCIES] = np.log(STARTS)
    repeated = Harmonics(*(np.repeat(values, n_starts, axis=0) for values in harmonics))
    tried, cost = _improved(np.tile(starts, (n, 1)), repeated, TRIAL_ITERATIONS)
    best = np.arange(n) * n_starts + cost.reshape(n, n_starts).argmin(axis=1)
    return _improved(tried[best], harmonics, ITERATIONS)[0]


def _improved(parameters: Array, harmonics: Harmonics, iterations: int) -> tuple[Array, Array]:
    """The parameters (N, P) after some steps by Levenberg and Marquardt, for all frames at once, and their cost (N,).

    The cost is the negative log posterior, with the variance of the levels that is most probable.
    """
    hertz, weights = harmonics.hertz, harmonics.weights
    parameters = parameters.copy()
    cost, rest, variance = _cost(parameters, harmonics)
    damping: Array = np.full(len(parameters), 0.01)
    for _ in range(iterations):
        slopes = _derivatives(parameters, hertz)
        scale = (weights / variance[:, None])[:, None]
        weighted = slopes.transpose(0, 2, 1) * scale
        gradient = (weighted @ rest[:, :, None])[:, :, 0] - (parameters - MEAN) / DEVIATION**2
        hessian = weighted @ slopes + np.diag(DEVIATION**-2.0)
        hessian += np.eye(len(MEAN)) * (damping[:, None] * np.diagonal(hessian, axis1=1, axis2=2))[:, :, None]
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        trial = parameters + step * np.minimum(MAX_STEP / np.abs(step[:, 1:]).max(axis=1, keepdims=True), 1)
        new_cost, new_rest, new_variance = _cost(trial, harmonics)
        better = new_cost < cost
        parameters[better], rest[better] = trial[better], new_rest[better]
        cost[better], variance[better] = new_cost[better], new_variance[better]
        damping = np.where(better, damping / 4, damping * 6)
    return parameters, cost


def _cost(parameters: Array, harmonics: Harmonics) -> tuple[Array, Array, Array]:
    """Set the level of models (N, P) to the best one, in place.

    Returns the negative log posterior (N,) up to a constant, the differences of level (N, K), and their variance (N,).
    """
    hertz, levels, weights = harmonics
    rest = levels - _model(parameters, hertz)
    offset = np.average(rest, axis=1, weights=weights)
    parameters[:, 0] += offset
    rest -= offset[:, None]
    variance = np.average(np.square(rest), axis=1, weights=weights) + EXACT
    prior = np.square((parameters - MEAN) / DEVIATION).sum(axis=1)
    return (weights.sum(axis=1) * np.log(variance) + prior) / 2, rest, variance
