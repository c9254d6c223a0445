"""Formant shift on synthetic vowels: positions of the formants and levels of the harmonics."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lib.audio.filters import resample
from lib.effects.formants import shift_formants
from lib.pitch import load_pitch_extractor
from tests.helpers import Floats

Array = npt.NDArray[np.floating]
Response = npt.NDArray[np.complex128]

VOWELS = {
    "a": (730, 1090, 2440), "e": (530, 1840, 2480), "o": (570, 840, 2410), "i": (270, 2290, 3010),
    "u": (300, 870, 2240), "ae": (660, 1720, 2410),
}  # fmt: skip
UPPER_FORMANTS, BANDWIDTH = (3600.0, 4600.0), 80.0
RATE, SECONDS = 24_000, 0.6


def resonance(hertz: Array, formant: float, bandwidth: float = BANDWIDTH) -> Response:
    """The response at `hertz` (K,) of two conjugate poles, 1 at 0 Hz."""
    radius, angle = np.exp(-np.pi * bandwidth / RATE), 2 * np.pi * formant / RATE
    delay = np.exp(-2j * np.pi * hertz / RATE)
    gain = 1 - 2 * radius * np.cos(angle) + radius**2
    response: Response = gain / (1 - 2 * radius * np.cos(angle) * delay + radius**2 * delay**2)
    return response


def source(hertz: Array) -> Response:
    """The response (K,) of the source and of the formants above F3."""
    response: Response = 1 / (1 - 0.95 * np.exp(-2j * np.pi * hertz / RATE))
    for formant in UPPER_FORMANTS:
        response = response * resonance(hertz, formant)
    return response


def vowel(name: str, f0: float, factor: float = 1.0) -> Floats:
    """All harmonics of a vowel whose envelope is stretched by `factor`: (T,)."""
    numbers = np.arange(1, int(RATE / 2 / f0))
    hertz = numbers * f0 / factor
    response = source(hertz) * np.prod([resonance(hertz, formant) for formant in VOWELS[name]], axis=0)
    waves = np.exp(2j * np.pi * np.outer(np.arange(round(SECONDS * RATE)) / RATE, numbers * f0))
    signal = (waves @ response).real
    audio: Floats = (0.3 * signal / np.abs(signal).max()).astype(np.float32)
    return audio


def errors(audio: Floats, name: str, f0: float, factor: float) -> tuple[Array, float]:
    """The relative errors of F1 to F3 of a shifted vowel, and the error of its levels below 4 kHz in dB (rms).

    Three resonances are fitted to the levels of the harmonics; source and higher formants are known. Where F1 is near
    the first harmonic, the fit would exchange a free tilt of the source for F1.
    """
    from scipy.optimize import least_squares

    middle = np.asarray(audio, np.float64)[len(audio) // 4 : len(audio) * 3 // 4]
    at = np.arange(1, int(min(4500, 4000 * factor) / f0) + 1) * f0
    waves = np.exp(-2j * np.pi * np.outer(np.arange(len(middle)) / RATE, at))
    levels, hertz = np.log(np.abs((middle * np.blackman(len(middle))) @ waves)), at / factor
    known = np.log(np.abs(source(hertz)))

    def rest(values: Array) -> Array:
        formants, bandwidths = np.exp(values[1:4]), np.exp(values[4:])
        parts = [np.log(np.abs(resonance(hertz, *pair))) for pair in zip(formants, bandwidths, strict=True)]
        difference: Array = known + np.sum(parts, axis=0) + values[0] - levels
        return difference

    right = np.log([1, *VOWELS[name], *[BANDWIDTH] * 3])
    fit = least_squares(rest, right, x_scale=0.1)
    return np.exp(fit.x[1:4] - right[1:4]) - 1, float(np.std(rest(right)) * 20 / np.log(10))


def shifted(name: str, f0: float, factor: float) -> Floats:
    result: Floats = shift_formants(vowel(name, f0), RATE, np.full(round(100 * SECONDS), f0, np.float32), factor)
    return result


def test_the_measurement_finds_the_formants_of_the_unshifted_vowel() -> None:
    position, level = errors(vowel("u", 125.0), "u", 125.0, 1.0)
    assert np.abs(position).max() < 0.01
    assert level < 0.3
    assert np.abs(errors(shifted("u", 125.0, 1.2), "u", 125.0, 1.0)[0]).max() > 0.1


@pytest.mark.parametrize(("name", "f0", "factor"), [("i", 180.0, 0.85), ("u", 180.0, 1.2)])
def test_a_formant_between_two_harmonics_moves_by_the_factor(name: str, f0: float, factor: float) -> None:
    position, level = errors(shifted(name, f0, factor), name, f0, factor)
    assert np.abs(position).max() < 0.05
    assert level < 1


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.85, 1.2])
@pytest.mark.parametrize("name", VOWELS)
def test_formants_of_all_vowels_move_by_the_factor(name: str, factor: float) -> None:
    for f0 in (100.0, 130.0, 180.0):
        position, level = errors(shifted(name, f0, factor), name, f0, factor)
        assert np.abs(position).max() < 0.05, f0
        assert level < 1, f0


def test_factor_1_changes_nothing() -> None:
    assert np.abs(shifted("e", 140.0, 1.0) - vowel("e", 140.0)).max() < 1e-5


def formants_of(audio: Floats, factor: float) -> list[float]:
    """F1 to F3 in Hz as Praat's Burg method measures them, the median over time, of a vowel shifted by `factor`.

    Its range must hold as many formants as it looks for: the fifth, of 4600 Hz, leaves it when it is raised.
    """
    import parselmouth

    sound = parselmouth.Sound(audio.astype(np.float64), RATE)
    tracks = sound.to_formant_burg(
        max_number_of_formants=5 if factor <= 1 else 4, maximum_formant=5000 * min(factor, 1)
    )
    times = np.arange(0.15, SECONDS - 0.15, 0.01)
    return [float(np.median([tracks.get_value_at_time(number, at) for at in times])) for number in (1, 2, 3)]


@pytest.mark.parametrize("f0", [100.0, 140.0])
@pytest.mark.parametrize("factor", [0.85, 1.2])
@pytest.mark.parametrize("name", ["a", "e", "o"])
def test_praat_finds_the_formants_of_the_stretched_vowel_at_the_same_f0(name: str, factor: float, f0: float) -> None:
    source, result = vowel(name, f0), shifted(name, f0, factor)
    assert result.shape == source.shape
    assert np.std(result) == pytest.approx(np.std(source), rel=0.1)
    assert np.array(formants_of(source, 1.0)) == pytest.approx(np.array(VOWELS[name]), rel=0.06)
    wanted = np.array(formants_of(vowel(name, f0, factor), factor))
    assert np.array(formants_of(result, factor)) == pytest.approx(wanted, rel=0.03)
    pitch = load_pitch_extractor("pm", torch.device("cpu"))
    found = [float(np.median(pitch(resample(audio, RATE, 16_000))[20:-20])) for audio in (source, result)]
    assert found[1] == pytest.approx(found[0], rel=0.002)
