"""Cut points against golden ones; cutting and joining without conversion returns the input."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from infer.chunking import Chunk, ChunkLimits, EnergyRule, join, plan_chunks, quiet_points
from infer.input_audio import ReflectionPadding
from lib.audio import ANALYSIS_RATE
from lib.audio.filters import highpass
from lib.pitch.scale import HOP_LENGTH
from tests.helpers import Floats, closed_form_f64

SMALL = ChunkLimits(pad=0.05, query=0.1, center=0.4, longest=0.5)
VARIANTS: dict[str, EnergyRule] = {"upstream2026": "magnitude", "classic2023": "signed"}


@pytest.mark.parametrize(("name", "rule"), [("cuts_2026", "magnitude"), ("cuts_2023", "signed")])
def test_golden_cuts_of_the_function_vectors(golden: Path, name: str, rule: EnergyRule) -> None:
    data = np.load(golden / "functions/13_split_points.npz")
    limits = ChunkLimits(query=int(data["x_query"]), center=int(data["x_center"]), longest=int(data["x_max"]))
    assert quiet_points(data["filtered"], limits, rule) == data[name].tolist()


@pytest.fixture(scope="module")
def signal(golden: Path) -> npt.NDArray[np.float64]:
    """The long signal that split_points.json describes by a formula: (T,)."""
    recipe = json.loads((golden / "pipeline/split_points.json").read_text())
    salt = re.search(r"salt of this set is `([^`]+)`", (golden / "README.md").read_text())
    name = re.search(r"name '([^']+)'", recipe["signal"])
    triangles = re.findall(r"\|\(\(n\+(\d+)\) mod (\d+)\)", recipe["signal"])
    assert salt and name and len(triangles) == 2
    assert "(0.02 + 0.5*t1*(0.3+0.7*t2)) * h[n]" in recipe["signal"]
    n = np.arange(recipe["n"], dtype=np.float64)
    t1, t2 = (np.abs(((n + int(shift)) % int(period)) / int(period) * 2 - 1) for shift, period in triangles)
    x = (0.02 + 0.5 * t1 * (0.3 + 0.7 * t2)) * closed_form_f64(salt[1] + name[1], len(n))
    assert x.sum() == pytest.approx(recipe["sum"]) and np.square(x).sum() == pytest.approx(recipe["sumsq"])
    return x


@pytest.mark.slow
def test_golden_chunks_of_a_long_signal(golden: Path, signal: npt.NDArray[np.float64]) -> None:
    """Start and length of every piece as in the references (the length of the result is not: ours loses nothing)."""
    cases: list[dict[str, Any]] = json.loads((golden / "pipeline/split_points.json").read_text())["cases"]
    assert cases
    # The signed rule looks for a sum of zero, which a difference of 1e-8 between two filters moves from place to place.
    coefficients = scipy.signal.butter(5, 48, "highpass", fs=16_000)
    filtered = {"magnitude": highpass(signal), "signed": scipy.signal.filtfilt(*coefficients, signal)}
    for case in cases:
        pad, query, center, longest = case["x_pad_query_center_max"]
        limits = ChunkLimits(pad, query, center, longest)
        rule = VARIANTS[case["variant"]]
        chunks = plan_chunks(filtered[rule], limits, rule)
        padded = ReflectionPadding(signal.astype(np.float32), limits.pad_frames * 160)
        track = np.arange(len(padded) // 160)
        got = [
            {
                "start_in_padded_audio": 160 * chunk.start,
                "length": len(chunk.padded_audio(padded, limits.pad_frames)),
                "pitch_frames": len(frames := track[chunk.padded_frames(limits.pad_frames)]),
                "first_pitch_frame": frames[0],
                "last_pitch_frame": frames[-1],
            }
            for chunk in chunks
        ]
        assert got == case["chunks"]


def convert_identically(audio: Floats, limits: ChunkLimits, rule: EnergyRule) -> tuple[list[Chunk], Floats]:
    """Cut, return every piece as it is, less the two frames an encoder may drop, and join."""
    chunks = plan_chunks(audio, limits, rule)
    padded = ReflectionPadding(audio, limits.pad_frames * 160)
    pieces = ((chunk, chunk.padded_audio(padded, limits.pad_frames)) for chunk in chunks)
    parts = []
    for chunk, piece in pieces:
        first, last = chunk.own_frames(limits.pad_frames)
        assert last <= len(piece) // 160 - 2
        parts.append((chunk, piece[first * 160 : last * 160]))
    return chunks, np.concatenate([*join(parts, len(audio), 160)])


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 30_000),
    seed=st.integers(0, 2**32 - 1),
    query=st.floats(0.01, 0.15),
    rule=st.sampled_from(get_args(EnergyRule)),
)
def test_cutting_and_joining_the_identity_is_the_identity(n: int, seed: int, query: float, rule: EnergyRule) -> None:
    audio = np.random.default_rng(seed).standard_normal(n).astype(np.float32)
    limits = ChunkLimits(pad=0.05, query=query, center=0.4, longest=0.5)
    chunks, joined = convert_identically(audio, limits, rule)
    np.testing.assert_array_equal(joined, audio)
    assert chunks[0].start == 0
    assert all(a.stop == b.start < b.stop for a, b in pairwise(chunks))
    assert chunks[-1].stop == -(-n // 160)
    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_short_audio_is_not_cut() -> None:
    assert quiet_points(np.ones(int(0.5 * 16_000) - 160), SMALL) == []
    assert len(quiet_points(np.ones(int(0.5 * 16_000) - 159), SMALL)) == 1


def test_the_default_limits_are_rvcs() -> None:
    """A cut is the quietest place within 6 s of 38 s; up to 41 s, with half a frame at both ends, nothing is cut."""
    shortest = 41 * ANALYSIS_RATE - HOP_LENGTH + 1  # that is cut
    assert quiet_points(np.ones(shortest - 1), ChunkLimits()) == []
    for at, is_found in ((31.9, False), (32.1, True), (43.9, True), (44.1, False)):
        audio = np.ones(shortest if at < 38 else 45 * ANALYSIS_RATE)
        middle = round(at * ANALYSIS_RATE)
        audio[middle - HOP_LENGTH : middle + HOP_LENGTH] = 0.1
        (cut,) = quiet_points(audio, ChunkLimits())
        assert (abs(cut - middle) < HOP_LENGTH) is is_found, at
    assert ChunkLimits().pad_frames == 100


def test_the_cut_lies_in_the_pause() -> None:
    audio = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    audio[7_000:7_400] = 0  # near 0.4 s
    (first, *_) = quiet_points(audio, SMALL)
    assert 7_080 <= first <= 7_320


def test_neighbours_fade_into_each_other() -> None:
    """A piece of ones before a piece of zeros: one frame on either side of the border leads from 1 to 0."""
    hop = 10
    left, right = Chunk(0, 5, False), Chunk(5, 9, True)
    parts = [(left, np.ones(6 * hop, np.float32)), (right, np.zeros(5 * hop, np.float32))]
    joined = np.concatenate([*join(parts, 9 * hop, hop)])
    assert joined[: 4 * hop].min() == 1
    assert joined[6 * hop :].max() == 0
    assert (np.diff(joined[4 * hop : 6 * hop]) < 0).all()
    assert joined[5 * hop - 1] + joined[5 * hop] == pytest.approx(1)
