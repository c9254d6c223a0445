"""The metrics that compare a conversion with its source."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from infer.report import compare, draw, envelope_distance, mel_envelope
from lib.pitch import PitchExtractor, load_pitch_extractor
from tests.helpers import Floats

Tone = Callable[..., Floats]


@pytest.fixture(scope="module")
def pitch() -> PitchExtractor:
    return load_pitch_extractor("pm", torch.device("cpu"))


def glide(start: float, end: float, seconds: float = 2.0, tilt: float = 1.0) -> Floats:
    """Forty harmonics between two pauses; F0 moves from `start` to `end` Hz, `tilt` shapes the timbre."""
    f0 = np.geomspace(start, end, round(16000 * seconds))
    phase = 2 * np.pi * np.cumsum(f0 / 16000)
    voiced = sum(np.sin(h * phase) / h**tilt for h in range(1, 40))
    audio = np.concatenate([np.zeros(8000), 0.2 * np.asarray(voiced), np.zeros(8000)])
    return (audio + 1e-3 * np.random.default_rng(0).standard_normal(len(audio))).astype(np.float32)


def test_the_same_recording_agrees_with_itself(pitch: PitchExtractor) -> None:
    found = compare(glide(150, 300), glide(150, 300), pitch)
    assert found.f0_correlation == pytest.approx(1.0)
    assert found.median_cents == found.to_source_db == 0
    assert found.voicing_agreement == 1 and found.finite and found.clipped == 0


@pytest.mark.slow
def test_a_transposed_melody_correlates_and_its_shift_is_taken_into_account(pitch: PitchExtractor) -> None:
    found = compare(glide(150, 300), glide(300, 600), pitch, pitch_shift=12)
    assert found.f0_correlation > 0.99
    assert found.median_cents < 20
    assert compare(glide(150, 300), glide(300, 600), pitch).median_cents == pytest.approx(1200, abs=30)


def test_an_inverted_melody_does_not_correlate(pitch: PitchExtractor) -> None:
    assert compare(glide(150, 300), glide(300, 150), pitch).f0_correlation < -0.9


def test_voicing_disagreement_is_counted(pitch: PitchExtractor) -> None:
    silent = np.full(48000, 1e-6, np.float32)
    found = compare(glide(150, 300), silent, pitch)
    assert found.voicing_agreement == pytest.approx(0.33, abs=0.05)
    assert np.isnan(found.f0_correlation)


def test_the_envelope_distinguishes_timbres(pitch: PitchExtractor) -> None:
    found = compare(glide(150, 300, tilt=0.5), glide(150, 300, tilt=2.0), pitch, target=[glide(200, 250, tilt=2.0)])
    assert found.to_target_db is not None
    assert found.to_target_db < 0.7 * found.to_source_db


def test_the_envelope_ignores_level_and_clips_too_short_to_measure() -> None:
    loud = glide(150, 300)
    assert envelope_distance(mel_envelope([loud]), mel_envelope([0.5 * loud])) < 0.5
    assert np.isnan(mel_envelope([np.zeros(10, np.float32)])).all()


def test_clipping_is_counted(pitch: PitchExtractor) -> None:
    found = compare(glide(150, 300), np.clip(9 * glide(150, 300), -1, 1), pitch)
    assert found.clipped > 100 and found.peak == 1.0
    assert "samples clipped" in str(found)


@pytest.mark.slow
def test_the_picture_is_a_png(tmp_path: Path, pitch: PitchExtractor) -> None:
    draw(tmp_path / "a.png", glide(150, 300), glide(300, 600), pitch)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
