"""The slicer: golden cuts, and that no sound is lost or duplicated."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.audio.decode import load_audio_native
from lib.audio.filters import highpass_causal
from tests.helpers import Floats
from tests.work import lines_run
from train import slicer
from train.slicer import SliceRule, frame_rms, slice_audio

RATE = 16000
THRESHOLD = 10 ** (-42 / 20)
HOP = 240  # samples at RATE


def compose(pattern: list[tuple[str, float]], sample_rate: int = RATE) -> Floats:
    """Pieces of tone "t" and near-silence "s" of given seconds, one after the other: the golden data's recipe."""
    pieces = []
    for kind, seconds in pattern:
        t = np.arange(int(seconds * sample_rate)) / sample_rate
        tone = 0.3 * np.sin(2 * np.pi * 220 * t)
        hum = 1e-4 * np.sin(2 * np.pi * 50 * t) * (1 + 0.5 * np.sin(2 * np.pi * 0.7 * t))
        pieces.append(tone if kind == "t" else hum)
    return np.concatenate([np.zeros(0), *pieces]).astype(np.float32)


@pytest.mark.parametrize("case", "abcde")
def test_golden_cases(golden: Path, case: str) -> None:
    data = json.loads((golden / "functions/02_slicer.json").read_text())
    audio = compose(data["cases"][case]["pattern"], data["sr"])
    assert len(audio) == data["cases"][case]["n_samples"]
    assert [list(piece) for piece in slice_audio(audio, data["sr"])] == data["cases"][case]["chunks"]


def test_golden_recording(golden: Path) -> None:
    want = json.loads((golden / "preprocess/preprocess.json").read_text())
    audio, rate = load_audio_native(golden / "preprocess/recording.wav")
    pieces = slice_audio(highpass_causal(audio, rate), rate)
    assert [[start, end - start] for start, end in pieces] == want["slicer_chunks_start_length"]


def test_golden_recording_with_another_rule(golden: Path) -> None:
    want = json.loads((golden / "preprocess/preprocess.json").read_text())
    audio, rate = load_audio_native(golden / "preprocess/recording.wav")
    given = want["slicer2_settings"]
    rule = SliceRule(
        threshold_db=given["threshold_dB"], min_length_ms=given["min_length_ms"],
        min_interval_ms=given["min_interval_ms"], hop_ms=given["hop_size_ms"], max_silence_ms=given["max_sil_kept_ms"],
    )  # fmt: skip
    pieces = slice_audio(audio, rate, rule)
    assert [[start, end - start] for start, end in pieces] == want["slicer2_chunks_start_length"]


PATTERNS = st.lists(st.tuples(st.sampled_from("ts"), st.floats(0.0, 2.5)), max_size=8)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(pattern=PATTERNS)
def test_slices_are_ordered_disjoint_and_miss_nothing_loud(pattern: list[tuple[str, float]]) -> None:
    audio = compose(pattern)
    pieces = slice_audio(audio, RATE)
    edges = [edge for piece in pieces for edge in piece]
    assert edges == sorted(edges)
    assert all(start < end for start, end in pieces) or len(audio) == 0
    assert edges == [] or (edges[0] >= 0 and edges[-1] <= len(audio))
    # Every frame whose RMS reaches the threshold has its centre in a piece.
    loud = np.flatnonzero(frame_rms(audio, 4 * HOP, HOP) >= THRESHOLD) * HOP
    kept = np.zeros(len(audio) + 1, dtype=bool)
    for start, end in pieces:
        kept[start : end + 1] = True
    assert kept[loud[loud <= len(audio)]].all()


@settings(deadline=None, max_examples=20)
@given(pattern=PATTERNS, first=st.integers(1, 5))
def test_rms_in_blocks_is_the_rms_of_the_whole(pattern: list[tuple[str, float]], first: int) -> None:
    audio = compose([*pattern, ("t", 0.3)])
    whole = frame_rms(audio, 960, 240)
    assert whole.shape == (len(audio) // 240 + 1,)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slicer, "FRAMES_AT_ONCE", first)
        assert np.array_equal(frame_rms(audio, 960, 240), whole)


def test_rms_of_a_constant() -> None:
    rms = frame_rms(np.full(4800, 0.5, np.float32), 960, 240)
    assert np.allclose(rms[2:-2], 0.5)
    assert np.isclose(rms[0], 0.5 * np.sqrt(0.5))  # half of the first window lies before the signal


@pytest.mark.parametrize("samples", [0, 1, 100, 101, 320])
def test_the_shortest_clips_come_back_whole(samples: int) -> None:
    assert slice_audio(np.full(samples, 0.3, np.float32), RATE) == [(0, samples)]


def test_silence_gives_nothing() -> None:
    assert slice_audio(np.zeros(3 * RATE, np.float32), RATE) == []


def pieces_with(pause: float, level_db: float = -100.0, before: float = 2.0) -> list[tuple[int, int]]:
    """Pieces of a tone, a pause of some seconds and of an RMS in dB of full scale, and a tone again."""
    tone, quiet = (
        np.sin(2 * np.pi * 220 * np.arange(5 * RATE) / RATE) * level for level in (0.3, 10 ** (level_db / 20))
    )
    quiet *= np.sqrt(2)
    parts = (tone[: int(before * RATE)], quiet[: int(pause * RATE)], tone[: 2 * RATE])
    return slice_audio(np.concatenate(parts).astype(np.float32), RATE)


def test_a_pause_is_what_lies_below_42_db() -> None:
    assert len(pieces_with(2.0, -41.7)) == 1
    assert len(pieces_with(2.0, -42.3)) == 2


def test_the_shortest_pause_that_is_cut_has_27_silent_frames() -> None:
    """400 ms in frames of 15 ms; a frame is silent when its window of 60 ms is."""
    assert len(pieces_with(26 * 0.015 + 0.06)) == 1
    assert len(pieces_with(27 * 0.015 + 0.06)) == 2


def test_a_cut_is_made_when_a_piece_and_its_pause_last_1500_ms() -> None:
    assert len(pieces_with(0.6, before=0.87)) == 1
    assert len(pieces_with(0.6, before=0.93)) == 2


def test_of_a_long_pause_500_ms_stay_on_either_side() -> None:
    """The pause of 3 s is quietest in its middle, so that all that may stay does: 33 frames."""
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(2 * RATE) / RATE)
    pause = 1e-3 * np.abs(np.linspace(-1, 1, 3 * RATE)) * np.sin(np.arange(3 * RATE))
    pieces = slice_audio(np.concatenate([tone, pause, tone]).astype(np.float32), RATE)
    first_silent, first_sound = 136, 332  # frames whose windows hold nothing of the tone
    assert pieces == [(0, (first_silent + 33) * HOP), ((first_sound - 33) * HOP, 7 * RATE)]


def test_the_work_in_python_grows_with_the_pauses_only() -> None:
    """A loop over samples or windows would run thousands of lines for a minute, and take minutes for an hour."""
    audio = np.tile(compose([("t", 2.0), ("s", 1.0)]), 20)
    assert len(slice_audio(audio, RATE)) == 20
    assert lines_run(slicer, lambda: slice_audio(audio, RATE)) < 20 * 50
