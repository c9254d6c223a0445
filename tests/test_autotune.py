"""Autotune, keys and octave correction, on synthetic melodies, vibrato, tones and glissandi."""

import numpy as np
import pytest

from infer.f0 import make_target_f0
from infer.options import ConvertOptions
from lib.pitch.autotune import NOTES, Key, autotune, find_key
from lib.pitch.octaves import correct_octaves
from lib.pitch.scale import shift_semitones
from tests.helpers import Floats

RATE = 16_000


def melody(notes: list[float], detune: float = 0.0, vibrato: float = 0.0, frames: int = 60) -> Floats:
    """MIDI notes of 0.6 s each as F0, detuned by semitones, with a vibrato of 5.5 Hz; unvoiced between phrases."""
    midi = np.repeat(notes, frames) + detune
    midi = midi + vibrato * np.sin(2 * np.pi * 5.5 * np.arange(len(midi)) / 100)
    f0 = 440 * 2 ** ((midi - 69) / 12)
    f0[:: 4 * frames] = 0
    return f0.astype(np.float32)


def cents_off(f0: Floats, classes: tuple[int, ...]) -> Floats:
    """Distance of every voiced frame to the scale, in cents."""
    midi = 69 + 12 * np.log2(f0[f0 > 0] / 440)
    notes = np.array([midi_note for midi_note in range(12, 120) if midi_note % 12 in classes])
    cents: Floats = np.abs(midi[:, None] - notes).min(axis=1) * 100
    return cents


C_MAJOR = [60, 62, 64, 65, 67, 69, 71, 72, 67, 64, 60]


@pytest.mark.parametrize("shift", [0.0, 4.0, -7.0, 0.5])
@pytest.mark.parametrize("vibrato", [0.0, 0.6])
def test_full_strength_meets_the_scale_within_5_cents_together_with_transposition(shift: float, vibrato: float) -> None:
    tonic = NOTES[round(shift) % 12]
    options = ConvertOptions(pitch_shift=shift, autotune=1.0, key=tonic, scale="major")
    source = melody([*C_MAJOR], detune=0.3, vibrato=vibrato)
    target = make_target_f0(source, options, None, 0, fill=False).voiced_f0
    assert np.median(cents_off(target, Key(tonic, "major").classes)) <= 5
    assert np.array_equal(target == 0, source == 0)
    moved = 12 * np.log2(target[source > 0] / source[source > 0])
    assert np.median(moved) == pytest.approx(shift, abs=0.8)  # transposed, and not only tuned


def test_at_half_strength_vibrato_is_kept_and_the_centre_moves_half_way() -> None:
    source = melody([69.0] * 5, detune=0.3, vibrato=0.5)
    tuned = autotune(source, Key("A", "major"), 0.5)
    inner = slice(20, 230)
    before, after = (69 + 12 * np.log2(f0[inner] / 440) for f0 in (source, tuned))
    assert np.ptp(after) == pytest.approx(np.ptp(before), rel=0.05)
    assert np.mean(after) == pytest.approx(69.15, abs=0.03)
    assert np.corrcoef(before, after)[0, 1] > 0.99


def test_strength_0_changes_nothing_and_a_curve_is_not_tuned() -> None:
    source = melody([*C_MAJOR], detune=0.3)
    assert autotune(source, Key("C", "major"), 0.0) == pytest.approx(source, rel=1e-5)
    assert np.array_equal(make_target_f0(source, ConvertOptions(), None, 0, fill=False).voiced_f0, source)


@pytest.mark.parametrize("shift", range(0, 12, 5))
def test_the_key_of_a_melody_is_found_also_after_transposition(shift: int) -> None:
    source = shift_semitones(melody([*C_MAJOR, 60, 60, 67]), shift)
    assert find_key(source) == (NOTES[shift], "major")
    minor = [57, 59, 60, 62, 64, 65, 67, 69, 64, 60, 57, 57, 64]
    assert find_key(shift_semitones(melody([*minor]), shift)) == (NOTES[(9 + shift) % 12], "minor")
    assert find_key(np.zeros(10, np.float32)) is None


def harmonic(f0: Floats, tilt: float = 1.0) -> Floats:
    """A tone with harmonics up to 8 kHz that follows F0 (F,): (160 * F,)."""
    smooth = np.interp(np.arange(160 * len(f0)) / 160, np.arange(len(f0)), f0)
    phase = 2 * np.pi * np.cumsum(smooth) / RATE
    tone = sum(np.where(k * smooth < 7900, np.sin(k * phase) / k**tilt, 0) for k in range(1, 20))
    noise = np.random.default_rng(0).standard_normal(len(phase))
    return (0.1 * np.asarray(tone) + 1e-4 * noise).astype(np.float32)


@pytest.mark.parametrize("curve", ["tone", "glissando"])
def test_high_notes_estimated_an_octave_low_are_doubled(curve: str) -> None:
    true = np.full(200, 1250.0) if curve == "tone" else np.geomspace(700, 1800, 300)
    estimated = np.where(true > 1000, true / 2, true).astype(np.float32)
    corrected = correct_octaves(harmonic(true.astype(np.float32)), estimated)
    cents = 1200 * np.abs(np.log2(corrected / true))
    assert np.mean(cents < 20) > 0.97


@pytest.mark.parametrize("tilt", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("high", [300.0, 500.0, 900.0])
def test_right_estimates_stay(high: float, tilt: float) -> None:
    true = np.geomspace(high, 1.2 * high, 200).astype(np.float32)
    assert np.array_equal(correct_octaves(harmonic(true, tilt), true), true)
    assert not correct_octaves(np.zeros(1600, np.float32), np.zeros(10, np.float32)).any()
